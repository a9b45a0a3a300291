"""Is a system better than a baseline, or lucky? Paired tests, as sacreBLEU makes them."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence, Tuple

from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest, Result

from fairseq_ffn.errors import UserError

#: flag, sacreBLEU's name, what it is, resamples or trials by default (sacreBLEU's)
TESTS = {
    "paired-bs": ("bs", "paired bootstrap", 1000),
    "paired-ar": ("ar", "paired approximate randomization", 10000),
}


def compare(
    baseline: Tuple[str, Sequence[str]],
    systems: Sequence[Tuple[str, Sequence[str]]],
    references: Sequence[Sequence[str]],
    test: str = "paired-bs",
    samples: int = 0,
    tokenizer: str = "13a",
) -> List[Dict[str, Any]]:
    """Test each system against the baseline, by BLEU and chrF.

    Args:
        baseline: name and hypotheses.
        systems: names and hypotheses.
        references: one list per reference.
        test: ``paired-bs`` (Koehn 2004) or ``paired-ar`` (Riezler and Maxwell 2005).
        samples: resamples or trials; 0 means sacreBLEU's default.
        tokenizer: of BLEU, as sacreBLEU names it.

    Returns:
        per system a record with ``baseline``, ``test``, ``samples``, ``bleu_p`` and ``chrf_p``.
        The seed is sacreBLEU's (``SACREBLEU_SEED``, 12345), so the same texts give the same values.
        Equal scores have p = 1.

    Raises:
        UserError: sides of different length.
    """
    kind, name, default = TESTS[test]
    count = len(references[0])
    for system, hypotheses in (baseline, *systems):
        if len(hypotheses) != count:
            raise UserError(
                f"{system}: {len(hypotheses)} hypotheses, but there are {count} references"
            )
    named = [(system, list(hypotheses)) for system, hypotheses in (baseline, *systems)]
    # references go into the metrics, which keep what they compute of them
    metrics = {
        "bleu": BLEU(references=[list(reference) for reference in references], tokenize=tokenizer),
        "chrf": CHRF(references=[list(reference) for reference in references]),
    }
    results = PairedTest(named, metrics, None, test_type=kind, n_samples=samples)()[1]
    columns = {title.lower().rstrip("2"): column for title, column in results.items()}
    return [
        {
            "baseline": baseline[0],
            "test": name,
            "samples": samples or default,
            "bleu_p": _p_value(columns["bleu"], number),
            "chrf_p": _p_value(columns["chrf"], number),
        }
        for number in range(1, len(named))
    ]


def _p_value(results: Sequence[Result], number: int) -> float:
    # sacreBLEU counts resamples with a larger difference; for equal scores there is none, and it
    # would call a copy significantly different
    if results[number].score == results[0].score:
        return 1.0
    return results[number].p_value
