"""The quick start's clock, the names of its folders, and its jobs when something goes wrong."""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import sentencepiece

from fairseq_ffn.errors import UserError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts" / "quickstart"))
import jobs
import output
import run
import steps
from corpus import Corpus, Longest, prepare

SCRIPTS = Path(jobs.__file__).parent
#: pieces that a few lines of the shipped text give
PIECES = 200


@functools.cache
def shipped_lines(language: str, lines: int = 300) -> bytes:
    """The first lines of the shipped training text."""
    with gzip.open(run.DEFAULT_DATA / f"train.{language}.gz", "rb") as file:
        return b"".join(next(file) for _ in range(lines))


def write_corpus(folder: Path, **replaced: bytes) -> Path:
    """``train.en`` ... ``test.de``; ``replaced`` by names such as ``dev_en``."""
    folder.mkdir(parents=True)
    for split in ("train", "dev", "test"):
        for language in ("en", "de"):
            text = replaced.get(f"{split}_{language}", shipped_lines(language))
            (folder / f"{split}.{language}").write_bytes(text)
    return folder


# ---- where results go


def chosen_folder(*options: str) -> str:
    args = run.parse(list(options))
    run.find_corpus(args)
    assert args.output.parent == run.OUTPUT.parent
    return args.output.name


def test_default_settings_keep_their_folder():
    assert chosen_folder() == "quickstart"
    assert chosen_folder("--data", str(run.DEFAULT_DATA), "--minutes", "20.0") == "quickstart"
    assert chosen_folder("--source-lang", "en", "--target-lang", "de") == "quickstart"


def test_every_other_setting_has_a_folder_of_its_own():
    assert chosen_folder("--minutes", "60", "--seed", "2") == "quickstart-minutes60-seed2"
    assert chosen_folder("--models", "baseline,parallel") == "quickstart-baseline-parallel"
    assert chosen_folder("--vocabulary-size", "500") == "quickstart-vocabulary500"
    assert chosen_folder("--source-lang", "de", "--target-lang", "en") == "quickstart-de-en"
    # the minutes have no effect then
    assert chosen_folder("--updates", "9", "--minutes", "60") == "quickstart-updates9"


def test_two_folders_of_one_name_have_results_of_their_own(tmp_path):
    names = [
        chosen_folder("--data", str(write_corpus(tmp_path / place / "my text")))
        for place in ("a", "b")
    ]
    assert names[0] != names[1]
    assert all(re.fullmatch(r"quickstart-my_text-[0-9a-f]{6}", name) for name in names)


def test_the_shipped_texts_binary_data_is_not_made_for_other_languages_or_sizes():
    shipped = run.DEFAULT_DATA.resolve().parent
    assert run.find_corpus(run.parse([]))[1] == shipped
    for options in (["--source-lang", "de", "--target-lang", "en"], ["--vocabulary-size", "500"]):
        args = run.parse(options)
        assert run.find_corpus(args)[1] == args.output / "data"


def test_a_folder_with_other_settings_is_named_with_what_differs(tmp_path):
    corpus = run.find_corpus(run.parse([]))[0]
    held = output.settings(run.parse(["--seed", "3"]), corpus)
    output.check_same(tmp_path, held, output.settings(run.parse(["--seed", "3"]), corpus))
    with pytest.raises(UserError, match="holds a run with --seed 3, not --seed 1; choose"):
        output.check_same(tmp_path, held, output.settings(run.parse([]), corpus))
    other = output.settings(run.parse(["--updates", "5", "--seed", "3"]), corpus)
    with pytest.raises(UserError, match="with --minutes 20, not --updates 5; choose"):
        output.check_same(tmp_path, held, other)


