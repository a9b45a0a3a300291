"""A copy of the repository with a small corpus in place of the shipped one, for its scripts."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Dict

REPOSITORY = Path(__file__).resolve().parents[2]
CORPUS = REPOSITORY / "data-bin" / "tatoeba_en_de" / "raw"
#: few updates, in the folder where a default run of the quick start goes
SETTINGS = ("--updates", "12", "--output", "runs/quickstart")


def environment(checkout: Path) -> Dict[str, str]:
    """The environment of a user who has their own set-up, in ``checkout``."""
    return {
        **os.environ,
        "FAIRSEQ_FFN_PYTHON": sys.executable,
        "PYTHONPATH": str(checkout),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }


def write_small_corpus(folder: Path, train: int = 4000, others: int = 43) -> None:
    """The first lines of the shipped corpus."""
    folder.mkdir(parents=True, exist_ok=True)
    for language in ("en", "de"):
        with gzip.open(CORPUS / f"train.{language}.gz", "rb") as file:
            lines = [next(file) for _ in range(train)]
        with gzip.open(folder / f"train.{language}.gz", "wb") as file:
            file.writelines(lines)
        for split in ("dev", "test"):
            lines = (CORPUS / f"{split}.{language}").read_bytes().splitlines(keepends=True)
            (folder / f"{split}.{language}").write_bytes(b"".join(lines[:others]))


def copy_repository(copy: Path) -> None:
    """All files but what is made by running, with the small corpus."""
    shutil.copytree(
        REPOSITORY,
        copy,
        ignore=shutil.ignore_patterns(
            ".git", ".venv", "runs", "bin", "prepared", "__pycache__", "*.egg-info", "train.*.gz"
        ),
    )
    write_small_corpus(copy / "data-bin" / "tatoeba_en_de" / "raw")


def run_in(checkout: Path, *command: object, **more) -> subprocess.CompletedProcess:
    """A command of a user who stands in ``checkout``."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=checkout,
        env=environment(checkout),
        capture_output=True,
        text=True,
        timeout=600,
        **more,
    )


def quickstart(checkout: Path, *options: str) -> subprocess.CompletedProcess:
    """Run scripts/quickstart.sh in a checkout."""
    return run_in(checkout, "bash", "scripts/quickstart.sh", *options)
