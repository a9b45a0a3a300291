"""A checkpoint of fairseq's own ``transformer``, which needs no plugin."""

from __future__ import annotations

import copy
from typing import Any, Dict

from fairseq_ffn.averaging import without_training_state
from fairseq_ffn.decoding.sources import Source
from fairseq_ffn.export.plain import plain_transformer
from fairseq_ffn.models import flags

ARCH = "transformer"

#: A user directory in whose presence fairseq's commands load checkpoints with PyTorch's protection
#: on: from PyTorch 2.6 on it refuses the class that all of fairseq's checkpoints hold.
SAFE_LOADING = '''\
"""Lets torch.load, with its protection on, read fairseq's checkpoints (--user-dir safe_loading)."""

import argparse

import torch

torch.serialization.add_safe_globals([argparse.Namespace])
'''


def stock_checkpoint(source: Source) -> Dict[str, Any]:
    """A model for stock fairseq.

    Optimiser state and EMA are left out. What layers share is one tensor under several names, which
    a file holds once.
    """
    plain = plain_transformer(source.model, one_width=True)
    args = copy.deepcopy(source.args)
    for name in [name for name, _ in flags.DEFAULTS] + ["unpruned_flags"]:
        if hasattr(args, name):
            delattr(args, name)
    args.encoder_ffn_embed_dim, args.decoder_ffn_embed_dim = (
        plain.widths["encoder"],
        plain.widths["decoder"],
    )
    # pruning has been done
    args.encoder_layers_to_keep = args.decoder_layers_to_keep = None
    args.arch = args._name = ARCH
    args.user_dir = None
    result = without_training_state(source.state)
    # statistics of the training may be numpy's, which stock fairseq's loading refuses
    extra, history = result["extra_state"], result["optimizer_history"][-1:]
    result["extra_state"] = {
        key: value for key, value in extra.items() if key in ("train_iterator", "epoch")
    }
    result["optimizer_history"] = [{**last, "lr_scheduler_state": {}} for last in history]
    result["model"] = {key: value.detach() for key, value in plain.state.items()}
    if result.get("args") is not None:  # fairseq before its configurations
        result["args"] = args
    else:
        cfg = {**result["cfg"], "model": args}
        if isinstance(cfg.get("common"), dict):
            cfg["common"] = {**cfg["common"], "user_dir": None}
        result["cfg"] = cfg
    return result
