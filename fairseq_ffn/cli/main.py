"""``fairseq-ffn COMMAND``: the list of commands, and one line for a known error."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from typing import List, Optional, Sequence

from fairseq_ffn import __version__
from fairseq_ffn.errors import UserError, explain_os_error, one_line, printable

#: command: module in this package, what it does. A module has DESCRIPTION, add_arguments(parser)
#: and run(args); only the one that is asked for is imported, since many import much.
COMMANDS = {
    "analyze": ("analyze", "what do the FFNs do: similarity, geometry, attention maps"),
    "archs": ("archs", "print parameters and multiply-adds of every architecture"),
    "average": ("average", "average checkpoints into one for decoding"),
    "compare-latency": (
        "compare_latency",
        "compare the speed of several models, decoding the same sentences in turn",
    ),
    "convert": ("convert", "start a new layout from trained weights"),
    "export": ("export", "take a model to CTranslate2, or to fairseq without this plugin"),
    "report": (
        "report",
        "compare runs: quality, significance, speed, size, cost, translations",
    ),
    "score": (
        "score",
        "score translations: BLEU and chrF, with significance against a baseline",
    ),
}


def build_parser(asked_for: Sequence[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """The parser with all commands; those in ``asked_for`` know their arguments."""
    parser = argparse.ArgumentParser(
        prog="fairseq-ffn",
        description="How much feed-forward network does a translation Transformer need? "
        "Training and decoding are fairseq's own: fairseq-train --user-dir fairseq_ffn "
        "--arch transformer_ffn_big_one_wide ...",
    )
    parser.add_argument("--version", action="version", version=f"fairseq_ffn {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (file, what) in COMMANDS.items():
        command = commands.add_parser(
            name, help=what, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name in asked_for:
            module = importlib.import_module(f"fairseq_ffn.cli.{file}")
            command.description = module.DESCRIPTION
            module.add_arguments(command)
            command.set_defaults(run=module.run, parser=command)
    return parser


def main(arguments: Optional[List[str]] = None) -> int:
    """Run one command; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = build_parser(asked_for=arguments[:1])
    # fairseq has set logging up while it was imported
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    if not arguments:
        parser.print_help()
        return 2
    args, unknown = parser.parse_known_args(arguments)
    if unknown:  # with the command's usage, where argparse would show that of all commands
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        args.run(args)
    except (UserError, OSError) as error:
        line = one_line(error)
        if line is None and isinstance(error, OSError):  # of a connection, say
            line = explain_os_error(error)
        print(f"fairseq-ffn {args.command}: error: {printable(line)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"fairseq-ffn {args.command}: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
