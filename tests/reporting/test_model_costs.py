"""Size and cost of trained models, from checkpoints as fairseq saves them."""

from __future__ import annotations

from argparse import Namespace

import pytest
import torch
from helpers import SMALL, arguments, build, task

from fairseq_ffn.reporting.model_costs import ModelCosts, costs_of_checkpoint
from fairseq_ffn.reporting.results import collect
from fairseq_ffn.reporting.run_directory import RunDirectory
from reporting.runs import make_run

ARCH = "transformer_ffn_tiny_shared_enc_no_dec"
#: width and FFN width of SMALL, whose stacks have three layers
D, F = 16, 24
#: what a checkpoint of fairseq has besides
OTHERS = {"optimizer_history": [], "extra_state": {}}


def save(path, arch=ARCH, **flags):
    """A checkpoint with separate vocabularies of 31 and 44; returns the model."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = {**SMALL, "share_decoder_input_output_embed": True, **flags}
    model = build(arch, for_task=task(27, 40), share_all_embeddings=False, **flags)
    args = arguments(arch, share_all_embeddings=False, **flags)
    torch.save({**OTHERS, "args": args, "cfg": None, "model": model.state_dict()}, path)
    return model


def test_costs_of_a_checkpoint(tmp_path):
    path = tmp_path / "checkpoint_last.pt"
    model = save(path)
    total = sum(parameter.numel() for parameter in model.parameters())
    body = total - (31 + 44) * D
    # encoder: attention and the shared FFN in each layer, and keys and values of cross-attention
    source = 3 * (4 * D * D + 2 * D * F) + 3 * 2 * D * D
    # decoder: attention, and queries and outputs of cross-attention; no FFN
    target = 3 * (4 * D * D + 2 * D * D)
    assert costs_of_checkpoint(path) == ModelCosts(ARCH, total, body, source, target)


def test_costs_of_a_decoder_only_checkpoint(tmp_path):
    path, arch = tmp_path / "checkpoint_last.pt", "transformer_ffn_decoder_only_tiny_shared_dec"
    flags = {name: value for name, value in SMALL.items() if name.startswith("decoder_")}
    model, args = build(arch, for_task=task(27), **flags), arguments(arch, **flags)
    torch.save({**OTHERS, "args": args, "cfg": None, "model": model.state_dict()}, path)
    total = sum(parameter.numel() for parameter in model.parameters())
    target = 3 * (4 * D * D + 2 * D * F)
    source = target - (2 * D * D + 2 * D * F)  # keys and values alone in the last layer
    assert costs_of_checkpoint(path) == ModelCosts(arch, total, total - 31 * D, source, target)


def test_a_report_has_the_costs_of_its_runs(tmp_path):
    run = make_run(tmp_path / "run", 1, speed=100.0)
    model = save(run / "checkpoints" / "checkpoint_last.pt")
    total = sum(parameter.numel() for parameter in model.parameters())
    result = collect([RunDirectory(run)])[0]
    # before what the measurement says
    assert result.parameters == {"total": total, "body": total - (31 + 44) * D}
    assert result.multiply_adds == result.costs.source_token + result.costs.target_token


@pytest.mark.parametrize(
    "settings",
    [
        {"args": Namespace(arch="lstm")},
        {"args": Namespace(encoder_layers=3)},  # without embeddings
        {"cfg": {"model": None}},
    ],
)
def test_another_model_has_no_costs(tmp_path, settings):
    path = tmp_path / "checkpoint_last.pt"
    torch.save({**OTHERS, **settings, "model": {"weight": torch.zeros(2)}}, path)
    assert costs_of_checkpoint(path) is None
