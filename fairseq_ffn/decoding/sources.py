"""A checkpoint of a translation Transformer with its model: what export and conversion start from.

fairseq fails with a traceback at architectures and tasks that it doesn't know; these are told from
the settings in the file, before anything is built.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional

from fairseq import checkpoint_utils
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from fairseq.models.transformer import TransformerModel
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from fairseq_ffn.checkpoints import load_checkpoint
from fairseq_ffn.decoding.candidates import load_checkpoints
from fairseq_ffn.errors import UserError
from fairseq_ffn.models import flags
from fairseq_ffn.models.decoder_only import TransformerFfnDecoderOnlyModel
from fairseq_ffn.models.transformer_ffn import TransformerFfnModel

#: models of a plain encoder and decoder; others have parts that aren't known here
MODELS = (TransformerModel, TransformerFfnModel)
_SETTLED_BY_BUILDING = (
    *("encoder_layers", "decoder_layers", "max_source_positions", "max_target_positions"),
    "share_decoder_input_output_embed",
)
#: the task of which a sentence goes into the model as it is
TASK = "translation"


@dataclass
class Source:
    """A checkpoint and the model in it.

    Args:
        path: of the file.
        state: all that is in the file.
        model: built and loaded, in evaluation mode.
        task: with the dictionaries.
        args: the model's flags as a checkpoint holds them, all set, ours too. (fairseq gives the
            model itself a structure of its own.)
    """

    path: str
    state: Dict[str, Any]
    model: TransformerModel
    task: TranslationTask
    args: argparse.Namespace


def load_source(
    path: str,
    data: str,
    source: Optional[str] = None,
    target: Optional[str] = None,
    model_overrides: Optional[Mapping[str, Any]] = None,
) -> Source:
    """Load a checkpoint with its dictionaries.

    Args:
        path: one file.
        data: folder of fairseq-preprocess.
        source: language, if not the checkpoint's.
        target: language, if not the checkpoint's.
        model_overrides: flags of the training to change.

    Raises:
        UserError: the file can't be used.
    """
    state = _checked_state(path)
    loaded = load_checkpoints([path], data, source, target, model_overrides)[0]
    return _source(path, state, loaded.model, loaded.task, model_overrides or {})


def load_source_without_data(path: str) -> Source:
    """Load a checkpoint whose words don't matter: the dictionaries only have the right sizes.

    Raises:
        UserError: the file can't be used.
    """
    state = _checked_state(path)
    args = settings_of(state)
    sizes = []
    for stack in ("encoder", "decoder"):
        embedding = state["model"].get(f"{stack}.embed_tokens.weight")
        if embedding is None or embedding.dim() != 2:
            raise UserError(f"checkpoint {path}: not a Transformer (no {stack}.embed_tokens)")
        sizes.append(len(embedding))
    dictionaries = [_dictionary_of(size) for size in sizes]
    if getattr(args, "share_all_embeddings", False):
        dictionaries[1] = dictionaries[0]
    task = TranslationTask(TranslationConfig(), *dictionaries)
    models, _ = checkpoint_utils.load_model_ensemble([path], task=task)
    return _source(path, state, models[0], task, {})


def settings_of(state: Dict[str, Any]) -> argparse.Namespace:
    """The model's flags as the checkpoint has them."""
    return state.get("args") or state["cfg"]["model"]


def _checked_state(path: str) -> Dict[str, Any]:
    state = load_checkpoint(path)
    args = settings_of(state)
    arch = _architecture(args)
    if not isinstance(arch, str) or ARCH_MODEL_REGISTRY.get(arch) not in MODELS:
        raise UserError(
            f"checkpoint {path}: its architecture is {arch}; only those of the models "
            f"'transformer_ffn' and 'transformer' are known here{_why_not(arch)}"
        )
    if state.get("args") is None:
        task = (state["cfg"].get("task") or {}).get("_name")
    else:
        task = getattr(args, "task", TASK)
    if task != TASK:
        raise UserError(
            f"checkpoint {path}: trained with --task {task}, which may change sentences before the "
            f"model sees them; only --task {TASK} is known here"
        )
    return state


def _why_not(arch: Any) -> str:
    if ARCH_MODEL_REGISTRY.get(arch) is not TransformerFfnDecoderOnlyModel:
        return ""
    return (
        ": a decoder-only model reads the source in both directions and goes on causally in the "
        "same layers, which neither an encoder with a decoder nor a language model computes"
    )


def _source(
    path: str,
    state: Dict[str, Any],
    model: TransformerModel,
    task: TranslationTask,
    overrides: Mapping[str, Any],
) -> Source:
    args = copy.deepcopy(settings_of(state))
    for name, value in overrides.items():
        setattr(args, name, value)
    ARCH_CONFIG_REGISTRY[_architecture(args)](args)
    # building the model prunes layers, and settles what an older fairseq didn't know
    flags.set_defaults(args)
    flags.set_defaults(model.args)
    layouts = [f"{stack}_{kind}_layout" for stack, kind, _ in flags.LAYOUTS]
    for name in (*layouts, *_SETTLED_BY_BUILDING):
        setattr(args, name, getattr(model.args, name))
    model.eval()
    return Source(path, state, model, task, args)


def _architecture(args: argparse.Namespace) -> Any:
    return getattr(args, "arch", None) or getattr(args, "_name", None)


def _dictionary_of(size: int) -> Dictionary:
    dictionary = Dictionary()
    for number in range(size - len(dictionary)):
        dictionary.add_symbol(f"w{number}")
    return dictionary
