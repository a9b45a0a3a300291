"""Which arithmetic is faster for training on this CPU, found by measuring once.

bfloat16 is faster on a CPU with bfloat16 instructions (AVX-512 BF16, AMX) and much slower on one
without; no flag that PyTorch reports tells how much is gained, and for small products the
conversions can cost more than they save. So the matrix products of a small Transformer, forward and
backward, are timed in both, with the threads that training will have.

Libraries of the same precision are nearer to each other, and a wrong choice would last for the
whole training. They are timed in turn, as often as it takes to tell a gain from noise; and each
time with another number of rows, as batches have: oneDNN sets its kernels up for each shape, which
costs more than a small product gains, and which a measurement of one shape doesn't see.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from typing import Dict, Iterator, List

import torch
from torch import nn

from fairseq_ffn import onednn

#: bfloat16 must be this much faster to be worth its rounding
WORTH_IT = 1.3
#: so must another library, whose products are only part of an update (on a CPU where these gained
#: 1.2 the update lost 9%), at the median of ...
WORTH_A_LIBRARY = 1.5
#: ... so many rounds, of which it may lose ...
ROUNDS = 9
#: ... so many
LOST = 1
#: rows by which the batches of two rounds differ: fairseq's batches have 8 N sentences
STEP = 8


def faster_cpu_autocast(d_model: int, d_ff: int, vocabulary: int, tokens: int, threads: int) -> str:
    """Value for ``--cpu-autocast``: ``bfloat16`` where it is clearly faster, else ``none``.

    It is about training on the CPU, so a GPU beside it changes nothing.

    Args:
        d_model: width of the model.
        d_ff: hidden units of an FFN.
        vocabulary: rows of the output projection.
        tokens: tokens in a batch, B x T.
        threads: threads that the training will have.
    """
    with _threads(threads):
        model = _products(d_model, d_ff, vocabulary)
        x = torch.randn(tokens, d_model)
        single = _seconds(model, x, bfloat16=False)
        half = _seconds(model, x, bfloat16=True, give_up_after=single)
    return "bfloat16" if single > WORTH_IT * half else "none"


def faster_cpu_matmul(d_model: int, d_ff: int, vocabulary: int, tokens: int, threads: int) -> str:
    """Value for ``--cpu-matmul``: ``onednn`` where it is clearly faster, else ``default``.

    It ends as soon as oneDNN has lost too often.

    Arguments as for :func:`faster_cpu_autocast`.
    """
    gains: List[float] = []
    with _threads(threads):
        model = _products(d_model, d_ff, vocabulary)
        try:
            for number in range(ROUNDS + 1):
                x = torch.randn(tokens + STEP * number, d_model, requires_grad=True)
                seconds: Dict[bool, float] = {}
                # each goes first in every other round
                for on in (number % 2 == 0, number % 2 == 1):
                    onednn.use(on)
                    seconds[on] = _seconds_once(model, x)
                if number > 0:  # the first one takes memory
                    gains.append(seconds[False] / seconds[True])
                if sum(gain < 1 for gain in gains) > LOST:
                    return "default"
        finally:
            onednn.use(False)
    return "onednn" if statistics.median(gains) > WORTH_A_LIBRARY else "default"


def _products(d_model: int, d_ff: int, vocabulary: int) -> nn.Module:
    """The matrix products of a small Transformer."""
    return nn.Sequential(
        nn.Linear(d_model, 3 * d_model),  # query, key and value
        nn.Linear(3 * d_model, d_model),
        nn.Linear(d_model, d_ff),
        nn.ReLU(),
        nn.Linear(d_ff, d_model),
        nn.Linear(d_model, vocabulary, bias=False),
    )


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    """So many threads; afterwards as many, and the random numbers, as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(before)


def _seconds(
    model: nn.Module,
    x: torch.Tensor,
    bfloat16: bool,
    give_up_after: float = float("inf"),
    runs: int = 7,
) -> float:
    """Best of some forward and backward passes of ``x``, ``(tokens, d_model)``."""
    best = float("inf")
    for run in range(runs + 1):
        seconds = _seconds_once(model, x, bfloat16)
        if run > 0:  # the first one sets kernels up
            best = min(best, seconds)
        if best > 4 * give_up_after and run > 1:
            break
    return best


def _seconds_once(model: nn.Module, x: torch.Tensor, bfloat16: bool = False) -> float:
    """Of a forward and backward pass of ``x``, ``(tokens, d_model)``."""
    started = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
        loss = model(x).sum()
    loss.backward()
    return time.perf_counter() - started
