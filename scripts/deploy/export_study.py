"""Does an exported model translate as the original does? Every architecture of size tiny.

    python scripts/deploy/export_study.py                    all that can be exported
    python scripts/deploy/export_study.py --configs one_wide

Takes the quick start's models (runs/quickstart) and trains the others briefly, on the shipped
corpus with the quick start's settings; exports each to CTranslate2 (float32 and int8) and to stock
fairseq, and translates the test set with all four; the original also on fairseq's own path, which
stock fairseq's must equal (the fast path rounds otherwise). Prints the table of docs/export.md, and
every sentence that differs, with both scores. Needs ctranslate2 and the quick start's data.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Dict, List

import torch
from common import (
    REPOSITORY,
    USER_DIR,
    Decoded,
    Text,
    add_arguments,
    ctranslate2_decode,
    export,
    fairseq_decode,
    megabytes,
    quickstart_training,
    read_text,
    remember,
    run_study,
    table,
    train,
)

from fairseq_ffn.checkpoints import load_checkpoint
from fairseq_ffn.decoding.model_facts import parameters_of
from fairseq_ffn.decoding.sources import load_source_without_data
from fairseq_ffn.export.plain import plain_transformer
from fairseq_ffn.files import write_json, write_text
from fairseq_ffn.models.architectures import CONFIGS, SIZES

logger = logging.getLogger("deploy")

QUICKSTART = REPOSITORY / "runs" / "quickstart"
#: size tiny is pre-norm; this one shows the other kind
POST_NORM = "shared_enc_no_dec, post-norm"
EXPORTABLE = [name for name, config in CONFIGS.items() if "encoder_block" not in config.settings]


def training(text: Text, name: str, folder: Path, updates: int) -> List[object]:
    """The command of one model."""
    if name != POST_NORM:
        return quickstart_training(text, name, folder, updates)
    command = quickstart_training(text, "shared_enc_no_dec", folder, updates)
    command[command.index("--arch") + 1] = "transformer_ffn"
    for setting, value in SIZES["tiny"].settings.items():
        if "normalize_before" not in setting:
            command += [f"--{setting.replace('_', '-')}", value]
    return command + ["--encoder-ffn-layout", "shared", "--decoder-ffn-layout", "none"]


def study(text: Text, name: str, folder: Path, updates: int) -> Dict[str, object]:
    """One model's row."""
    checkpoint = QUICKSTART / name / "checkpoints" / "checkpoint_last.pt"
    if not checkpoint.is_file():
        checkpoint = train(training(text, name, folder, updates), folder)
    remember(checkpoint, folder)
    float32 = export(text, checkpoint, folder / "float32")
    int8 = export(text, checkpoint, folder / "int8", "--quantization", "int8")
    stock = export(text, checkpoint, folder / "stock", "--format", "fairseq")
    ours = fairseq_decode(text, checkpoint, folder / "ours.log", USER_DIR)
    plainly = ("--model-overrides", "{'inference': 'plain'}")
    plain = fairseq_decode(text, checkpoint, folder / "plain.log", USER_DIR, *plainly)
    theirs = fairseq_decode(
        text, stock / "checkpoint.pt", folder / "stock.log", stock / "safe_loading"
    )
    exact = ctranslate2_decode(text, float32, "float32")
    small = ctranslate2_decode(text, int8, "int8")
    differing = report_differences(name, ours, exact)
    at_limit = sum(ours.texts[number] != exact.texts[number] for number in exact.at_limit)
    bleu, of_exact, of_small = (text.bleu(one.texts) for one in (ours, exact, small))
    source = load_source_without_data(str(checkpoint))
    weights = equal_weights(source.model, stock / "checkpoint.pt")
    return {
        "config": f"`{name}`" if name != POST_NORM else name,
        "updates": f"{source.state['optimizer_history'][-1]['num_updates']:,}",
        "parameters": f"{parameters_of([source.model])['total'] / 1e6:.2f}M",
        "CTranslate2 float32, MB": f"{megabytes(float32 / 'model.bin'):.2f}",
        "int8, MB": f"{megabytes(int8 / 'model.bin'):.2f}",
        "stock fairseq, MB": f"{megabytes(stock / 'checkpoint.pt'):.2f}",
        "differing": differing,
        "at the limit, differing": f"{len(exact.at_limit)}, {at_limit}",
        "largest difference of scores": f"{largest(ours, exact):.0e}",
        "BLEU fairseq": f"{bleu:.2f}",
        "CTranslate2": f"{of_exact:.2f}",
        "int8": f"{of_small:.2f}",
        "int8 - float32, p": f"{of_small - of_exact:+.2f}, "
        f"{text.p_value(exact.texts, small.texts):.2f}",
        "stock: weights, hypotheses, scores": agreement(weights, plain, theirs),
    }


def report_differences(name: str, ours: Decoded, exact: Decoded) -> int:
    """Print the sentences whose translations differ, but those that were cut off at the limit.

    There fairseq adds an end of sentence to every hypothesis before it chooses one, CTranslate2
    doesn't.
    """
    count = 0
    for number, (one, other) in enumerate(zip(ours.texts, exact.texts)):
        if one != other and number not in exact.at_limit:
            count += 1
            print(f"{name}, sentence {number}:", file=sys.stderr)
            print(f"  fairseq     {ours.scores[number]:.5f}  {one[:200]}", file=sys.stderr)
            print(f"  CTranslate2 {exact.scores[number]:.5f}  {other[:200]}", file=sys.stderr)
    return count


def largest(ours: Decoded, exact: Decoded) -> float:
    """Largest difference of the scores of equal translations, but those at the limit."""
    return max(
        abs(ours.scores[number] - exact.scores[number])
        for number, text in enumerate(ours.texts)
        if text == exact.texts[number] and number not in exact.at_limit
    )


def equal_weights(model: torch.nn.Module, stock: Path) -> bool:
    """Whether the file has the model's weights to the bit, written out for every layer."""
    plain = plain_transformer(model, one_width=True).state
    there = load_checkpoint(stock)["model"]
    return set(plain) == set(there) and all(torch.equal(plain[key], there[key]) for key in plain)


def agreement(weights: bool, plain: Decoded, theirs: Decoded) -> str:
    """How far stock fairseq agrees with fairseq's own path of our model."""
    differing = sum(one != other for one, other in zip(plain.texts, theirs.texts))
    scores = max(abs(a - b) for a, b in zip(plain.scores, theirs.scores))
    words = [
        "equal" if weights else "DIFFERENT",
        "equal" if differing == 0 else f"{differing} differ",
        "equal" if scores == 0 else f"within {scores:.0e}",
    ]
    return ", ".join(words)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--configs",
        nargs="+",
        choices=[*EXPORTABLE, POST_NORM],
        help="default: all, and one in post-norm",
    )
    parser.add_argument(
        "--again", action="store_true", help="measure models anew that have been measured"
    )
    parser.add_argument("--updates", type=int, default=1000, help="of each (default: %(default)s)")
    add_arguments(parser, "export_study")
    args = parser.parse_args()
    text = read_text(args.corpus)
    rows = []
    for name in args.configs or [*EXPORTABLE, POST_NORM]:
        folder = args.output / name.replace(", ", "_")
        done = folder / "row.json"
        if args.again or not done.is_file():
            write_json(done, study(text, name, folder, args.updates))
        rows.append(json.loads(done.read_text(encoding="utf-8")))
        write_text(args.output / "table.md", table(rows) + "\n")
    print(table(rows))


if __name__ == "__main__":
    run_study(main)
