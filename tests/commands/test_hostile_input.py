"""What a person sees who gives a command something unusable: one line, and nothing is left over."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

import pytest
from hostile_files import UNUSABLE, write_malicious

from commands.lab import INSTALLED, SIZES, TRAINING, words, write_corpus

pytestmark = pytest.mark.slow


def fails(lab, command: str, *arguments, **more) -> str:
    """The one error line of a command."""
    return lab.run(command, *arguments, fails=True, **more).error_line()


def training(lab, folder: Path, *more, data=None):
    """A training that would end after one update."""
    once = words("--max-update 1 --disable-validation")
    arguments = lab.training(folder, "transformer_ffn_tiny_baseline", *once, *more)
    return [data or arguments[0], *arguments[1:]]


class TestMaliciousCheckpoints:
    """Every command that reads one refuses it by name and doesn't run it."""

    @pytest.mark.parametrize(
        "command, form",
        [
            ("fairseq-generate", "zip"),
            ("fairseq-interactive", "old"),
            ("fairseq-train", "zip"),
            ("fairseq-ffn", "pickle"),
        ],
    )
    def test_it_is_refused(self, lab, tmp_path, command, form):
        bad, mark = tmp_path / "bad.pt", tmp_path / "mark"
        write_malicious(bad, "os.system", form, mark)
        arguments = {
            "fairseq-generate": [lab.data(), "--user-dir", INSTALLED, "--path", bad],
            "fairseq-interactive": [lab.data(), "--user-dir", INSTALLED, "--path", bad],
            "fairseq-train": training(lab, tmp_path / "run", "--restore-file", bad),
            "fairseq-ffn": ["average", "--inputs", bad, "--output", tmp_path / "mean.pt"],
        }[command]
        line = fails(lab, command, *arguments, stdin="w1 w2\n")
        assert f"checkpoint {bad}: refused, since it asks for 'posix.system'" in line
        assert not mark.exists() and not list(tmp_path.glob("mean.pt*"))


class TestUnusableCheckpoints:
    def test_an_interrupted_training_with_a_damaged_last_checkpoint(self, lab, tmp_path):
        UNUSABLE["cut in half"][0](tmp_path / "checkpoint_last.pt")
        line = fails(lab, "fairseq-train", *training(lab, tmp_path))
        assert f"checkpoint {tmp_path}/checkpoint_last.pt: truncated" in line

    def test_a_missing_one_doesnt_start_a_training_from_scratch(self, lab, tmp_path):
        missing = tmp_path / "no.pt"
        line = fails(lab, "fairseq-train", *training(lab, tmp_path, "--restore-file", missing))
        assert line == f"fairseq-train: error: --restore-file {missing}: no such file"
        assert not list(tmp_path.iterdir())

    def test_one_of_another_architecture(self, lab, tmp_path):
        other = lab.trained("one_wide") / "checkpoint_last.pt"
        arguments = training(lab, tmp_path, "--finetune-from-model", other)
        line = fails(lab, "fairseq-train", *arguments)
        assert f"checkpoint {other} doesn't fit the model: " in line
        assert "--encoder-ffn-layout shared, not independent" in line
        assert "--decoder-ffn-layout none, not independent" in line
        assert line.endswith("or start from it with fairseq-ffn convert")

    def test_one_in_the_save_dir_of_another_layout(self, lab, tmp_path):
        shutil.copy(lab.trained("baseline") / "checkpoint_last.pt", tmp_path)
        other = ["--encoder-ffn-layout", "shared"]
        line = fails(lab, "fairseq-train", *training(lab, tmp_path, *other))
        assert line == (
            f"fairseq-train: error: checkpoint {tmp_path}/checkpoint_last.pt doesn't fit the "
            "model: it was trained with --encoder-ffn-layout independent, not shared; a training "
            "goes on from what is in its --save-dir, so use another one"
        )
        path = ["--path", lab.trained("baseline") / "checkpoint_last.pt"]
        overrides = ["--model-overrides", "{'encoder_ffn_layout': 'shared'}"]
        arguments = [lab.data(), "--user-dir", INSTALLED, *path, *overrides]
        line = fails(lab, "fairseq-generate", *arguments)
        assert "checkpoint_last.pt doesn't fit the model: encoder.layers.0.fc1.weight and " in line
        assert "differ, but --encoder-ffn-layout 'shared' shares them; use the layouts and" in line

    def test_one_for_another_dictionary(self, lab, tmp_path):
        write_corpus(tmp_path, vocabulary=7)
        lab.preprocess(tmp_path)
        path = lab.trained("baseline") / "checkpoint_last.pt"
        arguments = [tmp_path / "bin", "--user-dir", INSTALLED, "--path", path]
        line = fails(lab, "fairseq-generate", *arguments)
        assert "its vocabulary has 24 entries, the data's dictionary 16" in line

    def test_a_layout_that_doesnt_fit_as_override(self, lab):
        path = lab.trained("one_wide") / "checkpoint_last.pt"
        arguments = [lab.data(), "--user-dir", INSTALLED, "--path", path, "--model-overrides"]
        line = fails(lab, "fairseq-generate", *arguments, "{'encoder_ffn_layout': 'cycle:9'}")
        assert line.endswith("--encoder-ffn-layout 'cycle:9': 9 modules for 2 layers; use 1 to 2")


