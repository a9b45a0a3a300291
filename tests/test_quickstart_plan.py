"""The quick start's arithmetic: how many updates fit, and which records are still good."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_ffn.errors import UserError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts" / "quickstart"))
import schedule
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
        tmp_path, list(speeds), workers, seconds, 1, "none", tmp_path / "probe"
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
