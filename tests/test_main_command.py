"""``fairseq-ffn``: its list of commands."""

from __future__ import annotations

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


def test_no_command_prints_the_list_of_commands(capsys):
    assert main([]) == 2
    assert "compare-latency" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"fairseq_ffn {fairseq_ffn.__version__}\n"
