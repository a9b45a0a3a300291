"""The quick start end to end on a small corpus, and every quick command of the README."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import List

import pytest

from commands.checkout import (
    CORPUS,
    REPOSITORY,
    SETTINGS,
    environment,
    quickstart,
    run_in,
    write_small_corpus,
)

STEPS = ("data", "plan", "train", "generate", "measure", "report")
MODELS = ("baseline", "shared_enc_no_dec", "one_wide")


def test_every_step_is_announced_once(finished):
    steps = re.findall(r"step (\d)/6 (\w+): \d+:\d\d passed, (?:about|time left)", finished.stderr)
    assert [name for _, name in dict.fromkeys(steps)] == list(STEPS)
    assert [number for number, _ in dict.fromkeys(steps)] == [*"123456"]


def test_comparison_has_every_model_and_every_run_directory_is_complete(checkout, finished):
    runs = checkout / "runs" / "quickstart"
    assert (runs / "comparison.md").read_text().strip() == finished.stdout.strip()
    source = (CORPUS / "test.en").read_text().splitlines()[:43]
    for model in MODELS:
        assert re.search(
            rf"^\| {model} \| \d+\.\d†? \| \d+\.\d†? \|", finished.stdout, re.MULTILINE
        )
        run_dir = runs / model
        assert (run_dir / "source.txt").read_text().splitlines() == source
        assert len((run_dir / "hypothesis.txt").read_text().split("\n")) == 44
        scores = json.loads((run_dir / "scores.json").read_text())
        assert scores["sentences"] == 43 and scores["references"] == 1
        assert "tok:13a" in scores["bleu"]["signature"]
        assert (run_dir / "checkpoints" / "checkpoint_last.pt").is_file()
        latency = json.loads((run_dir / "latency.json").read_text())
        assert len(latency["tokens_per_second"]["runs"]) == 3
        assert latency["protocol"]["threads"] == 1 and latency["sentences"] == 43
        assert latency["arch"] == f"transformer_ffn_tiny_{model}"
        assert ("significance" in scores) == (model != "baseline")
    page = (runs / "report" / "report.html").read_text()
    assert all(f">{model}<" in page for model in MODELS)


def test_scores_are_sacrebleus_of_the_files(checkout, finished):
    run_dir = checkout / "runs" / "quickstart" / "baseline"
    done = subprocess.run(
        [sys.executable, "-m", "sacrebleu", "reference.txt", "-i", "hypothesis.txt"]
        + ["-m", "chrf", "-b", "-w", "6"],
        cwd=run_dir,
        capture_output=True,
        text=True,
        check=True,
    )
    scores = json.loads((run_dir / "scores.json").read_text())
    assert float(done.stdout) == pytest.approx(scores["chrf"]["score"], abs=1e-5)


def test_second_run_skips_all_steps_and_prints_the_same_table(checkout, finished):
    runs = checkout / "runs" / "quickstart"
    made = ("latency_comparison.json", "*/scores.json", "*/latency.json", "*/generate.log")
    before = {path: path.stat().st_mtime_ns for name in made for path in runs.glob(name)}
    assert len(before) == 1 + 3 * len(MODELS)
    again = quickstart(checkout, *SETTINGS)
    assert again.returncode == 0, again.stderr[-3000:]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert re.search(r"step 1/6 data: 0:00 passed, about 0:00 left", again.stderr)
    rows = [line for line in finished.stdout.splitlines() if line.startswith("|")]
    assert rows == [line for line in again.stdout.splitlines() if line.startswith("|")]
    assert again.stderr.count("is ready") >= 4


def test_other_settings_in_the_same_folder_are_refused(checkout, finished):
    done = quickstart(checkout, *SETTINGS, "--updates", "13")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == len(set(done.stderr.splitlines()))
    assert "error: runs/quickstart holds a run with --updates 12, not --updates 13" in done.stderr
    assert "Traceback" not in done.stderr


def start(checkout: Path, *options: str) -> subprocess.Popen:
    """A quick start that runs beside the test."""
    return subprocess.Popen(
        ["bash", "scripts/quickstart.sh", *options],
        cwd=checkout,
        env=environment(checkout),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def stat_of(process: str) -> List[str]:
    """State, parent and so on of a process, from Linux."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ["Z", "0"]


