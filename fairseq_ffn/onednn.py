"""oneDNN instead of MKL for float32 matrix products on a CPU: the switch.

PyTorch multiplies float32 matrices by MKL. How oneDNN, which PyTorch brings along for bfloat16,
compares depends on the CPU, so it is measured (``cpu_speed.py``). The public way in is the switch
that *allows* oneDNN to compute in bfloat16 inside; whether it does depends on the CPU as well, so a
product is checked before it is relied upon.
"""

from __future__ import annotations

import torch

#: relative error of a product of float32; bfloat16 has a thousand times as much
EXACT = 1e-5


def use(on: bool) -> None:
    """Let oneDNN multiply float32 matrices in this process from now on, or no longer."""
    torch.backends.mkldnn.matmul.fp32_precision = "bf16" if on else "none"


def is_exact() -> bool:
    """Whether there is the switch, and products behind it are those of float32."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.backends.mkldnn, "matmul"):
        return False
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(64, 64, generator=generator) for _ in range(2))
    use(True)
    try:
        product = a @ b
    finally:
        use(False)
    exact = a.double() @ b.double()
    return bool((product - exact).norm() < EXACT * exact.norm())
