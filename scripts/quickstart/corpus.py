"""Raw text to fairseq's binary data: check, sentencepiece, fairseq-preprocess."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Sequence, Tuple

from jobs import UserError, run, sha256

from fairseq_ffn.files import write_text

logger = logging.getLogger("quickstart")

SPLITS = ("train", "dev", "test")
#: sentences of the test set on which decoding speed is measured
SPEED_SENTENCES = 100


class Corpus:
    """A folder with train, dev and test files of two languages, plain or gzipped.

    Args:
        raw: folder with ``train.en``, ``train.de`` and so on, or ``.gz``.
        source: source language, the files' suffix.
        target: target language.
    """

    def __init__(self, raw: Path, source: str, target: str):
        self.raw, self.source, self.target = raw, source, target
        self.files: Dict[Tuple[str, str], Path] = {}
        for split in SPLITS:
            for language in (source, target):
                self.files[split, language] = self._find(f"{split}.{language}")

    def _find(self, name: str) -> Path:
        for candidate in (self.raw / name, self.raw / f"{name}.gz"):
            if candidate.is_file():
                return candidate
        raise UserError(
            f"{self.raw}: no file {name} or {name}.gz; the folder needs train, dev and test files "
            f"ending in .{self.source} and .{self.target} (see --source-lang and --target-lang)"
        )

    def checksum(self) -> str:
        """One checksum of all files."""
        parts = "".join(sha256(path) for _, path in sorted(self.files.items()))
        return hashlib.sha256(parts.encode()).hexdigest()[:16]

    def lines(self, split: str, language: str) -> Iterator[str]:
        """Lines of one file, checked.

        Raises:
            UserError: naming file and line of text that isn't UTF-8, or of a broken archive.
        """
        path = self.files[split, language]
        opener = gzip.open if path.suffix == ".gz" else open
        number = 0
        try:
            with opener(path, "rb") as file:
                for number, line in enumerate(file, 1):  # noqa: B007  (for the errors)
                    yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}, line {number}: not UTF-8 ({error.reason})") from error
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{path}: damaged gzip file after line {number} ({error})") from error

    def pairs(self, split: str) -> List[Tuple[str, str]]:
        """All pairs of a split.

        Raises:
            UserError: an empty file, sides of different length, or an empty dev or test line.
        """
        sides = [list(self.lines(split, language)) for language in (self.source, self.target)]
        for language, side in zip((self.source, self.target), sides):
            if not side:
                raise UserError(f"{self.files[split, language]}: the file is empty")
        if len(sides[0]) != len(sides[1]):
            raise UserError(
                f"{self.files[split, self.source]} has {len(sides[0])} lines, but "
                f"{self.files[split, self.target]} has {len(sides[1])}; line N of one must "
                "translate line N of the other"
            )
        pairs = list(zip(*sides))
        if split == "train":
            return [pair for pair in pairs if pair[0].strip() and pair[1].strip()]
        for number, pair in enumerate(pairs, 1):
            for language, text in zip((self.source, self.target), pair):
                if not text.strip():
                    raise UserError(f"{self.files[split, language]}, line {number}: empty line")
        return pairs


def guess_languages(raw: Path) -> Tuple[str, str]:
    """Source and target language from the names of the files, in alphabetical order; en first."""
    if not raw.is_dir():
        raise UserError(f"{raw}: no such folder")
    found = sorted(
        {
            path.name[len("train.") :].removesuffix(".gz")
            for path in raw.iterdir()
            if path.name.startswith("train.")
        }
    )
    if len(found) != 2:
        raise UserError(
            f"{raw}: expected train files of two languages, found {', '.join(found) or 'none'}; "
            "name them with --source-lang and --target-lang"
        )
    if "en" in found:
        found.sort(key=lambda language: language != "en")
    return found[0], found[1]


@dataclass(frozen=True)
class Longest:
    """How many pieces a sentence may have, its end (one more symbol for fairseq) not counted."""

    train: int
    others: int


def prepare(corpus: Corpus, folder: Path, vocabulary_size: int, longest: Longest) -> Path:
    """Sentencepiece model, pieces and binary data under ``folder``; skipped when done.

    Training pairs that are longer than a batch are left out, and counted in the log.

    Returns:
        the folder that ``fairseq-train`` reads.

    Raises:
        UserError: the text can't be used; it says which file, and which line.
    """
    binary, done = folder / "bin", folder / "bin" / "done.json"
    wanted = {
        "vocabulary_size": vocabulary_size,
        "languages": [corpus.source, corpus.target],
        "longest": [longest.train, longest.others],
        "sha256": {path.name: sha256(path) for path in corpus.files.values()},
    }
    if done.is_file() and json.loads(done.read_text()) == wanted:
        logger.info(f"data: {binary} is ready")
        return binary
    for stale in (folder / "prepared", binary):
        shutil.rmtree(stale, ignore_errors=True)
    pieces = folder / "prepared"
    pieces.mkdir(parents=True)
    _to_pieces(corpus, pieces, vocabulary_size, longest)
    logger.info("data: fairseq-preprocess")
    run(
        [
            "fairseq-preprocess",
            *("--source-lang", corpus.source, "--target-lang", corpus.target),
            *("--trainpref", pieces / "train", "--validpref", pieces / "dev"),
            *("--testpref", f"{pieces / 'test'},{pieces / 'speed'}"),
            *("--joined-dictionary", "--srcdict", pieces / "dict.txt", "--destdir", binary),
        ],
        log=pieces / "preprocess.log",
    )
    write_text(done, json.dumps(wanted))
    return binary


def _to_pieces(corpus: Corpus, pieces: Path, vocabulary_size: int, longest: Longest) -> None:
    import sentencepiece

    splits = {split: corpus.pairs(split) for split in SPLITS}
    splits["speed"] = splits["test"][:SPEED_SENTENCES]
    if not splits["train"]:
        raise UserError(f"{corpus.files['train', corpus.source]}: no pair has text on both sides")
    logger.info(f"data: sentencepiece, {vocabulary_size} pieces, joint")
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(text for pair in splits["train"] for text in pair),
            model_prefix=str(pieces / "sentencepiece"),
            vocab_size=vocabulary_size,
            character_coverage=1.0,  # as the paper's WMT set-up
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(
            f"sentencepiece can't make {vocabulary_size} pieces of {corpus.raw}: "
            f"{str(error).strip().splitlines()[-1]}; choose another --vocabulary-size"
        ) from error
    try:
        model = sentencepiece.SentencePieceProcessor(model_file=str(pieces / "sentencepiece.model"))
    except (RuntimeError, OSError) as error:  # it doesn't notice when writing fails
        raise UserError(
            f"{pieces / 'sentencepiece.model'} can't be read back; is the disk full?"
        ) from error
    # fairseq adds its own <s>, <pad>, </s> and <unk> before these
    with open(pieces / "dict.txt", "w", encoding="utf-8") as file:
        for index in range(3, len(model)):
            file.write(f"{model.id_to_piece(index)} 1\n")
    left_out = 0
    for split, pairs in splits.items():
        paths = [pieces / f"{split}.{language}" for language in (corpus.source, corpus.target)]
        with (
            open(paths[0], "w", encoding="utf-8") as one,
            open(paths[1], "w", encoding="utf-8") as other,
        ):
            for number, pair in enumerate(pairs, 1):
                cut = [model.encode(text, out_type=str) for text in pair]
                if split == "train" and max(map(len, cut)) > longest.train:
                    left_out += 1
                    continue
                if split != "train":
                    _check_lengths(corpus, split, number, cut, longest.others)
                one.write(" ".join(cut[0]) + "\n")
                other.write(" ".join(cut[1]) + "\n")
    if left_out == len(splits["train"]):
        raise UserError(
            f"{corpus.files['train', corpus.source]}: every pair has more than {longest.train} "
            "pieces on a side; give one sentence a line"
        )
    if left_out:
        logger.info(
            f"data: {left_out} of {len(splits['train'])} training pairs left out: more than "
            f"{longest.train} pieces on a side, the most that fit into an update"
        )


def _check_lengths(
    corpus: Corpus, split: str, number: int, cut: Sequence[Sequence[str]], longest: int
) -> None:
    # leaving a line out would change what is scored
    for language, text in zip((corpus.source, corpus.target), cut):
        if len(text) > longest:
            raise UserError(
                f"{corpus.files[split, language]}, line {number}: {len(text)} pieces, but the "
                f"model takes {longest}; split or remove this line, in both languages"
            )
