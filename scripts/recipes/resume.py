"""Print the update that a training goes on from: 0 for none.

    python resume.py models/baseline/checkpoints

A checkpoint_last.pt that was cut short by a kill is replaced by the newest whole one.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from tools import UserError, run_program

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "quickstart"))


def main() -> None:
    """Of the folder that is named."""
    if len(sys.argv) != 2:
        raise UserError("give one folder of checkpoints")
    folder = Path(sys.argv[1])
    updates = 0
    if (folder / "checkpoint_last.pt").is_file():
        from training import resume_point

        from fairseq_ffn.errors import UserError as ReadError

        try:
            updates = resume_point(folder) or 0
        except ReadError as error:
            raise UserError(str(error)) from error
    print(updates)


if __name__ == "__main__":
    logging.getLogger("quickstart").setLevel(logging.INFO)
    run_program("resume", main)
