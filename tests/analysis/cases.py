"""Models and sentences that the tests of the analyses share."""

from __future__ import annotations

from typing import Any, Dict, List

import torch
from helpers import PRE_NORM, SMALL, batch, built_at_random
from torch import nn

from fairseq_ffn.analysis.recorder import LayerRecord, Recorder
from fairseq_ffn.analysis.text import Batch, force_decode
from fairseq_ffn.models.architectures import CONFIGS

POST_NORM = {"encoder_normalize_before": False, "decoder_normalize_before": False}

#: name -> architecture and flags; every form of layer that there is
MODELS: Dict[str, Dict[str, Any]] = {
    f"{config} {name}": {"arch": f"transformer_ffn_tiny_{config}", **SMALL, **norm}
    for config in CONFIGS
    for name, norm in (("pre-norm", PRE_NORM), ("post-norm", POST_NORM))
}
for _name, _norm in (("pre-norm", PRE_NORM), ("post-norm", POST_NORM)):
    MODELS[f"parallel-cross-ffn {_name}"] = {
        "arch": "transformer_ffn_tiny_baseline",
        **SMALL,
        **_norm,
        "decoder_block": "parallel-cross-ffn",
        "parallel_scale": "sqrt",
    }
    MODELS[f"stock {_name}"] = {"arch": "transformer", **SMALL, **_norm}
    MODELS[f"no cross-attention {_name}"] = {
        "arch": "transformer_ffn_tiny_baseline",
        **SMALL,
        **_norm,
        "no_cross_attention": True,
    }
MODELS.update(
    {
        "own norms": {
            "arch": "transformer_ffn_tiny_parallel",
            **SMALL,
            **PRE_NORM,
            "parallel_norm": "own",
            "parallel_scale": "sqrt",
        },
        "parallel-cross-ffn own norms": {
            "arch": "transformer_ffn_tiny_parallel",
            **SMALL,
            **PRE_NORM,
            "decoder_block": "parallel-cross-ffn",
            "parallel_norm": "own",
        },
        "shared FFN and its norm": {
            "arch": "transformer_ffn_tiny_shared_enc_dec",
            **SMALL,
            **PRE_NORM,
            "share_ffn_norm": True,
            "layernorm_embedding": True,
        },
        "activation checkpointing": {
            "arch": "transformer_ffn_tiny_baseline",
            **SMALL,
            **PRE_NORM,
            "checkpoint_activations": True,
        },
        "one shared layer among others": {
            "arch": "transformer_ffn_tiny_baseline",
            **SMALL,
            **POST_NORM,
            "encoder_ffn_layout": "a,-,a",
            "decoder_ffn_layout": "-,b,b",
            "decoder_self_attn_layout": "shared",
        },
    }
)


def model_of(name: str, **flags: Any) -> nn.Module:
    """A random model in float64."""
    settings = {**MODELS[name], **flags}
    return built_at_random(settings.pop("arch"), **settings).requires_grad_(False)


def sentences(sources=(6,), targets=(5,), seed: int = 3) -> Batch:
    """A batch of random sentences."""
    found = batch(sources, targets, seed=seed)
    return Batch(
        list(range(len(sources))),
        found["src_tokens"],
        found["src_lengths"],
        found["prev_output_tokens"],
        1,
    )


def records_of(model: nn.Module, given: Batch) -> List[LayerRecord]:
    """Of all layers, encoder first."""
    found: List[LayerRecord] = []
    with Recorder(model, found.append):
        force_decode(model, given)
    return found


def hook_count(model: nn.Module) -> int:
    """Hooks on all modules of a model."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs")
    return sum(len(getattr(module, name)) for module in model.modules() for name in names)


def random_normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
