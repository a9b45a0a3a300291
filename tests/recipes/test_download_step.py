"""01_download through its command line, from a server of the real names, with all faults."""

from __future__ import annotations

import sys

import pytest

from recipes.bench import RECIPES, Done, Server, files, step

sys.path.insert(0, str(RECIPES))
from mini_mirror import OPUS, TATOEBA, Mirror, sgm, sides, text  # noqa: E402

WMT16 = "data.statmt.org/wmt16/translation-task"
EUROPARL = f"{WMT16}/training-parallel-ep-v8.tgz"
SETIMES = f"{OPUS}/OPUS-SETIMES/v2/moses/en-ro.txt.zip"
DEV, TEST = f"{WMT16}/dev.tgz", f"{WMT16}/test.tgz"


@pytest.fixture
def lines():
    """Sentences of two languages; no test looks at which."""
    return [side[:600] for side in sides(TATOEBA / "train", ("en", "de"))]


def serve(server: Server, lines, *names: str, shorter: int = 0) -> None:
    """Files of WMT16 under their real names; Europarl's second side can be shorter."""
    en, ro = lines
    mirror = Mirror(server.folder)
    if EUROPARL in names:
        where = "training-parallel-ep-v8/europarl-v8.ro-en"
        short = ro[: len(ro) - shorter]
        mirror.tar(EUROPARL, {f"{where}.en": text(en), f"{where}.ro": text(short)})
    if SETIMES in names:
        mirror.zip(SETIMES, {"SETIMES.en-ro.en": text(en), "SETIMES.en-ro.ro": text(ro)})
    for name, archive in (("dev/newsdev2016", DEV), ("test/newstest2016", TEST)):
        if archive in names:
            members = {
                f"{name}-enro-src.en.sgm": sgm(en[:40], "srcset"),
                f"{name}-enro-ref.ro.sgm": sgm(ro[:40], "refset"),
            }
            mirror.tar(archive, members)


def failed(done: Done, program: str) -> str:
    """The one line of the program that failed; the step adds how to go on."""
    assert done.status == 1 and "Traceback" not in done.err, done.err
    errors = [line for line in done.err.splitlines() if ": error: " in line]
    assert len(errors) == 2 or errors[0].startswith(program), done.err
    assert f"error: {program}.py failed" in done.err and "goes on from there" in done.err
    return next(line for line in errors if line.startswith(f"{program}: error: "))


def test_every_fault_of_a_server_is_one_line_and_the_same_command_goes_on(tmp_path, server, lines):
    work = tmp_path / "work"
    raw = work / "raw"
    options = ("--mini", "--work", work, "--mirror", server.url)

    def download(**how) -> Done:
        assert not (work / "stamps" / "01_download").exists()
        return step("wmt16_en_ro", "01_download", *options, **how)

    # broken off in the middle; the next file isn't there
    serve(server, lines, EUROPARL, DEV, TEST, shorter=2)
    server.cut[f"/{EUROPARL}"] = 9_000
    line = failed(download(fails=True), "fetch")
    assert f"{SETIMES}: the server says 404" in line and "--mirror" in line
    assert server.asked(f"/{EUROPARL}") == [None, "bytes=9000-"]

    # sides of unequal length
    serve(server, lines, SETIMES)
    line = failed(download(fails=True), "to_text")
    assert "europarl-v8.ro-en.ro has 598 lines, but" in line and "has 600" in line
    assert server.asked(f"/{EUROPARL}") == [None, "bytes=9000-"]  # not asked for again

    # another file under a name whose sum is known from the first download
    serve(server, lines, EUROPARL)
    (raw / EUROPARL).unlink()
    line = failed(download(fails=True), "fetch")
    assert "isn't that of the first download" in line and "delete its line" in line
    assert not (raw / EUROPARL).exists()
    sums = raw / "checksums.sha256"
    kept = [line for line in sums.read_text().splitlines() if EUROPARL not in line]
    sums.write_text("".join(f"{line}\n" for line in kept))

    # a damaged archive of the right name
    whole = (server.folder / DEV).read_bytes()
    (raw / DEV).write_bytes(whole[:-300])
    kept = [line for line in sums.read_text().splitlines() if DEV not in line]
    sums.write_text("".join(f"{line}\n" for line in kept))
    line = failed(download(fails=True), "to_text")
    assert f"{raw / DEV}: damaged archive" in line or "dev.tgz: damaged" in line

    (raw / DEV).unlink()
    kept = [line for line in sums.read_text().splitlines() if DEV not in line]
    sums.write_text("".join(f"{line}\n" for line in kept))
    assert "done; next: bash" in download().err
    made = files(work / "text")
    assert made["test/newstest2016.en"].decode().splitlines() == lines[0][:40]
    assert {name.split("/")[1] for name in made if name.startswith("train/")} == {
        *("europarl-v8", "setimes2"),
    }
    assert not [name for name in files(work) if name.endswith((".part", ".tmp", ".etag"))]


def test_a_sum_that_sacrebleu_states_has_to_be_right(tmp_path, server, lines):
    """Without --mini: the small file isn't WMT's."""
    serve(server, lines, EUROPARL, SETIMES, DEV, TEST)
    options = ("--work", tmp_path / "work", "--mirror", server.url)
    line = failed(step("wmt16_en_ro", "01_download", *options, fails=True), "fetch")
    assert f"{DEV}: md5 " in line and "isn't its publisher's" in line
    assert not (tmp_path / "work" / "raw" / DEV).exists()
    assert not (tmp_path / "work" / "text").exists()
