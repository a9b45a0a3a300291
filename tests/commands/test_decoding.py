"""fairseq-generate, -interactive, -score, -validate and fairseq-ffn average on trained models."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fairseq import checkpoint_utils

from commands.lab import (
    ALL_SENTENCES,
    INSTALLED,
    PRE_NORM,
    REPOSITORY,
    SAVE_EVERY,
    UPDATES,
    bleu,
    hypotheses,
    result_lines,
    scores,
    weights,
    words,
)

pytestmark = pytest.mark.slow

#: writes down which files of the plugin a process has imported
WITNESS = """
import atexit, os, sys
def write():
    names = [name for name in sys.modules if name.split(".")[0] == "fairseq_ffn"]
    with open(os.environ["FFN_WITNESS"], "w") as file:
        file.writelines(sys.modules[name].__file__ + "\\n" for name in names)
atexit.register(write)
"""


def source_checkout(lab) -> Path:
    """A copy of the sources in another place, not installed."""

    def make(folder: Path) -> None:
        for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(REPOSITORY / name, folder)
        no_bytecode = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / "fairseq_ffn", folder / "fairseq_ffn", ignore=no_bytecode)

    return lab.once("checkout", make)


def wheel(lab) -> Path:
    """A folder into which the wheel was installed."""

    def make(folder: Path) -> None:
        shutil.copytree(source_checkout(lab), folder / "source")
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        offline = ["--no-deps", "--no-index"]
        for arguments in (
            ["wheel", *offline, "--no-build-isolation", "-w", folder / "dist", folder / "source"],
            ["install", *offline, "--target", folder / "target", "fairseq-ffn", "--find-links"]
            + [folder / "dist"],
        ):
            subprocess.run([*pip, *map(str, arguments)], check=True, timeout=300)
        shutil.rmtree(folder / "source")

    return lab.once("wheel", make) / "target"


def installation(lab, kind: str):
    """Path for --user-dir, and the environment it takes."""
    if kind == "installed":
        return INSTALLED, {}
    if kind == "source checkout":
        return source_checkout(lab) / "fairseq_ffn", {}
    return wheel(lab) / "fairseq_ffn", {"PYTHONPATH": str(wheel(lab))}


@pytest.mark.parametrize("kind", ["installed", "source checkout", "wheel"])
def test_every_installation_gives_the_same_translations(lab, tmp_path, kind):
    user_dir, env = installation(lab, kind)
    (tmp_path / "sitecustomize.py").write_text(WITNESS)
    paths = [path for path in (str(tmp_path), env.get("PYTHONPATH")) if path]
    env = {"PYTHONPATH": os.pathsep.join(paths), "FFN_WITNESS": str(tmp_path / "witness")}
    checkpoint = lab.trained("one_wide") / "checkpoint_last.pt"
    out = lab.generate(checkpoint, "--beam", 4, user_dir=user_dir, env=env, cwd=tmp_path).out
    imported = (tmp_path / "witness").read_text().split()
    assert len(imported) > 9 and all(Path(path).is_relative_to(user_dir) for path in imported)
    assert result_lines(out) == result_lines(lab.generated("one_wide", "float32"))
    assert len(hypotheses(out)) == 30


@pytest.mark.parametrize("kind", ["source checkout", "wheel"])
def test_every_installation_trains_and_translates_interactively(lab, tmp_path, kind):
    """The same weights and the same translations as with the editable install."""
    user_dir, env = installation(lab, kind)
    few = words("--max-update 3 --disable-validation")
    for folder, plugin, more in (
        (tmp_path / "installed", INSTALLED, {}),
        (tmp_path / "other", user_dir, env),
    ):
        arguments = lab.training(folder, "transformer_ffn_tiny_one_wide", *few, user_dir=False)
        lab.run("fairseq-train", *arguments, "--user-dir", plugin, env=more, cwd=tmp_path)
    one, other = (
        weights(tmp_path / name / "checkpoint_last.pt") for name in ("installed", "other")
    )
    assert list(one) == list(other)
    assert all(torch.equal(one[key], other[key]) for key in one)

    model = ["--path", lab.trained("one_wide") / "checkpoint_last.pt", "--user-dir", user_dir]
    stdin = "w1 w2 w3 w4\nw5 w6 w7\n"
    results = [
        lab.run("fairseq-interactive", lab.data(), *model, stdin=stdin, env=env, cwd=tmp_path).out,
        lab.run("fairseq-interactive", lab.data(), *model[:3], INSTALLED, stdin=stdin).out,
    ]
    assert len(hypotheses(results[0])) == 2
    assert result_lines(results[0]) == result_lines(results[1])


@pytest.mark.parametrize("norm", ["", "_post_norm"])
def test_baseline_translates_as_stock_fairseq(lab, norm):
    """Hypotheses, their scores and the scores of each token, trained and decoded in either."""
    ours, stock = lab.generated(f"baseline{norm}"), lab.generated(f"stock{norm}")
    assert result_lines(ours) == result_lines(stock) and bleu(ours) == bleu(stock)
    # not the same few words over and over
    assert len({word for text in hypotheses(ours).values() for word in text.split()}) >= 10


@pytest.mark.parametrize("name", ["baseline", "one_wide", "shared_enc_no_dec_post_norm"])
def test_the_fast_path_translates_as_fairseqs_own(lab, name):
    plain, fast = lab.generated(name), lab.generated(name, "float32")
    assert hypotheses(fast) == hypotheses(plain) and bleu(fast) == bleu(plain)
    before = scores(plain)
    assert scores(fast) == {number: pytest.approx(before[number], abs=1e-4) for number in before}


def test_a_stock_checkpoint_starts_our_baseline(lab, tmp_path):
    """And with no update but one of learning rate 0 it's still the same model."""
    stock = lab.trained("stock") / "checkpoint_last.pt"
    still = words("--lr 0 --lr-scheduler fixed --max-update 1 --disable-validation")
    arguments = [*still, "--finetune-from-model", stock]
    lab.train(tmp_path, "transformer_ffn_tiny_baseline", *arguments)
    before, after = weights(stock), weights(tmp_path / "checkpoint_last.pt")
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_our_checkpoint_starts_stock_fairseq(lab, tmp_path):
    """Without our plugin, and still the same model.

    Stock fairseq loads no checkpoint at all with PyTorch 2.6 and later; the plugin made here
    allows what every checkpoint of fairseq holds, and nothing else.
    """
    allowing = tmp_path / "allowing"
    allowing.mkdir()
    (allowing / "__init__.py").write_text(
        "import argparse, torch\ntorch.serialization.add_safe_globals([argparse.Namespace])\n"
    )
    ours = lab.trained("baseline") / "checkpoint_last.pt"
    still = words("--lr 0 --lr-scheduler fixed --max-update 1 --disable-validation")
    arguments = [*PRE_NORM, *still, "--finetune-from-model", ours, "--user-dir", allowing]
    lab.train(tmp_path, "transformer", *arguments, user_dir=False)
    before, after = weights(ours), weights(tmp_path / "checkpoint_last.pt")
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    out = lab.generate(tmp_path / "checkpoint_last.pt", "--beam", 4, user_dir=allowing).out
    assert result_lines(out) == result_lines(lab.generated("baseline"))


