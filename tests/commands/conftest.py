from __future__ import annotations

from typing import Iterator

import pytest

from commands.lab import Lab


@pytest.fixture(scope="session")
def lab(tmp_path_factory, request) -> Iterator[Lab]:
    """One for all test processes of a run."""
    base = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):  # under pytest-xdist each process has its own below
        base = base.parent
    made = Lab(base / "lab")
    yield made
    made.close()
