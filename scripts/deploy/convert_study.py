"""Is a new layout that starts from trained weights better than one trained from scratch?

    python scripts/deploy/convert_study.py                   the quick start's baseline
    python scripts/deploy/convert_study.py --baseline x.pt

Converts a trained baseline to SharedEncNoDec and One Wide by every method, scores each as it is,
trains the best one for some more updates, and a new model for as many. Prints the table of
docs/export.md. Needs ctranslate2, which translates, and the quick start's data.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Dict, List

from common import (
    REPOSITORY,
    Text,
    add_arguments,
    ctranslate2_decode,
    export,
    minutes_of_training,
    quickstart_training,
    read_text,
    remember,
    run,
    run_study,
    table,
    train,
)

from fairseq_ffn.conversion.convert import METHODS
from fairseq_ffn.files import write_text

logger = logging.getLogger("deploy")

CONFIGS = ("shared_enc_no_dec", "one_wide")


def bleu(text: Text, checkpoint: Path, folder: Path) -> float:
    """BLEU on the test set, translated by CTranslate2, unless that has been done."""
    note = folder.with_name(f"{folder.name}.bleu")
    if not note.is_file():
        logger.info(f"{folder.parent.name}: translating with {checkpoint.name}")
        found = ctranslate2_decode(text, export(text, checkpoint, folder), "float32").texts
        write_text(note, f"{text.bleu(found)}\n")
    return float(note.read_text(encoding="utf-8"))


def convert(text: Text, baseline: Path, config: str, method: str, folder: Path) -> Path:
    """fairseq-ffn convert, unless that has been done."""
    result = folder / f"{method}.pt"
    if not result.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        command = [
            *("fairseq-ffn", "convert", baseline, "--config", config, "--merge", method),
            *("--data", text.binary, "--output", result),
        ]
        run(command, folder / f"{method}.log")
    return result


def rows_of(text: Text, config: str, args: argparse.Namespace) -> List[Dict[str, object]]:
    """All rows of one config."""
    folder = args.output / config
    rows, scores = [], {}
    for method in args.methods:
        if method == "concatenate" and config == "shared_enc_no_dec":
            continue  # it would be wider than the config
        start = convert(text, args.baseline, config, method, folder)
        scores[method] = bleu(text, start, folder / method)
        rows.append({"model": f"`{config}`, {method}", "before": f"{scores[method]:.1f}"})
    best = max(scores, key=lambda method: scores[method])
    minutes, after = {}, {}
    for name, more in {
        "from it": [*("--lr", args.finetune_lr), "--finetune-from-model", folder / f"{best}.pt"],
        "from scratch": [],
    }.items():
        run_dir = folder / name.replace(" ", "_")
        command = quickstart_training(text, config, run_dir, args.updates)
        checkpoint = train(command + more, run_dir)
        minutes[name] = minutes_of_training(run_dir)
        after[name] = bleu(text, checkpoint, run_dir / "float32")
    for row in rows:
        chosen = row["model"] == f"`{config}`, {best}"
        row["after"] = f"{after['from it']:.1f}" if chosen else ""
        row["minutes"] = f"{minutes['from it']:.1f}" if chosen else ""
    rows.append(
        {
            "model": f"`{config}`, from scratch",
            "before": "",
            "after": f"{after['from scratch']:.1f}",
            "minutes": f"{minutes['from scratch']:.1f}",
        }
    )
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--baseline",
        type=Path,
        default=REPOSITORY / "runs/quickstart/baseline/checkpoints/checkpoint_last.pt",
        help="a trained transformer_ffn_tiny (default: the quick start's)",
    )
    parser.add_argument(
        "--configs", nargs="+", choices=CONFIGS, default=CONFIGS, help="default: both"
    )
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=METHODS, help="default: all"
    )
    parser.add_argument("--updates", type=int, default=500, help="default: %(default)s")
    parser.add_argument(
        "--finetune-lr", type=float, default=1.1e-3, help="default: half of the quick start's"
    )
    add_arguments(parser, "convert_study")
    args = parser.parse_args()
    text = read_text(args.corpus)
    remember(args.baseline, args.output)
    score = bleu(text, args.baseline, args.output / "baseline")
    rows = [{"model": "`baseline`, trained", "before": f"{score:.1f}", "after": "", "minutes": ""}]
    for config in args.configs:
        rows += rows_of(text, config, args)
        write_text(args.output / "table.md", table(rows) + "\n")
    print(table(rows))


if __name__ == "__main__":
    run_study(main)