def test_score_repeats_the_bleu_of_generate(lab, tmp_path):
    out = lab.generated("one_wide")
    references = dict(re.findall(r"^T-(\d+)\t(.*)$", out, re.MULTILINE))
    texts = hypotheses(out)
    for name, lines in (("sys", texts), ("ref", {int(n): t for n, t in references.items()})):
        content = "".join(f"{lines[number]}\n" for number in sorted(lines))
        (tmp_path / name).write_text(content)
    files = ["--sys", tmp_path / "sys", "--ref", tmp_path / "ref"]
    assert bleu(lab.run("fairseq-score", *files).out) == bleu(out)
    assert float(bleu(out).split(",")[0]) > 1


def test_interactive_translates_standard_input_as_generate_does(lab):
    out = lab.generated("one_wide")
    sources = dict(re.findall(r"^S-(\d+)\t(.*)$", out, re.MULTILINE))
    stdin = "".join(f"{sources[str(number)]}\n" for number in range(len(sources)))
    model = ["--path", lab.trained("one_wide") / "checkpoint_last.pt", "--user-dir", INSTALLED]
    result = lab.run("fairseq-interactive", lab.data(), *model, "--beam", 4, stdin=stdin)
    assert hypotheses(result.out) == hypotheses(out)


def test_greedy_search_and_overrides(lab):
    """An override of the model's settings arrives in the model, here with shared modules."""
    checkpoint = lab.trained("one_wide") / "checkpoint_last.pt"
    overrides = ["--model-overrides", "{'max_source_positions': 8}"]
    skip = "--skip-invalid-size-inputs-valid-test"
    out = lab.generate(checkpoint, "--beam", 1, *overrides, skip).out
    lengths = [len(text.split()) for text in re.findall(r"^S-\d+\t(.*)$", out, re.MULTILINE)]
    assert max(lengths) == 7 and 0 < len(lengths) < 30  # and the end of sentence
    beam = hypotheses(lab.generated("one_wide"))
    greedy = hypotheses(out)
    assert greedy != {number: beam[number] for number in greedy}


