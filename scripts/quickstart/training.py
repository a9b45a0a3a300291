"""Training the models: one schedule for all, as long as the minutes allow."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
import time
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from jobs import Job, UserError, run_jobs
from schedule import Workers, makespan, pieces
from steps import Steps

from fairseq_ffn.checkpoints import load_checkpoint
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
    steps: Steps,
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
    run_jobs(jobs, workers.processes, lambda *_: steps.line("measuring the speed"))
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
    steps: Steps,
) -> None:
    """Train what isn't trained yet; fairseq resumes from its last checkpoint by itself."""
    begun = {}  # updates in the checkpoint that training goes on from
    for model in models:
        if (folder / model / "trained.json").is_file():
            logger.info(f"train: {model} is ready")
            continue
        saved = resume_point(folder / model / "checkpoints")
        if saved is not None and saved >= updates:
            logger.info(f"train: {model} was interrupted after its last update; it is ready")
            _record(folder / model, updates, None)
            continue
        if saved is not None:
            logger.info(f"train: {model} goes on from its last checkpoint, of update {saved}")
        begun[model] = saved
    if not begun:
        return
    done_before = {model: saved or 0 for model, saved in begun.items()}
    # models that weren't part of the plan: as those that were, on average
    usual = sum(costs.values()) / len(costs) if costs else 1.0
    each = {model: costs.get(model, usual) for model in begun}
    weights = {model: each[model] * (updates - done_before[model]) for model in begun}
    if costs:
        rounds = 1 + len(begun) // workers.processes
        seconds = makespan(weights, workers.processes) + rounds * STARTUP_SECONDS
        steps.expect_training(seconds)
    jobs: List[Job] = []
    pauses = {}
    for piece in pieces(weights, workers.processes):
        run_dir, before = folder / piece.model, done_before[piece.model]
        until = before + int(piece.until * (updates - before))
        if until == before:
            continue
        if until < updates:
            pauses[piece.model] = until
        command = train_command(
            binary, piece.model, run_dir / "checkpoints", updates, seed, autocast, until
        )
        first = next((job for job in jobs if job.name == piece.model), None)
        log = run_dir / "train.log"
        jobs.append(Job(piece.model, command, log, workers.threads, append=True, after=first))
    logger.info(
        f"train: {len(begun)} models, {updates} updates each, {workers.processes} at a time with "
        f"{workers.threads} thread{'s' if workers.threads > 1 else ''}"
    )
    for model, until in pauses.items():
        logger.info(
            f"train: {model} pauses at update {until} and goes on when a core is free, so that "
            "all cores are busy until the end"
        )
    started = time.monotonic()
    # what the log says of updates after the checkpoint is lost
    logged = {model: _size(folder / model / "train.log") for model in begun}

    def state(model: str) -> Dict[str, str]:
        return last_update(folder / model / "train.log", since=logged[model])

    def done(model: str) -> int:
        return int(state(model).get("num_updates", done_before[model]))

    def progress(running: List[Job], finished: List[Job]) -> str:
        passed = time.monotonic() - started
        texts = []
        for job in running:
            loss = state(job.name).get("loss")
            text = "" if loss is None else f" loss {float(loss):.2f}"
            texts.append(f"{job.name} {done(job.name)}/{updates}{text}")
        work = sum(each[model] * (done(model) - done_before[model]) for model in begun)
        share = work / sum(weights.values())
        if share > 0.02:
            steps.expect_training(passed * (1 - share) / share)
        return steps.line(" | ".join(texts))

    seconds_of = dict.fromkeys(begun, 0.0)

    def record(job: Job) -> None:
        seconds_of[job.name] += job.seconds
        if any(other.after is job for other in jobs):
            return  # only the first piece
        # fairseq's own wall time doesn't go on over interruptions
        resumed = begun[job.name] is not None
        _record(job.log.parent, updates, None if resumed else seconds_of[job.name] / 60)

    run_jobs(jobs, workers.processes, progress, on_finish=record)


def _record(run_dir: Path, updates: int, minutes: Optional[float]) -> None:
    """Write that a model is trained; ``minutes`` is None if that took several calls."""
    trained = {**last_update(run_dir / "train.log"), "updates": updates, "minutes": minutes}
    write_json(run_dir / "trained.json", trained)


def resume_point(save_dir: Path) -> Optional[int]:
    """Updates in the checkpoint that fairseq goes on from; None if there isn't any.

    fairseq writes a checkpoint whole, but copies it to ``checkpoint_last.pt``, so that one may be
    half a copy. Then the newest whole one takes its place.

    Raises:
        UserError: no checkpoint of several can be read.
    """
    last = save_dir / "checkpoint_last.pt"
    if not last.is_file():
        return None
    try:
        return _updates_of(last)
    except UserError as error:
        others = sorted(save_dir.glob("checkpoint_*_*.pt"), key=lambda path: -path.stat().st_mtime)
        for other in others:
            with contextlib.suppress(UserError):
                updates = _updates_of(other)
                temporary = last.with_name(last.name + ".tmp")
                shutil.copyfile(other, temporary)
                temporary.replace(last)
                logger.info(f"train: {last} was damaged, {other.name} takes its place")
                return updates
        raise UserError(f"{error}; delete {save_dir} to train anew") from error


def _updates_of(checkpoint: Path) -> int:
    history = load_checkpoint(checkpoint, mmap=True).get("optimizer_history") or [{}]
    return int(history[-1].get("num_updates", 0))


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def last_update(log: Path, since: int = 0) -> Dict[str, str]:
    """The newest training statistics in a log of fairseq-train, from byte ``since`` on."""
    if not log.is_file():
        return {}
    with open(log, "rb") as file:
        file.seek(max(since, log.stat().st_size - 20_000))
        text = file.read().decode("utf-8", errors="replace")
    found = re.findall(r"train_inner \| (\{.*\})", text)
    return json.loads(found[-1]) if found else {}
