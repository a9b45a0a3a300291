"""Scores of one system as the record ``scores.json``; the metrics are sacreBLEU's and COMET's."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Sequence

from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.metrics.base import Metric

from fairseq_ffn.errors import UserError


def score(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    ter: bool = False,
    spbleu: Optional[str] = None,
) -> Dict[str, Any]:
    """Score detokenised text with sacreBLEU's defaults.

    Args:
        hypotheses: one per segment.
        references: one list per reference, each with one line per segment.
        ter: translation edit rate as well.
        spbleu: BLEU over sentencepiece tokens as well, by the tokenizer ``flores101`` (the
            paper's) or ``flores200``.

    Returns:
        ``bleu``, ``chrf`` and what was asked for, each with ``score`` (unrounded) and sacreBLEU's
        ``signature``; ``sentences``; ``references``.

    Raises:
        UserError: sides of different length, nothing to score, or a tokenizer's model can't be
            had.
    """
    if not hypotheses:
        raise UserError("nothing to score: there are no hypotheses")
    for number, reference in enumerate(references):
        if len(reference) != len(hypotheses):
            raise UserError(
                f"reference {number} has {len(reference)} lines, but there are {len(hypotheses)} "
                "hypotheses"
            )
    metrics: Dict[str, Callable[[], Metric]] = {"bleu": BLEU, "chrf": CHRF}
    if spbleu is not None:
        metrics["spbleu"] = lambda: _spbleu(spbleu)
    if ter:
        metrics["ter"] = TER
    record: Dict[str, Any] = {}
    streams: List[Sequence[str]] = list(references)
    for name, build in metrics.items():
        metric = build()
        result = metric.corpus_score(list(hypotheses), streams)
        record[name] = {"score": result.score, "signature": str(metric.get_signature())}
    record["sentences"] = len(hypotheses)
    record["references"] = len(references)
    return record


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
    try:
        from comet import download_model, load_from_checkpoint
    except ImportError as error:
        raise UserError(
            "--comet: COMET isn't installed; pip install 'fairseq-ffn[comet]' (unbabel-comet)"
        ) from error
    if sources is None:
        raise UserError("--comet: needs source.txt in the run directory")
    try:
        path = model if model.endswith(".ckpt") else download_model(model)
        scorer = load_from_checkpoint(path)
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"--comet {model}: can't be loaded ({error})") from error
    data = [
        {"src": source, "mt": hypothesis, "ref": reference}
        for source, hypothesis, reference in zip(sources, hypotheses, references[0])
    ]
    output = scorer.predict(data, batch_size=16, gpus=0, progress_bar=False)
    return {"score": 100 * float(output.system_score), "model": model}


def _spbleu(tokenizer: str) -> Metric:
    try:
        return BLEU(tokenize=tokenizer)
    except Exception as error:  # sacreBLEU downloads the tokenizer's model, and fails in many ways
        raise UserError(
            f"--spbleu {tokenizer}: its sentencepiece model can't be downloaded ({error}); on a "
            "machine with internet run sacrebleu --tokenize once and copy ~/.sacrebleu/models"
        ) from error