class TestFlags:
    """Refused before any data is loaded: there is none."""

    @pytest.mark.parametrize(
        "flag, value, expected",
        [
            ("--encoder-ffn-layout", "cycle:9", "9 modules for 2 layers; use 1 to 2"),
            ("--encoder-ffn-layout", "sometimes", "not a layout; use"),
            ("--encoder-block", "paralel", "use one of series, parallel; did you mean parallel?"),
        ],
    )
    def test_values_that_mean_nothing(self, lab, tmp_path, flag, value, expected):
        arguments = [tmp_path / "no data", "--user-dir", INSTALLED, *SIZES, *TRAINING]
        model = ["--arch", "transformer_ffn_tiny", flag, value]
        result = lab.run("fairseq-train", *arguments, *model, fails=True)
        line = result.error_line()
        assert line.startswith(f"fairseq-train: error: {flag} '{value}': {expected}")
        assert "usage:" not in result.err and result.status == 1

    def test_a_misspelt_architecture(self, lab, tmp_path):
        model = ["--user-dir", INSTALLED, "--arch", "transformer_ffn_tiny_onewide"]
        result = lab.run("fairseq-train", tmp_path / "no data", *model, fails=True)
        line = "--arch 'transformer_ffn_tiny_onewide': no such name; did you mean transformer_ffn_"
        assert line in result.error_line() and "usage:" not in result.err

    def test_a_missing_folder(self, lab, tmp_path):
        line = fails(lab, "fairseq-train", *training(lab, tmp_path, data=tmp_path / "no"))
        assert line == (
            f"fairseq-train: error: {tmp_path}/no: no such file or directory; check the path"
        )


class TestFullDisk:
    """A limit on the size of files stands for the disk."""

    @staticmethod
    def limit(size: int):
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    def test_average(self, lab, tmp_path):
        path = lab.trained("baseline") / "checkpoint_last.pt"
        output = tmp_path / "mean.pt"
        output.write_text("before")
        arguments = ["average", "--inputs", path, path, "--output", output]
        line = fails(lab, "fairseq-ffn", *arguments, preexec_fn=self.limit(50_000))
        assert line == (
            f"fairseq-ffn average: error: checkpoint {output}: can't be written (File too large)"
        )
        assert [path.name for path in tmp_path.iterdir()] == ["mean.pt"]
        assert output.read_text() == "before"

    def test_train(self, lab, tmp_path):
        arguments = training(lab, tmp_path)
        result = lab.run("fairseq-train", *arguments, fails=True, preexec_fn=self.limit(50_000))
        assert result.status == 1
        # fairseq itself logs each attempt to write
        assert result.err.splitlines()[-1] == (
            f"fairseq-train: error: checkpoint {tmp_path}/checkpoint_last.pt: can't be written "
            "(File too large)"
        )
        assert not list(tmp_path.glob("*.pt"))
