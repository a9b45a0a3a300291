"""Text files are written whole or not at all."""

from __future__ import annotations

import os

import pytest

from fairseq_ffn.files import write_text


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch, error):
    path = tmp_path / "report.md"
    write_text(path, "before\n")

    def fail(*unused):
        raise error

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(type(error)):
        write_text(path, "after\n")
    assert path.read_text() == "before\n" and list(tmp_path.iterdir()) == [path]


def test_a_written_file_has_unix_lines(tmp_path):
    write_text(tmp_path / "a", "ü\nb\n")
    assert (tmp_path / "a").read_bytes() == b"\xc3\xbc\nb\n"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]
