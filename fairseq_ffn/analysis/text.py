"""Sentences for a model: the source into the encoder, the reference forced through the decoder."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Dict, List, Sequence

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Batch:
    """Sentences of one forward pass.

    Args:
        sentences: their numbers in the set, in the order of the batch.
        source: ``(B, S)``, end of sentence at the end.
        source_lengths: ``(B,)``.
        target_input: ``(B, T)``: what the decoder reads, the reference shifted right by one.
        pad: symbol of a pad.
    """

    sentences: List[int]
    source: Tensor
    source_lengths: Tensor
    target_input: Tensor
    pad: int

    def valid(self, stack: str) -> Tensor:
        """``(T, B)``, False at the pads of what the stack reads."""
        tokens = self.source if stack == "encoder" else self.target_input
        return tokens.ne(self.pad).t()

    @classmethod
    def of_sample(cls, sample: Dict[str, Any], pad: int) -> Batch:
        """From what fairseq's data set collates."""
        read = sample["net_input"]
        return cls(
            sample["id"].tolist(),
            read["src_tokens"],
            read["src_lengths"],
            read["prev_output_tokens"],
            pad,
        )


@torch.no_grad()
def force_decode(model: nn.Module, batch: Batch) -> None:
    """Run both stacks, without the output projection. What they do is for a ``Recorder``."""
    with warnings.catch_warnings():
        # fairseq gives PyTorch a mask of numbers and one of truth values
        warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
        encoded = model.encoder(batch.source, src_lengths=batch.source_lengths)
        model.decoder(batch.target_input, encoder_out=encoded, features_only=True)


def words_of(symbols: Sequence[str]) -> List[int]:
    """Number of the word that each symbol belongs to, for SentencePiece and for subword-nmt.

    A SentencePiece word starts with ``▁``; a subword-nmt piece that ends with ``@@`` goes on.
    Without either every symbol is a word. Symbols of fairseq such as ``</s>`` are words.
    """
    pieces = any(symbol.startswith("▁") for symbol in symbols)
    numbers: List[int] = []
    word = -1
    for index, symbol in enumerate(symbols):
        previous = symbols[index - 1] if index else ""
        special = symbol.startswith("<") and symbol.endswith(">")
        after_special = previous.startswith("<") and previous.endswith(">")
        if pieces:
            starts = symbol.startswith("▁") or after_special
        else:
            starts = not previous.endswith("@@")
        if starts or special or index == 0:
            word += 1
        numbers.append(word)
    return numbers
