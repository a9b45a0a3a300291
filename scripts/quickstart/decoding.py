"""Translating the test set with fairseq-generate, scoring it, and measuring tokens per second."""

from __future__ import annotations

import json
import logging
import re
import statistics
from pathlib import Path
from typing import Dict, List, Sequence

from corpus import Corpus
from jobs import Job, UserError, run_jobs, write_text
from schedule import Workers
from training import USER_DIR, write_json

from fairseq_ffn.reporting.scores import score as sacrebleu_scores

logger = logging.getLogger("quickstart")

BEAM = 5
SPEED_ROUNDS = 3


def generate_command(binary: Path, run_dir: Path) -> List[object]:
    """The plain ``fairseq-generate`` command that translates the test set."""
    return [
        *_decode(binary, run_dir),
        *("--gen-subset", "test", "--max-tokens", 2048),
    ]


def speed_command(binary: Path, run_dir: Path) -> List[object]:
    """The command that is timed: batch 1, beam 5, the paper's protocol (section 3)."""
    return [
        *_decode(binary, run_dir),
        *("--gen-subset", "test1", "--batch-size", 1),
    ]


def _decode(binary: Path, run_dir: Path) -> List[object]:
    return [
        "fairseq-generate",
        binary,
        *("--user-dir", USER_DIR),
        *("--path", run_dir / "checkpoints" / "checkpoint_last.pt"),
        *("--beam", BEAM, "--remove-bpe", "sentencepiece", "--num-workers", 0),
        # else fairseq drops a last batch whose size isn't a multiple of 8
        *("--required-batch-size-multiple", 1),
    ]


def generate(
    binary: Path, models: Sequence[str], folder: Path, workers: Workers, corpus: Corpus
) -> None:
    """Write ``source.txt``, ``reference.txt`` and ``hypothesis.txt`` of every run directory."""
    pairs = corpus.pairs("test")
    jobs = []
    for model in models:
        run_dir = folder / model
        for name, side in (("source.txt", 0), ("reference.txt", 1)):
            _write_lines(run_dir / name, [pair[side] for pair in pairs])
        if not (run_dir / "generate.log").is_file():
            jobs.append(
                Job(
                    model,
                    generate_command(binary, run_dir),
                    run_dir / "generate.log.tmp",
                    workers.threads,
                    final=run_dir / "generate.log",
                )
            )
    if jobs:
        logger.info(f"generate: {len(pairs)} sentences, beam {BEAM}")
        run_jobs(jobs, workers.processes, lambda running, _: _translated(running, len(pairs)))
    for model in models:
        run_dir = folder / model
        hypotheses = read_hypotheses(run_dir / "generate.log", len(pairs))
        _write_lines(run_dir / "hypothesis.txt", hypotheses)


def read_hypotheses(log: Path, sentences: int) -> List[str]:
    """Detokenised hypotheses in corpus order, whatever order fairseq-generate wrote them in.

    Raises:
        UserError: a sentence is missing or doubled.
    """
    found: Dict[int, str] = {}
    with open(log, encoding="utf-8") as file:
        for line in file:
            match = re.match(r"D-(\d+)\t[^\t]*\t(.*)", line)
            if match is None:
                continue
            index = int(match.group(1))
            if index in found:
                raise UserError(f"{log}: sentence {index} is there twice")
            found[index] = match.group(2)
    missing = [index for index in range(sentences) if index not in found]
    if missing:
        raise UserError(f"{log}: {len(missing)} sentences are missing, the first is {missing[0]}")
    return [found[index] for index in range(sentences)]


def score(models: Sequence[str], folder: Path) -> None:
    """Write ``scores.json`` of every run directory."""
    for model in models:
        run_dir = folder / model
        texts = [read_lines(run_dir / name) for name in ("hypothesis.txt", "reference.txt")]
        write_json(run_dir / "scores.json", sacrebleu_scores(texts[0], [texts[1]]))
    logger.info("score: BLEU and chrF by sacreBLEU")


def measure_speed(binary: Path, models: Sequence[str], folder: Path) -> None:
    """Tokens per second at batch 1, one thread, nothing beside it; the models in turn.

    The figure is fairseq-generate's own: generated target tokens by the time inside the search.
    """
    paths = [folder / model / "speed.json" for model in models]
    if all(path.is_file() and set(models) <= set(read_json(path)["together"]) for path in paths):
        logger.info("measure: speeds are ready")
        return
    logger.info(f"measure: tokens/s at batch 1, one thread, {SPEED_ROUNDS} rounds in turn")
    rounds: Dict[str, List[float]] = {model: [] for model in models}
    for number in range(SPEED_ROUNDS):
        turn = number % len(models)
        for model in [*models[turn:], *models[:turn]]:
            log = folder / model / "speed.log"
            job = Job(model, speed_command(binary, folder / model), log, threads=1)
            run_jobs([job], 1)
            rounds[model].append(_tokens_per_second(log))
    for model in models:
        write_json(
            folder / model / "speed.json",
            {
                "tokens_per_second": rounds[model],
                "mean": statistics.fmean(rounds[model]),
                "together": list(models),
                "batch_size": 1,
                "beam": BEAM,
                "threads": 1,
            },
        )


def _tokens_per_second(log: Path) -> float:
    text = log.read_text(encoding="utf-8", errors="replace")
    match = re.search(r"Translated .* sentences/s, ([\d.]+) tokens/s\)", text)
    if match is None:
        raise UserError(f"{log}: fairseq-generate printed no speed")
    return float(match.group(1))


def _translated(running: List[Job], sentences: int) -> str:
    texts = []
    for job in running:
        done = job.log.read_bytes().count(b"\nD-") if job.log.is_file() else 0
        texts.append(f"{job.name} {done}/{sentences}")
    return "generate: " + " | ".join(texts)


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(f"{line}\n" for line in lines))


def read_json(path: Path) -> Dict[str, object]:
    """A record of this quick start."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> List[str]:
    """Lines as they were written; other line separators inside a sentence stay."""
    return path.read_text(encoding="utf-8").split("\n")[:-1]
