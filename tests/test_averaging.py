"""Averages are exact, keep what decoding needs, and are small."""

from __future__ import annotations

import re

import pytest
import torch
from hostile_files import UNUSABLE, checkpoint_state, write_malicious
from test_checkpoints import load_as_generate

from fairseq_ffn import averaging
from fairseq_ffn.averaging import average, average_files, last_checkpoints
from fairseq_ffn.checkpoints import load_checkpoint
from fairseq_ffn.errors import UserError


def save(path, seed=1, arch="transformer_ffn_tiny_one_wide", change=lambda state: None, **flags):
    state = checkpoint_state(arch, seed, **flags)
    change(state)
    torch.save(state, path)
    return state


class TestMean:
    def test_it_is_the_mean_and_the_rest_is_the_first_files(self, tmp_path):
        paths = [tmp_path / f"{seed}.pt" for seed in (1, 2, 3)]
        states = [save(path, seed) for seed, path in enumerate(paths, 1)]
        result = average(paths)
        assert list(result["model"]) == list(states[0]["model"])
        for key, value in result["model"].items():
            total = sum(state["model"][key].double() for state in states)
            assert torch.equal(value, (total / 3).float()), key
        assert result["cfg"] == states[0]["cfg"]
        assert result["extra_state"] == states[0]["extra_state"]
        assert result["optimizer_history"] == states[0]["optimizer_history"]
        assert "last_optimizer_state" not in result

    def test_sums_are_exact(self, tmp_path):
        # summed in float32, 1 would be lost in 2^25
        for number, value in enumerate((2.0**25, 1.0, 1.0, -(2.0**25))):
            model = {"a": torch.tensor([value])}
            torch.save({**checkpoint_state(), "model": model}, tmp_path / f"{number}.pt")
        result = average([tmp_path / f"{number}.pt" for number in range(4)])
        assert result["model"]["a"].tolist() == [0.5]

    @pytest.mark.parametrize(
        "values, expected",
        [
            ((torch.tensor([7]), torch.tensor([2])), torch.tensor([4])),
            ((torch.tensor([-7]), torch.tensor([2])), torch.tensor([-3])),
            ((torch.tensor([200], dtype=torch.uint8),) * 2, torch.tensor([200], dtype=torch.uint8)),
            ((torch.tensor([True]), torch.tensor([True])), torch.tensor([True])),
            ((torch.tensor(1.5).half(), torch.tensor(2.0).half()), torch.tensor(1.75)),
            ((torch.tensor(1.5).bfloat16(), torch.tensor(2.0)), torch.tensor(1.75)),
            ((torch.tensor(1.0).double(), torch.tensor(2.0)), torch.tensor(1.5).double()),
        ],
    )
    def test_types(self, tmp_path, values, expected):
        for number, value in enumerate(values):
            torch.save({**checkpoint_state(), "model": {"a": value}}, tmp_path / f"{number}.pt")
        mean = average([tmp_path / "0.pt", tmp_path / "1.pt"])["model"]["a"]
        assert torch.equal(mean, expected) and mean.dtype == expected.dtype

    def test_ema_is_left_out(self, tmp_path):
        def add_ema(state):
            state["extra_state"]["ema"] = state["extra_state"]["ema_fp32_params"] = state["model"]

        save(tmp_path / "a.pt", change=add_ema)
        assert list(average([tmp_path / "a.pt"])["extra_state"]) == ["train_iterator"]


class TestSize:
    """A One Wide model of three encoder layers would be written three times, its embedding too."""

    flags = {"share_all_embeddings": True, "encoder_ffn_embed_dim": 2000}

    @staticmethod
    def stored(path) -> int:
        """Bytes of all tensors in a file, each storage counted once."""
        storages = [value.untyped_storage() for value in load_checkpoint(path)["model"].values()]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    @staticmethod
    def clone(state):
        # as fairseq's move_to_cpu does with half precision, and its averaging with everything
        state["model"] = {key: value.clone() for key, value in state["model"].items()}

    @staticmethod
    def write_out(state):
        model = state["model"]
        for key in [key for key in model if ".layers.0.fc" in key]:
            for layer in "12":
                model[key.replace(".0.", f".{layer}.")] = model[key].clone()
        TestSize.clone(state)

    @pytest.mark.parametrize("change", ["clone", "write_out"])
    def test_equal_entries_are_stored_once(self, tmp_path, change):
        for seed in (1, 2):
            save(tmp_path / f"{seed}.pt", seed, change=getattr(self, change), **self.flags)
        average_files([tmp_path / "1.pt", tmp_path / "2.pt"], tmp_path / "mean.pt")
        model = load_as_generate(tmp_path / "mean.pt")
        compact = sum(parameter.numel() for parameter in model.parameters()) * 4
        buffers = sum(buffer.numel() for buffer in model.buffers()) * 4
        assert self.stored(tmp_path / "mean.pt") <= compact + buffers + 8  # and a version a stack
        assert self.stored(tmp_path / "1.pt") >= compact + 31 * 16 * 4 * 2
        assert (tmp_path / "mean.pt").stat().st_size < compact * 1.05 + 30_000
        assert model.encoder.layers[0].fc1 is model.encoder.layers[2].fc1
        assert model.encoder.embed_tokens.weight is model.decoder.output_projection.weight

    def test_loading_gives_the_same_model_in_either_form(self, tmp_path):
        plain = tmp_path / "plain.pt"
        full = tmp_path / "full.pt"
        save(plain, **self.flags)
        save(full, change=self.write_out, **self.flags)
        a, b = (load_as_generate(path).state_dict() for path in (plain, full))
        assert list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


