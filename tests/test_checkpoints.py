"""Checkpoints load with PyTorch's protection on, bad ones give one line, and saving is whole."""

from __future__ import annotations

import pickle
import re
import zipfile
from argparse import Namespace
from contextlib import suppress
from pathlib import Path

import numpy
import pytest
import torch
from fairseq import checkpoint_utils, options
from helpers import task
from hostile_files import NO_MODEL, UNUSABLE, checkpoint_state, write_malicious

import fairseq_ffn  # noqa: F401  (allows fairseq's checkpoints)
from fairseq_ffn import checkpoints
from fairseq_ffn.checkpoints import load_checkpoint, save_checkpoint
from fairseq_ffn.errors import UserError, one_line


class ModelTask:
    """A task as far as loading a checkpoint for decoding needs one."""

    def __init__(self, words: int = 27):
        self.dictionaries = task(words)

    def build_model(self, cfg, from_checkpoint=False):
        from fairseq import models

        return models.build_model(cfg, self.dictionaries, from_checkpoint)

    def load_state_dict(self, state):
        self.state = state


def load_as_generate(path: Path, **more):
    """Load a model as fairseq-generate does."""
    more.setdefault("task", ModelTask())
    return checkpoint_utils.load_model_ensemble([str(path)], **more)[0][0]


def line_of(call) -> str:
    """The one line that a command would print for the error of ``call``."""
    with pytest.raises(Exception) as caught:
        call()
    line = one_line(caught.value, caught.value.__traceback__)
    assert line is not None, f"a traceback for {caught.value!r}"
    assert "\n" not in line and len(line) < 400
    assert "weights_only" not in line  # no advice to load a file unsafely
    return line


