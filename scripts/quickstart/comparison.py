"""The table, a few translations side by side, and where everything lies."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from corpus import Corpus
from decoding import read_json
from training import MAX_TOKENS

from fairseq_ffn.costs import count_multiply_adds, count_parameters, shape_of
from fairseq_ffn.files import read_lines
from fairseq_ffn.models import architectures
from fairseq_ffn.reporting.results import SIGNIFICANT

#: sentences of the test set that are shown
SAMPLES = 4
#: passes over the data below which no model of this size has converged
YOUNG = 5.0


def comparison(
    folder: Path,
    models: Sequence[str],
    corpus: Corpus,
    vocabulary_size: int,
    plan: Dict[str, object],
    minutes: float,
) -> str:
    """The comparison as Markdown."""
    lines = [
        "",
        f"{corpus.source} to {corpus.target}, {len(corpus.pairs('test'))} test sentences, beam 5",
        "",
        "| model | BLEU | chrF | parameters | tokens/s | relative | M multiply-adds | training |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    ratios = {
        ratio["name"]: ratio
        for ratio in read_json(folder / "latency_comparison.json")["results"][0]["ratios"]
        if ratio["baseline"] == models[0]
    }
    for model in models:
        lines.append(_row(folder, model, vocabulary_size, ratios.get(model)))
    scores = read_json(folder / models[0] / "scores.json")
    latency = read_json(folder / models[0] / "latency.json")
    protocol = latency["protocol"]
    lines += [
        "",
        f"BLEU: `{scores['bleu']['signature']}`, chrF: `{scores['chrf']['signature']}`; "
        f"†: differs from {models[0]} with p < {SIGNIFICANT} (paired bootstrap).",
        f"Tokens/s: batch {protocol['batch_size']}, beam {protocol['beam']}, "
        f"{protocol['threads']} thread, {latency['sentences']} sentences, mean and standard "
        f"deviation of {protocol['runs']} runs, one model after the other on a machine that may "
        "drift. Relative is to compare by: the models in turn on the same sentences, with 95% "
        "interval.",
        "Multiply-adds: matrix products per source and per target token, without attention scores "
        "and without the output projection.",
        _convergence(plan, models, folder),
        "",
        *_samples(folder, models, corpus),
        "",
        f"Everything took {minutes:.1f} minutes in this call. Files:",
        f"  models and logs     {folder}/<model>/",
        f"  translations        {folder}/<model>/hypothesis.txt",
        f"  scores, latency     {folder}/<model>/scores.json, latency.json",
        f"  commands to repeat  {folder}/commands.sh",
        f"  this comparison     {folder}/comparison.md",
        f"  report              {folder}/report/report.html",
        "",
    ]
    return "\n".join(lines)


def _row(folder: Path, model: str, vocabulary_size: int, ratio: Optional[Dict[str, float]]) -> str:
    run_dir = folder / model
    args = argparse.Namespace(share_all_embeddings=True)
    architectures.apply(args, "tiny", model)
    # fairseq adds four symbols to the pieces and leaves out sentencepiece's three
    shape = shape_of(args, vocabulary_size + 1)
    parameters = count_parameters(shape)
    work = count_multiply_adds(shape)
    scores = read_json(run_dir / "scores.json")
    speed = read_json(run_dir / "latency.json")["tokens_per_second"]
    trained = read_json(run_dir / "trained.json")
    found = scores.get("significance", {"bleu_p": 1.0, "chrf_p": 1.0})
    marks = {name: "†" if found[f"{name}_p"] < SIGNIFICANT else "" for name in ("bleu", "chrf")}
    minutes = "interrupted" if trained["minutes"] is None else f"{trained['minutes']:.1f} min"
    relative = "1.00"
    if ratio is not None:
        relative = f"{ratio['ratio']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
    cells = [
        model,
        f"{scores['bleu']['score']:.1f}{marks['bleu']}",
        f"{scores['chrf']['score']:.1f}{marks['chrf']}",
        f"{parameters.total / 1e6:.2f}M",
        f"{speed['mean']:.0f} ± {speed['std']:.0f}",
        relative,
        f"{work.source_token / 1e6:.2f} + {work.target_token / 1e6:.2f}",
        f"{trained['updates']} updates, {minutes}",
    ]
    return "| " + " | ".join(cells) + " |"


def _convergence(plan: Dict[str, object], models: Sequence[str], folder: Path) -> str:
    # fairseq's "update" counts epochs, with a fraction
    passes = max(
        float(read_json(folder / model / "trained.json").get("update", 0)) for model in models
    )
    young = " None of them is converged." if passes < YOUNG else ""
    return (
        f"All models had the same {plan['updates']} updates of up to {MAX_TOKENS} tokens, "
        f"{passes:.1f} passes over the data, with the learning rate falling to zero.{young} The "
        "order of models that are close can change with --minutes and --seed."
    )


def _samples(folder: Path, models: Sequence[str], corpus: Corpus) -> List[str]:
    pairs = corpus.pairs("test")
    translations = {model: read_lines(folder / model / "hypothesis.txt") for model in models}
    width = max(len(name) for name in (*models, "reference"))
    lines = []
    # sentences spread over the test set that are not trivially short
    long_enough = [index for index, pair in enumerate(pairs) if len(pair[0].split()) >= 7]
    step = max(1, len(long_enough) // SAMPLES)
    for index in long_enough[::step][:SAMPLES]:
        lines.append("```")
        lines.append(f"{'source':{width}}  {pairs[index][0]}")
        lines.append(f"{'reference':{width}}  {pairs[index][1]}")
        lines += [f"{model:{width}}  {translations[model][index]}" for model in models]
        lines.append("```")
    return lines
