"""fairseq-train: interrupted and resumed, on two processes, and against stock fairseq."""

from __future__ import annotations

import re

import pytest
import torch

from commands.lab import (
    BIN,
    LONG_TRAINING,
    MODELS,
    SAVE_EVERY,
    UPDATES,
    assert_equal,
    kill_at_update,
    weights,
    words,
)
from fairseq_ffn.checkpoints import load_checkpoint

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["baseline", "one_wide"])
def test_a_killed_training_resumes_to_the_same_result(lab, tmp_path, name):
    reference = lab.trained(name) / "checkpoint_last.pt"
    arguments = lab.training(tmp_path, *MODELS[name], *LONG_TRAINING)
    seen = kill_at_update([BIN / "fairseq-train", *arguments], SAVE_EVERY + 2, cwd=lab.root)
    # killed between two saves, in the first epoch
    assert SAVE_EVERY + 2 <= seen[-1] < 2 * SAVE_EVERY
    saved = load_checkpoint(tmp_path / "checkpoint_last.pt")
    assert saved["optimizer_history"][-1]["num_updates"] == SAVE_EVERY

    log = lab.run("fairseq-train", *arguments).out
    assert re.search(rf"Loaded checkpoint .*checkpoint_last.pt .*@ {SAVE_EVERY} updates", log)
    updates = [int(found) for found in re.findall(r"train_inner .*num_updates=(\d+)", log)]
    assert updates == list(range(SAVE_EVERY + 1, UPDATES + 1))
    resumed, straight = load_checkpoint(tmp_path / "checkpoint_last.pt"), load_checkpoint(reference)
    for part in ("model", "last_optimizer_state"):
        assert_equal(resumed[part], straight[part], part)
    if name == "one_wide":
        assert_equal(resumed["extra_state"]["ema"], straight["extra_state"]["ema"], "ema")
        assert resumed["extra_state"]["best"] == straight["extra_state"]["best"] > 0
    ffn = "encoder.layers.0.fc1.weight"
    assert not torch.equal(resumed["model"][ffn], saved["model"][ffn])


@pytest.mark.parametrize("norm", ["", "_post_norm"])
def test_baseline_trains_as_stock_fairseq(lab, norm):
    """Same seed, same updates with dropout: same weights and optimiser state to the last bit."""
    ours = load_checkpoint(lab.trained(f"baseline{norm}") / "checkpoint_last.pt")
    stock = load_checkpoint(lab.trained(f"stock{norm}") / "checkpoint_last.pt")
    pre_norm = "encoder.layer_norm.weight" in stock["model"]
    assert pre_norm == (norm == "")
    for part in ("model", "last_optimizer_state"):
        assert_equal(ours[part], stock[part], part)


@pytest.mark.parametrize("config", ["shared_enc_no_dec", "shared_enc_dec"])
def test_two_processes_train_as_one(lab, tmp_path, config):
    """Two processes with a batch each, or one with two: the same batches make each update.

    fairseq's default, PyTorch's DDP, takes GPUs only (it is given device numbers); that our shared
    modules suit it is shown in tests/models/test_sharing.py. No dropout, since the processes draw
    other random numbers; 46 batches divide by two.
    """
    arch = f"transformer_ffn_tiny_{config}"
    common = words("--max-update 5 --dropout 0 --disable-validation --cpu")
    lab.train(tmp_path / "one", arch, *common, "--update-freq", 2)
    distributed = words(
        "--distributed-world-size 2 --distributed-rank -1 --distributed-no-spawn "
        "--distributed-init-method env:// --distributed-backend gloo --ddp-backend legacy_ddp"
    )
    arguments = lab.training(tmp_path / "two", arch, *common, *distributed)
    launcher = words("--standalone --nproc_per_node 2 --no-python")
    result = lab.run("torchrun", *launcher, BIN / "fairseq-train", *arguments)
    assert "training on 2 devices" in result.out
    one, two = (weights(tmp_path / name / "checkpoint_last.pt") for name in ("one", "two"))
    assert list(one) == list(two)
    for key, value in one.items():
        # the sums of gradients may be rounded in another order (1e-7 relative); five steps of Adam
        # at 0.01 turn that into at most a few 1e-6, and a lost or doubled gradient into 1e-2
        assert torch.allclose(two[key], value, rtol=0, atol=2e-5), key


def test_faster_ways_to_train_and_back(lab, tmp_path):
    """All of them at once; then fairseq's own loss and optimiser go on from the checkpoint."""
    arch = "transformer_ffn_tiny_one_wide"
    fast = words(
        "--ffn-chunk-width 20 --cpu-matmul auto --cpu-autocast bfloat16 --optimizer adam_fused "
        "--criterion label_smoothed_cross_entropy_fused --report-accuracy --cpu --max-update 40"
    )
    first = lab.train(tmp_path, arch, *fast)
    assert re.search(r"--cpu-matmul auto: (onednn|default), as measured", first.out + first.err)
    assert re.search(r"valid on 'valid' subset .*accuracy [\d.]+", first.out)
    second = lab.train(tmp_path, arch, *words("--cpu --max-update 60"))
    assert "@ 40 updates" in second.out
    before, after = (
        [float(loss) for loss in re.findall(r"train_inner .*? loss=([\d.]+)", result.out)]
        for result in (first, second)
    )
    assert len(before) == 40 and len(after) == 20
    # it goes on where it was, and doesn't begin anew
    assert before[-1] < before[0] - 0.3 and after[0] < before[-1] + 0.3
