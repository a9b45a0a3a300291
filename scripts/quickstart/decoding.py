"""Translating the test set with fairseq-generate, measuring tokens per second, the report."""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path
from typing import Dict, List, Sequence

from corpus import SPEED_SENTENCES, Corpus
from jobs import Job, run_jobs
from schedule import Workers
from steps import Steps
from training import USER_DIR

from fairseq_ffn.files import write_lines
from fairseq_ffn.reporting.hypotheses import read_hypotheses

logger = logging.getLogger("quickstart")

BEAM = 5
SPEED_RUNS = 3
#: of a model's time after training, the share of translating; measuring it alone and in turn with
#: the others take one half of the rest each
TRANSLATING = 0.25


def generate_command(binary: Path, run_dir: Path) -> List[object]:
    """The plain ``fairseq-generate`` command that translates the test set."""
    return [
        *_decode(binary, run_dir),
        *("--gen-subset", "test", "--max-tokens", 2048),
    ]


def speed_command(binary: Path, run_dir: Path) -> List[object]:
    """The command that is timed: batch 1, beam 5, one thread, as in the paper (section 3)."""
    return [
        *_decode(binary, run_dir),
        *("--gen-subset", "test1", "--batch-size", 1),
        *("--task", "translation_latency", "--latency-runs", SPEED_RUNS),
        *("--latency-report", run_dir / "latency.json"),
    ]


def compare_command(binary: Path, models: Sequence[str], folder: Path) -> List[object]:
    """The command whose ratios stand in the table: the models in turn, in one process."""
    return [
        *("fairseq-ffn", "compare-latency"),
        *(folder / model / "checkpoints" / "checkpoint_last.pt" for model in models),
        *("--data", binary, "--gen-subset", "test1", "--sentences", SPEED_SENTENCES),
        *("--rounds", SPEED_RUNS, "--cpu", "--output", folder / "latency_comparison.json"),
    ]


def report_command(models: Sequence[str], folder: Path) -> List[object]:
    """The command that writes the page; without matplotlib it has no figures."""
    plots = [] if importlib.util.find_spec("matplotlib") else ["--no-plots"]
    return [
        *("fairseq-ffn", "report"),
        *(folder / model for model in models),
        *("--output", folder / "report", "--title", "Quick start", *plots),
    ]


def report(models: Sequence[str], folder: Path, steps: Steps) -> None:
    """Scores with significance, tables, figures and the page."""
    job = Job("report", report_command(models, folder), folder / "report.log")
    run_jobs([job], 1, lambda *_: steps.line("significance, tables and figures"))


def seconds_after_training(
    models: Sequence[str], folder: Path, reserve: float, reserve_of_each: float
) -> Dict[str, float]:
    """How much of the time in reserve each step still needs, by what isn't done yet."""
    translate = sum(not _translated(folder / model) for model in models)
    measure = sum(not _measured(folder / model) for model in models)
    in_turn = 0 if _compared(models, folder) else len(models)
    scored = all((folder / model / "scores.json").is_file() for model in models)
    parts = {
        "generate": TRANSLATING * translate,
        "measure": (1 - TRANSLATING) / 2 * (measure + in_turn),
    }
    seconds = {name: share * reserve_of_each for name, share in parts.items()}
    return {**seconds, "report": 0.0 if scored and not translate else reserve}


def _is_of(record: Path, *run_dirs: Path) -> bool:
    """Whether a record is there and no checkpoint that it was made from is newer."""
    if not record.is_file():
        return False
    checkpoints = [run_dir / "checkpoints" / "checkpoint_last.pt" for run_dir in run_dirs]
    made = record.stat().st_mtime
    return all(path.is_file() and path.stat().st_mtime <= made for path in checkpoints)


def _translated(run_dir: Path) -> bool:
    return _is_of(run_dir / "generate.log", run_dir)


def _measured(run_dir: Path) -> bool:
    return _is_of(run_dir / "latency.json", run_dir)


def _compared(models: Sequence[str], folder: Path) -> bool:
    record = folder / "latency_comparison.json"
    if not _is_of(record, *(folder / model for model in models)):
        return False
    return [model["name"] for model in read_json(record)["models"]] == list(models)


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
    binary: Path,
    models: Sequence[str],
    folder: Path,
    workers: Workers,
    corpus: Corpus,
    steps: Steps,
) -> None:
    """Write ``source.txt``, ``reference.txt`` and ``hypothesis.txt`` of every run directory."""
    pairs = corpus.pairs("test")
    jobs = []
    for model in models:
        run_dir = folder / model
        run_dir.mkdir(parents=True, exist_ok=True)
        for name, side in (("source.txt", 0), ("reference.txt", 1)):
            _write_if_new(run_dir / name, [pair[side] for pair in pairs])
        if _translated(run_dir):
            logger.info(f"generate: {model} is ready")
        else:
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
        run_jobs(
            jobs, workers.processes, lambda running, _: steps.line(_counts(running, len(pairs)))
        )
    for model in models:
        run_dir = folder / model
        hypotheses = read_hypotheses(run_dir / "generate.log", len(pairs))
        _write_if_new(run_dir / "hypothesis.txt", hypotheses)


def _write_if_new(path: Path, lines: Sequence[str]) -> None:
    # a text that stays as it was keeps its date, and so its scores
    if not path.is_file() or path.read_bytes() != "".join(f"{x}\n" for x in lines).encode():
        write_lines(path, lines)


def measure_speed(binary: Path, models: Sequence[str], folder: Path, steps: Steps) -> None:
    """Tokens per second at batch 1, one thread, nothing beside it.

    Each model by itself into its ``latency.json``, then all in one process for their ratios.
    """
    for model in models:
        run_dir = folder / model
        if _measured(run_dir):
            logger.info(f"measure: {model} is ready")
            continue
        logger.info(f"measure: latency of {model}, batch 1, one thread, {SPEED_RUNS} runs")
        job = Job(model, speed_command(binary, run_dir), run_dir / "latency.log")
        text = f"{model} translates one sentence at a time"
        run_jobs([job], 1, lambda *_, text=text: steps.line(text))
    if _compared(models, folder):
        logger.info("measure: ratios are ready")
        return
    logger.info(f"measure: all models in turn, {SPEED_RUNS} rounds")
    job = Job("compare", compare_command(binary, models, folder), folder / "latency_comparison.log")
    run_jobs([job], 1, lambda *_: steps.line("the models decode the same sentences in turn"))


def _counts(running: List[Job], sentences: int) -> str:
    texts = []
    for job in running:
        done = job.log.read_bytes().count(b"\nD-") if job.log.is_file() else 0
        texts.append(f"{job.name} {done}/{sentences}")
    return " | ".join(texts)


def read_json(path: Path) -> Dict[str, object]:
    """A record of this quick start."""
    return json.loads(path.read_text(encoding="utf-8"))