def replaced_names(path: Path, old: str, new: str) -> None:
    """Rewrite a global name in a file of torch.save."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in content.items():
            if name.endswith("data.pkl"):
                assert old.encode() in data
                data = data.replace(old.encode(), new.encode())
            archive.writestr(name, data)


class TestWhatLoads:
    @pytest.mark.parametrize("zipped", [True, False])
    def test_flags_and_weights_come_back(self, tmp_path, zipped):
        state = checkpoint_state()
        torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        loaded = load_checkpoint(tmp_path / "a.pt")
        assert isinstance(loaded["cfg"]["model"], Namespace)
        assert loaded["cfg"]["model"] == state["cfg"]["model"]
        assert all(torch.equal(loaded["model"][key], state["model"][key]) for key in state["model"])

    @pytest.mark.parametrize(
        "value",
        [
            numpy.array([3, 1, 4]),  # --eval-bleu
            numpy.arange(6, dtype="f4").reshape(2, 3),
            numpy.arange(6.0).reshape(2, 3).T,
            numpy.arange(3, dtype=">i4"),
            numpy.array([True, False]),
            numpy.array(2.5),
            numpy.float64(0.1),
            numpy.float32(0.1),
            numpy.int64(-7),
            numpy.bool_(True),
        ],
        ids=repr,
    )
    def test_numpy_values_come_back(self, tmp_path, value):
        torch.save({**checkpoint_state(), "x": value}, tmp_path / "a.pt")
        loaded = load_checkpoint(tmp_path / "a.pt")["x"]
        assert numpy.array_equal(loaded, value) and numpy.shape(loaded) == numpy.shape(value)
        assert loaded.dtype.newbyteorder("=") == value.dtype.newbyteorder("=")

    @pytest.mark.parametrize("value", [numpy.array([3, 1, 4]), numpy.float64(0.5)])
    def test_names_of_either_numpy_load(self, tmp_path, value):
        path = tmp_path / "a.pt"
        torch.save({**checkpoint_state(), "x": value}, path)
        own, other = "numpy._core.multiarray", "numpy.core.multiarray"
        if numpy.lib.NumpyVersion(numpy.__version__) < "2.0.0":
            own, other = other, own
        replaced_names(path, own, other)
        assert numpy.array_equal(load_checkpoint(path)["x"], value)

    def test_a_loaded_array_is_a_plain_one_when_saved_again(self, tmp_path):
        torch.save({**checkpoint_state(), "x": numpy.array([3, 1, 4])}, tmp_path / "a.pt")
        again = pickle.dumps(load_checkpoint(tmp_path / "a.pt")["x"] + 1, protocol=2)
        assert b"fairseq_ffn" not in again
        assert type(pickle.loads(again)) is numpy.ndarray

    def test_fairseq_loads_it_and_keeps_modules_shared(self, tmp_path):
        state = checkpoint_state("transformer_ffn_tiny_one_wide")
        torch.save(state, tmp_path / "a.pt")
        model = load_as_generate(tmp_path / "a.pt")
        first, *others = model.encoder.layers
        assert all(layer.fc1 is first.fc1 and layer.fc2 is first.fc2 for layer in others)
        assert torch.equal(first.fc1.weight, state["model"]["encoder.layers.0.fc1.weight"])


class TestWhatIsRefused:
    @pytest.mark.parametrize("form", ["zip", "old", "pickle"])
    @pytest.mark.parametrize("kind", ["os.system", "eval", "subprocess"])
    def test_malicious_files_are_named_and_not_run(self, tmp_path, kind, form):
        path, mark = tmp_path / "a.pt", tmp_path / "mark"
        write_malicious(path, kind, form, mark)
        asked = {"os.system": "posix.system", "eval": "eval", "subprocess": "check_call"}[kind]
        for load in (load_checkpoint, load_as_generate):
            line = line_of(lambda load=load: load(path))
            assert line.startswith(f"checkpoint {path}: refused") and asked in line
            assert not mark.exists()
        with suppress(RuntimeError):  # the payload works: only the protection stopped it
            torch.load(path, weights_only=False)
        assert mark.exists()

    @pytest.mark.parametrize(
        "value",
        [
            numpy.array([object()]),
            numpy.array(["text"]),
            numpy.zeros(2, dtype=[("a", "O")]),
            numpy.datetime64("2020-01-01"),
            numpy.dtype("O"),
        ],
        ids=lambda value: str(value.dtype) if hasattr(value, "dtype") else "dtype",
    )
    def test_numpy_holds_numbers_only(self, tmp_path, value):
        torch.save({**checkpoint_state(), "x": value}, tmp_path / "a.pt")
        with pytest.raises(UserError, match="numpy type"):
            load_checkpoint(tmp_path / "a.pt")

    @pytest.mark.parametrize("shape", [(10**6,), (-1,), (2, 2)])
    def test_an_array_is_as_large_as_its_data(self, shape):
        kind = checkpoints._NumberType("i8")
        with pytest.raises(ValueError, match="size"):
            checkpoints.NumberArray().__setstate__((1, shape, kind, False, bytes(24)))

    @pytest.mark.parametrize("name", UNUSABLE)
    def test_unusable_files_are_explained(self, tmp_path, name):
        write, expected = UNUSABLE[name]
        write(tmp_path / "a.pt")
        for load in (load_checkpoint, load_as_generate):
            line = line_of(lambda load=load: load(tmp_path / "a.pt"))
            assert line.startswith(f"checkpoint {tmp_path / 'a.pt'}: ") and expected in line

    @pytest.mark.parametrize("name", NO_MODEL)
    def test_settings_and_weights_that_make_no_model(self, tmp_path, name):
        write, expected = NO_MODEL[name]
        write(tmp_path / "a.pt")
        line = line_of(lambda: load_as_generate(tmp_path / "a.pt"))
        assert line.startswith(f"checkpoint {tmp_path / 'a.pt'}") and expected in line

    def test_a_missing_file(self, tmp_path):
        for load in (load_checkpoint, load_as_generate):
            line = line_of(lambda load=load: load(tmp_path / "a.pt"))
            assert line == f"checkpoint {tmp_path / 'a.pt'}: no such file"

    def test_a_model_entry_that_is_no_tensor(self, tmp_path):
        torch.save({**checkpoint_state(), "model": {"a.weight": 3}}, tmp_path / "a.pt")
        assert "its a.weight is no tensor" in line_of(lambda: load_checkpoint(tmp_path / "a.pt"))


class TestMisfits:
    def path(self, tmp_path) -> Path:
        torch.save(checkpoint_state("transformer_ffn_tiny_shared_enc"), tmp_path / "a.pt")
        return tmp_path / "a.pt"

    def line(self, path: Path, overrides=None, words: int = 27) -> str:
        return line_of(
            lambda: load_as_generate(path, task=ModelTask(words), arg_overrides=overrides)
        )

    def test_missing_and_surplus_entries_are_counted(self, tmp_path):
        path = self.path(tmp_path)
        assert self.line(path, {"encoder_ffn_layout": "independent"}) == (
            f"checkpoint {path} doesn't fit the model: it has no encoder.layers.1.fc1.weight and 7 "
            "more; use the layouts and sizes it was trained with"
        )
        assert self.line(path, {"decoder_layers": 2, "encoder_layers": 4}) == (
            f"checkpoint {path} doesn't fit the model: it has no encoder.layers.3.self_attn.k_proj."
            "weight and 11 more; the model has no decoder.layers.2.self_attn.k_proj.weight and 25 "
            "more; use the layouts and sizes it was trained with"
        )

    def test_other_sizes_are_shown(self, tmp_path):
        line = self.line(self.path(tmp_path), {"encoder_ffn_embed_dim": 7})
        assert (
            "sizes differ (file, model): encoder.layers.0.fc1.weight 24x16, 7x16 and 8 more" in line
        )

    def test_another_dictionary_is_named_as_such(self, tmp_path):
        line = self.line(self.path(tmp_path), words=30)
        assert "its vocabulary has 31 entries, the data's dictionary 34" in line

    def test_a_bad_layout_is_the_layouts_own_line(self, tmp_path):
        line = self.line(self.path(tmp_path), {"encoder_ffn_layout": "cycle:9"})
        assert line == "--encoder-ffn-layout 'cycle:9': 9 modules for 3 layers; use 1 to 3"

    def test_overrides_that_are_no_dictionary(self, tmp_path):
        assert "--model-overrides [1]: not a dict" in self.line(self.path(tmp_path), [1])


class TestSaving:
    def test_a_saved_file_is_whole(self, tmp_path):
        save_checkpoint({"a": torch.arange(3)}, tmp_path / "a.pt")
        assert torch.equal(torch.load(tmp_path / "a.pt")["a"], torch.arange(3))
        assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]

    @pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
    def test_nothing_changes_when_writing_fails(self, tmp_path, monkeypatch, error):
        (tmp_path / "a.pt").write_text("before")

        def fail(state, file):
            file.write(b"half")
            raise error

        monkeypatch.setattr(torch, "save", fail)
        expected = UserError if isinstance(error, OSError) else KeyboardInterrupt
        with pytest.raises(expected) as caught:
            save_checkpoint({}, tmp_path / "a.pt")
        if expected is UserError:
            assert str(caught.value) == (
                f"checkpoint {tmp_path / 'a.pt'}: can't be written (No space left on device)"
            )
        assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
        assert (tmp_path / "a.pt").read_text() == "before"


class TestFilesToRestore:
    @staticmethod
    def check(*arguments: str) -> None:
        """As fairseq-train does: its parser calls the architecture with all flags."""
        parser = options.get_training_parser(default_task="translation")
        arch = ("--arch", "transformer_ffn_tiny")
        options.parse_args_and_arch(parser, ["data", *arch, *arguments])

    def test_missing_files_and_directories_are_named(self, tmp_path):
        for flag in ("--restore-file", "--finetune-from-model"):
            with pytest.raises(UserError, match=re.escape(f"{flag} {tmp_path}/no.pt: no such")):
                self.check(flag, f"{tmp_path}/no.pt")
            with pytest.raises(UserError, match=re.escape(f"{flag} {tmp_path}: is a directory")):
                self.check(f"{flag}={tmp_path}")

    def test_the_last_checkpoint_of_another_job_must_exist(self, tmp_path):
        other = f"{tmp_path}/other/checkpoint_last.pt"
        with pytest.raises(UserError, match=re.escape(f"--restore-file {other}: no such")):
            self.check("--restore-file", other, "--save-dir", str(tmp_path))

    def test_what_fairseq_allows_is_allowed(self, tmp_path):
        (tmp_path / "a.pt").touch()
        (tmp_path / "a-part.pt").touch()
        last = tmp_path / "checkpoint_last.pt"
        for arguments in (
            [],
            ["--restore-file", f"{tmp_path}/a.pt"],
            # the first run of a job that resumes
            ["--restore-file", "checkpoint_last.pt"],
            ["--restore-file", str(last), "--save-dir", str(tmp_path)],
            ["--restore-file", str(last), f"--save-dir={tmp_path}/../{tmp_path.name}/"],
            ["--restore-file", f"{tmp_path}/a.pt", "--checkpoint-suffix=-part"],
            ["--restore-file", "s3://bucket/a.pt"],
            # each process of a sharded training adds a suffix of its own
            ["--restore-file", f"{tmp_path}/b.pt", "--use-sharded-state"],
        ):
            self.check(*arguments)
        last.touch()
        self.check("--save-dir", str(tmp_path), "--finetune-from-model", f"{tmp_path}/no.pt")
