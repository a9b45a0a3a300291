"""Training the models: one schedule for all, as long as the minutes allow."""

from __future__ import annotations

import json
import logging
import re
import shutil
import time
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from jobs import Job, UserError, run_jobs
from schedule import Piece, Workers, makespan, pieces

from fairseq_ffn.files import write_json

logger = logging.getLogger("quickstart")

REPOSITORY = Path(__file__).resolve().parents[2]
USER_DIR = REPOSITORY / "fairseq_ffn"
#: one update of this many tokens (the longer side, with padding)
MAX_TOKENS = 512
LEARNING_RATE = 2.2e-3
WARMUP_SHARE = 0.1
PROBE_UPDATES = 24
#: process start, data, building the model, saving: seconds a training takes beside its updates
STARTUP_SECONDS = 12.0


def train_command(
    binary: Path,
    model: str,
    save_dir: Path,
    updates: int,
    seed: int,
    autocast: str,
    until: Optional[int] = None,
) -> List[object]:
    """The plain ``fairseq-train`` command of one model; the same settings for every model.

    ``until`` stops at that update, to go on later: the learning rate still follows ``updates``.
    """
    return [
        "fairseq-train",
        binary,
        *("--user-dir", USER_DIR),
        *("--arch", f"transformer_ffn_tiny_{model}"),
        "--share-all-embeddings",
        *("--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--clip-norm", 1.0),
        *("--lr", LEARNING_RATE, "--lr-scheduler", "polynomial_decay"),
        *("--warmup-updates", max(1, int(WARMUP_SHARE * updates))),
        *("--total-num-update", updates, "--max-update", until or updates),
        *("--criterion", "label_smoothed_cross_entropy", "--label-smoothing", 0.1),
        *("--max-tokens", MAX_TOKENS, "--max-tokens-valid", 8 * MAX_TOKENS),
        # the thread that reads ahead can abort a process that ends soon after it began
        *("--seed", seed, "--num-workers", 0, "--data-buffer-size", 0),
        *("--cpu-autocast", autocast),
        *("--save-dir", save_dir, "--no-epoch-checkpoints"),
        *("--save-interval-updates", max(100, updates // 8), "--keep-interval-updates", 1),
        *("--log-format", "json", "--log-interval", 10),
    ]


def plan_updates(
    binary: Path,
    models: Sequence[str],
    workers: Workers,
    seconds: float,
    seed: int,
    autocast: str,
    folder: Path,
) -> Tuple[int, Dict[str, float]]:
    """How many updates all models can have, so that training takes about ``seconds``.

    Each model trains for a few updates, beside each other as they will be.

    Returns:
        the number of updates, and each model's seconds per update.
    """
    folder.mkdir(parents=True, exist_ok=True)
    jobs = []
    for model in models:
        save_dir = folder / model
        shutil.rmtree(save_dir, ignore_errors=True)
        command = train_command(binary, model, save_dir, PROBE_UPDATES, seed, autocast)
        command += ["--no-save", "--disable-validation"]
        jobs.append(Job(model, command, save_dir / "train.log", workers.threads))
    run_jobs(jobs, workers.processes, lambda *_: "plan: measuring the speed of training")
    costs = {job.name: _seconds_per_update(job.log) for job in jobs}
    per_update = makespan(costs, workers.processes)
    rounds = 1 + len(models) // workers.processes
    updates = int((seconds - rounds * STARTUP_SECONDS) / per_update)
    if updates < 50:
        raise UserError(
            f"only {max(updates, 0)} updates fit into {seconds / 60:.1f} minutes of training; give "
            "more --minutes, fewer --models, or a number of --updates"
        )
    return updates, costs


def _seconds_per_update(log: Path) -> float:
    """From the speed in target words and the mean size of an update, both in fairseq's log."""
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [json.loads(line) for line in re.findall(r"train_inner \| (\{.*\})", text)]
    speeds = [float(line["wps"]) for line in lines if float(line.get("wps", 0)) > 0]
    sizes = [float(line["wpb"]) for line in lines]
    if not speeds or not sizes:
        raise UserError(f"no speed of training in {log}")
    return (sum(sizes) / len(sizes)) / speeds[-1]


def train(
    binary: Path,
    models: Sequence[str],
    folder: Path,
    workers: Workers,
    updates: int,
    costs: Dict[str, float],
    seed: int,
    autocast: str,
) -> None:
    """Train what isn't trained yet; fairseq resumes from its last checkpoint by itself."""
    left, resumed = [], set()
    for model in models:
        if (folder / model / "trained.json").is_file():
            logger.info(f"train: {model} is ready")
            continue
        left.append(model)
        if (folder / model / "checkpoints" / "checkpoint_last.pt").is_file():
            logger.info(f"train: {model} goes on from its last checkpoint")
            resumed.add(model)
    if not left:
        return
    weights = {model: costs.get(model, 1.0) for model in left}
    jobs: Dict[Piece, Job] = {}
    for piece in pieces(weights, workers.processes):
        run_dir = folder / piece.model
        until = int(piece.until * updates)
        command = train_command(
            binary, piece.model, run_dir / "checkpoints", updates, seed, autocast, until
        )
        first = next((job for job in jobs.values() if job.name == piece.model), None)
        jobs[piece] = Job(
            piece.model,
            command,
            run_dir / "train.log",
            workers.threads,
            append=True,
            after=first,
        )
    logger.info(
        f"train: {len(left)} models, {updates} updates each, {workers.processes} at a time with "
        f"{workers.threads} thread{'s' if workers.threads > 1 else ''}"
    )
    for piece in jobs:
        if piece.until < 1:
            logger.info(
                f"train: {piece.model} pauses at update {int(piece.until * updates)} and goes on "
                "when a core is free, so that all cores are busy until the end"
            )
    started = time.monotonic()

    def done(model: str) -> int:
        return int(last_update(folder / model / "train.log").get("num_updates", 0))

    def share_done() -> float:
        return sum(weights[model] * done(model) for model in left) / sum(weights.values()) / updates

    share_before = share_done()

    def progress(running: List[Job], finished: List[Job]) -> str:
        passed = time.monotonic() - started
        texts = []
        for job in running:
            state = last_update(job.log)
            loss = f" loss {float(state['loss']):.2f}" if "loss" in state else ""
            texts.append(f"{job.name} {done(job.name)}/{updates}{loss}")
        share = (share_done() - share_before) / max(1 - share_before, 1e-9)
        rest = f", about {_minutes(passed * (1 - share) / share)} left" if share > 0.02 else ""
        return f"train: {_minutes(passed)}{rest} | " + " | ".join(texts)

    seconds = dict.fromkeys(left, 0.0)

    def record(job: Job) -> None:
        seconds[job.name] += job.seconds
        if any(other.after is job for other in jobs.values()):
            return  # only the first piece
        # fairseq's own wall time doesn't go on over interruptions
        minutes = None if job.name in resumed else seconds[job.name] / 60
        trained = {**last_update(job.log), "updates": updates, "minutes": minutes}
        write_json(job.log.parent / "trained.json", trained)

    run_jobs(list(jobs.values()), workers.processes, progress, on_finish=record)


def last_update(log: Path) -> Dict[str, str]:
    """The newest training statistics in a log of fairseq-train."""
    if not log.is_file():
        return {}
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 20_000))
        text = file.read().decode("utf-8", errors="replace")
    found = re.findall(r"train_inner \| (\{.*\})", text)
    return json.loads(found[-1]) if found else {}


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
