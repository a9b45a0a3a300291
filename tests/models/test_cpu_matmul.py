"""--cpu-matmul: on while a model trains, off for all else, and float32 in any case."""

from __future__ import annotations

import logging

import pytest
import torch
from helpers import SMALL, batch, build, gradients, logits, randomise

from fairseq_ffn import onednn
from fairseq_ffn.errors import UserError
from fairseq_ffn.models import cpu_matmul


def switch() -> str:
    return torch.backends.mkldnn.matmul.fp32_precision


@pytest.fixture(autouse=True)
def _restored():
    yield
    onednn.use(False)


@pytest.fixture
def exact(monkeypatch):
    monkeypatch.setattr(onednn, "is_exact", lambda: True)


def test_switch_is_on_in_training_mode_only(exact):
    model = build("transformer_ffn", cpu_matmul="onednn", **SMALL)
    assert switch() == "none"  # building alone, as for decoding, changes nothing
    for mode, expected in ((True, "bf16"), (False, "none"), (True, "bf16")):
        model.train(mode)
        assert switch() == expected and model.decoder.training is mode
    model.eval()
    assert switch() == "none"


def test_default_leaves_the_switch_alone():
    model = build("transformer_ffn", **SMALL)
    onednn.use(True)
    model.train()
    assert switch() == "bf16"
    model.eval()
    assert switch() == "bf16"


@pytest.mark.parametrize("choice", ["onednn", "default"])
def test_auto_measures_once_at_the_first_batch_and_says_what_it_found(
    exact, monkeypatch, caplog, choice
):
    asked = []

    def measure(**shape):
        asked.append(shape)
        return choice

    monkeypatch.setattr(cpu_matmul, "faster_cpu_matmul", measure)
    model = build("transformer_ffn", cpu_matmul="auto", **{**SMALL, "encoder_ffn_embed_dim": 999})
    sentences = batch()
    logits(model.eval(), sentences)
    model.train()
    assert asked == [] and switch() == "none"  # there was no batch to train with
    chosen = "bf16" if choice == "onednn" else "none"
    with caplog.at_level(logging.INFO):
        logits(model, sentences)
        assert switch() == chosen
        for mode in (False, True):
            model.train(mode)
            logits(model, sentences)
            assert switch() == (chosen if mode else "none")
    # of this batch's size, and a wide FFN isn't timed
    rows = sentences["src_tokens"].numel()
    threads = torch.get_num_threads()
    assert asked == [
        {"d_model": 16, "d_ff": 64, "vocabulary": 31, "tokens": rows, "threads": threads}
    ]
    assert [line for line in caplog.messages if f"--cpu-matmul auto: {choice}" in line]


def test_auto_times_no_more_rows_than_it_takes(exact, monkeypatch):
    asked = []
    monkeypatch.setattr(
        cpu_matmul, "faster_cpu_matmul", lambda **shape: asked.append(shape) or "default"
    )
    model = build("transformer_ffn", cpu_matmul="auto", **SMALL).train()
    logits(model, batch([4] * 300, [3] * 300))
    assert asked[0]["tokens"] == cpu_matmul.MOST_TOKENS < 300 * 4


def test_a_cpu_that_would_round_to_bfloat16_is_not_asked(monkeypatch):
    monkeypatch.setattr(onednn, "is_exact", lambda: False)
    monkeypatch.setattr(cpu_matmul, "faster_cpu_matmul", lambda **_: "onednn")
    model = build("transformer_ffn", cpu_matmul="auto", **SMALL).train()
    logits(model, batch())
    assert switch() == "none"
    model = build("transformer_ffn", cpu_matmul="onednn", **SMALL)
    with pytest.raises(UserError, match="--cpu-matmul onednn.*no float32 product"):
        model.train()


def test_products_are_checked_for_their_precision(monkeypatch):
    used = []
    real = onednn.use

    def use(on):
        used.append(on)
        real(on)

    monkeypatch.setattr(onednn, "use", use)
    found = onednn.is_exact()
    assert used == [True, False]
    torch.manual_seed(1)
    a, b = torch.randn(2, 64, 64)
    real(True)
    error = (a @ b - a.double() @ b.double()).norm() / (a.double() @ b.double()).norm()
    assert found is bool(error < 1e-5)
    # a product rounded to bfloat16 would not have passed
    rounded = (a.bfloat16() @ b.bfloat16()).float()
    assert (rounded - a @ b).norm() > 100 * onednn.EXACT * (a @ b).norm()


def test_gradients_are_the_default_ones():
    if not onednn.is_exact():
        pytest.skip("this CPU has no float32 product by oneDNN")
    shape = {**SMALL, "encoder_embed_dim": 64, "decoder_embed_dim": 64}
    found = []
    for setting in ("default", "onednn"):
        model = randomise(build("transformer_ffn", cpu_matmul=setting, **shape), scale=0.1).train()
        torch.manual_seed(1)
        found.append(gradients(model, batch()))
    for name, plain in found[0].items():
        torch.testing.assert_close(found[1][name], plain, rtol=1e-3, atol=1e-4)


def test_unknown_library_is_refused():
    with pytest.raises(UserError, match="--cpu-matmul 'blis': use one of default, onednn, auto"):
        build("transformer_ffn", cpu_matmul="blis", **SMALL)
