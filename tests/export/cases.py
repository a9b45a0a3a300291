"""Models that can be exported, and those that can't."""

from __future__ import annotations

from typing import Dict

from helpers import PRE_NORM, SMALL, built_at_random, task

from fairseq_ffn.models.architectures import CONFIGS

#: flags on top of SMALL, for ``transformer_ffn``
EXPORTABLE: Dict[str, Dict[str, object]] = {
    **{
        f"{config}, {'pre' if norms else 'post'}-norm": {**CONFIGS[config].settings, **norms}
        for config in CONFIGS
        if "encoder_block" not in CONFIGS[config].settings
        for norms in ({}, PRE_NORM)
    },
    "one wide": {
        **PRE_NORM,
        "encoder_ffn_layout": "shared",
        "decoder_ffn_layout": "none",
        "encoder_ffn_embed_dim": 144,
    },
    "with and without in one stack": {
        "encoder_ffn_layout": "a,-,a",
        "decoder_ffn_layout": "-,b,c",
        "decoder_ffn_embed_dim": 40,
    },
    "common to both, with its norm": {
        "encoder_ffn_layout": "@x,y,@x",
        "decoder_ffn_layout": "@x,-,@x",
        "share_ffn_norm": True,
    },
    "attention shared": {
        **PRE_NORM,
        "encoder_self_attn_layout": "tied",
        "decoder_self_attn_layout": "tied",
        "decoder_cross_attn_layout": "sequence:2",
        "encoder_ffn_layout": "none",
    },
    "pre-norm encoder alone": {"encoder_normalize_before": True, "decoder_ffn_layout": "none"},
    "gelu": {"activation_fn": "gelu", "decoder_ffn_layout": "none"},
    "accurate gelu": {"activation_fn": "gelu_accurate"},
    "tanh": {"activation_fn": "tanh", "encoder_ffn_layout": "none"},
    "embeddings shared": {"share_all_embeddings": True},
    "output embeddings shared": {"share_decoder_input_output_embed": True},
    "embeddings unscaled": {"no_scale_embedding": True},
    "embeddings normalised": {"layernorm_embedding": True, "encoder_ffn_layout": "none"},
    "learned positions": {"encoder_learned_pos": True, "decoder_learned_pos": True},
    "no positions": {"no_token_positional_embeddings": True},
    "fewer positions": {"max_source_positions": 12, "max_target_positions": 14},
    "different widths, heads and depths": {
        "encoder_embed_dim": 24,
        "encoder_ffn_embed_dim": 40,
        "encoder_attention_heads": 4,
        "encoder_layers": 4,
        "decoder_layers": 1,
        "decoder_ffn_layout": "none",
    },
    "no last norm": {**PRE_NORM, "no_decoder_final_norm": True},
    "activation checkpointing": {"checkpoint_activations": True, "encoder_ffn_layout": "shared"},
    "layerdrop": {"encoder_layerdrop": 0.4, "decoder_layerdrop": 0.4},
    # one branch: these are series layers without FFN
    "parallel encoder without FFN": {"encoder_block": "parallel", "encoder_ffn_layout": "none"},
    "half parallel decoder without FFN": {
        **PRE_NORM,
        "decoder_block": "parallel-cross-ffn",
        "decoder_ffn_layout": "none",
        "parallel_norm": "own",
    },
}


def exportable(name: str, **more):
    """The model of a case, in evaluation mode, no two parameters equal."""
    flags = {**SMALL, **EXPORTABLE[name], **more}
    words = task() if flags.get("share_all_embeddings") else task(27, 22)
    return built_at_random("transformer_ffn", for_task=words, **flags)
