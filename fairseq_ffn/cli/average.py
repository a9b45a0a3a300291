"""``fairseq-ffn average``: the mean of several checkpoints."""

from __future__ import annotations

import argparse
import os

from fairseq_ffn.averaging import average_files, last_checkpoints
from fairseq_ffn.errors import UserError

DESCRIPTION = """\
Average checkpoints into one for decoding.

The result holds the mean of the models and the settings of the first one given (in a directory:
the newest). It is for fairseq-generate and the like: optimiser state and EMA are left out, which
keeps it small, so a training can't be resumed from it (--finetune-from-model works)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--inputs",
        nargs="+",
        required=True,
        metavar="PATH",
        help="checkpoint files, or one directory with --num-epoch-checkpoints or "
        "--num-update-checkpoints",
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="where the result goes")
    number = parser.add_mutually_exclusive_group()
    number.add_argument(
        "--num-epoch-checkpoints",
        type=_count,
        metavar="N",
        help="average the last N checkpoints of whole epochs in the directory (checkpoint<n>.pt)",
    )
    number.add_argument(
        "--num-update-checkpoints",
        type=_count,
        metavar="N",
        help="average the last N of --save-interval-updates in the directory "
        "(checkpoint_<epoch>_<n>.pt)",
    )
    parser.add_argument(
        "--checkpoint-upper-bound",
        type=_count,
        metavar="M",
        help="ignore later epochs or updates than M in the directory",
    )


def run(args: argparse.Namespace) -> None:
    """Choose the inputs, then average them."""
    inputs = args.inputs
    kind = None
    if args.num_epoch_checkpoints is not None:
        kind, number = "epoch", args.num_epoch_checkpoints
    elif args.num_update_checkpoints is not None:
        kind, number = "update", args.num_update_checkpoints
    if kind is not None:
        if len(inputs) != 1:
            raise UserError(f"--num-{kind}-checkpoints: give one directory as --inputs")
        inputs = last_checkpoints(inputs[0], kind, number, args.checkpoint_upper_bound)
    elif args.checkpoint_upper_bound is not None:
        raise UserError(
            "--checkpoint-upper-bound: add --num-epoch-checkpoints or --num-update-checkpoints"
        )
    for path in inputs:
        if os.path.isdir(path):
            raise UserError(
                f"{path}: is a directory; add --num-epoch-checkpoints N or "
                "--num-update-checkpoints N, or name files"
            )
    average_files(inputs, args.output)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 1 on")
    return int(text)
