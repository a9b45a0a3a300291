"""What both studies do: fairseq's commands on the shipped corpus, and decoding with CTranslate2."""

from __future__ import annotations

import argparse
import hashlib
import logging
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, FrozenSet, List, Sequence

SCRIPTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(SCRIPTS / "quickstart"))

import ctranslate2  # noqa: E402
import sacrebleu  # noqa: E402
import sentencepiece  # noqa: E402
from jobs import run  # noqa: E402
from training import MAX_TOKENS, train_command  # noqa: E402

from fairseq_ffn.errors import UserError, run_script  # noqa: E402
from fairseq_ffn.files import read_lines, write_text  # noqa: E402
from fairseq_ffn.reporting.significance import compare  # noqa: E402

logger = logging.getLogger("deploy")

REPOSITORY = SCRIPTS.parent
CORPUS = REPOSITORY / "data-bin" / "tatoeba_en_de"
USER_DIR = REPOSITORY / "fairseq_ffn"
BEAM = 5
#: fairseq-generate's own limit of a translation
LONGEST = 200


@dataclass(frozen=True)
class Text:
    """The test set: sources in pieces, references as text, and the model that cuts."""

    sources: List[List[str]]
    references: List[str]
    pieces: sentencepiece.SentencePieceProcessor
    pieces_path: Path
    binary: Path

    def bleu(self, hypotheses: Sequence[str]) -> float:
        """sacreBLEU of detokenised translations."""
        return sacrebleu.corpus_bleu(list(hypotheses), [self.references]).score

    def p_value(self, one: Sequence[str], other: Sequence[str]) -> float:
        """Of the difference in BLEU, by paired bootstrap."""
        (found,) = compare(("one", one), [("other", other)], [self.references])
        return found["bleu_p"]


@dataclass(frozen=True)
class Decoded:
    """Translations and their mean log-probabilities to the base 2."""

    texts: List[str]
    scores: List[float]
    #: numbers of those that didn't end within the limit, where it is known
    at_limit: FrozenSet[int] = frozenset()


def add_arguments(parser: argparse.ArgumentParser, output: str) -> None:
    """Flags that both studies have."""
    parser.add_argument(
        "--corpus",
        type=Path,
        default=CORPUS,
        help="folder with raw/, and with prepared/ and bin/ as the quick start makes them "
        "(default: the shipped corpus)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=REPOSITORY / "runs" / output,
        help="what is done there isn't done again (default: %(default)s)",
    )


def run_study(main: Callable[[], None]) -> None:
    """A study whose known errors are one line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    run_script(main)


def read_text(corpus: Path) -> Text:
    """The test set of a corpus in the quick start's form."""
    prepared = corpus / "prepared"
    path = prepared / "sentencepiece.model"
    return Text(
        sources=[line.split() for line in read_lines(prepared / "test.en")],
        references=read_lines(corpus / "raw" / "test.de"),
        pieces=sentencepiece.SentencePieceProcessor(model_file=str(path)),
        pieces_path=path,
        binary=corpus / "bin",
    )


def train(arguments: List[object], folder: Path) -> Path:
    """Train to the end unless that has been done; gives the checkpoint."""
    done = folder / "trained"
    if not done.is_file():
        logger.info(f"{folder.name}: training")
        run(arguments, folder / "train.log")
        done.touch()
    return folder / "checkpoints" / "checkpoint_last.pt"


def remember(checkpoint: Path, folder: Path) -> None:
    """Note which checkpoint the results in ``folder`` are of.

    Raises:
        UserError: they are another one's.
    """
    with checkpoint.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    note = folder / "checkpoint.sha256"
    if note.is_file() and note.read_text(encoding="utf-8").strip() != found:
        raise UserError(
            f"{folder}: its results are of another checkpoint than {checkpoint} is now; delete it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_text(note, f"{found}\n")


def minutes_of_training(folder: Path) -> float:
    """fairseq's own clock, start-up and validation included."""
    log = (folder / "train.log").read_text(encoding="utf-8")
    return float(re.findall(r"done training in ([\d.]+) seconds", log)[-1]) / 60


def quickstart_training(
    text: Text, config: str, folder: Path, updates: int, learning_rate: float = 0.0
) -> List[object]:
    """The quick start's command for a config of ``transformer_ffn_tiny``."""
    checkpoints = folder / "checkpoints"
    command = train_command(text.binary, config, checkpoints, updates, 1, "none")
    return command + (["--lr", learning_rate] if learning_rate else [])


def fairseq_decode(
    text: Text, checkpoint: Path, log: Path, user_dir: Path, *more: object
) -> Decoded:
    """fairseq-generate on the test set, with ``more`` flags."""
    if not log.is_file():
        logger.info(f"{log.parent.name}: fairseq-generate, {log.stem}")
        command = [
            *("fairseq-generate", text.binary, "--user-dir", user_dir, "--path", checkpoint),
            *("--gen-subset", "test", "--beam", BEAM, "--max-tokens", 8 * MAX_TOKENS),
            *("--required-batch-size-multiple", 1, "--num-workers", 0),
            *("--remove-bpe", "sentencepiece", *more),
        ]
        temporary = log.with_name(log.name + ".tmp")
        run(command, temporary)
        temporary.replace(log)
    texts, scores = {}, {}
    for line in read_lines(log):
        if line.startswith("D-"):
            number, score, words = line[2:].split("\t")
            scores[int(number)], texts[int(number)] = float(score), words
    order = range(len(text.references))
    return Decoded([texts[number] for number in order], [scores[number] for number in order])


def export(text: Text, checkpoint: Path, folder: Path, *options: str) -> Path:
    """fairseq-ffn export, unless that has been done."""
    if not folder.is_dir():
        command = [
            *("fairseq-ffn", "export", checkpoint, "--data", text.binary, "--output", folder),
            *("--sentencepiece-model", text.pieces_path, *options),
        ]
        run(command, folder.with_name(f"{folder.name}-export.log"))
    return folder


def ctranslate2_decode(text: Text, folder: Path, compute_type: str) -> Decoded:
    """CTranslate2 on the test set, with fairseq-generate's settings.

    Neither gives an empty translation, but CTranslate2 renormalises the first distribution without
    the end of sentence, fairseq doesn't. That is taken out of the scores.
    """
    translator = ctranslate2.Translator(str(folder), compute_type=compute_type, intra_threads=1)
    results = translator.translate_batch(
        text.sources,
        beam_size=BEAM,
        length_penalty=1,
        max_decoding_length=LONGEST,
        max_batch_size=64,
        return_scores=True,
    )
    at_once = translator.score_batch(text.sources, [[]] * len(text.sources), max_batch_size=64)
    best = [result.hypotheses[0] for result in results]
    return Decoded(
        ["".join(words).replace("\u2581", " ").strip() for words in best],
        [
            (result.scores[0] + math.log1p(-math.exp(ends.log_probs[0])) / (len(words) + 1))
            / math.log(2)
            for result, ends, words in zip(results, at_once, best)
        ],
        frozenset(number for number, words in enumerate(best) if len(words) >= LONGEST),
    )


def megabytes(path: Path) -> float:
    """Size of a file in 10^6 bytes."""
    return path.stat().st_size / 1e6


def table(rows: Sequence[Dict[str, object]]) -> str:
    """Rows as Markdown; a column that a row doesn't have is empty there."""
    header = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[str(row.get(name, "")) for name in header] for row in rows]
    lines = [header, ["---"] * len(header), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
