"""``fairseq-ffn COMMAND``: the list of commands, and one line for a known error."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from typing import List, Optional

from fairseq_ffn.errors import UserError, printable

#: command, module in this package; a module has DESCRIPTION, add_arguments(parser) and run(args)
COMMANDS = {
    "archs": "fairseq_ffn.cli.archs",
    "average": "fairseq_ffn.cli.average",
    "compare-latency": "fairseq_ffn.cli.compare_latency",
    "report": "fairseq_ffn.cli.report",
    "score": "fairseq_ffn.cli.score",
}


def build_parser() -> argparse.ArgumentParser:
    """The parser with all sub-commands."""
    parser = argparse.ArgumentParser(
        prog="fairseq-ffn",
        description="How much feed-forward network does a translation Transformer need? "
        "Training and decoding are fairseq's own: fairseq-train --user-dir fairseq_ffn "
        "--arch transformer_ffn_big_one_wide ...",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, path in COMMANDS.items():
        module = importlib.import_module(path)
        command = commands.add_parser(
            name,
            help=module.DESCRIPTION.splitlines()[0],
            description=module.DESCRIPTION,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(arguments: Optional[List[str]] = None) -> int:
    """Run one command; returns the exit status."""
    # fairseq has set logging up while it was imported
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    args = build_parser().parse_args(arguments)
    try:
        args.run(args)
    except (UserError, OSError) as error:
        print(f"fairseq-ffn {args.command}: error: {printable(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"fairseq-ffn {args.command}: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
