"""``fairseq-ffn analyze attention-maps``: norm-based maps through the FFN, and their measures."""

from __future__ import annotations

import argparse
import logging
from typing import Any, Dict, List

import torch

from fairseq_ffn.analysis.layer_maps import COMPONENTS
from fairseq_ffn.analysis.layer_steps import STACKS
from fairseq_ffn.analysis.map_study import Settings, study
from fairseq_ffn.analysis.players import CHUNK
from fairseq_ffn.cli.analysis_input import (
    AnalysisInput,
    add_input_arguments,
    progress,
    without_nan,
    write_results,
)
from fairseq_ffn.cli.arguments import positive
from fairseq_ffn.cli.text_table import text_table
from fairseq_ffn.files import write_text
from fairseq_ffn.reporting.map_figures import figures
from fairseq_ffn.reporting.map_page import map_page

logger = logging.getLogger(__name__)

DESCRIPTION = """how much each token has of which token, before and after the FFN

Each layer's output vector is split exactly into one vector per input token (and one for the
biases); a map shows their lengths. The split goes through attention, residual, layer norm and FFN,
whose activation is split by integrated gradients in closed form (Kobayashi et al. 2020, 2021,
2024). Measures of each layer: 1 - rho (Spearman) over attention, FFN (FF), residual (RES), norm
(LN); the mixing ratio at every scope; the source's share in the decoder; the pairs that the FFN
amplifies. Scopes and choices that are ours: docs/analysis.md. Writes a page to browse the maps of
some sentences, too.

    fairseq-ffn analyze attention-maps baseline.pt one_wide.pt --data DATA-BIN --output DIR"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    add_input_arguments(parser, 50, "models to measure")
    parser.add_argument(
        "--show",
        type=positive,
        default=5,
        metavar="N",
        help="sentences whose maps are on the page (default: %(default)s)",
    )
    parser.add_argument(
        "--map-figures",
        type=_from_zero,
        default=1,
        metavar="N",
        help="sentences whose maps are figures too, one a layer (default: %(default)s)",
    )
    parser.add_argument(
        "--pairs",
        type=positive,
        default=10,
        metavar="N",
        help="pairs to list that the FFN amplifies most in a layer (default: %(default)s)",
    )
    parser.add_argument(
        "--bias",
        choices=("player", "fixed"),
        default="player",
        help="the FFN's first bias in the activation: part of the bias player, or a fixed part of "
        "the path; both are exact, the maps differ (default: player)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float64", "float32"),
        default="float64",
        help="of the decomposition; float32 takes about half the time (default: float64)",
    )
    parser.add_argument(
        "--chunk",
        type=positive,
        default=CHUNK,
        metavar="N",
        help="hidden neurons of an FFN at a time; bounds memory (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    """Load, decompose, write."""
    given = AnalysisInput(args)
    sentences = given.sentences()
    settings = Settings(getattr(torch, args.dtype), args.bias == "fixed", args.chunk, args.pairs)
    models: Dict[str, Any] = {}
    for one in given.loaded:
        label = progress(one.name, len(sentences))
        models[one.name] = study(one.model, sentences, args.show, settings, label)
    record = {
        **given.facts(args),
        "settings": {"bias": args.bias, "dtype": args.dtype},
        "attention_maps": models,
    }
    found = [] if args.no_plots else figures(record, args.map_figures)
    write_results(args.output, "attention_maps", record, found)
    page = args.output / "attention_maps.html"
    write_text(page, map_page(without_nan(record)))
    print(f"Page: {page}")
    print("\n".join(_summary(models)))


def _summary(models: Dict[str, Any]) -> List[str]:
    lines: List[str] = []
    for name, model in models.items():
        for stack in STACKS:
            layers = model["layers"][stack]
            lines += ["", f"{name}, {stack}: 1 - rho (without the diagonal), mixing ratio"]
            rows = [["layer", *COMPONENTS, "ATTN-N", "ATB", "whole layer", "source share"]]
            for index, layer in enumerate(layers):
                rows.append([str(index), *_row(layer)])
            lines += text_table(rows, numbers=range(1, len(rows[0])))
        error = max(
            layer["reconstruction_error"] for stack in STACKS for layer in model["layers"][stack]
        )
        lines.append(
            f"{name}: players add up to within {error:.0e}; "
            f"{model['seconds_per_sentence']:.2f} s a sentence"
        )
    return lines


def _row(layer: Dict[str, Any]) -> List[str]:
    cells = []
    for component in COMPONENTS:
        change = layer["change"][component]
        cells.append(f"{_number(change['all'])} ({_number(change['without_diagonal'])})")
    mixing = layer["mixing_ratio"]
    last = list(mixing)[-1]
    cells += [_number(mixing[name]) for name in ("ATTN-N", "ATB", last)]
    shares = layer["shares"].get(last)
    cells.append("-" if shares is None else f"{shares['sources']:.2f}")
    return cells


def _number(summary: Dict[str, float]) -> str:
    return "-" if summary["mean"] != summary["mean"] else f"{summary['mean']:.2f}"


def _from_zero(text: str) -> int:
    return 0 if text == "0" else positive(text)
