"""BLEU and chrF of one system by sacreBLEU, as the record ``scores.json``."""

from __future__ import annotations

from typing import Dict, List, Sequence

from sacrebleu.metrics import BLEU, CHRF

from fairseq_ffn.errors import UserError


def score(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Dict[str, object]:
    """Score detokenised text with sacreBLEU's defaults.

    Args:
        hypotheses: one per segment.
        references: one list per reference, each with one line per segment.

    Returns:
        ``bleu`` and ``chrf``, each with ``score`` (0 to 100, unrounded) and sacreBLEU's
        ``signature``; ``sentences``; ``references``.

    Raises:
        UserError: sides of different length, or nothing to score.
    """
    if not hypotheses:
        raise UserError("nothing to score: there are no hypotheses")
    for number, reference in enumerate(references):
        if len(reference) != len(hypotheses):
            raise UserError(
                f"reference {number} has {len(reference)} lines, but there are {len(hypotheses)} "
                "hypotheses"
            )
    record: Dict[str, object] = {}
    streams: List[Sequence[str]] = list(references)
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        result = metric.corpus_score(list(hypotheses), streams)
        record[name] = {"score": result.score, "signature": str(metric.get_signature())}
    record["sentences"] = len(hypotheses)
    record["references"] = len(references)
    return record
