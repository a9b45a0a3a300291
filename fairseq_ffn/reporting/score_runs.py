"""Scores of several run directories, and significance against one of them, as ``scores.json``.

A score belongs to texts, and is kept as long as these are the same (``texts_sha256``).
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence

from fairseq_ffn.errors import UserError
from fairseq_ffn.files import write_json
from fairseq_ffn.reporting.run_directory import RunDirectory, Texts
from fairseq_ffn.reporting.scores import comet, score, spbleu, ter
from fairseq_ffn.reporting.significance import TESTS, compare

logger = logging.getLogger(__name__)

#: metrics that aren't always computed
_EXTRA = ("spbleu", "ter", "comet")


@dataclass(frozen=True)
class Extras:
    """Metrics besides BLEU and chrF.

    Args:
        ter: translation edit rate.
        spbleu: tokenizer of spBLEU, or None.
        comet: model of COMET, or None.
    """

    ter: bool = False
    spbleu: Optional[str] = None
    comet: Optional[str] = None

    @classmethod
    def of(cls, records: Sequence[Dict[str, Any]]) -> Extras:
        """What former records have; if their models differ, the first one's."""
        tokenizers = [
            found.group(1)
            for record in records
            if _is_score(record.get("spbleu"))
            and (found := re.search(r"\btok:(\w+)", str(record["spbleu"].get("signature"))))
        ]
        models = [
            record["comet"]["model"]
            for record in records
            if _is_score(record.get("comet")) and isinstance(record["comet"].get("model"), str)
        ]
        return cls(
            any(_is_score(record.get("ter")) for record in records),
            next(iter(tokenizers), None),
            next(iter(models), None),
        )


def score_runs(
    runs: Sequence[RunDirectory],
    baseline: Optional[RunDirectory] = None,
    test: str = "paired-bs",
    samples: int = 0,
    extras: Extras = Extras(),  # noqa: B008  (frozen)
    again: bool = False,
) -> List[Dict[str, Any]]:
    """Score every run, test all others against the baseline, and write the records.

    Further metrics that a former record has of the same texts stay in it.

    Args:
        runs: what to score; the baseline is one of them.
        baseline: what to test against, or None for no test.
        test: a key of ``significance.TESTS``.
        samples: resamples or trials; 0 means sacreBLEU's default.
        extras: further metrics.
        again: the extras are those of former records; one that can't be had here is left out with
            a warning.

    Raises:
        UserError: a file is missing or damaged, or runs with different references are compared.
            Nothing is written then.
    """
    texts = [run.texts() for run in runs]
    first = None if baseline is None else _position(baseline, runs)
    if first is not None:
        check_references(runs, texts, first)
    records = []
    for run, text in zip(runs, texts):
        logger.info(f"scoring {run.path}")
        records.append(_score(run, text, extras, again))
    if first is not None:
        others = [number for number in range(len(runs)) if number != first]
        logger.info(f"testing {len(others)} against {runs[first].path}: {TESTS[test][1]}")
        results = compare(
            (runs[first].name, texts[first].hypotheses),
            [(str(runs[number].path), texts[number].hypotheses) for number in others],
            texts[first].references,
            test,
            samples,
        )
        for number, result in zip(others, results):
            # a name can come to mean another run
            result["baseline_texts_sha256"] = records[first]["texts_sha256"]
            records[number]["significance"] = result
    for run, record in zip(runs, records):
        write_json(run.scores, record)
    return records


def are_scores_of(record: Optional[Dict[str, Any]], texts: Texts) -> bool:
    """Whether a record holds BLEU and chrF of these texts, and nothing that reports can't read."""
    return (
        record is not None
        and record.get("texts_sha256") == digest(texts)
        and record.get("sentences") == len(texts.hypotheses)
        and record.get("references") == len(texts.references)
        and all(_is_score(record.get(key)) for key in ("bleu", "chrf"))
        and all(_is_score(record[key]) for key in _EXTRA if key in record)
    )


def is_test_against(
    record: Dict[str, Any], baseline: RunDirectory, texts: Texts, test: str
) -> bool:
    """Whether a record that ``are_scores_of`` its texts has this test against this baseline.

    Args:
        record: of the other run.
        baseline: what it has to be compared with.
        texts: of the baseline.
        test: a key of ``significance.TESTS``; with fewer samples than by default it doesn't count.
    """
    found = record.get("significance")
    wanted = {
        "baseline": baseline.name,
        "baseline_texts_sha256": digest(texts),
        "test": TESTS[test][1],
    }
    return (
        isinstance(found, dict)
        and all(found.get(key) == wanted[key] for key in wanted)
        and isinstance(found.get("samples"), int)
        and found["samples"] >= TESTS[test][2]
        and all(
            _is_number(p := found.get(f"{metric}_p")) and 0 <= p <= 1 for metric in ("bleu", "chrf")
        )
    )


def digest(texts: Texts) -> str:
    """SHA-256 of hypotheses, references and sources (COMET reads them); lines have no line feed."""
    sides = [("hypotheses", texts.hypotheses)]
    sides += [("reference", reference) for reference in texts.references]
    if texts.sources is not None:
        sides.append(("sources", texts.sources))
    found = hashlib.sha256()
    for name, lines in sides:
        found.update(f"{name} {len(lines)}\n".encode())
        found.update("".join(f"{line}\n" for line in lines).encode())
    return found.hexdigest()


def check_references(runs: Sequence[RunDirectory], texts: Sequence[Texts], first: int) -> None:
    """Refuse runs that have other references than ``runs[first]``.

    Raises:
        UserError: naming both.
    """
    for run, text in zip(runs, texts):
        if text.references != texts[first].references:
            raise UserError(
                f"{run.path}: its references differ from those of {runs[first].path}, so the two "
                "can't be compared"
            )


def _score(run: RunDirectory, text: Texts, extras: Extras, again: bool) -> Dict[str, Any]:
    record = {**score(text.hypotheses, text.references), "texts_sha256": digest(text)}
    former = run.read_json(run.scores) or {}
    if former.get("texts_sha256") == record["texts_sha256"]:
        record.update({key: former[key] for key in _EXTRA if _is_score(former.get(key))})
    held = Extras.of([record])
    wanted: Dict[str, Callable[[], Dict[str, Any]]] = {}
    if extras.ter and not held.ter:
        wanted["ter"] = lambda: ter(text.hypotheses, text.references)
    if extras.spbleu not in (None, held.spbleu):
        wanted["spbleu"] = lambda: spbleu(text.hypotheses, text.references, extras.spbleu)
    if extras.comet not in (None, held.comet):
        wanted["comet"] = lambda: comet(
            text.sources, text.hypotheses, text.references, extras.comet
        )
    for name, compute in wanted.items():
        try:
            record[name] = compute()
        except UserError as error:
            if not again:
                raise
            stays = "stays with its former model" if name in record else "is left out"
            logger.warning(f"{run.path}: {name} {stays}, since it can't be computed here: {error}")
    return record


def _is_score(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and _is_number(value.get("score"))
        and isinstance(value.get("signature", value.get("model")), str)
    )


def _is_number(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _position(run: RunDirectory, runs: Sequence[RunDirectory]) -> int:
    for number, other in enumerate(runs):
        if other.path.resolve() == run.path.resolve():
            return number
    raise ValueError(f"{run.path} is not among the runs")
