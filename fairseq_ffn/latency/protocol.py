"""What is measured, and how: the settings that make two figures comparable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional


@dataclass(frozen=True)
class Protocol:
    """The settings of a measurement; all of them go into the record.

    The defaults are the protocol of One Wide FFN, section 3 (batch 1, beam 5, mean of 5 runs, one
    thread); what the paper leaves open is decided here and in docs/latency.md.

    Args:
        device: ``cpu``, or the name of the GPU.
        threads: CPU threads of PyTorch.
        dtype: of the matrix products: ``float32``, ``float16``, ``bfloat16`` or ``int8``.
        batch_size: sentences a batch at most, or None if batches are made by tokens.
        max_tokens: source tokens a batch at most, or None.
        beam: beam size.
        runs: passes over the same batches.
        warmup: batches decoded before the first run and not counted.
        max_len_a: length limit of a hypothesis is ``max_len_a * source length + max_len_b``.
        max_len_b: see ``max_len_a``.
        min_len: shortest hypothesis, without end of sentence.
        prefix_size: target tokens that are given, not searched.
    """

    device: str = "cpu"
    threads: int = 1
    dtype: str = "float32"
    batch_size: Optional[int] = 1
    max_tokens: Optional[int] = None
    beam: int = 5
    runs: int = 5
    warmup: int = 10
    max_len_a: float = 0
    max_len_b: int = 200
    min_len: int = 1
    prefix_size: int = 0


def spread_over(count: int, wanted: int) -> List[int]:
    """``wanted`` numbers below ``count``, evenly spread, first and last among them.

    If more are wanted than there are, some come again.
    """
    if wanted <= 1:
        return [count // 2] * max(wanted, 0)
    return [round(index * (count - 1) / (wanted - 1)) for index in range(wanted)]
