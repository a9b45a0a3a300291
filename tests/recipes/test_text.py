"""Archives and texts of all forms, whole and damaged."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile

import pytest

from recipes.bench import files, program

HOST = "http://h.org"


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw" / "h.org"
    folder.mkdir(parents=True)
    return folder


def to_text(raw, where, *more, split="train", languages="en-de", **how):
    output = raw.parents[1] / "text" / split / "name"
    done = program(
        *("to_text.py", f"{HOST}/{where}", "--folder", raw.parent, "--split", split),
        *("--languages", languages, "--output", output, *more),
        **how,
    )
    return done, output


def tar(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def unpacked(output):
    return {
        name: gzip.decompress(data).decode()
        for name, data in files(output).items()
        if name.endswith(".gz")
    }


def test_two_files_become_parts_of_pairs(raw):
    (raw / "t.en.gz").write_bytes(gzip.compress(b"one\ntwo\tthree\nfour\n"))
    (raw / "t.de.gz").write_bytes(gzip.compress(b"eins\nzwei\x85drei\nvier\n"[:-1]))
    (raw / "t.de.gz").write_bytes(gzip.compress("eins\nzwei\u0085drei\nvier".encode()))
    _, output = to_text(raw, "t.{en,de}.gz", "--part-lines", 2)
    assert unpacked(output) == {
        "en-de/00000.tsv.gz": "one\teins\ntwo three\tzwei\u0085drei\n",
        "en-de/00001.tsv.gz": "four\tvier\n",
    }


@pytest.mark.parametrize("kind", ["tgz", "zip"])
def test_members_of_archives(raw, kind):
    members = {"d/x.en": b"a\n", "d/x.de": b"b\n", "../evil": b"c\n"}
    if kind == "tgz":
        tar(raw / "x.tgz", members)
    else:
        with zipfile.ZipFile(raw / "x.zip", "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
    _, output = to_text(raw, f"x.{kind}#d/x.{{en,de}}")
    assert unpacked(output) == {"en-de/00000.tsv.gz": "a\tb\n"}
    assert not (raw.parent / "evil").exists()  # nothing is unpacked
    done, _ = to_text(raw, f"x.{kind}#d/y.{{en,de}}", fails=True)
    assert "has no member d/y.en" in done.error_line()


def test_sgm_of_wmt(raw):
    for side, text in (("src", "A &amp; B"), ("ref", "„C“ &lt;D&gt;")):
        (raw / f"{side}.sgm").write_text(
            f'<srcset>\n<doc docid="1">\n<hl>\n<seg id="1"> {text} </seg>\n</hl>\n</doc>\n</srcset>'
        )
    _, output = to_text(raw, "{src,ref}.sgm", "--kind", "sgm", split="valid")
    assert files(output.parent) == {"name.en": b"A & B\n", "name.de": "„C“ <D>\n".encode()}


def test_several_languages_make_all_pairs(raw):
    for language in ("cs", "de", "en"):
        (raw / f"t.{language}").write_text(f"{language} 1\n{language} 2\n")
    _, output = to_text(raw, "t.{cs,de,en}", languages="cs-de-en")
    assert unpacked(output)["cs-en/00000.tsv.gz"] == "cs 1\ten 1\ncs 2\ten 2\n"
    assert len(unpacked(output)) == 3


def test_columns_of_one_file(raw):
    (raw / "t.tsv").write_text("a\tb\t0.9\nc\td\t0.8\n")
    _, output = to_text(raw, "t.tsv")
    assert unpacked(output) == {"en-de/00000.tsv.gz": "a\tb\nc\td\n"}
    (raw / "t.tsv").write_text("a\tb\nc\n")
    done, _ = to_text(raw, "t.tsv", "--part-lines", 7, fails=True)
    assert "t.tsv, line 2: 1 columns instead of 2" in done.error_line()


def test_sides_of_unequal_length_are_refused_with_both_lengths(raw):
    (raw / "t.en").write_text("1\n2\n3\n")
    (raw / "t.de").write_text("1\n")
    done, output = to_text(raw, "t.{en,de}", fails=True)
    assert f"{HOST}/t.de has 1 lines, but {HOST}/t.en has 3" in done.error_line()
    assert not output.exists() and not output.with_name("name.tmp").exists()


@pytest.mark.parametrize("how", ["cut", "garbage"])
def test_a_damaged_archive_is_named(raw, how):
    text = "".join(f"line {number}\n" for number in range(9999)).encode()
    whole = gzip.compress(text)
    damaged = whole[: len(whole) // 2] if how == "cut" else whole[:2000] + b"x" * 999 + whole[2999:]
    (raw / "t.en.gz").write_bytes(damaged)
    (raw / "t.de.gz").write_bytes(whole)
    done, output = to_text(raw, "t.{en,de}.gz", fails=True)
    assert "t.en.gz: damaged compressed file after line" in done.error_line()
    assert "run 01_download again" in done.error_line() and not output.exists()
    tar(raw / "t.tgz", {"t.en": text, "t.de": text})
    (raw / "t.tgz").write_bytes((raw / "t.tgz").read_bytes()[:-9000])
    done, _ = to_text(raw, "t.tgz#t.{en,de}", fails=True)
    assert "t.tgz: damaged archive" in done.error_line()


def test_text_that_is_not_utf8_is_named_with_its_line(raw):
    (raw / "t.en").write_bytes(b"ok\nna\xefve\n")
    (raw / "t.de").write_bytes(b"ok\nok\n")
    done, _ = to_text(raw, "t.{en,de}", fails=True)
    assert "t.en, line 2: not UTF-8" in done.error_line()


def test_a_set_may_not_have_empty_lines_or_be_empty(raw):
    (raw / "t.en").write_text("ok\n \n")
    (raw / "t.de").write_text("ok\nok\n")
    done, _ = to_text(raw, "t.{en,de}", split="test", fails=True)
    assert "name.en, line 2: empty" in done.error_line()
    for side in ("en", "de"):
        (raw / f"t.{side}").write_text("")
    assert "holds no line" in to_text(raw, "t.{en,de}", fails=True)[0].error_line()


def test_alternatives_have_to_fit_the_languages(raw):
    done, _ = to_text(raw, "t.{en,de,fr}", fails=True)
    assert "needs 2 alternatives" in done.error_line()
