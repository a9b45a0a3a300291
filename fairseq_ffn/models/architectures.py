"""All named architectures: ``transformer_ffn_{size}_{config}``, from two tables a model.

A size gives the shape of the stacks, a config says what becomes of the FFNs; the names of the
configs are those of One Wide FFN, Table 1. ``transformer_ffn_{size}`` alone is the baseline. Flags
that are given on the command line win over both tables. The decoder-only model has sizes of its
own, ``decoder_only_{tiny,base,big}``, and the configs that one stack can have.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Dict, List, Mapping, Tuple

from fairseq.models import register_model_architecture
from fairseq.models.transformer.transformer_legacy import base_architecture

from fairseq_ffn.checkpoints import check_files_to_restore
from fairseq_ffn.models import (  # the models are registered first
    decoder_only,  # noqa: F401
    decoder_only_flags,
    flags,
    transformer_ffn,  # noqa: F401
)


@dataclass(frozen=True)
class Size:
    """Shape of a model, as fairseq's flags name it, and where it is from."""

    source: str
    settings: Mapping[str, object]


@dataclass(frozen=True)
class Config:
    """What becomes of the FFNs, and where it is from."""

    source: str
    settings: Mapping[str, object]
    one_wide: bool = False


def _shape(d_model: int, d_ff: int, heads: int, encoder_layers: int, decoder_layers: int, **more):
    return {
        "encoder_embed_dim": d_model,
        "decoder_embed_dim": d_model,
        "encoder_ffn_embed_dim": d_ff,
        "decoder_ffn_embed_dim": d_ff,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_layers": encoder_layers,
        "decoder_layers": decoder_layers,
        **more,
    }


SIZES: Dict[str, Size] = {
    "tiny": Size(
        "ours: trains in minutes on a laptop (docs/quickstart.md)",
        _shape(
            128,
            256,
            4,
            3,
            3,
            encoder_normalize_before=True,
            decoder_normalize_before=True,
            dropout=0.0,
        ),
    ),
    "base": Size("One Wide FFN, Table 6, Base", _shape(512, 2048, 8, 6, 6, dropout=0.1)),
    "big": Size("One Wide FFN, Tables 2-5, 7-10", _shape(1024, 4096, 16, 6, 6, dropout=0.1)),
    "deep": Size(
        "One Wide FFN, Table 6, Deep Encoder Shallow Decoder",
        _shape(1024, 4096, 16, 12, 2, dropout=0.1),
    ),
}


def _one_stack(d_model: int, d_ff: int, heads: int, layers: int, **more):
    shape = _shape(d_model, d_ff, heads, 0, layers, **more)
    return {name: value for name, value in shape.items() if not name.startswith("encoder_")}


DECODER_ONLY_SIZES: Dict[str, Size] = {
    "decoder_only_tiny": Size(
        "ours: as many layers as tiny has in both stacks",
        _one_stack(128, 256, 4, 6, decoder_normalize_before=True, dropout=0.0),
    ),
    "decoder_only_base": Size(
        "ours: as many layers as base has in both stacks", _one_stack(512, 2048, 8, 12, dropout=0.1)
    ),
    "decoder_only_big": Size(
        "One Wide FFN, Table 6, Decoder-Only", _one_stack(1024, 4096, 16, 12, dropout=0.1)
    ),
}
ALL_SIZES: Dict[str, Size] = {**SIZES, **DECODER_ONLY_SIZES}


def _ffn(encoder: str, decoder: str, **more):
    return {"encoder_ffn_layout": encoder, "decoder_ffn_layout": decoder, **more}


_PARALLEL = {"encoder_block": "parallel", "decoder_block": "parallel"}

CONFIGS: Dict[str, Config] = {
    "baseline": Config("fairseq's Transformer", _ffn("independent", "independent")),
    "shared_enc": Config("Table 1, SharedEnc", _ffn("shared", "independent")),
    "shared_dec": Config("Table 1, SharedDec", _ffn("independent", "shared")),
    "shared_enc_shared_dec": Config("Table 1, SharedEncSharedDec", _ffn("shared", "shared")),
    "shared_enc_dec": Config("Table 1, SharedEncDec", _ffn("tied", "tied")),
    "no_enc": Config("Table 3, NoEnc", _ffn("none", "independent")),
    "no_dec": Config("Table 1, NoDec", _ffn("independent", "none")),
    "no_enc_no_dec": Config("Table 3, NoEncNoDec", _ffn("none", "none")),
    "shared_enc_no_dec": Config("Table 1, SharedEncNoDec", _ffn("shared", "none")),
    "no_enc_shared_dec": Config("Table 3, NoEncSharedDec", _ffn("none", "shared")),
    "one_wide": Config("Table 4, One Wide FFN", _ffn("shared", "none"), one_wide=True),
    "parallel": Config("PAF", _ffn("independent", "independent", **_PARALLEL)),
    "one_wide_parallel": Config(
        "One Wide FFN in PAF blocks (ours)", _ffn("shared", "none", **_PARALLEL), one_wide=True
    ),
}

