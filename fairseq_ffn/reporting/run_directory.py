"""A run directory: what is where, and reading it with errors that name the file."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional

from fairseq_ffn.errors import UserError, printable
from fairseq_ffn.files import read_lines, write_text
from fairseq_ffn.records import read_json
from fairseq_ffn.reporting.hypotheses import has_hypotheses, read_hypotheses

logger = logging.getLogger(__name__)

#: of fairseq-generate --results-path: it puts the name of the subset in
_OF_RESULTS_PATH = "generate-*.txt"
#: what it printed, as the quick start keeps it
_PRINTED = "generate.log"


@dataclass(frozen=True)
class Texts:
    """The text of one run.

    Args:
        hypotheses: detokenised, in corpus order.
        references: one list per reference.
        sources: source sentences, or None.
    """

    hypotheses: List[str]
    references: List[List[str]]
    sources: Optional[List[str]]


class RunDirectory:
    """One trained and decoded model: ``checkpoints/``, texts, ``latency.json``, ``scores.json``.

    Raises:
        UserError: it isn't a directory.
    """

    def __init__(self, path: Path):
        if not path.is_dir():
            raise UserError(f"{path}: there is no such run directory")
        self.path = path
        self.scores = path / "scores.json"
        self.latency = path / "latency.json"
        self.train_log = path / "train.log"

    @property
    def name(self) -> str:
        """For tables."""
        return printable(os.path.basename(os.path.abspath(self.path)))

    @property
    def checkpoint(self) -> Optional[Path]:
        """The model that was decoded, as far as one can tell without a measurement."""
        for name in ("checkpoint_last.pt", "checkpoint_best.pt"):
            path = self.path / "checkpoints" / name
            if path.is_file():
                return path
        return None

    def texts(self) -> Texts:
        """Hypotheses, references and sources.

        ``hypothesis.txt`` is made from fairseq-generate's output (``generate-*.txt`` of
        ``--results-path``, or ``generate.log``) if it isn't there, or if it is older than that
        output and another text.

        Raises:
            UserError: a file is missing or empty, isn't UTF-8, the sides differ in length, or it
                isn't clear which files are meant.
        """
        single, several = self.path / "reference.txt", sorted(self.path.glob("reference.*.txt"))
        if single.is_file() and several:
            raise UserError(
                f"{single}: there is {several[0].name} as well; call it reference.*.txt too if "
                "all are references, or move what isn't one elsewhere"
            )
        names = [single] if single.is_file() else several
        if not names:
            raise UserError(
                f"{self.path}: no reference.txt or reference.*.txt (detokenised, one sentence a "
                "line)"
            )
        references = [read_lines(name) for name in names]
        for name, reference in zip(names, references):
            if len(reference) != len(references[0]):
                raise UserError(
                    f"{name}: {len(reference)} lines, but {names[0]} has {len(references[0])}"
                )
        hypotheses = self._hypotheses(len(references[0]))
        source = self.path / "source.txt"
        sources = read_lines(source) if source.is_file() else None
        if sources is not None and len(sources) != len(hypotheses):
            raise UserError(
                f"{source}: {len(sources)} lines, but there are {len(hypotheses)} references"
            )
        return Texts(hypotheses, references, sources)

    def read_json(self, path: Path) -> Optional[Dict[str, Any]]:
        """A record, or None if it isn't there."""
        return read_json(path) if path.is_file() else None

    def _hypotheses(self, sentences: int) -> List[str]:
        path = self.path / "hypothesis.txt"
        generated = self._generated()
        if path.is_file():
            made = path.stat().st_mtime_ns
            if all(one.stat().st_mtime_ns <= made for one in generated):
                return self._read_hypotheses(path, sentences)
        elif not generated:
            raise UserError(
                f"{self.path}: no hypothesis.txt, and no output of fairseq-generate "
                f"({_OF_RESULTS_PATH}, or {_PRINTED} with lines D-...) to make it from"
            )
        if len(generated) > 1:
            raise UserError(
                f"{self.path}: hypothesis.txt can't be made, since there are several outputs of "
                f"fairseq-generate ({', '.join(one.name for one in generated)}); keep the one of "
                "the references"
            )
        hypotheses = read_hypotheses(generated[0], sentences)
        text = "".join(f"{line}\n" for line in hypotheses)
        if not path.is_file() or path.read_bytes() != text.encode():
            logger.info(f"{path} is made from {generated[0].name}")
            write_text(path, text)
        return hypotheses

    def _generated(self) -> List[Path]:
        found = sorted(self.path.glob(_OF_RESULTS_PATH))
        printed = self.path / _PRINTED
        # with --results-path it has the log only
        if printed.is_file() and has_hypotheses(printed):
            found.append(printed)
        return found

    @staticmethod
    def _read_hypotheses(path: Path, sentences: int) -> List[str]:
        hypotheses = read_lines(path)
        if len(hypotheses) != sentences:
            raise UserError(
                f"{path}: {len(hypotheses)} lines, but there are {sentences} references"
            )
        return hypotheses
