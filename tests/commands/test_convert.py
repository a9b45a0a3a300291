"""fairseq-ffn convert on trained models, and fairseq-train from what it gives."""

from __future__ import annotations

import re
from typing import List

import pytest
from hostile_files import UNUSABLE

from commands.lab import ALL_SENTENCES, bleu, hypotheses, weights, words
from fairseq_ffn.cli.main import main

pytestmark = pytest.mark.slow

NEXT = words("--max-update 8 --log-interval 1")


def losses(output: str) -> List[float]:
    """Training loss by update."""
    return [float(found) for found in re.findall(r"train_inner \|.* loss=([\d.]+),", output)]


@pytest.mark.parametrize(
    "config, method, width", [("shared_enc_no_dec", "mean", 64), ("one_wide", "least-squares", 256)]
)
def test_training_goes_on_from_it(lab, tmp_path, config, method, width):
    start = tmp_path / "start.pt"
    options = ["--config", config, "--merge", method, "--output", start]
    if method == "least-squares":
        options += ["--data", lab.data(), "--sentences", 200]
    baseline = lab.trained("baseline") / "checkpoint_last.pt"
    said = lab.run("fairseq-ffn", "convert", baseline, *options)
    assert f"--finetune-from-model {start}" in said.err
    assert weights(start)["encoder.layers.0.fc1.weight"].shape == (width, 32)
    # the converted model is one that fairseq-generate takes
    assert hypotheses(lab.generate(start, "--beam", 2).out)
    arch = f"transformer_ffn_tiny_{config}"
    more = [*NEXT, "--encoder-ffn-embed-dim", width]
    go_on = ["--finetune-from-model", start]
    begun = lab.train(tmp_path / "from_it", arch, *more, *go_on).out
    scratch = lab.train(tmp_path / "scratch", arch, *more).out
    assert losses(begun)[0] < losses(scratch)[0] - 0.5


def test_the_command_line_that_it_suggests(lab, tmp_path):
    start = tmp_path / "start.pt"
    layouts = ["--encoder-ffn-layout=-,a", "--decoder-ffn-layout", "shared"]
    baseline = lab.trained("baseline") / "checkpoint_last.pt"
    said = lab.run(
        "fairseq-ffn", "convert", baseline, *layouts, "--merge", "concatenate", "--output", start
    ).err
    flags = re.search(r"--arch transformer_ffn \.\.\. (.*)", said).group(1).split()
    assert "--decoder-ffn-embed-dim" in flags and "128" in flags
    norms = words("--encoder-normalize-before --decoder-normalize-before")
    lab.train(tmp_path / "on", "transformer_ffn", *norms, *flags, *words("--max-update 1"))


def test_same_function_from_stock_fairseq(lab, tmp_path):
    """A layout that shares nothing changes nothing."""
    stock = lab.trained("stock_post_norm") / "checkpoint_last.pt"
    layout = ["--encoder-ffn-layout", "a,b", "--output", tmp_path / "a.pt"]
    lab.run("fairseq-ffn", "convert", stock, *layout)
    found = lab.generate(tmp_path / "a.pt", "--beam", 4).out
    expected = lab.generated("stock_post_norm")
    assert hypotheses(found) == hypotheses(expected) and bleu(found) == bleu(expected)
    assert ALL_SENTENCES  # of both


def fails(capsys, *arguments: object) -> str:
    assert main(["convert", *map(str, arguments)]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("fairseq-ffn convert: error: ")
    return lines[-1]


class TestErrors:
    @pytest.mark.parametrize("kind", ["empty", "cut in half", "text", "no settings"])
    def test_unusable_files(self, kind, tmp_path, capsys):
        write, part = UNUSABLE[kind]
        write(tmp_path / "bad.pt")
        options = ["--config", "one_wide", "--output", tmp_path / "out.pt"]
        assert part in fails(capsys, tmp_path / "bad.pt", *options)
        assert not list(tmp_path.glob("out*"))

    @pytest.mark.parametrize(
        "options, part",
        [
            ([], "nothing to convert"),
            (["--config", "one_wide", "--merge", "least-squares"], "add --data DIR"),
            (["--encoder-ffn-layout", "tied"], "both stacks must say so"),
            (["--encoder-ffn-layout", "a,b,c"], "names 3 layers, but the stack has 2"),
            (["--encoder-ffn-embed-dim", "10"], "--encoder-ffn-embed-dim 10: FFN of encoder"),
        ],
    )
    def test_flags(self, lab, options, part, tmp_path, capsys):
        checkpoint = lab.trained("baseline") / "checkpoint_last.pt"
        assert part in fails(capsys, checkpoint, "--output", tmp_path / "out.pt", *options)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("text", ["-1", "x", str(2**32)])
    def test_a_seed_that_isnt(self, text, capsys):
        with pytest.raises(SystemExit):
            main(["convert", "a.pt", "--output", "b.pt", "--config", "one_wide", f"--seed={text}"])
        line = capsys.readouterr().err.splitlines()[-1]
        assert f"'{text}' is not a whole number from 0 to 2^32 - 1" in line

    def test_output(self, lab, tmp_path, capsys):
        checkpoint = tmp_path / "a.pt"
        checkpoint.touch()
        for output, part in (
            (tmp_path, "is a directory"),
            (checkpoint, "is the checkpoint itself"),
            (tmp_path / "none" / "x.pt", "its directory doesn't exist"),
        ):
            options = ["--config", "one_wide", "--output", output]
            assert part in fails(capsys, checkpoint, *options)

    def test_a_set_that_isnt_there(self, lab, tmp_path):
        checkpoint = lab.trained("baseline") / "checkpoint_last.pt"
        options = ["--config", "one_wide", "--merge", "least-squares", "--data", lab.data()]
        where = ["--subset", "none", "--output", tmp_path / "out.pt"]
        line = lab.run(
            "fairseq-ffn", "convert", checkpoint, *options, *where, fails=True
        ).error_line()
        assert "none" in line
