"""What several tests need: small tasks, models by architecture name, batches, weights, results."""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence

import torch
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY, BaseFairseqModel
from torch import Tensor, nn

import fairseq_ffn  # noqa: F401  (registers model and architectures)

#: a shape that runs in milliseconds; the FFN's width occurs nowhere else
SMALL: Dict[str, object] = {
    "encoder_embed_dim": 16,
    "decoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 24,
    "decoder_ffn_embed_dim": 24,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_layers": 3,
    "decoder_layers": 3,
}
PRE_NORM = {"encoder_normalize_before": True, "decoder_normalize_before": True}


@dataclass(frozen=True)
class Task:
    """As much of a translation task as building a model takes."""

    source_dictionary: Dictionary
    target_dictionary: Dictionary


def dictionary(words: int = 27) -> Dictionary:
    """A dictionary of ``words`` words besides the four special symbols."""
    words_of = Dictionary()
    for word in range(words):
        words_of.add_symbol(f"w{word}")
    return words_of


def task(source_words: int = 27, target_words: Optional[int] = None) -> Task:
    """A task with a joined dictionary, or with two if ``target_words`` is given."""
    source = dictionary(source_words)
    return Task(source, source if target_words is None else dictionary(target_words))


def arguments(arch: str, **flags: object) -> argparse.Namespace:
    """The flags of a model as fairseq's command line would leave them."""
    args = argparse.Namespace(arch=arch, **flags)
    ARCH_CONFIG_REGISTRY[arch](args)
    return args


def build(
    arch: str,
    seed: int = 1,
    for_task: Optional[Task] = None,
    dtype: torch.dtype = torch.float32,
    **flags: object,
) -> BaseFairseqModel:
    """A freshly initialised model in training mode."""
    torch.manual_seed(seed)
    args = arguments(arch, **flags)
    return ARCH_MODEL_REGISTRY[arch].build_model(args, for_task or task()).to(dtype)


def randomise(model: nn.Module, seed: int = 2, scale: float = 0.3) -> nn.Module:
    """Move every parameter, also norms and biases, away from its special initial value."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data += scale * noise.to(parameter.dtype)
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            module.weight.data[module.padding_idx] = 0
    return model


def built_at_random(arch: str, dtype: torch.dtype = torch.float64, **flags: object):
    """A model in evaluation mode in which no two parameters are equal, float64 unless told."""
    return randomise(build(arch, dtype=dtype, **flags)).eval()


def batch(
    source_lengths: Sequence[int] = (6, 4, 7),
    target_lengths: Sequence[int] = (5, 7, 3),
    vocabulary: int = 31,
    seed: int = 3,
) -> Dict[str, Tensor]:
    """Random sentences, padded as fairseq does it: sources on the left, targets on the right."""
    generator = torch.Generator().manual_seed(seed)
    special = Dictionary()
    pad, eos = special.pad(), special.eos()

    def sentence(length: int) -> Tensor:
        return torch.randint(special.nspecial, vocabulary, (length - 1,), generator=generator)

    end = torch.tensor([eos])
    sources = [torch.cat((sentence(length), end)) for length in source_lengths]
    targets = [torch.cat((sentence(length), end)) for length in target_lengths]

    def padded(rows: List[Tensor], left: bool) -> Tensor:
        width = max(len(row) for row in rows)
        fill = [row.new_full((width - len(row),), pad) for row in rows]
        pairs = zip(fill, rows) if left else zip(rows, fill)
        return torch.stack([torch.cat(pair) for pair in pairs])

    return {
        "src_tokens": padded(sources, left=True),
        "src_lengths": torch.tensor([len(row) for row in sources]),
        "prev_output_tokens": padded([torch.cat((end, row[:-1])) for row in targets], left=False),
        "target": padded(targets, left=False),
    }


def net_input(sentences: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """The part of a batch that goes into the model."""
    return {name: value for name, value in sentences.items() if name != "target"}


def logits(model: nn.Module, sentences: Dict[str, Tensor]) -> Tensor:
    """``(B, T, V)``."""
    return model(**net_input(sentences))[0]


def loss(model: nn.Module, sentences: Dict[str, Tensor]) -> Tensor:
    """Cross-entropy summed over the target, as fairseq's criterion computes it."""
    target = sentences["target"].flatten()
    scores = model.get_normalized_probs(model(**net_input(sentences)), log_probs=True)
    return nn.functional.nll_loss(scores.flatten(0, 1), target, ignore_index=1, reduction="sum")


def gradients(model: nn.Module, sentences: Dict[str, Tensor], seed: int = 4) -> Dict[str, Tensor]:
    """Gradient of a random weighting of all logits, by name; exact in the model's own dtype."""
    model.zero_grad()
    scores = logits(model, sentences)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(scores.shape, generator=generator, dtype=torch.float64).to(scores.dtype)
    (scores * weights).sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_gradients_under_ddp(plain: nn.Module, wrapped: nn.Module) -> None:
    """Two equal models have equal gradients, also if PyTorch's DDP is round the second."""
    plain(**net_input(batch()))[0].square().mean().backward()
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        ddp = nn.parallel.DistributedDataParallel(wrapped)
        for _ in range(2):  # a second pass fails if the first left a parameter unfinished
            wrapped.zero_grad()
            ddp(**net_input(batch()))[0].square().mean().backward()
    finally:
        torch.distributed.destroy_process_group()
    for expected, actual in zip(plain.parameters(), wrapped.parameters()):
        torch.testing.assert_close(actual.grad, expected.grad)


def cloned(state: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """A state dict of its own storage, as from a file."""
    return copy.deepcopy(dict(state))
