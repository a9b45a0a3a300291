"""A forked command is what a fresh process is: same output, same exit status, same root logger."""

from __future__ import annotations

import re

import pytest

from commands.lab import ALL_SENTENCES, INSTALLED, MODELS, words

#: said when fairseq is imported, which a fork needn't do
IMPORT_SAYS = "Please install tensorboardX"


def essence(text: str) -> list:
    """Results, lines of the log and the error, without times; Python's warnings show the caller."""
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME", text)
    text = re.sub(r"in \d+\.\ds \(.* sentences/s, .* tokens/s\)", "in SECONDS", text)
    lines = re.findall(r"^(?:TIME \| |[A-Z]-\d+\t|Generate |[\w-]+: error: ).*", text, re.MULTILINE)
    return [line for line in lines if IMPORT_SAYS not in line]


@pytest.mark.parametrize("command", ["fairseq-generate", "fairseq-train"])
def test_same_as_a_fresh_process(lab, tmp_path, command):
    """One command that succeeds, and one that fails."""
    trained = lab.trained("baseline") / "checkpoint_last.pt"
    arguments = [lab.data(), "--user-dir", INSTALLED, "--path", trained, *ALL_SENTENCES]
    if command == "fairseq-train":
        arguments = lab.training(tmp_path, *MODELS["baseline"], "--restore-file", tmp_path / "no")
    fails = command == "fairseq-train"
    fresh, forked = (
        lab.run(command, *arguments, env=env, fails=fails) for env in ({"FRESH": "1"}, {})
    )
    assert forked.status == fresh.status == int(fails)
    assert essence(forked.out) == essence(fresh.out) and essence(forked.err) == essence(fresh.err)
    assert forked.error_line() if fails else forked.out


def test_arguments_folder_and_input_are_its_own(lab, tmp_path):
    with pytest.raises(AssertionError, match="unrecognized arguments: --no-such-flag"):
        lab.run("fairseq-ffn", "archs", "--no-such-flag", cwd=tmp_path)
    (tmp_path / "system").write_text("a b c\n")
    score = lab.run("fairseq-score", *words("--sys - --ref system"), cwd=tmp_path, stdin="a b c\n")
    assert "BLEU4 = " in score.out and lab.run("fairseq-ffn", "archs", "--help").err == ""
