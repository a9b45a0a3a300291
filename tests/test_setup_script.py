"""scripts/setup.sh: what it says when it can't work, and that it is quick when it is done.

Installing itself is what continuous integration begins with.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def set_up(*arguments: str, script: str = "setup", **variables: str) -> subprocess.CompletedProcess:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return subprocess.run(
        ["bash", str(REPOSITORY / "scripts" / f"{script}.sh"), *arguments],
        env={**kept, **variables},
        capture_output=True,
        text=True,
    )


def interpreter(folder: Path, body: str = "exit 0") -> Path:
    """A stand-in for Python that can import whatever it is asked to."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    "variables, expected",
    [
        (
            {"FAIRSEQ_FFN_PYTHON": "/no/python"},
            "FAIRSEQ_FFN_PYTHON=/no/python: no such interpreter",
        ),
        ({"FAIRSEQ_FFN_PYTHON": "false"}, "can't import fairseq"),
    ],
)
def test_an_own_interpreter_that_does_not_do(variables, expected):
    done = set_up(**variables)
    assert done.returncode == 1
    assert expected in done.stderr and len(done.stderr.splitlines()) == 1


def test_an_own_environment_without_the_commands_is_refused_before_any_work(tmp_path):
    python = interpreter(tmp_path)
    for command in ("fairseq-preprocess", "fairseq-train", "fairseq-generate", "fairseq-ffn"):
        done = set_up(FAIRSEQ_FFN_PYTHON=str(python))
        assert done.returncode == 1
        assert f"there is no {command} beside {python}" in done.stderr
        interpreter(tmp_path).rename(tmp_path / command)
        interpreter(tmp_path)
    done = set_up(FAIRSEQ_FFN_PYTHON=str(python))
    assert done.returncode == 0 and "using the existing environment" in done.stderr


def test_an_own_environment_without_the_test_tools(tmp_path):
    # it imports everything but them
    python = interpreter(tmp_path, 'case "$2" in *hypothesis*) exit 1 ;; esac')
    for command in ("fairseq-preprocess", "fairseq-train", "fairseq-generate", "fairseq-ffn"):
        interpreter(tmp_path / "bin").rename(tmp_path / command)
    assert set_up(FAIRSEQ_FFN_PYTHON=str(python)).returncode == 0
    done = set_up("--test", FAIRSEQ_FFN_PYTHON=str(python))
    assert done.returncode == 1 and "lacks the test tools" in done.stderr


def test_an_old_python_is_refused_before_anything_is_installed(tmp_path):
    old = interpreter(tmp_path, 'case "$1" in -V) echo Python 3.9.2 ;; *) exit 1 ;; esac')
    venv = tmp_path / "venv"
    done = set_up(FAIRSEQ_FFN_BASE_PYTHON=str(old), FAIRSEQ_FFN_VENV=str(venv))
    assert done.returncode == 1
    assert f"{old} is Python 3.9.2, but the pinned packages need 3.11" in done.stderr
    assert not venv.exists()


def test_a_failed_installation_is_not_taken_for_a_finished_one(tmp_path):
    """pip fails; the next call tries again instead of skipping."""
    venv = tmp_path / "venv"
    interpreter(venv / "bin", 'case "$1$2" in -mpip) echo no network >&2; exit 1 ;; esac')
    for _ in range(2):
        done = set_up(FAIRSEQ_FFN_BASE_PYTHON=sys.executable, FAIRSEQ_FFN_VENV=str(venv))
        assert done.returncode == 1
        assert "no network" in done.stderr and "pip install" in done.stderr
    assert not (venv / "fairseq-ffn-setup").exists()


def test_a_second_call_installs_nothing_and_another_torch_does(tmp_path):
    venv = tmp_path / "venv"
    pip = venv / "pip.log"
    interpreter(venv / "bin", f'case "$1$2" in -mpip) echo "$@" >>{pip} ;; esac')
    variables = {"FAIRSEQ_FFN_BASE_PYTHON": sys.executable, "FAIRSEQ_FFN_VENV": str(venv)}
    assert set_up(**variables).returncode == 0
    installed = pip.read_text()
    assert "torch==2.13.0" in installed and "--no-build-isolation" in installed
    done = set_up(**variables)
    assert done.returncode == 0 and done.stderr == "" and pip.read_text() == installed
    done = set_up(
        **variables, FAIRSEQ_FFN_TORCH="torch==2.6.0", FAIRSEQ_FFN_TORCH_INDEX="https://x"
    )
    assert done.returncode == 0
    assert "--index-url https://x torch==2.6.0" in pip.read_text()[len(installed) :]


def test_help_and_unknown_options():
    done = set_up("--help")
    assert done.returncode == 0 and "FAIRSEQ_FFN_TORCH_INDEX" in done.stdout
    done = set_up("--bogus")
    assert done.returncode == 2 and "unknown option --bogus" in done.stderr


def test_the_quick_starts_help_needs_no_set_up(tmp_path):
    venv = tmp_path / "venv"
    done = set_up("--help", script="quickstart", FAIRSEQ_FFN_VENV=str(venv))
    assert done.returncode == 0 and "--minutes 60" in done.stdout and not venv.exists()
