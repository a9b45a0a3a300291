"""``fairseq-ffn analyze similarity``: CKA and LNS within and between models."""

from __future__ import annotations

import argparse
import logging
from dataclasses import asdict
from typing import Any, Dict, List

from fairseq_ffn.analysis.layer_steps import STACKS
from fairseq_ffn.analysis.similarity import (
    OTHER_FORM,
    SentenceMeans,
    Settings,
    check_layers,
    study,
)
from fairseq_ffn.cli.analysis_input import (
    AnalysisInput,
    add_input_arguments,
    progress,
    write_results,
)
from fairseq_ffn.cli.arguments import positive
from fairseq_ffn.cli.text_table import text_table
from fairseq_ffn.reporting.similarity_figures import figures

logger = logging.getLogger(__name__)

DESCRIPTION = """which modules and models are alike: CKA and LNS on sentence means

Each sentence is the mean of its tokens' outputs of a module (One Wide FFN, section 3). Linear CKA
compares distances (Kornblith's form; debiased unless --biased: the biased form isn't 0 for
unrelated data; the other form is stated beside it), LNS the 5% nearest neighbours by cosine. The
first checkpoint is the baseline. Each model is compared with itself, all modules with all (a
checkerboard says that a module is more like the next but one than like the next), and with the
baseline, module by module; where one of the two has no FFN, whole layers are compared. With
--seeds, baselines of other seeds, the comparison is also divided by theirs. Chance: the baseline's
architecture untrained, and sentences permuted.

    fairseq-ffn analyze similarity baseline.pt one_wide.pt --seeds seed2.pt seed3.pt \\
        --data DATA-BIN --output DIR"""

#: below this 5% is no whole sentence
FEWEST = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    add_input_arguments(parser, 1000, "models to compare, the baseline first")
    parser.add_argument(
        "--seeds",
        nargs="+",
        default=[],
        metavar="CHECKPOINT",
        help="the baseline trained with other seeds: the benchmark",
    )
    parser.add_argument(
        "--biased", action="store_true", help="biased CKA, as in the paper (default: debiased)"
    )
    parser.add_argument(
        "--resamples",
        type=positive,
        default=200,
        metavar="N",
        help="of the bootstrap over sentences, for 95%% intervals (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    """Load, record, compare, write."""
    given = AnalysisInput(args, further=args.seeds, fewest=FEWEST)
    check_layers({one.name: one.model for one in given.loaded})
    batches = given.batches()
    total = len(given.drawn)
    means: List[SentenceMeans] = []
    for model in (*given.loaded, given.untrained(args.seed)):
        means.append(SentenceMeans(model.name, model.model, batches, progress(model.name, total)))
        model.model.cpu()
    split = len(args.checkpoints)
    settings = Settings(not args.biased, args.resamples, args.seed)
    found = study(means[:split], means[split:-1], means[-1], settings, logger.info)
    record = {**given.facts(args), "settings": asdict(settings), **found}
    write_results(args.output, "similarity", record, [] if args.no_plots else figures(record))
    print("\n".join(_summary(found)))


def _summary(found: Dict[str, Any]) -> List[str]:
    """What there is to say, as tables."""
    rows = [["model", "stack", "next", "next but one", "next but one is more alike"]]
    for name, stacks in found["within"].items():
        for stack in STACKS:
            near = stacks[stack]["neighbours"]
            rows.append(
                [
                    *(name, stack, f"{near['immediate']:.3f}", f"{near['second']:.3f}"),
                    f"{100 * near['share_second_higher']:.0f}%",
                ]
            )
    lines = ["", f"Within models: {found['cka']} CKA of modules in forward order"]
    lines += text_table(rows, numbers=range(2, 5))
    rows = [["model", "stack", "compared", f"{found['cka']} CKA", f"{found[OTHER_FORM]}", "LNS"]]
    rows[0] += ["CKA / seeds", "LNS / seeds"]
    for entry in found["between"]:
        for stack in STACKS:
            same = entry[stack]["same_module"]
            ratios = entry[stack].get("normalised")
            cells = [_interval(same["cka"]["mean"]), f"{same[OTHER_FORM]['mean']['value']:.3f}"]
            cells.append(_interval(same["lns"]["mean"]))
            cells += [_interval(ratios[name]) if ratios else "-" for name in ("cka", "lns")]
            name = entry["model"] + (" (seed)" if entry["is_seed"] else "")
            rows.append([name, stack, entry[stack]["compared"], *cells])
    if found["between"]:
        lines += ["", f"Same module as in {found['between'][0]['baseline']}, [95% interval]"]
        lines += text_table(rows, numbers=range(3, 8))
        first = found["between"][0]
        chance = [
            f"{stack} CKA {first[stack][kind]['cka']['mean']['value']:.3f}, "
            f"LNS {first[stack][kind]['lns']['mean']['value']:.3f}"
            for kind in ("untrained", "permuted_sentences")
            for stack in STACKS
        ]
        lines.append(
            f"Chance: untrained {'; '.join(chance[:2])}; permuted sentences "
            f"{'; '.join(chance[2:])}; LNS of random sets {found['lns_chance']:.3f}"
        )
    return lines


def _interval(value: Dict[str, float]) -> str:
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
