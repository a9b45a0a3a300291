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


def pytest_ignore_collect(collection_path, config):
    """They take minutes and haven't been green as a whole yet: FFN_TEST_RECIPES=1 runs them."""
    import os

    return None if os.environ.get("FFN_TEST_RECIPES") or collection_path.is_dir() else True
