"""Which arithmetic is faster for training on this CPU, found by measuring once.

bfloat16 is faster on a CPU with bfloat16 instructions (AVX-512 BF16, AMX) and much slower on one
without; no flag that PyTorch reports tells how much is gained, so a product of the shape that a
small Transformer spends its time on is timed in both.
"""

from __future__ import annotations

import time

import torch

#: bfloat16 must be this much faster to be worth its rounding
WORTH_IT = 1.3


def faster_cpu_autocast() -> str:
    """Value for ``--cpu-autocast``: ``bfloat16`` where it is clearly faster, else ``none``."""
    if torch.cuda.is_available():
        return "none"
    single = _seconds(torch.float32)
    half = _seconds(torch.bfloat16, give_up_after=single)
    return "bfloat16" if single > WORTH_IT * half else "none"


def _seconds(dtype: torch.dtype, give_up_after: float = float("inf"), runs: int = 7) -> float:
    """Best of some runs of a (1024, 256) x (256, 1024) product."""
    x = torch.randn(1024, 256, dtype=dtype)
    weight = torch.randn(1024, 256, dtype=dtype)
    best = float("inf")
    for run in range(runs + 1):
        started = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        seconds = time.perf_counter() - started
        if run > 0:  # the first one sets kernels up
            best = min(best, seconds)
        if best > 4 * give_up_after and run > 1:
            break
    return best
