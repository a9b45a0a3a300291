"""``fairseq-ffn analyze``: what do the FFNs do? Three analyses, a command each."""

from __future__ import annotations

import argparse
import importlib

DESCRIPTION = """what do the feed-forward networks of trained models do?

  similarity      which modules and models are alike: CKA and LNS (One Wide FFN)
  geometry        isotropy, norms of what each branch adds, defect of parallel blocks (PAF)
  attention-maps  norm-based maps through the FFN (Kobayashi et al. 2024)

Each takes checkpoints of this plugin or of fairseq's transformer and a binarised set: the source
goes through the encoder, the reference is forced through the decoder. Each writes JSON and figures.

    fairseq-ffn analyze geometry runs/a/checkpoints/checkpoint_best.pt --data BIN --output DIR"""

#: analysis: module in this package, what it does
ANALYSES = {
    "similarity": ("analyze_similarity", "CKA and LNS within and between models"),
    "geometry": ("analyze_geometry", "isotropy, branch norms, defect of running in parallel"),
    "attention-maps": ("analyze_maps", "attention maps through the FFN, residual and norm"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the analyses with their flags."""
    analyses = parser.add_subparsers(dest="analysis", required=True, metavar="ANALYSIS")
    for name, (file, what) in ANALYSES.items():
        module = importlib.import_module(f"fairseq_ffn.cli.{file}")
        command = analyses.add_parser(
            name,
            help=what,
            description=module.DESCRIPTION,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run_analysis=module.run, parser=command)


def run(args: argparse.Namespace) -> None:
    """Run the one that was asked for."""
    args.run_analysis(args)
