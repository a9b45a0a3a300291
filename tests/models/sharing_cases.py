"""Models with shared modules: flags, and by hand what they mean; and their unshared copies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, List, Tuple

import torch
from helpers import PRE_NORM, SMALL, build, built_at_random
from torch import nn

FFN = ("fc1", "fc2")
SELF = tuple(f"self_attn.{name}_proj" for name in "qkv") + ("self_attn.out_proj",)
CROSS = tuple(f"encoder_attn.{name}_proj" for name in "qkv") + ("encoder_attn.out_proj",)
FOUR = {**SMALL, "encoder_layers": 4, "decoder_layers": 4}
UNSHARED = "0,1,2,3"


@dataclass
class Case:
    """Flags, and by hand what they mean: sub-block -> groups of layers such as ``e0 e2 d1``."""

    flags: Dict[str, object]
    groups: Dict[Tuple[str, ...], List[str]]
    #: layouts of the unshared model; absent FFNs must stay absent
    unshared: Dict[str, str] = field(default_factory=dict)


CASES: Dict[str, Case] = {
    "encoder FFN shared": Case({"encoder_ffn_layout": "shared"}, {FFN: ["e0 e1 e2 e3"]}),
    "decoder FFN shared": Case({"decoder_ffn_layout": "shared"}, {FFN: ["d0 d1 d2 d3"]}),
    "both FFNs shared": Case(
        {"encoder_ffn_layout": "shared", "decoder_ffn_layout": "shared"},
        {FFN: ["e0 e1 e2 e3", "d0 d1 d2 d3"]},
    ),
    "tied": Case(
        {"encoder_ffn_layout": "tied", "decoder_ffn_layout": "tied"},
        {FFN: ["e0 e1 e2 e3 d0 d1 d2 d3"]},
    ),
    "tied, pre-norm": Case(
        {"encoder_ffn_layout": "tied", "decoder_ffn_layout": "tied", **PRE_NORM},
        {FFN: ["e0 e1 e2 e3 d0 d1 d2 d3"]},
    ),
    "sequence": Case(
        {"encoder_ffn_layout": "sequence:2", "decoder_ffn_layout": "sequence:3"},
        {FFN: ["e0 e1", "e2 e3", "d0 d1"]},
    ),
    "cycle": Case(
        {"encoder_ffn_layout": "cycle:2", "decoder_ffn_layout": "cycle:3"},
        {FFN: ["e0 e2", "e1 e3", "d0 d3"]},
    ),
    "cycle-rev": Case(
        {"encoder_ffn_layout": "cycle-rev:2", "decoder_ffn_layout": "cycle-rev:2"},
        {FFN: ["e0 e3", "e1 e2", "d0 d3", "d1 d2"]},
    ),
    "names": Case(
        {"encoder_ffn_layout": "a,b,a,a", "decoder_ffn_layout": "a,-,a,b"},
        {FFN: ["e0 e2 e3", "d0 d2"]},
        {"decoder_ffn_layout": "0,-,2,3"},
    ),
    "names common to both stacks": Case(
        {"encoder_ffn_layout": "a,@x,-,@y", "decoder_ffn_layout": "@y,@x,a,@x"},
        {FFN: ["e1 d1 d3", "e3 d0"]},
        {"encoder_ffn_layout": "0,1,-,3"},
    ),
    "FFN and its norm shared": Case(
        {"encoder_ffn_layout": "shared", "decoder_ffn_layout": "cycle:2", "share_ffn_norm": True},
        {FFN + ("final_layer_norm",): ["e0 e1 e2 e3", "d0 d2", "d1 d3"]},
    ),
    "FFN and its norm tied, pre-norm": Case(
        {
            "encoder_ffn_layout": "a,@x,@x,a",
            "decoder_ffn_layout": "@x,-,b,@x",
            "share_ffn_norm": True,
            **PRE_NORM,
        },
        {FFN + ("final_layer_norm",): ["e0 e3", "e1 e2 d0 d3"]},
        {"decoder_ffn_layout": "0,-,2,3"},
    ),
    "FFN and its norm shared, parallel": Case(
        {
            "encoder_ffn_layout": "shared",
            "decoder_ffn_layout": "shared",
            "encoder_block": "parallel",
            "decoder_block": "parallel-cross-ffn",
            "parallel_norm": "own",
            "share_ffn_norm": True,
            **PRE_NORM,
        },
        {FFN + ("final_layer_norm",): ["e0 e1 e2 e3", "d0 d1 d2 d3"]},
    ),
    "FFN shared, parallel": Case(
        {
            "encoder_ffn_layout": "tied",
            "decoder_ffn_layout": "tied",
            "encoder_block": "parallel",
            "decoder_block": "parallel",
            "layernorm_embedding": True,
        },
        {FFN: ["e0 e1 e2 e3 d0 d1 d2 d3"]},
    ),
    "one wide": Case(
        {
            "encoder_ffn_layout": "shared",
            "decoder_ffn_layout": "none",
            "encoder_ffn_embed_dim": 8 * 24,
        },
        {FFN: ["e0 e1 e2 e3"]},
        {"decoder_ffn_layout": "none"},
    ),
    "self-attention common to both stacks": Case(
        {
            "encoder_self_attn_layout": "a,@x,a,b",
            "decoder_self_attn_layout": "@x,a,@x,a",
            "decoder_cross_attn_layout": "cycle-rev:2",
        },
        {SELF: ["e0 e2", "e1 d0 d2", "d1 d3"], CROSS: ["d0 d3", "d1 d2"]},
    ),
    "attention and FFN": Case(
        {
            "encoder_self_attn_layout": "tied",
            "decoder_self_attn_layout": "tied",
            "encoder_ffn_layout": "tied",
            "decoder_ffn_layout": "tied",
            "decoder_cross_attn_layout": "shared",
            **PRE_NORM,
        },
        {
            SELF: ["e0 e1 e2 e3 d0 d1 d2 d3"],
            FFN: ["e0 e1 e2 e3 d0 d1 d2 d3"],
            CROSS: ["d0 d1 d2 d3"],
        },
    ),
    "stacks of different width": Case(
        {
            "encoder_embed_dim": 20,
            "encoder_ffn_embed_dim": 28,
            "encoder_ffn_layout": "shared",
            "decoder_ffn_layout": "shared",
            "decoder_cross_attn_layout": "shared",
        },
        {FFN: ["e0 e1 e2 e3", "d0 d1 d2 d3"], CROSS: ["d0 d1 d2 d3"]},
    ),
}
# One Wide FFN, Table 8: encoder self-, decoder self- and cross-attention
for _row in (
    ("shared", "shared", "shared"),
    ("shared", "shared", "independent"),
    ("shared", "independent", "independent"),
    ("independent", "shared", "independent"),
    ("independent", "shared", "shared"),
    ("independent", "independent", "shared"),
):
    _groups: Dict[Tuple[str, ...], List[str]] = {SELF: [], CROSS: []}
    if _row[0] == "shared":
        _groups[SELF].append("e0 e1 e2 e3")
    if _row[1] == "shared":
        _groups[SELF].append("d0 d1 d2 d3")
    if _row[2] == "shared":
        _groups[CROSS].append("d0 d1 d2 d3")
    _flags = dict(
        zip(
            ("encoder_self_attn_layout", "decoder_self_attn_layout", "decoder_cross_attn_layout"),
            _row,
        )
    )
    CASES[f"Table 8, {' '.join(_row)}"] = Case(_flags, _groups)


def layer(model: nn.Module, name: str) -> nn.Module:
    """``e2`` is layer 2 of the encoder."""
    return (model.encoder if name[0] == "e" else model.decoder).layers[int(name[1:])]


def at(model: nn.Module, path: str):
    """The module or parameter at ``path``."""
    for name in path.split("."):
        model = getattr(model, name)
    return model


def shared_model(case: Case):
    return built_at_random("transformer_ffn", **{**FOUR, **case.flags})


def unshared_copy(shared: nn.Module, case: Case):
    flags = {
        name: UNSHARED if name.endswith("_layout") else value for name, value in case.flags.items()
    }
    flags = {**FOUR, **flags, **case.unshared, "share_ffn_norm": False}
    unshared = build("transformer_ffn", seed=11, dtype=torch.float64, **flags).eval()
    for name, parameter in unshared.named_parameters():
        parameter.data.copy_(at(shared, name).data)
    return unshared
