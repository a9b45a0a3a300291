"""Text to pieces, for fairseq-preprocess.

    python encode.py train --clean clean --shard 0 --vocabulary vocabulary --directions en-de \
        --output work/train
    python encode.py set --text text --split test --name newstest2014 --vocabulary vocabulary \
        --directions en-de --output work/test

Writes OUTPUT.<source> and OUTPUT.<target>: of the languages of the one direction, or `source` and
`target` if there are several, which all go into one file. With --tags every source begins with
<2xx>, the language to translate into. `set` also writes OUTPUT.texts/: source.txt, reference.txt
and directions.tsv, as scoring wants them.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections import Counter
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Sequence, TextIO, Tuple

from normalise import normalise
from sampling import Weights, times
from tools import (
    UserError,
    fingerprint,
    read_json,
    read_lines,
    read_pairs,
    run_program,
    whole,
)
from vocabulary import tag

logger = logging.getLogger("encode")

#: sentences that are cut into pieces at once
BLOCK = 20_000
Pair = Tuple[str, str, str]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="one shard of the training text")
    train.add_argument("--clean", type=Path, required=True, metavar="DIR", help="of 02_clean")
    train.add_argument("--shard", type=int, required=True, metavar="N")
    train.add_argument("--temperature", type=float, default=1.0, metavar="T")
    one = commands.add_parser("set", help="a set for validation or testing")
    one.add_argument("--text", type=Path, required=True, metavar="DIR", help="of 01_download")
    one.add_argument("--split", choices=("valid", "test"), required=True)
    one.add_argument("--name", required=True)
    one.add_argument("--lines", type=int, metavar="N", help="of a direction (default: all)")
    for command in (train, one):
        command.add_argument("--vocabulary", type=Path, required=True, metavar="DIR")
        command.add_argument("--directions", nargs="+", required=True, metavar="A-B")
        command.add_argument("--tags", action="store_true", help="say what to translate into")
        command.add_argument("--output", type=Path, required=True, metavar="PREFIX")
        command.add_argument(
            "--max-pieces", type=int, default=1023, metavar="N", help="of a side (default: 1023)"
        )
        command.add_argument("--threads", type=int, default=1, metavar="N")
        command.add_argument(
            "--sides",
            nargs=2,
            metavar=("SOURCE", "TARGET"),
            help="endings of the files (default: the languages, or source and target)",
        )
    return parser.parse_args()


def main() -> None:
    """One of the commands."""
    args = parse()
    if args.command == "train":
        counts: Counter = Counter()
        write(args, encode(args, shard_pairs(args), counts))
        print(f"shard {args.shard}: {counts['kept']:,} pairs, {counts['long']:,} left out: longer")
        if counts["kept"] == 0:
            raise UserError(f"{args.clean}: shard {args.shard} is empty; take fewer shards")
    else:
        pairs = list(set_pairs(args))
        write(args, encode(args, pairs, None))
        write_texts(args, pairs)


def sides(directions: Sequence[str]) -> Tuple[str, str]:
    """What fairseq calls source and target."""
    if len(directions) > 1:
        return "source", "target"
    source, target = directions[0].split("-")
    return source, target


def shard_pairs(args: argparse.Namespace) -> Iterator[Pair]:
    """(direction, source, target) of one shard, as often as the temperature says."""
    counts = read_json(args.clean / "counts.json")
    kept: Dict[str, int] = {}
    pair_of: Dict[str, Tuple[str, bool]] = {}
    for direction in args.directions:
        turned = "-".join(reversed(direction.split("-")))
        pair = next((name for name in (direction, turned) if name in counts), None)
        if pair is None:
            continue  # a direction that no text is for: zero-shot
        kept[direction], pair_of[direction] = counts[pair]["kept"], (pair, pair != direction)
    weights = Weights(kept, args.temperature)
    for direction, (pair, swap) in pair_of.items():
        copies = weights.copies(direction)
        for texts in read_pairs(args.clean / pair / f"{args.shard:04d}.tsv.gz"):
            number = 1 if copies == 1 else times(fingerprint(*texts, seed=direction), copies)
            for _ in range(number):
                yield (direction, texts[1], texts[0]) if swap else (direction, texts[0], texts[1])


def set_pairs(args: argparse.Namespace) -> Iterator[Pair]:
    """(direction, source, target) of a set, one direction after the other."""
    for direction in args.directions:
        sides = []
        for language in direction.split("-"):
            path = args.text / args.split / f"{args.name}.{language}"
            if not path.is_file():
                raise UserError(f"{path}: not there; run 01_download again")
            sides.append(list(read_lines(path))[: args.lines])
        if len(sides[0]) != len(sides[1]):
            raise UserError(f"{args.name}: the sides of {direction} have different lengths")
        for source, target in zip(*sides):
            yield direction, source, target


def encode(
    args: argparse.Namespace, pairs: Iterable[Pair], counts: Counter | None
) -> Iterator[Tuple[str, str]]:
    """Pieces with spaces between them.

    Args:
        args: the options.
        pairs: (direction, source, target).
        counts: of training pairs; None for a set, which may not lose a line.

    Raises:
        UserError: a line of a set is longer than the models take.
    """
    import sentencepiece

    def model(language: str):
        path = args.vocabulary / "joint.model"
        if not path.is_file():
            path = args.vocabulary / f"{language}.model"
        return sentencepiece.SentencePieceProcessor(model_file=str(path))

    source, target = sides(args.directions)
    cutters = [model(source), model(target)]
    prefix = 1 if args.tags else 0
    number = 0
    for block in blocks(pairs, BLOCK):
        texts = [
            [normalise(row[1 + side], row[0].split("-")[side]) for row in block] for side in (0, 1)
        ]
        cut = [
            cutter.encode(lines, out_type=str, num_threads=args.threads)
            for cutter, lines in zip(cutters, texts)
        ]
        for (direction, *_), one, other in zip(block, *cut):
            number += 1
            longest = max(len(one) + prefix, len(other))
            if longest > args.max_pieces:
                if counts is None:
                    raise UserError(
                        f"{args.name}, line {number}: {longest} pieces, but the models take "
                        f"{args.max_pieces}; leaving it out would change what is scored"
                    )
                counts["long"] += 1
                continue
            if counts is not None:
                counts["kept"] += 1
            if args.tags:
                one = [tag(direction.split("-")[1]), *one]
            yield " ".join(one), " ".join(other)


def blocks(items: Iterable[Pair], size: int) -> Iterator[List[Pair]]:
    """Lists of so many items."""
    block: List[Pair] = []
    for item in items:
        block.append(item)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block


def write(args: argparse.Namespace, lines: Iterator[Tuple[str, str]]) -> None:
    """Both sides."""
    with contextlib.ExitStack() as stack:
        files: List[TextIO] = [
            stack.enter_context(whole(args.output.with_name(f"{args.output.name}.{side}")))
            for side in args.sides or sides(args.directions)
        ]
        for pair in lines:
            for file, text in zip(files, pair):
                file.write(text + "\n")


def write_texts(args: argparse.Namespace, pairs: Sequence[Pair]) -> None:
    """The set as scoring wants it."""
    folder = args.output.with_name(f"{args.output.name}.texts")
    for name, side in (("source.txt", 1), ("reference.txt", 2)):
        with whole(folder / name) as file:
            file.writelines(row[side] + "\n" for row in pairs)
    with whole(folder / "directions.tsv") as file:
        counted = Counter(row[0] for row in pairs)
        file.writelines(f"{direction}\t{number}\n" for direction, number in counted.items())


if __name__ == "__main__":
    run_program("encode", main)
