"""Sentencepiece model and fairseq dictionary from a sample of the clean text.

    python vocabulary.py --clean clean --output vocabulary --size 32000

--kind joint: one model for all languages. --kind merged: one model of --size pieces for each side,
both merged into one dictionary; two of 32,000 give about 50,000 rows, which is what the paper's
parameter counts imply although it says 32K (docs/wmt.md). Either way source and target have one
joined dictionary, and the models one embedding matrix.

Which pairs are sampled depends on their hash alone: the same text gives the same vocabulary.
"""

from __future__ import annotations

import argparse
import io
import logging
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

from sampling import Weights, chosen
from tools import UserError, fingerprint, read_json, read_pairs, run_program, whole_folder

logger = logging.getLogger("vocabulary")

#: fairseq's own symbols come before what the dictionary's file names
SPECIAL = 4
#: rows of a matrix that GPUs multiply quickly, as fairseq pads its dictionaries
MULTIPLE = 8


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clean", type=Path, required=True, metavar="DIR", help="of 02_clean")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--size", type=int, required=True, metavar="N", help="pieces of a model")
    parser.add_argument("--kind", choices=("joint", "merged"), default="joint")
    parser.add_argument("--type", choices=("unigram", "bpe"), default="unigram")
    parser.add_argument("--coverage", type=float, default=1.0, metavar="X", help="of characters")
    parser.add_argument(
        "--lines", type=int, default=2_000_000, metavar="N", help="pairs of the sample, about"
    )
    parser.add_argument("--temperature", type=float, default=1.0, metavar="T")
    parser.add_argument("--tags", nargs="*", default=[], metavar="LANGUAGE")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    return parser.parse_args()


def main() -> None:
    """Train, then write the dictionary."""
    args = parse()
    kept = {pair: found["kept"] for pair, found in read_json(args.clean / "counts.json").items()}
    with whole_folder(args.output) as folder:
        if args.kind == "joint":
            models = {"joint": (0, 1)}
        else:
            if len(kept) != 1:
                raise UserError("--kind merged: only for one pair of languages")
            source, target = next(iter(kept)).split("-")
            models = {source: (0,), target: (1,)}
        pieces: Dict[str, None] = {}
        for name, sides in models.items():
            model = train(args, kept, sides, name)
            (folder / f"{name}.model").write_bytes(model)
            pieces.update(dict.fromkeys(pieces_of(model)))
        symbols = [*pieces, *(tag(language) for language in args.tags)]
        padding = -(len(symbols) + SPECIAL) % MULTIPLE
        with open(folder / "dict.txt", "w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{symbol} 1\n" for symbol in symbols)
            file.writelines(f"madeupword{number:04d} 0\n" for number in range(padding))
    total = len(symbols) + SPECIAL + padding
    print(f"{args.kind}: {len(pieces):,} pieces; dictionary and embeddings: {total:,} rows")


def tag(language: str) -> str:
    """The symbol before a source sentence that says what to translate into."""
    return f"<2{language}>"


def sample(
    clean: Path, kept: Dict[str, int], lines: int, temperature: float, sides: Tuple[int, ...]
) -> Iterator[str]:
    """Sentences of about so many pairs, spread over the pairs of languages by temperature."""
    weights = Weights(kept, temperature)
    for pair, number in sorted(kept.items()):
        rate = lines * weights.share(pair) / max(1, number)
        for path in sorted((clean / pair).glob("*.tsv.gz")):
            for texts in read_pairs(path):
                if chosen(fingerprint(*texts, seed="vocabulary"), min(1.0, rate)):
                    for side in sides:
                        yield texts[side]


def train(
    args: argparse.Namespace, kept: Dict[str, int], sides: Tuple[int, ...], name: str
) -> bytes:
    """One sentencepiece model, without the name of its file: the same text gives the same bytes.

    Raises:
        UserError: the text is too small for so many pieces.
    """
    import sentencepiece

    model = io.BytesIO()
    logger.info(f"sentencepiece: {name}, {args.size:,} pieces, {args.type}")
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=sample(args.clean, kept, args.lines, args.temperature, sides),
            model_writer=model,
            vocab_size=args.size,
            model_type=args.type,
            character_coverage=args.coverage,
            num_threads=args.threads,
            train_extremely_large_corpus=args.lines > 20_000_000,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(
            f"sentencepiece can't make {args.size} pieces of {args.clean}: "
            f"{str(error).strip().splitlines()[-1].rpartition('] ')[2]}"
        ) from error
    return model.getvalue()


def pieces_of(model: bytes) -> List[str]:
    """The pieces, without sentencepiece's own <unk>, <s> and </s>."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [processor.id_to_piece(index) for index in range(3, len(processor))]


if __name__ == "__main__":
    run_program("vocabulary", main)
