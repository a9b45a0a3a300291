"""The quick start's arithmetic: how many updates fit, and which records are still good."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairseq_ffn.errors import UserError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts" / "quickstart"))
import decoding
import schedule
import steps
import training


def simulate(costs, processes):
    """Run the pieces as the quick start does; returns the time of the end."""
    plan = schedule.pieces(costs, processes)
    waiting, done = list(plan), dict.fromkeys(costs, 0.0)
    running = []  # (end, piece)
    now = 0.0
    while waiting or running:
        busy = {piece.model for _, piece in running}
        for piece in list(waiting):
            if len(running) < processes and piece.model not in busy:
                waiting.remove(piece)
                busy.add(piece.model)
                cost = (piece.until - done[piece.model]) * costs[piece.model]
                assert cost > 0
                running.append((now + cost, piece))
        running.sort(key=lambda entry: entry[0])
        now, piece = running.pop(0)
        done[piece.model] = piece.until
    assert all(share == 1.0 for share in done.values())
    return now


@given(
    st.lists(st.floats(0.1, 10.0), min_size=1, max_size=6),
    st.integers(1, 2),
)
def test_all_cores_are_busy_until_the_end(costs, processes):
    costs = {f"model {number}": cost for number, cost in enumerate(costs)}
    best = schedule.makespan(costs, processes)
    assert best == pytest.approx(max(max(costs.values()), sum(costs.values()) / processes))
    # slivers of 2 percent aren't split off
    assert simulate(costs, processes) <= best * 1.1
    assert len(schedule.pieces(costs, processes)) <= len(costs) + processes - 1


def test_the_quick_starts_three_models_on_two_cores():
    costs = {"baseline": 8.0, "shared_enc_no_dec": 7.0, "one_wide": 10.0}
    assert schedule.pieces(costs, 2) == [
        schedule.Piece("one_wide"),
        schedule.Piece("baseline", 5.5 / 8),
        schedule.Piece("shared_enc_no_dec"),
        schedule.Piece("baseline"),
    ]
    assert simulate(costs, 2) == pytest.approx(12.5)


def write_log(path: Path, words_per_second: float, words: float = 800.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        {"wps": "0", "wpb": str(words), "num_updates": "10"},
        {"wps": str(words_per_second), "wpb": str(words), "num_updates": "20"},
    ]
    path.write_text("".join(f"x | INFO | train_inner | {json.dumps(line)}\n" for line in lines))


def clock() -> steps.Steps:
    return steps.Steps(0.0, {})


def plan(tmp_path, monkeypatch, seconds):
    speeds = {"baseline": 4000.0, "shared_enc_no_dec": 5000.0, "one_wide": 2000.0}

    def run_jobs(jobs, workers, progress):
        assert workers == 2
        for job in jobs:
            assert "--no-save" in job.arguments
            write_log(job.log, speeds[job.name])

    monkeypatch.setattr(training, "run_jobs", run_jobs)
    workers = schedule.Workers(2, 1)
    return training.plan_updates(
        tmp_path, list(speeds), workers, seconds, 1, "none", tmp_path / "probe", clock()
    )


def test_updates_fill_the_time_of_the_busier_core(tmp_path, monkeypatch):
    updates, costs = plan(tmp_path, monkeypatch, 1000.0)
    assert costs == pytest.approx({"baseline": 0.2, "shared_enc_no_dec": 0.16, "one_wide": 0.4})
    # one wide alone takes longer than the two others in turn; two rounds of starting up
    assert updates == int((1000 - 2 * training.STARTUP_SECONDS) / 0.4)


def test_too_little_time_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="updates fit into 0.5 minutes"):
        plan(tmp_path, monkeypatch, 30.0)


def test_every_model_gets_the_same_settings():
    commands = [
        training.train_command(Path("bin"), model, Path("out"), 100, 7, "none")
        for model in ("baseline", "one_wide")
    ]
    assert [a for a, b in zip(*commands) if a != b] == ["transformer_ffn_tiny_baseline"]


def test_last_update_reads_the_end_of_a_log(tmp_path):
    assert training.last_update(tmp_path / "none.log") == {}
    write_log(tmp_path / "train.log", 10.0)
    assert training.last_update(tmp_path / "train.log")["num_updates"] == "20"


def write_checkpoint(run_dir: Path, updates: int, name: str = "checkpoint_last.pt") -> Path:
    """As much of a fairseq checkpoint as tells where training goes on."""
    path = run_dir / "checkpoints" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "model": {"weight": torch.zeros(1000)},
        "args": None,
        "cfg": {"model": 1},
        "optimizer_history": [{"num_updates": updates}],
        "extra_state": {},
    }
    torch.save(state, path)
    return path


def logged(path: Path, *updates: int) -> None:
    """Lines of training in a log, after those that are there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        for update in updates:
            line = json.dumps({"num_updates": str(update), "loss": "5.5", "update": "1.1"})
            file.write(f"x | INFO | train_inner | {line}\n")


def train(folder, monkeypatch, during, updates=1000, models=("baseline",), costs=None, workers=1):
    """Call the training with jobs that do nothing but call ``during``; returns what it got."""
    calls = []

    def run_jobs(jobs, processes, progress, on_finish):
        calls.append(jobs)
        during(jobs, progress)
        for job in jobs:
            job.log.parent.mkdir(parents=True, exist_ok=True)
            on_finish(job)

    monkeypatch.setattr(training, "run_jobs", run_jobs)
    split = schedule.Workers(workers, 1)
    known = {"baseline": 0.1} if costs is None else costs
    training.train(folder, models, folder, split, updates, known, 1, "none", clock())
    return calls


