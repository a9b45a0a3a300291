"""Cleaning against a slow literal version, its counts, and interruption."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter

import pytest

from recipes.bench import RECIPES, Done, files, kill_when, program, write_gz

sys.path.insert(0, str(RECIPES))
from normalise import normalise  # noqa: E402


def write_text(text, parts, pair="en-de", name="set"):
    """Training text as 01_download leaves it."""
    folder = text / "train" / name
    for number, part in enumerate(parts):
        rows = "".join(f"{one}\t{other}\n" for one, other in part)
        write_gz(folder / pair / f"{number:05d}.tsv.gz", rows)
    (folder / "lines.json").write_text(json.dumps({"lines": sum(map(len, parts))}))


def clean(text, *more, output="clean", **how) -> Done:
    return program("clean.py", "--text", text, "--output", text.parent / output, *more, **how)


def kept(folder):
    """All pairs, with how often."""
    lines = Counter()
    for name, data in files(folder).items():
        if name.endswith(".gz"):
            lines.update(gzip.decompress(data).decode().splitlines())
    return lines


def some_text(pairs=4000, seed=1):
    """Short random sentences, about a quarter of them twice."""
    number = random.Random(seed)
    words = [f"w{index}" for index in range(60)]
    rows = [
        (" ".join(number.choices(words, k=2)), " ".join(number.choices(words, k=2)))
        for _ in range(pairs)
    ]
    rows += number.sample(rows, pairs // 4)
    number.shuffle(rows)
    return [rows[start : start + 700] for start in range(0, len(rows), 700)]


@pytest.fixture
def text(tmp_path):
    return tmp_path / "text"


def test_each_rule_removes_what_it_is_for_and_is_counted(text):
    long = "ein sehr langer Satz mit vielen Wörtern und noch mehr davon"
    rows = {
        "kept": [("A good  sentence", "Ein guter\u200b Satz"), ("yes", "ja"), ("no", "nein doch")],
        "empty": [("", "etwas"), ("something", " \u00a0\u200b"), ("", "")],
        "long": [(" ".join("abcdefghijklm"), "a"), ("x" * 301, "x" * 301)],
        "ratio": [("a", long), (long, "b")],
        "test": [("Known line", "neu"), ("new", "Bekannte  Zeile")],
        "duplicate": [("A good sentence", "Ein guter Satz"), ("yes", "ja")],
    }
    everything = [row for part in rows.values() for row in part]
    write_text(text, [everything[:5], everything[5:]])
    (text / "test").mkdir()
    (text / "test" / "news.en").write_text("Known line\n")
    (text / "test" / "news.de").write_text("Bekannte Zeile\n")
    options = ("--max-words", 12, "--max-bytes", 300, "--max-ratio", 2, "--shards", 3)
    done = clean(text, *options)
    counts = json.loads((text.parent / "clean" / "counts.json").read_text())["en-de"]
    expected = {name: len(part) for name, part in rows.items()}
    assert counts == {"read": len(everything), "language": 0, **expected}
    assert re.findall(r"\S+", done.out)[-9] == "en-de"
    assert kept(text.parent / "clean") == Counter(
        ["A good sentence\tEin guter Satz", "yes\tja", "no\tnein doch"]
    )


def test_duplicates_are_those_that_a_set_of_all_pairs_finds(text):
    parts = some_text()
    write_text(text, parts)
    clean(text, "--shards", 4, "--bucket-lines", 100)
    expected = Counter({f"{one}\t{other}" for part in parts for one, other in part})
    assert kept(text.parent / "clean") == expected
    shards = [path.read_bytes() for path in (text.parent / "clean").rglob("*.gz")]
    sizes = [len(gzip.decompress(data).splitlines()) for data in shards]
    assert len(sizes) == 4 and min(sizes) > 0.8 * max(sizes)


def test_the_number_of_workers_changes_no_byte(text):
    write_text(text, some_text())
    clean(text, "--shards", 2, output="one")
    clean(text, "--shards", 2, "--workers", 3, output="three")
    assert files(text.parent / "one") == files(text.parent / "three")


def test_memory_stays_the_same_however_much_text_there_is(tmp_path):
    """Peak of the process, in the unit of the kernel; the text of the larger is 6 MB more."""
    peaks = {}
    for parts in (2, 20):
        text = tmp_path / str(parts) / "text"
        rows = [(f"word{n} " * 20, f"wort{n} " * 20) for n in range(parts * 1000)]
        write_text(text, [rows[start : start + 1000] for start in range(0, len(rows), 1000)])
        command = [sys.executable, str(RECIPES / "clean.py"), "--text", str(text)]
        command += ["--output", str(text.parent / "clean"), "--bucket-lines", "1000"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0
        peaks[parts] = usage.ru_maxrss
    assert peaks[20] < 1.1 * peaks[2], peaks


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(text, workers):
    write_text(text, some_text(20_000))
    options = ("--shards", 2, "--workers", workers, "--bucket-lines", 2000)
    clean(text, *options, output="whole")
    work = text.parent / "clean.work"
    command = [sys.executable, str(RECIPES / "clean.py"), "--text", str(text)]
    command += ["--output", str(text.parent / "clean"), *map(str, options)]
    kill_when(command, lambda: len(list(work.glob("parts/en-de/set.*/counts.json"))) > 5)
    done = {path: path.stat().st_ino for path in work.glob("parts/en-de/set.0????/counts.json")}
    kill_when(command, lambda: list(work.glob("clean/en-de/*.gz*")))
    assert len(done) > 4 and all(path.stat().st_ino == number for path, number in done.items())
    assert not (text.parent / "clean").exists()
    done = clean(text, *options)
    assert files(text.parent / "clean") == files(text.parent / "whole")
    assert not work.exists() and "error" not in done.err


def test_other_rules_begin_anew(text):
    write_text(text, some_text(20_000))
    work = text.parent / "clean.work"
    command = [sys.executable, str(RECIPES / "clean.py"), "--text", str(text)]
    command += ["--output", str(text.parent / "clean")]
    kill_when(command, lambda: len(list(work.glob("parts/en-de/set.*"))) > 3)
    clean(text, "--max-words", 1)
    assert kept(text.parent / "clean") == Counter()


def test_a_part_that_is_damaged_is_named_and_the_rest_stays(text):
    write_text(text, some_text())
    part = text / "train" / "set" / "en-de" / "00003.tsv.gz"
    whole = part.read_bytes()
    part.write_bytes(whole[:-40])
    for workers in (1, 2):
        done = clean(text, "--workers", workers, fails=True)
        assert f"{part}: damaged compressed file" in done.error_line()
    part.write_bytes(whole)
    clean(text)
    assert sum(kept(text.parent / "clean").values()) > 3000


def test_language_identification_drops_what_is_another_language(text):
    pytest.importorskip("py3langid")
    good = (
        "The committee will meet again in the spring of next year.",
        "Der Ausschuss wird im Frühjahr des nächsten Jahres wieder tagen.",
    )
    wrong = (good[1], good[0])
    write_text(text, [[good, wrong, ("Yes", "Ja")]])
    clean(text, "--language-id")
    assert kept(text.parent / "clean") == Counter(["\t".join(good), "Yes\tJa"])


def test_romanian_gets_one_spelling_and_keeps_its_diacritics():
    assert normalise("Şi ţara  ÎN\u00adVĂŢĂ", "ro") == "Și țara ÎNVĂȚĂ"
    assert normalise("s\u0327i t\u0327ara", "ro") == "și țara"  # letter and combining cedilla
    assert normalise("Kadıköy'ün şehri", "tr") == "Kadıköy'ün şehri"
    assert normalise("a\u2028b\x00c\x85d", "en") == "a bc d"