def test_a_refused_run_leaves_the_folder_as_it_was(tmp_path):
    first = run.parse(["--output", str(tmp_path), "--vocabulary-size", "500"])
    corpus, folder = run.find_corpus(first)
    held = output.settings(first, corpus)
    (tmp_path / "plan.json").write_text(json.dumps({"settings": held, "updates": 5}))
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "done.json").write_text("{}")
    other = run.parse(["--output", str(tmp_path), "--vocabulary-size", "400"])
    with pytest.raises(UserError, match="--vocabulary-size 500, not --vocabulary-size 400"):
        run.quickstart(other, *run.find_corpus(other))
    assert (folder / "bin" / "done.json").read_text() == "{}"


def test_a_damaged_plan_is_named(tmp_path):
    args = run.parse(["--output", str(tmp_path)])
    for content in ("", "{", "[]", '{"updates": 3}'):
        (tmp_path / "plan.json").write_text(content)
        with pytest.raises(UserError, match=f"{tmp_path}/plan.json: damaged; remove it"):
            run.quickstart(args, *run.find_corpus(args))


def test_a_seed_that_no_generator_takes_is_refused_first(capsys):
    with pytest.raises(SystemExit):
        run.parse(["--seed", "-1"])
    assert "--seed: must be from 0 to 4294967295" in capsys.readouterr().err


def test_an_empty_name_of_a_model_is_refused(capsys):
    for names in ("baseline,", "", "baseline,,one_wide"):
        with pytest.raises(SystemExit):
            run.parse(["--models", names])
        assert "--models: unknown ''" in capsys.readouterr().err


def test_a_model_that_could_not_be_written_is_one_line(tmp_path, monkeypatch):
    """sentencepiece says nothing when the disk is full."""
    corpus = Corpus(write_corpus(tmp_path / "raw"), "en", "de")
    train = sentencepiece.SentencePieceTrainer.train

    def half(**settings):
        train(**settings)
        path = Path(f"{settings['model_prefix']}.model")
        path.write_bytes(path.read_bytes()[:300])

    monkeypatch.setattr(sentencepiece.SentencePieceTrainer, "train", half)
    with pytest.raises(UserError, match="sentencepiece.model can't be read back; is the disk full"):
        prepare(corpus, tmp_path / "data", PIECES, Longest(511, 1023))
    assert not (tmp_path / "data" / "bin").exists()


def test_two_runs_do_not_make_the_same_data_at_once(tmp_path):
    entered = threading.Event()

    def second():
        with run.alone_in(tmp_path):
            entered.set()

    with run.alone_in(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.3)
    assert entered.wait(10)
    thread.join()


# ---- the clock


