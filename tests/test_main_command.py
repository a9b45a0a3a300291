"""``fairseq-ffn``: its list of commands."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
