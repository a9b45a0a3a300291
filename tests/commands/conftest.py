from __future__ import annotations

from pathlib import Path
from subprocess import CompletedProcess
from typing import Iterator

import pytest

from commands.checkout import SETTINGS, copy_repository, quickstart
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


@pytest.fixture(scope="session")
def checkout(lab) -> Path:
    """A copy of the repository with a small corpus."""
    return lab.once("small-checkout", lambda folder: copy_repository(folder / "copy")) / "copy"


@pytest.fixture(scope="session")
def finished(lab, checkout) -> CompletedProcess:
    """A whole quick start in ``checkout``."""

    def make(folder: Path) -> None:
        done = quickstart(checkout, *SETTINGS)
        assert done.returncode == 0, done.stderr[-3000:]
        (folder / "stdout").write_text(done.stdout)
        (folder / "stderr").write_text(done.stderr)

    folder = lab.once("small-quickstart", make)
    out, errors = ((folder / name).read_text() for name in ("stdout", "stderr"))
    return CompletedProcess(["scripts/quickstart.sh", *SETTINGS], 0, out, errors)
