"""Scores of one system as the record ``scores.json``; the metrics are sacreBLEU's and COMET's."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, Optional, Sequence

from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.metrics.base import Metric

from fairseq_ffn.errors import UserError


def score(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Dict[str, Any]:
    """BLEU and chrF of detokenised text, with sacreBLEU's defaults.

    Args:
        hypotheses: one per segment.
        references: one list per reference, each with one line per segment.

    Returns:
        ``bleu`` and ``chrf``, each with ``score`` (unrounded) and sacreBLEU's ``signature``;
        ``sentences``; ``references``.

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
    return {
        "bleu": _corpus_score(BLEU(), hypotheses, references),
        "chrf": _corpus_score(CHRF(), hypotheses, references),
        "sentences": len(hypotheses),
        "references": len(references),
    }


def ter(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Dict[str, Any]:
    """Translation edit rate: ``score`` and ``signature``."""
    return _corpus_score(TER(), hypotheses, references)


def spbleu(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str
) -> Dict[str, Any]:
    """BLEU over sentencepiece tokens: ``score`` and ``signature``.

    Args:
        hypotheses: one per segment.
        references: one list per reference.
        tokenizer: ``flores101`` (the paper's) or ``flores200``.

    Raises:
        UserError: the tokenizer's model can't be had.
    """
    try:
        metric = BLEU(tokenize=tokenizer)
    except Exception as error:  # sacreBLEU downloads the model, and fails in many ways
        raise UserError(
            f"--spbleu {tokenizer}: its sentencepiece model can't be downloaded ({error}); on a "
            "machine with internet run sacrebleu --tokenize once and copy ~/.sacrebleu/models"
        ) from error
    return _corpus_score(metric, hypotheses, references)


def comet(
    sources: Optional[Sequence[str]],
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    model: str,
) -> Dict[str, Any]:
    """COMET, with the first reference.

    Args:
        sources: source sentences.
        hypotheses: one per segment.
        references: only the first one is used.
        model: name of a model that COMET downloads, such as ``wmt20-comet-da`` (the paper's), or
            the path of a checkpoint.

    Returns:
        ``score``, times 100 as in the paper, and ``model``.

    Raises:
        UserError: COMET isn't installed, has no such model, or there are no sources.
    """
    scorer = _comet_scorer(model)
    if sources is None:
        raise UserError("--comet: needs source.txt in the run directory")
    data = [
        {"src": source, "mt": hypothesis, "ref": reference}
        for source, hypothesis, reference in zip(sources, hypotheses, references[0])
    ]
    output = scorer.predict(data, batch_size=16, gpus=0, progress_bar=False)
    return {"score": 100 * float(output.system_score), "model": model}


@lru_cache(maxsize=1)  # gigabytes, and the same for all runs
def _comet_scorer(model: str) -> Any:
    """The model itself."""
    try:
        from comet import download_model, load_from_checkpoint
    except ImportError as error:
        raise UserError(
            "--comet: COMET isn't installed; pip install 'fairseq-ffn[comet]' (unbabel-comet)"
        ) from error
    is_file = model.endswith(".ckpt")
    if is_file and not Path(model).is_file():
        raise UserError(f"--comet {model}: there is no such file")
    try:
        return load_from_checkpoint(model if is_file else download_model(model))
    except Exception as error:  # it downloads, unpickles and builds, and fails in many ways
        what = str(error) or type(error).__name__
        raise UserError(f"--comet {model}: can't be loaded ({what.splitlines()[0]})") from error


def signature_of(records: Sequence[Dict[str, Any]], metric: str) -> str:
    """How the scores of a metric were computed: sacreBLEU's signature, or the model of COMET."""
    found = [record[metric] for record in records if metric in record]
    names = [str(one.get("signature", one.get("model"))) for one in found]
    return " / ".join(dict.fromkeys(names))


def _corpus_score(
    metric: Metric, hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> Dict[str, Any]:
    result = metric.corpus_score(list(hypotheses), list(references))
    return {"score": result.score, "signature": str(metric.get_signature())}
