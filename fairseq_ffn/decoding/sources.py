"""A checkpoint of a translation Transformer with its model: what export and conversion start from.

fairseq fails with a traceback at architectures and tasks that it doesn't know; these are told from
the settings in the file, before anything is built.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional

from fairseq import checkpoint_utils
from fairseq.data import Dictionary
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.models.transformer import TransformerModel
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from fairseq_ffn.checkpoints import load_checkpoint
from fairseq_ffn.decoding.candidates import load_checkpoints
from fairseq_ffn.errors import UserError
from fairseq_ffn.models import flags
from fairseq_ffn.models.transformer_ffn import TransformerFfnModel

#: models of a plain encoder and decoder; others have parts that aren't known here
MODELS = (TransformerModel, TransformerFfnModel)
#: the task of which a sentence goes into the model as it is
TASK = "translation"


@dataclass
class Source:
    """A checkpoint and the model in it.

    Args:
        path: of the file.
        state: all that is in the file.
        model: built and loaded, in evaluation mode; ``model.args`` has all flags, ours too.
        task: with the dictionaries.
    """

    path: str
    state: Dict[str, Any]
    model: TransformerModel
    task: TranslationTask

    @property
    def args(self) -> argparse.Namespace:
        """Flags of the model, all set."""
        return self.model.args


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
    return _source(path, state, loaded.model, loaded.task)


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
    return _source(path, state, models[0], task)


def settings_of(state: Dict[str, Any]) -> argparse.Namespace:
    """The model's flags as the checkpoint has them."""
    return state.get("args") or state["cfg"]["model"]


def _checked_state(path: str) -> Dict[str, Any]:
    state = load_checkpoint(path)
    args = settings_of(state)
    arch = getattr(args, "arch", None) or getattr(args, "_name", None)
    if not isinstance(arch, str) or ARCH_MODEL_REGISTRY.get(arch) not in MODELS:
        raise UserError(
            f"checkpoint {path}: its architecture is {arch}; only those of the models "
            "'transformer_ffn' and 'transformer' are known here"
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


def _source(path: str, state: Dict[str, Any], model: Any, task: TranslationTask) -> Source:
    flags.set_defaults(model.args)
    model.eval()
    return Source(path, state, model, task)


def _dictionary_of(size: int) -> Dictionary:
    dictionary = Dictionary()
    for number in range(size - len(dictionary)):
        dictionary.add_symbol(f"w{number}")
    return dictionary