def children_of(parent: int) -> List[str]:
    numbers = [path.name for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [number for number in numbers if stat_of(number)[1] == str(parent)]


def runs(process: str) -> bool:
    """Whether it does; one that nobody has waited for yet doesn't."""
    return stat_of(process)[0] != "Z"


def test_interrupted_training_goes_on(checkout, finished):
    options = ["--updates", "250", "--vocabulary-size", "400"]
    options += ["--models", "shared_enc_no_dec", "--output", "runs/interrupted"]
    process = start(checkout, *options)
    output = checkout / "runs" / "interrupted"
    run_dir = output / "shared_enc_no_dec"
    deadline = time.monotonic() + 200
    while not (output / "lock").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    second = quickstart(checkout, *options)  # first, since training doesn't take much longer
    assert second.returncode == 1 and f"another quick start is at work in {output.name}" in (
        second.stderr.replace(f"{output.parent}/", "").replace("runs/", "")
    )
    while not list(run_dir.glob("checkpoints/checkpoint_last.pt")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "goes on from here" in errors
    assert not (run_dir / "trained.json").exists()

    process = start(checkout, *options)
    deadline = time.monotonic() + 100
    while "Loaded checkpoint" not in (run_dir / "train.log").read_text():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    children = children_of(process.pid)
    process.kill()
    process.communicate(timeout=60)
    assert children
    deadline = time.monotonic() + 5
    while any(runs(child) for child in children):
        assert time.monotonic() < deadline, "a training outlived the script"
        time.sleep(0.05)
    assert not (run_dir / "trained.json").exists()

    done = quickstart(checkout, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "goes on from its last checkpoint" in done.stderr
    log = (run_dir / "train.log").read_text()
    assert "Loaded checkpoint" in log
    assert json.loads((run_dir / "trained.json").read_text())["num_updates"] == "250"


def broken(folder: Path, name: str) -> None:
    """Break the corpus in ``folder`` in one way."""
    if name == "missing":
        (folder / "dev.de").unlink()
    elif name == "empty":
        (folder / "dev.de").write_bytes(b"")
    elif name == "lengths":
        (folder / "test.de").write_text((folder / "test.de").read_text() + "eine Zeile mehr\n")
    elif name == "utf8":
        lines = (folder / "dev.en").read_bytes().splitlines(keepends=True)
        (folder / "dev.en").write_bytes(b"".join([*lines[:6], b"caf\xe9\n", *lines[7:]]))
    elif name == "blank":
        lines = (folder / "test.en").read_text().splitlines(keepends=True)
        (folder / "test.en").write_text("".join([*lines[:2], "\n", *lines[3:]]))
    elif name == "gzip":
        whole = (folder / "train.en.gz").read_bytes()
        (folder / "train.en.gz").write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("missing", "no file dev.de"),
        ("empty", "dev.de: the file is empty"),
        ("lengths", r"test.en has 43 lines, but .*test.de has 44"),
        ("utf8", r"dev.en, line 7: not UTF-8"),
        ("blank", r"test.en, line 3: empty line"),
        ("gzip", r"train.en.gz: damaged gzip file"),
    ],
)
def test_bad_corpus_is_one_line_that_says_where(checkout, tmp_path, name, expected):
    write_small_corpus(tmp_path / "raw", train=60)
    broken(tmp_path / "raw", name)
    done = quickstart(checkout, "--data", str(tmp_path / "raw"), "--output", str(tmp_path / "out"))
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1 and re.search(expected, errors[0]), done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("out/data/bin/done.json"))


def test_bad_options_are_refused(checkout):
    assert "unknown 'no_such'" in quickstart(checkout, "--models", "no_such").stderr
    assert "--minutes" in quickstart(checkout, "--minutes", "0").stderr


def readme_commands() -> List[str]:
    """Commands of the code blocks of README and docs that are marked as quick."""
    paths = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
    text = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    blocks = re.findall(r"<!-- quick -->\s*```(?:bash|sh)\n(.*?)```", text, re.DOTALL)
    return [block.strip() for block in blocks]


def test_quick_readme_commands_run(checkout, finished):
    commands = readme_commands()
    assert len(commands) >= 10
    for command in commands:
        done = run_in(checkout, "bash", "-euo", "pipefail", "-c", command)
        assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