def until(job) -> int:
    return int(job.arguments[job.arguments.index("--max-update") + 1])


def test_progress_counts_from_the_checkpoint_that_training_goes_on_from(tmp_path, monkeypatch):
    # killed in the last validation: the log has the last update, no checkpoint does
    write_checkpoint(tmp_path / "baseline", 875)
    log = tmp_path / "baseline" / "train.log"
    logged(log, 990, 1000)
    lines = []

    def during(jobs, progress):
        lines.append(progress(jobs, []))
        logged(log, 885)
        lines.append(progress(jobs, []))
        logged(log, 1000)
        lines.append(progress(jobs, []))

    (jobs,) = train(tmp_path, monkeypatch, during)
    counts = [re.search(r"baseline (\d+)/1000", line).group(1) for line in lines]
    assert counts == ["875", "885", "1000"]
    assert lines[2].startswith("step 1/6") and "about 0:00 left" in lines[2]
    assert until(jobs[0]) == 1000
    trained = json.loads((tmp_path / "baseline" / "trained.json").read_text())
    assert trained["minutes"] is None and trained["num_updates"] == "1000"


def test_a_model_killed_after_its_last_checkpoint_is_trained(tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "baseline", 1000)
    logged(tmp_path / "baseline" / "train.log", 1000)
    assert train(tmp_path, monkeypatch, lambda *_: None) == []
    trained = json.loads((tmp_path / "baseline" / "trained.json").read_text())
    assert trained["updates"] == 1000 and trained["num_updates"] == "1000"


def test_what_is_left_of_trainings_is_spread_over_the_cores(tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "one_wide", 900)
    models = ("one_wide", "baseline", "shared_enc_no_dec")
    costs = {"one_wide": 0.4, "baseline": 0.2, "shared_enc_no_dec": 0.2}
    (jobs,) = train(tmp_path, monkeypatch, lambda *_: None, 1000, models, costs, workers=2)
    # 40, 200 and 200 seconds: 220 a core; no piece of one wide ends before it begins
    assert all(until(job) > 900 for job in jobs if job.name == "one_wide")
    stops = {(job.name, until(job)) for job in jobs}
    assert stops == {
        ("baseline", 1000),
        ("one_wide", 1000),
        ("shared_enc_no_dec", 900),
        ("shared_enc_no_dec", 1000),
    }


def test_a_model_that_was_not_measured_counts_as_the_mean_of_the_others(tmp_path, monkeypatch):
    models, costs = ("baseline", "one_wide", "parallel"), {"baseline": 0.15, "one_wide": 0.25}
    (jobs,) = train(tmp_path, monkeypatch, lambda *_: None, 1000, models, costs, workers=2)
    # 150, 250 and 200 seconds are 300 a core: 50 of the last one fit beside one wide's 250
    stops = [(job.name, until(job)) for job in jobs]
    assert sorted(stops) == [
        ("baseline", 1000),
        ("one_wide", 1000),
        ("parallel", 750),
        ("parallel", 1000),
    ]


def test_half_a_copy_of_a_checkpoint_gives_way_to_the_whole_one(tmp_path):
    save_dir = tmp_path / "checkpoints"
    assert training.resume_point(save_dir) is None
    last = write_checkpoint(tmp_path, 200)
    whole = write_checkpoint(tmp_path, 200, "checkpoint_1_200.pt").read_bytes()
    last.write_bytes(whole[: len(whole) // 2])
    assert training.resume_point(save_dir) == 200
    assert last.read_bytes() == whole
    for path in save_dir.iterdir():
        path.write_bytes(whole[:100])
    with pytest.raises(UserError, match="delete .*checkpoints to train anew"):
        training.resume_point(save_dir)


def finished_run(folder: Path, models, age: float = 100.0) -> None:
    """Records of a run that ended some seconds ago."""
    record = {"models": [{"name": model} for model in models]}
    (folder / "latency_comparison.json").write_text(json.dumps(record))
    for model in models:
        write_checkpoint(folder / model, 100)
        for name in ("generate.log", "latency.json", "scores.json"):
            (folder / model / name).write_text("{}")
    now = os.stat(folder / "latency_comparison.json").st_mtime
    for path in folder.rglob("*"):
        old = now - age - (10 if path.suffix == ".pt" else 0)
        os.utime(path, (old, old))


def measured(folder, models, monkeypatch):
    """Names of the jobs that measuring starts."""
    names = []
    monkeypatch.setattr(
        decoding, "run_jobs", lambda jobs, *_, **__: names.extend(job.name for job in jobs)
    )
    decoding.measure_speed(folder / "bin", models, folder, clock())
    return names


def test_measurements_are_made_again_only_for_new_checkpoints(tmp_path, monkeypatch):
    models = ["baseline", "one_wide"]
    finished_run(tmp_path, models)
    assert measured(tmp_path, models, monkeypatch) == []
    assert sum(decoding.seconds_after_training(models, tmp_path, 45.0, 65.0).values()) == 0
    assert measured(tmp_path, models[::-1], monkeypatch) == ["compare"]
    write_checkpoint(tmp_path / "one_wide", 200)
    assert measured(tmp_path, models, monkeypatch) == ["one_wide", "compare"]
    left = decoding.seconds_after_training(models, tmp_path, 45.0, 65.0)
    assert left["report"] == 45.0 and 0 < sum(left.values()) - 45.0 < 2 * 65.0


def test_a_run_with_nothing_done_needs_the_whole_reserve(tmp_path):
    left = decoding.seconds_after_training(["baseline", "one_wide"], tmp_path, 45.0, 65.0)
    assert sum(left.values()) == pytest.approx(45 + 2 * 65)
