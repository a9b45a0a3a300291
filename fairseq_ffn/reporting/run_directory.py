"""A run directory: what is where, and reading it with errors that name the file."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional

from fairseq_ffn.errors import UserError, printable
from fairseq_ffn.files import read_lines, write_lines
from fairseq_ffn.reporting.hypotheses import read_hypotheses

#: outputs of fairseq-generate, if there is no hypothesis.txt
_GENERATED = ("generate-test.txt", "generate.log")


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

        ``hypothesis.txt`` is made from fairseq-generate's output (``generate-test.txt`` of
        ``--results-path``, or ``generate.log``) if it isn't there.

        Raises:
            UserError: a file is missing or empty, isn't UTF-8, or the sides differ in length.
        """
        names = [self.path / "reference.txt"]
        if not names[0].is_file():
            names = sorted(self.path.glob("reference.*.txt"))
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
        if not path.is_file():
            return None
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path}: damaged JSON ({error})") from error
        if not isinstance(record, dict):
            raise UserError(f"{path}: not a record")
        return record

    def _hypotheses(self, sentences: int) -> List[str]:
        path = self.path / "hypothesis.txt"
        if path.is_file():
            hypotheses = read_lines(path)
            if len(hypotheses) != sentences:
                raise UserError(
                    f"{path}: {len(hypotheses)} lines, but there are {sentences} references"
                )
            return hypotheses
        for name in _GENERATED:
            generated = self.path / name
            if generated.is_file():
                hypotheses = read_hypotheses(generated, sentences)
                write_lines(path, hypotheses)
                return hypotheses
        raise UserError(
            f"{self.path}: no hypothesis.txt, and no output of fairseq-generate "
            f"({' or '.join(_GENERATED)}) to make it from"
        )