def test_time_left_is_that_of_the_training_and_of_what_follows(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = steps.Steps(1000.0, {"generate": 30.0, "measure": 60.0, "report": 45.0})
    assert clock.left() is None and "not known yet" in clock.line()
    clock.expect_training(600.0)
    now[0] += 65
    clock.begin("plan")
    assert clock.line("x") == "step 2/6 plan: 1:05 passed, about 11:10 left | x"
    clock.begin("train")
    clock.expect_training(100.0)  # faster than planned
    now[0] += 10
    assert clock.left() == pytest.approx(90 + 135)
    clock.begin("generate")
    assert clock.left() == pytest.approx(135)
    now[0] += 10
    assert clock.left() == pytest.approx(125)
    clock.begin("measure")
    now[0] += 500  # later than expected: never below what follows
    assert clock.left() == pytest.approx(45)
    clock.begin("report")
    assert clock.line().startswith("step 6/6 report: 9:45 passed, about 0:45 left")


# ---- own text


def test_training_pairs_that_no_update_can_hold_are_left_out_and_counted(tmp_path, caplog):
    long, short = b"word " * 600 + b"\n", b"word\n"
    raw = write_corpus(
        tmp_path / "raw",
        train_en=long + shipped_lines("en") + short,
        train_de=short + shipped_lines("de") + long,
    )
    with caplog.at_level("INFO", "quickstart"):
        prepare(Corpus(raw, "en", "de"), tmp_path / "out", PIECES, Longest(511, 1023))
    assert "2 of 302 training pairs left out: more than 511 pieces" in caplog.text
    for language in ("en", "de"):
        lines = (tmp_path / "out" / "prepared" / f"train.{language}").read_text().splitlines()
        assert len(lines) == 300 and max(len(line.split()) for line in lines) <= 511
    assert "train.en: 300 sents" in (tmp_path / "out" / "prepared" / "preprocess.log").read_text()


def test_a_text_of_too_long_lines_only_is_refused(tmp_path):
    corpus = Corpus(write_corpus(tmp_path / "raw"), "en", "de")
    with pytest.raises(UserError, match=r"train.en: every pair has more than 2 pieces"):
        prepare(corpus, tmp_path / "out", PIECES, Longest(2, 1023))


@pytest.mark.parametrize(("split", "language"), [("dev", "en"), ("test", "de")])
def test_a_line_longer_than_the_model_takes_is_named(tmp_path, split, language):
    lines = shipped_lines(language).splitlines(keepends=True)
    lines[10] = b"word " * 1100 + b"\n"
    raw = write_corpus(tmp_path / "raw", **{f"{split}_{language}": b"".join(lines)})
    with pytest.raises(UserError, match=rf"{split}.{language}, line 11: \d+ pieces, but .* 1023"):
        prepare(Corpus(raw, "en", "de"), tmp_path / "out", PIECES, Longest(511, 1023))
    assert not (tmp_path / "out" / "bin").exists()


def test_a_gzip_damaged_in_the_middle_is_named(tmp_path):
    raw = write_corpus(tmp_path / "raw")
    whole = gzip.compress(os.urandom(20_000).hex().encode())
    middle = len(whole) // 2
    # 0xff makes a block of a kind that doesn't exist, sooner or later
    damaged = whole[:middle] + b"\xff" * 64 + whole[middle + 64 :]
    (raw / "train.en").unlink()
    (raw / "train.en.gz").write_bytes(damaged)
    with pytest.raises(UserError, match=r"train\.en\.gz: damaged gzip file after line 0"):
        Corpus(raw, "en", "de").pairs("train")


# ---- jobs


def test_a_failed_job_is_one_line_with_its_last_words_and_its_log(tmp_path):
    program = "print('one'); print('two'); raise SystemExit('python: error: three')"
    log = tmp_path / "job.log"
    with pytest.raises(UserError) as failure:
        jobs.run_jobs([jobs.Job("baseline", ["python", "-c", program], log)], 1)
    text = str(failure.value)
    assert text == (
        f"python for baseline failed (status 1): python: error: three; all of its output: {log}"
    )
    program = "import os; os.kill(os.getpid(), 9)"
    with pytest.raises(UserError, match=r"\(ended by signal 9\): it wrote nothing; all"):
        jobs.run_jobs([jobs.Job("baseline", ["python", "-c", program], log)], 1)


def alive(process: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet doesn't."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux ends them")
def test_jobs_end_with_a_script_that_is_killed(tmp_path):
    log = tmp_path / "job.log"
    job = "import os, time; print(os.getpid(), flush=True); time.sleep(100)"
    program = (
        f"import sys; sys.path.insert(0, {str(SCRIPTS)!r})\n"
        "from pathlib import Path; import jobs\n"
        f"jobs.run_jobs([jobs.Job('x', ['python', '-c', {job!r}], Path({str(log)!r}))], 1)\n"
    )
    script = subprocess.Popen([sys.executable, "-c", program])
    try:
        deadline = time.monotonic() + 60
        while not (log.is_file() and log.read_text().endswith("\n")):
            assert time.monotonic() < deadline and script.poll() is None
            time.sleep(0.1)
        child = int(log.read_text())
        assert alive(child)
    finally:
        script.send_signal(signal.SIGKILL)
        script.wait()
    deadline = time.monotonic() + 5
    while alive(child):
        assert time.monotonic() < deadline, f"process {child} outlived the script"
        time.sleep(0.05)
