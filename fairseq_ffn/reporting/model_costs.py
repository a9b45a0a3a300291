"""Size and cost of a trained model, from the settings in its checkpoint."""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional

from fairseq.models.transformer.transformer_legacy import base_architecture

from fairseq_ffn.checkpoints import load_checkpoint
from fairseq_ffn.costs import count_multiply_adds, count_parameters, shape_of
from fairseq_ffn.errors import UserError
from fairseq_ffn.models import flags


@dataclass(frozen=True)
class ModelCosts:
    """In closed form (``fairseq_ffn.costs``).

    Args:
        arch: value of ``--arch``.
        total: parameters.
        body: parameters without embeddings and output projection.
        source_token: multiply-adds per source token.
        target_token: multiply-adds per target token.
    """

    arch: str
    total: int
    body: int
    source_token: int
    target_token: int


def costs_of_checkpoint(path: Path) -> Optional[ModelCosts]:
    """Size and cost of the model in a checkpoint; None if it is no Transformer that we can count.

    Raises:
        UserError: the file is no usable checkpoint.
    """
    state = load_checkpoint(path, mmap=True)
    args = _model_args(state)
    if args is None or not hasattr(args, "encoder_layers"):
        return None
    weights = state["model"]
    stacks = ("decoder",) if getattr(args, "decoder_only", False) else ("encoder", "decoder")
    try:
        vocabularies = [weights[f"{stack}.embed_tokens.weight"].shape[0] for stack in stacks]
    except KeyError:
        return None
    arch = str(getattr(args, "arch", None) or getattr(args, "_name", "transformer"))
    base_architecture(args)
    flags.set_defaults(args)
    try:
        shape = shape_of(args, *vocabularies)
    except UserError:  # an option without closed form
        return None
    parameters, work = count_parameters(shape), count_multiply_adds(shape)
    return ModelCosts(arch, parameters.total, parameters.body, work.source_token, work.target_token)


def _model_args(state: Dict[str, Any]) -> Optional[argparse.Namespace]:
    settings = state.get("cfg")
    args = settings.get("model") if isinstance(settings, dict) else None
    if args is None:
        args = state.get("args")
    if isinstance(args, dict):
        args = argparse.Namespace(**args)
    return copy.copy(args) if isinstance(args, argparse.Namespace) else None
