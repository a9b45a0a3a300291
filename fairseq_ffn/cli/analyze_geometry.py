"""``fairseq-ffn analyze geometry``: isotropy, branch norms, the defect of running in parallel."""

from __future__ import annotations

import argparse
import logging
from typing import Any, Dict, List

from fairseq_ffn.analysis.geometry import measure_model
from fairseq_ffn.analysis.layer_steps import STACKS
from fairseq_ffn.cli.analysis_input import AnalysisInput, add_input_arguments, write_results
from fairseq_ffn.cli.arguments import positive
from fairseq_ffn.cli.text_table import text_table
from fairseq_ffn.reporting.geometry_figures import figures

logger = logging.getLogger(__name__)

DESCRIPTION = """isotropy at every point of every layer, and how large is what each branch adds

PAF rests on two assumptions: (A1) the FFN keeps token states isotropic, (A2) what attention adds is
small against the layer's input. The paper's formulas weren't available to us, so all definitions
are ours (docs/analysis.md): mean cosine within and across sentences, with and without the
dimensions that dominate it, I(W), IsoScore; |branch| / |stream|; and the defect of running in
parallel, |FFN(x+a) - FFN(x)| / |FFN(x+a)|. The answers are printed in words.

    fairseq-ffn analyze geometry baseline.pt parallel.pt --data DATA-BIN --output DIR"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    add_input_arguments(parser, 300, "models to measure")
    parser.add_argument(
        "--pairs",
        type=positive,
        default=1000,
        metavar="N",
        help="random pairs of tokens of different sentences (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    """Load, measure, write."""
    given = AnalysisInput(args, fewest=2)
    batches = given.batches()
    models: Dict[str, Any] = {}
    for one in given.loaded:
        models[one.name] = measure_model(
            one.model,
            batches,
            args.seed,
            args.pairs,
            progress=lambda layer, name=one.name: logger.info(f"{name}: {layer} measured"),
        )
    tokens = models[given.loaded[0].name]["tokens"]
    width = max(one.model.encoder.layers[0].self_attn.embed_dim for one in given.loaded)
    if min(tokens.values()) < 2 * width:
        logger.warning(
            f"only {min(tokens.values())} tokens for {width} dimensions: IsoScore is low by "
            "construction; raise --sentences"
        )
    record = {**given.facts(args), "definition": "ours, see docs/analysis.md", "geometry": models}
    write_results(args.output, "geometry", record, [] if args.no_plots else figures(record))
    print("\n".join(_summary(models)))


def _summary(models: Dict[str, Any]) -> List[str]:
    lines: List[str] = []
    for name, model in models.items():
        for stack in STACKS:
            answers = model["answers"][stack]
            lines += ["", f"{name}, {stack} ({model['tokens'][stack]} tokens; our definitions)"]
            rows = [["layer", "cosine: x", "without FFN", "with FFN", "output"]]
            rows[0] += ["IsoScore", "|SA|/|x|", "|CA|/|x|", "|FFN|/|x|", "defect"]
            for index, layer in enumerate(model["layers"][stack]):
                rows.append([str(index), *_row(layer)])
            lines += text_table(rows, numbers=range(1, 10))
            for number, key in (
                ("A1", "isotropy_rises_over_ffn"),
                ("A2", "attention_residual_is_small"),
            ):
                lines.append(f"{number}: {answers[key]['verdict']}: {answers[key]['words']}")
    return lines


def _row(layer: Dict[str, Any]) -> List[str]:
    cosines = {point["point"]: point["within_cosine"]["all"] for point in layer["points"]}
    around = layer["around_ffn"]
    cells = [cosines["x"]]
    cells += [None, None] if around is None else [cosines[around["without"]]]
    cells += [] if around is None else [cosines[around["with"]]]
    cells += [cosines["y"], layer["points"][-1]["iso_score"]]
    for kind in ("self-attention", "cross-attention", "FFN"):
        branch = layer["branches"].get(kind)
        cells.append(None if branch is None else branch["ratio"]["median"])
    defect = layer["parallel_defect"]
    cells.append(None if defect is None else defect["median"])
    return ["-" if cell is None else f"{cell:.3f}" for cell in cells]
