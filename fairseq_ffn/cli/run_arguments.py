"""Flags that the commands on run directories have in common."""

from __future__ import annotations

import argparse
from pathlib import Path

from fairseq_ffn.reporting.significance import TESTS


def add_run_arguments(parser: argparse.ArgumentParser, runs: str) -> None:
    """Add ``RUN_DIR ...`` and ``--test``.

    Args:
        parser: of the command.
        runs: what the directories are for.
    """
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR", help=runs)
    parser.add_argument(
        "--test",
        choices=tuple(TESTS),
        default="paired-bs",
        help="significance by paired bootstrap or paired approximate randomization "
        "(default: %(default)s)",
    )