#: ``one_wide``: the FFN of all layers of the stack has the hidden units of all their FFNs together
DECODER_ONLY_CONFIGS: Dict[str, Config] = {
    "baseline": Config("Table 6, Decoder-Only", {"decoder_ffn_layout": "independent"}),
    "shared_dec": Config("Table 6, SharedDec", {"decoder_ffn_layout": "shared"}),
    "shared_dec_wide": Config(
        "Table 6, SharedDec wide", {"decoder_ffn_layout": "shared"}, one_wide=True
    ),
    "no_dec": Config("section 4, NoDec", {"decoder_ffn_layout": "none"}),
    "parallel": Config("PAF", {"decoder_ffn_layout": "independent", "decoder_block": "parallel"}),
    "shared_dec_wide_parallel": Config(
        "SharedDec wide in PAF blocks (ours)",
        {"decoder_ffn_layout": "shared", "decoder_block": "parallel"},
        one_wide=True,
    ),
}


def configs_of(size: str) -> Dict[str, Config]:
    """The configs that go with a size."""
    return DECODER_ONLY_CONFIGS if size in DECODER_ONLY_SIZES else CONFIGS


def architecture_name(size: str, config: str) -> str:
    """The name for ``--arch``."""
    return f"transformer_ffn_{size}_{config}"


def all_architectures() -> List[Tuple[str, str]]:
    """Size and config of each, in the order of the tables."""
    return [(size, config) for size in ALL_SIZES for config in configs_of(size)]


@register_model_architecture("transformer_ffn", "transformer_ffn")
def plain_architecture(args: argparse.Namespace) -> None:
    """fairseq's ``transformer`` sizes (Transformer Base without the paper's dropout)."""
    base_architecture(args)
    flags.set_defaults(args)
    flags.check(args)
    check_files_to_restore(args)


@register_model_architecture(decoder_only_flags.MODEL, decoder_only_flags.MODEL)
def plain_decoder_only(args: argparse.Namespace) -> None:
    """The shape of ``decoder_only_base``."""
    _fill_in(args, DECODER_ONLY_SIZES["decoder_only_base"].settings)
    decoder_only_flags.settle(args)
    plain_architecture(args)


def apply(args: argparse.Namespace, size: str, config: str) -> None:
    """Fill in what the command line left open, then refuse what can't be honoured."""
    one_stack = size in DECODER_ONLY_SIZES
    stacks = ("decoder",) if one_stack else ("encoder", "decoder")
    settings = {**ALL_SIZES[size].settings, **configs_of(size)[config].settings}
    if configs_of(size)[config].one_wide:
        # as many hidden units as all FFNs of the baseline together (section 2)
        layers = sum(
            getattr(args, f"{stack}_layers", settings[f"{stack}_layers"]) for stack in stacks
        )
        settings[f"{stacks[0]}_ffn_embed_dim"] *= layers
    if settings.get(f"{stacks[0]}_block") == "parallel":
        # in a post-norm stack the first layer's branches would read raw embeddings
        names = [f"{stack}_normalize_before" for stack in stacks]
        settings["layernorm_embedding"] = not all(
            getattr(args, name, settings.get(name, False)) for name in names
        )
    _fill_in(args, settings)
    (plain_decoder_only if one_stack else plain_architecture)(args)


def _fill_in(args: argparse.Namespace, settings: Mapping[str, object]) -> None:
    for name, value in settings.items():
        setattr(args, name, getattr(args, name, value))


def _register(name: str, size: str, config: str) -> None:
    def architecture(args: argparse.Namespace) -> None:
        apply(args, size, config)

    architecture.__name__ = name
    architecture.__doc__ = f"{ALL_SIZES[size].source}; {configs_of(size)[config].source}."
    model = decoder_only_flags.MODEL if size in DECODER_ONLY_SIZES else "transformer_ffn"
    register_model_architecture(model, name)(architecture)


for _size in ALL_SIZES:
    _register(f"transformer_ffn_{_size}", _size, "baseline")
for _size, _config in all_architectures():
    _register(architecture_name(_size, _config), _size, _config)
