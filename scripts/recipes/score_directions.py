"""BLEU over sentencepiece tokens and chrF of every direction, and of all of them together.

    python score_directions.py results/flores101/baseline results/flores101/one_wide \
        --tokenizer flores101 --output results/flores101/directions

directions.tsv in a run directory says how many lines of it belong to which direction, in order.
The first run directory is the baseline: spBLEU's difference to it is tested by paired bootstrap, as
`fairseq-ffn score` does. Writes OUTPUT.json (unrounded) and OUTPUT.tsv.
"""

from __future__ import annotations

import argparse
import itertools
import logging
from pathlib import Path
from typing import Any, Dict, List, Tuple

from tools import UserError, read_lines, run_program, whole, write_json

logger = logging.getLogger("score_directions")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR")
    parser.add_argument(
        "--tokenizer", default="flores101", help="of sacreBLEU (default: flores101)"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="PREFIX")
    parser.add_argument(
        "--samples", type=int, default=1000, metavar="N", help="of the bootstrap (default: 1000)"
    )
    return parser.parse_args()


def main() -> None:
    """Score, write, print."""
    args = parse()
    from sacrebleu.metrics import BLEU, CHRF
    from sacrebleu.significance import PairedTest

    try:
        bleu = BLEU(tokenize=args.tokenizer)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"sacreBLEU has no sentencepiece model for {args.tokenizer} ({error}); 01_download "
            "fetches it, or put it into $SACREBLEU/models"
        ) from error
    chrf = CHRF()
    lengths = [
        (direction, int(number))
        for direction, number in (
            line.split("\t") for line in read_lines(args.runs[0] / "directions.tsv")
        )
    ]
    hypotheses = {run.name: texts(run / "hypothesis.txt", lengths) for run in args.runs}
    references = texts(args.runs[0] / "reference.txt", lengths)
    records: List[Dict[str, Any]] = []
    for direction in references:
        named = [(name, found[direction]) for name, found in hypotheses.items()]
        record: Dict[str, Any] = {"direction": direction, "runs": {}}
        for name, lines in named:
            record["runs"][name] = {
                "spbleu": bleu.corpus_score(lines, [references[direction]]).score,
                "chrf": chrf.corpus_score(lines, [references[direction]]).score,
            }
        if len(named) > 1:
            test = PairedTest(
                named, {"BLEU": bleu}, [references[direction]], "bs", n_samples=args.samples
            )
            for name, result in zip(hypotheses, test()[1]["BLEU"]):
                if result.p_value is not None:
                    record["runs"][name]["spbleu_p"] = result.p_value
        records.append(record)
    signatures = {"spbleu": str(bleu.get_signature()), "chrf": str(chrf.get_signature())}
    write_json(
        args.output.with_name(f"{args.output.name}.json"),
        {"signatures": signatures, "directions": records},
    )
    names = list(hypotheses)
    columns = [f"{metric} {name}" for name in names for metric in ("spBLEU", "chrF")]
    with whole(args.output.with_name(f"{args.output.name}.tsv")) as file:
        file.write("\t".join(["direction", *columns]) + "\n")
        for record in records:
            cells = [
                f"{record['runs'][name][metric]:.2f}"
                for name in names
                for metric in ("spbleu", "chrf")
            ]
            file.write("\t".join([record["direction"], *cells]) + "\n")
    for name in names:
        everything = records[0]["runs"][name]
        better = sum(
            record["runs"][name]["spbleu"] > record["runs"][names[0]]["spbleu"]
            and record["runs"][name].get("spbleu_p", 1.0) < 0.05
            for record in records[1:]
        )
        print(
            f"{name}: spBLEU {everything['spbleu']:.2f} and chrF {everything['chrf']:.2f} of all, "
            f"better than {names[0]} (p < 0.05) in {better} of {len(records) - 1} directions"
        )


def texts(path: Path, lengths: List[Tuple[str, int]]) -> Dict[str, List[str]]:
    """All lines, then those of each direction.

    Raises:
        UserError: there are more or fewer than the directions have.
    """
    lines = list(read_lines(path))
    total = sum(number for _, number in lengths)
    if len(lines) != total:
        raise UserError(f"{path}: {len(lines)} lines, but the directions have {total}")
    starts = itertools.accumulate((number for _, number in lengths), initial=0)
    parts = {
        direction: lines[start : start + number]
        for (direction, number), start in zip(lengths, starts)
    }
    return {"all": lines, **parts}


if __name__ == "__main__":
    run_program("score_directions", main)
