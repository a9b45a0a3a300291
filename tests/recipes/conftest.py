from __future__ import annotations

from typing import Iterator

import pytest

from recipes.bench import Server, serving


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    """A server of an empty folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    with serving(folder) as one:
        yield one