class TestErrors:
    def line(self, *inputs, output="mean.pt", folder) -> str:
        with pytest.raises(UserError) as caught:
            average_files([folder / name for name in inputs], folder / output)
        assert "\n" not in str(caught.value)
        assert not list(folder.glob("*.tmp"))
        return str(caught.value)

    def test_models_that_differ(self, tmp_path):
        save(tmp_path / "a.pt")
        save(tmp_path / "b.pt", arch="transformer_ffn_tiny_shared_enc")
        save(tmp_path / "c.pt", encoder_ffn_embed_dim=20)
        a, b, c = (tmp_path / f"{name}.pt" for name in "abc")
        missing = "decoder.layers.0.fc1.weight"
        size = r"encoder.layers.0.fc1.weight is 20x16, but \d+x16 in"
        assert f"{b}: has {missing}, which {a} hasn't" in self.line("a.pt", "b.pt", folder=tmp_path)
        assert f"{a}: has no {missing}, which {b} has" in self.line("b.pt", "a.pt", folder=tmp_path)
        assert re.search(f"{c}: {size} {a}", self.line("a.pt", "c.pt", folder=tmp_path))
        assert not (tmp_path / "mean.pt").exists()

    def test_other_kinds_of_numbers(self, tmp_path):
        for name, value in (("a", torch.tensor([1])), ("b", torch.tensor([1.0]))):
            torch.save({**checkpoint_state(), "model": {"x": value}}, tmp_path / f"{name}.pt")
        assert "x is torch.float32, but torch.int64" in self.line("a.pt", "b.pt", folder=tmp_path)

    @pytest.mark.parametrize("name", UNUSABLE)
    def test_unusable_files(self, tmp_path, name):
        save(tmp_path / "a.pt")
        write, expected = UNUSABLE[name]
        write(tmp_path / "b.pt")
        line = self.line("a.pt", "b.pt", folder=tmp_path)
        assert f"{tmp_path / 'b.pt'}: " in line and expected in line

    def test_a_malicious_file(self, tmp_path):
        write_malicious(tmp_path / "b.pt", "os.system", "zip", tmp_path / "mark")
        assert "posix.system" in self.line("b.pt", folder=tmp_path)
        assert not (tmp_path / "mark").exists()

    def test_an_output_that_is_an_input(self, tmp_path):
        before = save(tmp_path / "a.pt")["model"]
        (tmp_path / "link.pt").symlink_to(tmp_path / "a.pt")
        for output in ("a.pt", "link.pt"):
            assert "one of the inputs" in self.line("a.pt", output=output, folder=tmp_path)
        assert list(average([tmp_path / "a.pt"])["model"]) == list(before)

    def test_an_output_without_a_place(self, tmp_path):
        save(tmp_path / "a.pt")
        (tmp_path / "folder").mkdir()
        assert "directory doesn't exist" in self.line("a.pt", output="no/x.pt", folder=tmp_path)
        assert "is a directory" in self.line("a.pt", output="folder", folder=tmp_path)

    def test_an_interrupted_run_leaves_nothing(self, tmp_path, monkeypatch):
        save(tmp_path / "a.pt")

        def interrupt(state, file):
            file.write(b"half")
            raise KeyboardInterrupt

        monkeypatch.setattr(torch, "save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            average_files([tmp_path / "a.pt"], tmp_path / "mean.pt")
        assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


class TestLastCheckpoints:
    @pytest.fixture
    def folder(self, tmp_path):
        names = ["1", "2", "10", "_best", "_last", "_1_5", "_2_50", "_2_100", ".best_loss_2.5"]
        for name in [f"checkpoint{name}.pt" for name in names] + ["checkpoint3.pt.tmp", "x4.pt"]:
            (tmp_path / name).touch()
        return tmp_path

    @pytest.mark.parametrize(
        "kind, number, bound, expected",
        [
            ("epoch", 2, None, "checkpoint10 checkpoint2"),
            ("epoch", 1, 9, "checkpoint2"),
            ("update", 2, None, "checkpoint_2_100 checkpoint_2_50"),
            ("update", 2, 99, "checkpoint_2_50 checkpoint_1_5"),
        ],
    )
    def test_the_last_by_number(self, folder, kind, number, bound, expected):
        found = last_checkpoints(folder, kind, number, bound)
        assert [path.stem for path in found] == expected.split()

    def test_too_few(self, folder):
        for arguments, line in (
            (("epoch", 4), "3 files checkpoint<epoch>.pt, but --num-epoch-checkpoints asks for 4"),
            (("update", 1, 4), "no files checkpoint_<epoch>_<update>.pt up to update 4, but"),
        ):
            with pytest.raises(UserError, match=re.escape(f"{folder}: {line}")):
                last_checkpoints(folder, *arguments)
        with pytest.raises(UserError, match="no such directory"):
            last_checkpoints(folder / "no", "epoch", 1)


def test_progress_is_logged_per_file(tmp_path, caplog):
    save(tmp_path / "a.pt")
    with caplog.at_level("INFO", logger=averaging.__name__):
        average_files([tmp_path / "a.pt"] * 2, tmp_path / "mean.pt")
    assert [record.message for record in caplog.records] == [
        f"reading {tmp_path / 'a.pt'} (1 of 2)",
        f"reading {tmp_path / 'a.pt'} (2 of 2)",
        f"{tmp_path / 'mean.pt'}: mean of 2 checkpoints",
    ]