def test_validate_repeats_the_loss_of_training(lab):
    folder = lab.trained("one_wide")
    model = ["--path", folder / "checkpoint_last.pt", "--user-dir", INSTALLED]
    other = words("--task translation --valid-subset valid --batch-size 44 --log-format simple")
    log = lab.run("fairseq-validate", lab.data(), *model, *other, *ALL_SENTENCES).out
    trained = re.findall(
        r"\| valid \|.*? loss (\S+) .*num_updates (\d+)", (folder / "log").read_text()
    )
    assert int(trained[-1][1]) == UPDATES
    assert re.findall(r" loss (\S+) ", log)[-1] == trained[-1][0]


class TestAverage:
    def averaged(self, lab) -> Path:
        """The mean of the last two checkpoints of a training, by the wheel's own command."""

        def make(folder: Path) -> None:
            arguments = f"--inputs {lab.trained('one_wide')} --num-update-checkpoints 2 --output"
            finished = subprocess.run(
                [sys.executable, wheel(lab) / "bin/fairseq-ffn", "average"]
                + [*arguments.split(), folder / "mean.pt"],
                env={**os.environ, "PYTHONPATH": str(wheel(lab)), "OMP_NUM_THREADS": "1"},
                cwd=folder,
                capture_output=True,
                text=True,
            )
            assert finished.returncode == 0, finished.stderr
            (folder / "log").write_text(finished.stderr)

        return lab.once("averaged", make)

    def inputs(self, lab):
        folder = lab.trained("one_wide")
        return [folder / f"checkpoint_3_{UPDATES - before}.pt" for before in (SAVE_EVERY, 0)]

    def test_it_averages_the_last_checkpoints_of_a_training(self, lab):
        folder = self.averaged(lab)
        first, second = self.inputs(lab)
        log = (folder / "log").read_text().splitlines()
        assert log[-3:] == [
            f"reading {second} (1 of 2)",
            f"reading {first} (2 of 2)",
            f"{folder}/mean.pt: mean of 2 checkpoints",
        ]
        mean, a, b = (weights(path) for path in (folder / "mean.pt", first, second))
        assert list(mean) == list(a)
        for key in mean:
            expected = ((a[key].double() + b[key].double()) / 2).float()
            assert torch.equal(mean[key], expected), key
        assert [path.name for path in folder.iterdir() if "mean" in path.name] == ["mean.pt"]

    def test_the_result_is_small_and_shares_its_modules(self, lab):
        mean = self.averaged(lab) / "mean.pt"
        model = checkpoint_utils.load_model_ensemble([str(mean)])[0][0]
        first, second = model.encoder.layers
        assert first.fc1 is second.fc1 and first.fc2 is second.fc2
        assert model.encoder.embed_tokens.weight is model.decoder.embed_tokens.weight
        assert model.decoder.output_projection.weight is model.decoder.embed_tokens.weight
        storages = {value.untyped_storage().data_ptr() for value in weights(mean).values()}
        # what is tied or shared once, and the version of both stacks
        assert len(storages) == len(list(model.parameters())) + 1
        size = sum(parameter.numel() for parameter in model.parameters()) * 4
        # a copy of the FFN would add 130 kB, the optimiser's state twice the model
        assert mean.stat().st_size < 1.1 * size + 40_000
        assert mean.stat().st_size < 0.3 * self.inputs(lab)[0].stat().st_size

    def test_it_translates(self, lab):
        out = lab.generate(self.averaged(lab) / "mean.pt", "--beam", 4).out
        assert sorted(hypotheses(out)) == list(range(30))
        assert result_lines(out) != result_lines(lab.generated("one_wide", "float32"))


def test_arithmetic_is_chosen_by_an_override_and_the_log_says_what_is_done(lab):
    checkpoint = lab.trained("one_wide") / "checkpoint_last.pt"
    results = {}
    for inference in ("int8", "plain"):
        options = ["--model-overrides", f"{{'inference': '{inference}'}}", "--beam", 4]
        results[inference] = lab.generate(checkpoint, "--task", "translation_fast", *options)
        assert len(hypotheses(results[inference].out)) == 30
    said = results["int8"].out + results["int8"].err
    assert "decoding: fast model, int8" in said and "decoding: fast beam search" in said
    said = results["plain"].out + results["plain"].err
    assert "decoding: plain model, since inference is 'plain'" in said
    assert hypotheses(results["plain"].out) == hypotheses(lab.generated("one_wide"))
    refused = lab.generate(checkpoint, "--model-overrides", "{'inference': 'int4'}", fails=True)
    assert "--inference 'int4': use one of float32, bfloat16, int8, plain" in refused.error_line()
