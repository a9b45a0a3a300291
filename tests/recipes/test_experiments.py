"""Miniatures of all experiments, from a server with the real file names to the report."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.bench import (
    DATA,
    MTDATA_CACHE,
    MTDATA_PYTHON,
    STEPS,
    environment,
    files,
    kill_when,
    program,
    serving,
    step,
    step_command,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason="no FFN_TEST_DATA"),
]

#: steps whose output has no times and dates in it
REPRODUCIBLE = ("raw", "text", "clean", "vocabulary", "texts")


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    """A server with small files of the real names, for several experiments."""
    folder = tmp_path_factory.mktemp("mirror")
    for experiment in ("wmt16_en_ro", "multilingual"):
        program(
            *("mini_mirror.py", experiment, "--output", folder / "one", "--data", DATA),
            *("--lines", 600),
        )
        shutil.copytree(folder / "one", folder / "all", dirs_exist_ok=True)
    with serving(folder / "all") as server:
        yield server


@pytest.fixture(scope="module")
def en_ro(tmp_path_factory, mirror):
    """English-Romanian up to binary data."""
    work = tmp_path_factory.mktemp("en_ro") / "work"
    for name in STEPS[:4]:
        step("wmt16_en_ro", name, *en_ro_options(work, mirror))
    return work


def en_ro_options(work: Path, mirror):
    return ("--mini", "--work", work, "--mirror", mirror.url, "--models", "baseline")


def test_data_steps_make_what_the_next_ones_read(en_ro, mirror):
    sums = (en_ro / "raw" / "checksums.sha256").read_text()
    assert re.search(r"^[0-9a-f]{64}  data.statmt.org/wmt16/.*/dev.tgz$", sums, re.MULTILINE)
    text = files(en_ro / "text")
    train = [name for name in text if name.startswith("train/")]
    assert {name.split("/")[1] for name in train} == {"europarl-v8", "setimes2"}
    assert (en_ro / "text" / "test" / "newstest2016.ro").read_text().count("\n") == 1999
    counts = json.loads((en_ro / "clean" / "counts.json").read_text())["en-ro"]
    assert counts["read"] == 1200 == sum(counts.values()) - counts["read"]
    # the miniature's Europarl is spelt with cedillas
    pieces = (en_ro / "vocabulary" / "dict.txt").read_text()
    assert "ş" not in pieces and "ș" in pieces
    assert sorted(path.name for path in (en_ro / "bin" / "0000").glob("*.ro.bin")) == [
        *("test.en-ro.ro.bin", "train.en-ro.ro.bin", "valid.en-ro.ro.bin"),
    ]


def test_a_second_run_does_nothing(en_ro, mirror):
    before = {path: path.stat().st_mtime_ns for path in en_ro.rglob("*") if path.is_file()}
    asked = len(mirror.requests)
    for name in STEPS[:4]:
        done = step("wmt16_en_ro", name, *en_ro_options(en_ro, mirror))
        assert f"{name}: done" in done.err
    after = {path: path.stat().st_mtime_ns for path in before}
    changed = [path for path in before if before[path] != after[path]]
    assert {path.parent.name for path in changed} <= {"logs"} and len(mirror.requests) == asked


def test_killed_in_every_data_step_it_goes_on_to_the_same_bytes(tmp_path, en_ro, mirror):
    work = tmp_path / "work"
    signs = {
        "01_download": lambda: list(work.glob("raw/*/*/*/*")),
        "02_clean": lambda: list(work.glob("clean.work/*")),
        "03_vocabulary": lambda: list(work.glob("vocabulary.tmp*")),
        "04_binarise": lambda: list(work.glob("bin/*.tmp/*")),
    }
    for name, ready in signs.items():
        options = en_ro_options(work, mirror)
        kill_when(step_command("wmt16_en_ro", name, *options), ready)
        assert not (work / "stamps" / name).exists()
        step("wmt16_en_ro", name, *options)
    for folder in REPRODUCIBLE:
        assert files(work / folder) == files(en_ro / folder), folder
    binary = {name: data for name, data in files(work / "bin").items() if ".log" not in name}
    assert binary == {name: files(en_ro / "bin")[name] for name in binary}
    assert not list(work.rglob("*.tmp")) and not list(work.rglob("*.part"))


def test_what_was_set_otherwise_is_made_anew_but_no_trained_model_is_lost(tmp_path, en_ro, mirror):
    work = tmp_path / "work"
    shutil.copytree(en_ro, work)
    (work / "models" / "baseline").mkdir(parents=True)
    (work / "models" / "baseline" / "settings").write_text("of another training\n")
    done = step("wmt16_en_ro", "05_train", *en_ro_options(work, mirror), fails=True)
    assert done.status == 1 and "holds a training with other settings" in done.err
    before = (work / "stamps" / "02_clean").read_text()
    (work / "stamps" / "01_download").write_text("of other data")
    done = step("wmt16_en_ro", "02_clean", *en_ro_options(work, mirror))
    assert "part 1 of" in done.err and (work / "stamps" / "02_clean").read_text() != before


def test_a_full_disk_is_one_line_and_goes_on_with_room(tmp_path, en_ro, mirror):
    work = tmp_path / "work"
    options = en_ro_options(work, mirror)
    for name, limit in (("01_download", 60), ("02_clean", 40)):
        # blocks of 1,024 bytes a file may have
        command = f"ulimit -f {limit}; exec " + " ".join(
            step_command("wmt16_en_ro", name, *options)
        )
        full = subprocess.run(
            ["bash", "-c", command], env=environment(), capture_output=True, text=True
        )
        assert full.returncode == 1 and "make room" in full.stderr, full.stderr
        assert "Traceback" not in full.stderr and not (work / "stamps" / name).exists()
        step("wmt16_en_ro", name, *options)
    assert files(work / "clean") == files(en_ro / "clean")


def test_english_romanian_from_binary_data_to_the_report(tmp_path, en_ro, mirror):
    """Steps 05 to 10, two models; each skips what is done and makes the next one possible."""
    work = tmp_path / "work"
    shutil.copytree(en_ro, work)
    options = ("--mini", "--work", work, "--mirror", mirror.url)
    needs = dict(
        zip(STEPS[5:], ("05_train", "06_average", "07_generate", "06_average", "08_score"))
    )
    for name, before in needs.items():
        early = step("wmt16_en_ro", name, *options, fails=True)
        assert early.status == 1 and f"{before} isn't done" in early.err
    for name in STEPS[4:]:
        done = step("wmt16_en_ro", name, *options)
        assert "all done" in done.err if name == "10_report" else "done; next: bash" in done.err
    for model in ("baseline", "one_wide"):
        folder = work / "models" / model
        assert len(list((folder / "checkpoints").glob("checkpoint_*_*.pt"))) == 2  # AVERAGE
        assert (folder / "checkpoint_averaged.pt").stat().st_size > 0
    results = work / "results" / "newstest2016"
    references = (results / "one_wide" / "reference.txt").read_text().splitlines()
    assert references == (work / "text/test/newstest2016.ro").read_text().splitlines()[:30]
    assert "ş" not in "".join(references) and "ș" in "".join(references)
    for model in ("baseline", "one_wide"):
        assert len((results / model / "hypothesis.txt").read_text().splitlines()) == 30
        protocol = json.loads((results / model / "latency.json").read_text())["protocol"]
        assert (protocol["batch_size"], protocol["beam"], protocol["runs"]) == (1, 5, 2)
    scores = json.loads((results / "one_wide" / "scores.json").read_text())
    assert scores["sentences"] == 30 and scores["significance"]["baseline"] == "baseline"
    rows = (work / "report" / "newstest2016" / "report.md").read_text()
    assert re.search(r"^\| one_wide \|.*\| \d\.\d\dx \[", rows, re.MULTILINE)
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*") if path.is_file()}
    for name in STEPS[4:9]:
        assert f"[{name}] {name}" in step("wmt16_en_ro", name, *options).err  # "... : done"
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_english_german_from_mtdata_to_the_report(tmp_path):
    """All steps, two models and two shards; killed in each step after the data."""
    if MTDATA_PYTHON is None:
        pytest.skip("no mtdata: bash scripts/recipes/mtdata.sh makes its environment")
    served = tmp_path / "served"
    # so few that 12 updates are more than an epoch, which is one shard
    program("mini_mirror.py", "wmt22_en_de", "--output", served, "--data", DATA, "--lines", 240)
    work = tmp_path / "work"
    with serving(served) as server:
        options = ("--mini", "--work", work, "--mirror", server.url)
        env = {"MTDATA": str(MTDATA_CACHE)}
        signs = (
            *("models/one_wide/checkpoints/checkpoint_last.pt", "logs/06_average.log"),
            *("results/*/one_wide/generate.log.tmp", "logs/08_score.log", "logs/09_latency.log"),
            "logs/10_report.log",
        )
        for sign in signs:
            command = step_command("wmt22_en_de", "run", *options)
            kill_when(command, lambda sign=sign: list(work.glob(sign)), env)
        done = step("wmt22_en_de", "run", *options, env=env)
    for name in STEPS[:-1]:
        assert f"[{name}] done; next: bash" in done.err
    log = (work / "logs" / "05_train.log").read_text()
    assert re.search(r"one_wide goes on from update [1-9]\d* of 12", log)
    assert not list(work.rglob("*.tmp"))
    assert json.loads((work / "clean" / "counts.json").read_text())["en-de"]["duplicate"] >= 80
    results = work / "results" / "generaltest2022"
    for model in ("baseline", "one_wide"):
        assert len((results / model / "hypothesis.txt").read_text().splitlines()) == 30
        latency = json.loads((results / model / "latency.json").read_text())
        assert latency["protocol"]["batch_size"] == 1 and latency["protocol"]["beam"] == 5
        assert latency["arch"] == f"transformer_ffn_tiny_{model}"
    assert "significance" in json.loads((results / "one_wide" / "scores.json").read_text())
    comparison = json.loads((results / "latency_comparison.json").read_text())
    assert [model["name"] for model in comparison["models"]] == ["baseline", "one_wide"]
    table = (work / "report" / "generaltest2022" / "report.md").read_text()
    assert re.search(r"^\| one_wide \|.*\| \d\.\d\dx \[", table, re.MULTILINE)
    # the log of both shards: an epoch each
    assert "epoch 002" in (work / "models" / "baseline" / "train.log").read_text()


def test_multilingual_scores_every_direction(tmp_path, mirror):
    work = tmp_path / "work"
    options = ("--mini", "--work", work, "--mirror", mirror.url)
    options += ("--models", "baseline", "--updates", 8)
    for name in STEPS:
        step("multilingual", name, *options)
    results = work / "results" / "flores101"
    lines = (results / "directions.tsv").read_text().splitlines()
    directions = [line.split("\t")[0] for line in lines]
    assert directions[:3] == ["direction", "all", "cs-de"] and len(directions) == 2 + 12
    scores = json.loads((results / "directions.json").read_text())
    assert "tok:flores101" in scores["signatures"]["spbleu"]
    assert "spbleu" in json.loads((results / "baseline" / "scores.json").read_text())
    timed = json.loads((work / "results/flores101.de-en/baseline/latency.json").read_text())
    assert timed["sentences"] == 4 and timed["protocol"]["batch_size"] == 1
    sources = (work / "text" / "test" / "flores101.de").read_text().splitlines()[:4]
    assert (results.parent / "flores101.de-en/baseline/source.txt").read_text().splitlines() == (
        sources
    )


def test_decoder_only_on_the_shipped_corpus(tmp_path):
    pytest.importorskip("fairseq_ffn.models.decoder_only")
    work = tmp_path / "work"
    options = ("--mini", "--work", work, "--updates", 8)
    for name in STEPS:
        step("decoder_only", name, *options)
    results = work / "results" / "tatoeba"
    assert "significance" in json.loads((results / "shared_dec_wide" / "scores.json").read_text())
    comparison = json.loads((results / "latency_comparison.json").read_text())
    assert [model["arch"] for model in comparison["models"]] == [
        f"transformer_ffn_decoder_only_tiny_{name}" for name in ("baseline", "shared_dec_wide")
    ]
    table = (work / "report" / "tatoeba" / "report.md").read_text()
    assert table.startswith("# WMT22 English-German, decoder-only, miniature, tatoeba\n")
    assert re.search(r"^\| shared_dec_wide \|.*\| \d\.\d\dx \[", table, re.MULTILINE)


@pytest.mark.parametrize("processes", [2, 4])
def test_a_killed_process_costs_no_epoch(tmp_path, en_ro, mirror, processes):
    """Several processes train together; one dies, and all go on from the last checkpoint."""
    work = tmp_path / "work"
    shutil.copytree(en_ro, work)
    options = (*en_ro_options(work, mirror), "--gpus", processes, "--updates", 12)
    log = work / "models" / "baseline" / "train.log"
    killer = tmp_path / "killer.py"
    killer.write_text(KILLER)
    helper = subprocess.Popen([sys.executable, str(killer), str(work), str(log)])
    done = step("wmt16_en_ro", "05_train", *options)
    assert helper.wait(timeout=60) == 0
    text = log.read_text()
    resumed = re.search(r"a process of baseline ended; all go on from update (\d+)", done.err)
    assert resumed and int(resumed.group(1)) in (4, 8)
    updates = [int(found) for found in re.findall(r"train_inner \|.*num_updates=(\d+)", text)]
    updates = updates or [
        int(found) for found in re.findall(r"train_inner.*num_updates[= ](\d+)", text)
    ]
    first = updates[: updates.index(max(updates[:-1])) + 1]
    assert first and updates[-1] == 12
    restart = int(resumed.group(1)) + 1
    assert updates.count(restart) <= 2 and updates.count(1) == 1  # what was done stays done
    assert f"distributed_world_size': {processes}" in text


#: kills one worker of the training in a folder once it has written a checkpoint in mid-epoch
KILLER = """
import os, pathlib, signal, sys, time

work, log = sys.argv[1:]
end = time.monotonic() + 200
checkpoints = pathlib.Path(log).parent / "checkpoints"
while not (checkpoints / "checkpoint_last.pt").exists():
    assert time.monotonic() < end
    time.sleep(0.05)
for process in sorted(pathlib.Path("/proc").iterdir(), reverse=True):
    if process.name.isdigit():
        try:
            words = (process / "cmdline").read_bytes().decode().split("\\0")
        except OSError:
            continue
        rank = words[words.index("--distributed-rank") + 1] if "--distributed-rank" in words else ""
        if str(checkpoints) in words and rank == "1":
            os.kill(int(process.name), signal.SIGKILL)
            sys.exit(0)
sys.exit("no process to kill")
"""
