"""All named architectures: ``transformer_ffn_{size}_{config}``, from two tables.

A size gives the shape of the stacks, a config says what becomes of the FFNs; the names of the
configs are those of One Wide FFN, Table 1. ``transformer_ffn_{size}`` alone is the baseline. Flags
that are given on the command line win over both tables.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Dict, Mapping

from fairseq.models import register_model_architecture
from fairseq.models.transformer.transformer_legacy import base_architecture

from fairseq_ffn.checkpoints import check_files_to_restore
from fairseq_ffn.models import flags, transformer_ffn  # noqa: F401  (registers the model first)


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


def architecture_name(size: str, config: str) -> str:
    """The name for ``--arch``."""
    return f"transformer_ffn_{size}_{config}"


@register_model_architecture("transformer_ffn", "transformer_ffn")
def plain_architecture(args: argparse.Namespace) -> None:
    """fairseq's ``transformer`` sizes (Transformer Base without the paper's dropout)."""
    base_architecture(args)
    flags.set_defaults(args)
    flags.check(args)
    check_files_to_restore(args)


def apply(args: argparse.Namespace, size: str, config: str) -> None:
    """Fill in what the command line left open, then refuse what can't be honoured."""
    settings = {**SIZES[size].settings, **CONFIGS[config].settings}
    if CONFIGS[config].one_wide:
        # as many hidden units as all FFNs of the baseline together (section 2)
        layers = getattr(args, "encoder_layers", settings["encoder_layers"]) + getattr(
            args, "decoder_layers", settings["decoder_layers"]
        )
        settings["encoder_ffn_embed_dim"] = layers * SIZES[size].settings["encoder_ffn_embed_dim"]
    if settings.get("encoder_block") == "parallel":
        # in a post-norm stack the first layer's branches would read raw embeddings
        settings["layernorm_embedding"] = not all(
            getattr(args, name, settings.get(name, False))
            for name in ("encoder_normalize_before", "decoder_normalize_before")
        )
    for name, value in settings.items():
        setattr(args, name, getattr(args, name, value))
    plain_architecture(args)


def _register(name: str, size: str, config: str) -> None:
    def architecture(args: argparse.Namespace) -> None:
        apply(args, size, config)

    architecture.__name__ = name
    architecture.__doc__ = f"{SIZES[size].source}; {CONFIGS[config].source}."
    register_model_architecture("transformer_ffn", name)(architecture)


for _size in SIZES:
    _register(f"transformer_ffn_{_size}", _size, "baseline")
    for _config in CONFIGS:
        _register(architecture_name(_size, _config), _size, _config)
