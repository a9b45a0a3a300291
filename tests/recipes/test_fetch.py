"""Downloads: broken off, refused, damaged, replaced, without room."""

from __future__ import annotations

import hashlib
import random
import resource

import pytest

from recipes.bench import Done, Server, program

URL = "https://data.example.org/wmt/set.tgz"
PATH = "/data.example.org/wmt/set.tgz"
BODY = random.Random(1).randbytes(3_000_000)


@pytest.fixture
def raw(tmp_path):
    return tmp_path / "raw"


def serve(server: Server, data: bytes = BODY, path: str = PATH) -> None:
    target = server.folder / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)


def fetch(raw, server, *more, url=URL, **how) -> Done:
    return program(
        "fetch.py", url, "--folder", raw, "--mirror", server.url, "--pause", 0, *more, **how
    )


def there(raw):
    return raw / "data.example.org" / "wmt" / "set.tgz"


def left_over(raw):
    return [path.name for path in raw.rglob("*") if path.is_file() and ".part" in path.name]


def test_a_download_that_breaks_off_goes_on_where_it_was(raw, server):
    serve(server)
    server.cut[PATH] = 1_000_000
    fetch(raw, server)
    assert there(raw).read_bytes() == BODY and left_over(raw) == []
    assert server.asked(PATH) == [None, "bytes=1000000-"]


def test_a_killed_download_goes_on_in_the_next_call(raw, server):
    serve(server)
    server.cut[PATH] = 1_000_000
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))  # noqa: E731
    full = fetch(raw, server, fails=True, preexec_fn=limit)
    assert "File too large; make room" in full.error_line()
    assert not there(raw).exists()
    fetch(raw, server)
    assert there(raw).read_bytes() == BODY and left_over(raw) == []
    assert server.asked(PATH)[-1] == "bytes=500000-"


def test_a_file_that_changed_meanwhile_is_downloaded_anew(raw, server):
    serve(server)
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))  # noqa: E731
    fetch(raw, server, fails=True, preexec_fn=limit)
    other = BODY[::-1]
    serve(server, other)
    fetch(raw, server)
    assert there(raw).read_bytes() == other


def test_a_server_without_ranges_sends_all_again(raw, server):
    serve(server)
    server.ranges = False
    server.cut[PATH] = 1_000_000
    fetch(raw, server)
    assert there(raw).read_bytes() == BODY


def test_a_connection_that_breaks_without_progress_is_given_up(raw, server):
    serve(server, b"")
    (server.folder / PATH.lstrip("/")).unlink()
    missing = fetch(raw, server, fails=True)
    assert "404" in missing.error_line() and "--mirror" in missing.error_line()
    gone = program(
        *("fetch.py", URL, "--folder", raw, "--pause", 0, "--mirror", "http://127.0.0.1:9"),
        fails=True,
    )
    assert "5 times without progress" in gone.error_line()
    assert not there(raw).exists()


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_a_sum_that_its_publisher_states_has_to_be_right(tmp_path, raw, server, kind):
    known = tmp_path / "known"
    right = hashlib.new(kind, BODY).hexdigest()
    known.write_text(f"# of the publisher\n{kind}:{right} {URL}\n")
    serve(server, BODY[:-1] + b"x")
    wrong = fetch(raw, server, "--known", known, fails=True)
    assert f"isn't its publisher's, {right}" in wrong.error_line()
    assert not there(raw).exists() and left_over(raw) == []
    serve(server)
    fetch(raw, server, "--known", known)
    assert there(raw).read_bytes() == BODY


def test_without_a_known_sum_the_first_download_is_trusted_and_later_ones_are_not(raw, server):
    serve(server)
    fetch(raw, server)
    sums = (raw / "checksums.sha256").read_text()
    assert sums == f"{hashlib.sha256(BODY).hexdigest()}  data.example.org/wmt/set.tgz\n"
    there(raw).unlink()
    serve(server, b"other")
    assert "isn't that of the first download" in fetch(raw, server, fails=True).error_line()
    assert not there(raw).exists()
    there(raw).write_bytes(b"altered on disk")
    assert f"delete {there(raw)}" in fetch(raw, server, fails=True).error_line()


@pytest.mark.parametrize("name", ["set.tgz", "data.example.org/wmt/set.tgz"])
def test_files_at_hand_are_taken_by_name_or_by_path(tmp_path, raw, server, name):
    path = tmp_path / "hand" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)
    fetch(raw, server, "--raw-dir", tmp_path / "hand")
    assert there(raw).read_bytes() == BODY and server.requests == []
    fetch(raw, server)  # verified, not fetched
    assert server.requests == []


@pytest.mark.parametrize(
    "url", ["https://h/a/../../b", "https://h/%2e%2e/%2e%2e/x", "ftp://h/a", "https://h/"]
)
def test_an_address_can_not_lead_out_of_the_folder(raw, server, url):
    assert "not" in fetch(raw, server, url=url, fails=True).error_line()


def test_braces_and_members_name_the_files_to_fetch(raw, server):
    for side in ("en", "de"):
        serve(server, side.encode(), f"/h.org/t.{side}.gz")
    fetch(raw, server, url="http://h.org/t.{en,de}.gz#whatever")
    assert sorted(path.name for path in (raw / "h.org").iterdir()) == ["t.de.gz", "t.en.gz"]
