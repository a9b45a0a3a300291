from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator, Optional

import pytest

from recipes.bench import Server, serving


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    """A server of an empty folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    with serving(folder) as one:
        yield one


def pytest_ignore_collect(collection_path: Path) -> Optional[bool]:
    """Whole experiments take ten minutes, so they run only with FFN_TEST_RECIPES=1."""
    if collection_path.name == "test_experiments.py" and not os.environ.get("FFN_TEST_RECIPES"):
        return True
    return None
