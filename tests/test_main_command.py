"""``fairseq-ffn``: its list of commands."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import fairseq_ffn
from fairseq_ffn.cli.main import COMMANDS, build_parser, main


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: fairseq-ffn {command}" in text and len(text.splitlines()) > 10


def test_help_lists_the_commands_with_what_they_do():
    text = " ".join(build_parser(()).format_help().split())
    assert all(f"{name} {what}" in text for name, (_, what) in COMMANDS.items())


def test_only_the_command_that_is_asked_for_is_imported():
    script = (
        "import sys; from fairseq_ffn.cli.main import build_parser; build_parser(['archs']); "
        "print(*(name for name in sys.modules if name.startswith('fairseq_ffn.cli.')))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "fairseq_ffn.cli.archs" in found.stdout.split(), found.stderr
    assert not {"fairseq_ffn.cli.report", "fairseq_ffn.cli.score"} & set(found.stdout.split())


def test_an_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["analyse"])
    assert stopped.value.code == 2 and "invalid choice: 'analyse'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        ("archs --no-such-flag", "archs [-h]"),
        ("average --inputs a.pt --output b.pt --no-such-flag", "average [-h] --inputs"),
        (
            "analyze geometry a.pt --data b --output c --no-such-flag",
            "analyze geometry [-h] --data",
        ),
    ],
)
def test_an_unknown_flag_comes_with_the_usage_of_its_command(capsys, command, usage):
    with pytest.raises(SystemExit) as stopped:
        main(command.split())
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.startswith(f"usage: fairseq-ffn {usage}")
    assert said.splitlines()[-1].endswith("error: unrecognized arguments: --no-such-flag")


class TestErrorsOfTheSystem:
    """One line names the file and the cure, whatever the command was about to do."""

    def said(self, capsys, *arguments) -> str:
        status = main([str(word) for word in arguments])
        captured = capsys.readouterr()
        assert status == 1 and captured.out == ""
        assert captured.err.count("error: ") == 1 and "Errno" not in captured.err
        return captured.err.splitlines()[-1]

    @pytest.fixture
    def run(self, tmp_path):
        folder = tmp_path / "run"
        folder.mkdir()
        for name in ("hypothesis.txt", "reference.txt"):
            (folder / name).write_text("one line\n")
        return folder

    def test_a_record_that_is_not_there(self, run, tmp_path, capsys):
        missing = tmp_path / "sweep.json"
        arguments = ("report", run, "--output", tmp_path / "out", "--latency-sweep", missing)
        assert self.said(capsys, *arguments) == (
            f"fairseq-ffn report: error: {missing}: no such file or directory; check the path"
        )

    def test_a_folder_in_place_of_a_file(self, run, capsys):
        (run / "reference.txt").unlink()
        folder = run / "reference.de.txt"
        folder.mkdir()
        assert self.said(capsys, "score", run) == (
            f"fairseq-ffn score: error: {folder}: is a directory; name a file"
        )

    def test_a_file_in_place_of_a_folder(self, run, tmp_path, capsys):
        file = tmp_path / "out"
        file.write_text("")
        assert self.said(capsys, "report", run, "--output", file, "--no-plots") == (
            f"fairseq-ffn report: error: {file}/plots: a part of this path is a file, not a "
            "directory; check the path"
        )

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_file_that_may_not_be_read(self, run, capsys):
        (run / "reference.txt").chmod(0)
        line = self.said(capsys, "score", run)
        assert f"{run / 'reference.txt'}: permission denied; use another path, or get the" in line

    def test_one_without_a_file(self, run, capsys, monkeypatch):
        def offline(*unused):
            raise ConnectionRefusedError(111, "Connection refused")

        monkeypatch.setattr("fairseq_ffn.cli.score.run", offline)
        assert self.said(capsys, "score", run) == "fairseq-ffn score: error: Connection refused"


def test_no_command_prints_the_list_of_commands(capsys):
    assert main([]) == 2
    assert "compare-latency" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"fairseq_ffn {fairseq_ffn.__version__}\n"
