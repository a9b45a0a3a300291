"""Misspelt names on fairseq's command line, before its parser answers with its whole usage."""

from __future__ import annotations

from pathlib import Path

import pytest

import fairseq_ffn
from fairseq_ffn.errors import UserError
from fairseq_ffn.misspelt import refuse_misspelt_names

PLUGIN = str(Path(fairseq_ffn.__file__).parent)
TRAIN = ("/usr/bin/fairseq-train", "data", "--user-dir", PLUGIN)


@pytest.mark.parametrize(
    "words, expected",
    [
        (
            ["--arch", "transformer_ffn_big_onewide"],
            "--arch 'transformer_ffn_big_onewide': no such name; did you mean "
            "transformer_ffn_big_one_wide or ",
        ),
        (["-a", "transfomer"], "--arch 'transfomer': no such name; did you mean transformer"),
        (["--arch=nonsense!"], "--arch 'nonsense!': no such name; fairseq-ffn archs lists ours"),
        (["--task", "translation_latancy"], "did you mean translation_latency or translation"),
        (
            ["--criterion", "label_smoothed_crossentropy_fused"],
            "did you mean label_smoothed_cross_entropy_fused or label_smoothed_cross_entropy",
        ),
        (
            ["--optimizer", "adam-fused"],
            "--optimizer 'adam-fused': no such name; did you",
        ),
        (["--lr-scheduler", "x"], "no such name; it isn't registered as lr_scheduler"),
    ],
)
def test_a_misspelt_name_is_one_line_with_what_comes_near(words, expected):
    with pytest.raises(UserError) as raised:
        refuse_misspelt_names([*TRAIN, *words])
    assert expected in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        TRAIN,
        [*TRAIN, "--arch", "transformer_ffn_tiny", "--task", "translation", "--lr", "1"],
        [*TRAIN, "--arch"],  # fairseq's parser says it
        ["fairseq-train", "--arch", "mine"],
        # of a plugin that imports this one, and isn't loaded yet
        ["fairseq-train", "--user-dir", "/some/plugin", "--arch", "mine"],
        ["fairseq-ffn", "archs", "--arch", "mine"],
        ["pytest", "--user-dir", PLUGIN, "--arch", "mine"],
    ],
)
def test_all_else_is_left_to_fairseq(argv, capsys):
    refuse_misspelt_names(argv)
    assert capsys.readouterr() == ("", "")
