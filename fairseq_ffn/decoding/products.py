"""Matrix products with weights that were packed once: ``y = act(x W^T + b)``.

A step of beam search multiplies a handful of rows by every weight of the decoder, so it is as fast
as the kernel reads weights. Which kernel that is depends on the CPU (MKL's is slow at a few rows on
AMD, fine on Intel), so the kernels are timed once on the model's own weights (:func:`fastest`).
PyTorch's operators for packed weights are private; each is tried and compared with the plain
product before it is used, and where one is missing or wrong the plain product stays.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Callable, Dict, Hashable, List, Mapping, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional

logger = logging.getLogger(__name__)

#: ``(rows, in) -> (rows, out)``
Product = Callable[[Tensor], Tensor]

#: kernels are timed on so many bytes of weights, more than a CPU's caches hold ...
TIMED_BYTES = 64e6
#: ... and so many times, of which the fastest counts
TIMED_ROUNDS = 3


#: a model whose largest weight has fewer entries isn't timed: its products take microseconds
SMALL = 2**20
#: another kernel than the first must be so much faster, or chance would choose how two runs round
WORTH_IT = 1.2
#: weights from which on it is worth looking which of the inputs are 0 (a wide FFN's second matrix)
WIDE = 2**23
#: part of the inputs that may be other than 0: fetching their weights costs several times what
#: multiplying with packed ones does
FEW = 0.1
#: inputs that are looked at first
SAMPLED = 1024


@dataclass(frozen=True)
class Kernel:
    """A way to multiply.

    Args:
        name: for the log.
        pack: ``(weight, bias or None, relu, rows)`` to a product; ``rows`` are expected.
        tolerance: largest error, as part of the largest result, that its rounding explains.
        copies: bytes a weight takes besides the model's own four; 0 if it uses these.
    """

    name: str
    pack: Callable[[Tensor, Optional[Tensor], bool, int], Product]
    tolerance: float
    copies: float


def _plain(weight: Tensor, bias: Optional[Tensor], relu: bool, rows: int) -> Product:
    if relu:
        return lambda x: functional.linear(x, weight, bias).relu_()
    return lambda x: functional.linear(x, weight, bias)


def _onednn(weight: Tensor, bias: Optional[Tensor], relu: bool, rows: int) -> Product:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    multiply = torch.ops.mkldnn._linear_pointwise.default
    after = "relu" if relu else "none"
    return lambda x: multiply(x, packed, bias, after, [], "")


def _plain_bfloat16(weight: Tensor, bias: Optional[Tensor], relu: bool, rows: int) -> Product:
    return _plain(weight.bfloat16(), None if bias is None else bias.bfloat16(), relu, rows)


def _onednn_bfloat16(weight: Tensor, bias: Optional[Tensor], relu: bool, rows: int) -> Product:
    return _onednn(weight.bfloat16(), None if bias is None else bias.bfloat16(), relu, rows)


def _int8(engine: str) -> Callable[[Tensor, Optional[Tensor], bool, int], Product]:
    def pack(weight: Tensor, bias: Optional[Tensor], relu: bool, rows: int) -> Product:
        # one scale per output channel; symmetric, since weights are
        scale = weight.abs().amax(dim=1).clamp_min(1e-12).double() / 127
        zeros = torch.zeros(len(weight), dtype=torch.long)
        quantised = torch.quantize_per_channel(weight, scale, zeros, 0, torch.qint8)
        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = engine
        try:
            packed = torch.ops.quantized.linear_prepack(quantised, bias)
        finally:
            torch.backends.quantized.engine = before
        name = "linear_relu_dynamic" if relu else "linear_dynamic"
        multiply = getattr(torch.ops.quantized, name).default
        # without VNNI sums of two 8-bit products are kept in 16 bits: 7 bits of x then
        narrow = not _has_vnni()
        return lambda x: multiply(x, packed, narrow)

    return pack


def _has_vnni() -> bool:
    return bool(getattr(torch.cpu, "_is_vnni_supported", lambda: False)())


PLAIN = Kernel("F.linear", _plain, 1e-5, 0)
#: by precision; the first is the one that always works
KERNELS: Dict[str, Tuple[Kernel, ...]] = {
    "float32": (PLAIN, Kernel("oneDNN, packed", _onednn, 1e-5, 4)),
    "bfloat16": (
        Kernel("F.linear", _plain_bfloat16, 2e-2, 2),
        Kernel("oneDNN, packed", _onednn_bfloat16, 2e-2, 2),
    ),
    "int8": tuple(
        Kernel(engine, _int8(engine), 5e-2, 1)
        for engine in ("fbgemm", "onednn")
        if engine in torch.backends.quantized.supported_engines
    ),
}


def activations_of(precision: str) -> torch.dtype:
    """Type of what goes into the products and comes out."""
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def fastest(precision: str, weights: Sequence[Tensor], rows: int) -> Tuple[Kernel, str]:
    """The fastest kernel on this machine, and what was measured, for the log.

    The first one that works is taken for small models, and where no other is clearly faster.

    Args:
        precision: see :data:`KERNELS`.
        weights: of the model; the largest are used, up to :data:`TIMED_BYTES`.
        rows: of x.

    Raises:
        RuntimeError: none works here.
    """
    chosen: List[Tensor] = []
    for weight in sorted(weights, key=torch.Tensor.numel, reverse=True):
        if chosen and sum(4 * one.numel() for one in chosen) + 4 * weight.numel() > TIMED_BYTES:
            break
        chosen.append(weight)
    inputs = {
        size: torch.randn(rows, size, generator=torch.Generator().manual_seed(1))
        for size in {weight.shape[1] for weight in chosen}
    }
    inputs = {size: x.to(activations_of(precision)) for size, x in inputs.items()}
    packed: Dict[str, Tuple[Kernel, List[Product]]] = {}
    problems = []
    for kernel in KERNELS[precision]:
        try:
            products = [kernel.pack(weight, None, False, rows) for weight in chosen]
            _compare(kernel, products[-1], chosen[-1], inputs[chosen[-1].shape[1]])
            packed[kernel.name] = (kernel, products)
        except (RuntimeError, AttributeError, TypeError, NotImplementedError) as error:
            problems.append(f"{kernel.name}: {' '.join(str(error).split())}")
    if not packed:
        raise RuntimeError("; ".join(problems) or f"no kernel for {precision}")
    first = next(iter(packed))
    if len(packed) == 1 or chosen[0].numel() < SMALL:
        return packed[first][0], ", ".join([first, *problems])
    seconds = {name: float("inf") for name in packed}
    for _ in range(TIMED_ROUNDS):
        for name, (_, products) in packed.items():
            begin = time.perf_counter()
            for product, weight in zip(products, chosen):
                product(inputs[weight.shape[1]])
            seconds[name] = min(seconds[name], time.perf_counter() - begin)
    best = min(packed, key=lambda name: seconds[name] * (1 if name == first else WORTH_IT))
    others = [
        f"{seconds[name] / seconds[best]:.1f}x as fast as {name}" for name in packed if name != best
    ]
    return packed[best][0], ", ".join([best, *others, *problems])


def _compare(kernel: Kernel, product: Product, weight: Tensor, x: Tensor) -> None:
    expected = functional.linear(x.float(), weight)
    error = (product(x).float() - expected).abs().max() / expected.abs().max().clamp_min(1e-12)
    if not error <= kernel.tolerance:
        raise RuntimeError(f"its result is off by {float(error):.1g}")


def _active_columns(by_unit: Tensor, bias: Optional[Tensor], product: Product) -> Product:
    """Leaves out what is multiplied by 0, if that is nearly all; else ``product``.

    Args:
        by_unit: ``(in, out)``, so that what belongs to an input column lies together.
        bias: ``(out,)``.
        product: with all columns.
    """

    def multiply(h: Tensor) -> Tensor:
        # a few columns tell whether it is worth looking at all
        if float((h[:, :SAMPLED].amax(0) > 0).float().mean()) > 2 * FEW:
            return product(h)
        active = (h.amax(0) > 0).nonzero().squeeze(1)
        if len(active) > FEW * h.shape[1]:
            return product(h)
        y = h.index_select(1, active).float() @ by_unit.index_select(0, active)
        return (y if bias is None else y.add_(bias)).to(h.dtype)

    return multiply


class ProductPool:
    """The products of a model; weights that several layers use are packed once.

    Args:
        kernel: how to multiply.
        rows: how many rows are expected.
        uses: how many layers use a weight, by its id.
    """

    def __init__(self, kernel: Kernel, rows: int, uses: Mapping[int, int]):
        self.kernel, self.rows, self._uses = kernel, rows, uses
        self._products: Dict[Hashable, Product] = {}
        #: weights that were packed
        self.weights = 0
        self._bytes = 0.0

    def rows_of(self, linears: Sequence[nn.Linear], relu: bool = False) -> Product:
        """One product for linears that read the same input; results side by side."""
        return self._get("rows", linears, relu)

    def columns_of(self, linears: Sequence[nn.Linear]) -> Product:
        """One product for linears whose results are added; inputs side by side."""
        return self._get("columns", linears, False)

    def is_shared(self, linear: nn.Linear) -> bool:
        """Several layers use it."""
        return self._uses.get(id(linear.weight), 0) > 1

    def active_columns_of(self, linear: nn.Linear) -> Product:
        """The product for inputs of which ReLU may have left few columns other than 0."""
        key = ("active", id(linear.weight))
        if key not in self._products:
            by_unit = linear.weight.detach().t().contiguous()
            linear.weight.data = by_unit.t()  # no second copy
            bias = None if linear.bias is None else linear.bias.detach()
            self._products[key] = _active_columns(by_unit, bias, self.columns_of([linear]))
        return self._products[key]

    def _get(self, how: str, linears: Sequence[nn.Linear], relu: bool) -> Product:
        key = (how, relu, *(id(linear.weight) for linear in linears))
        if key not in self._products:
            weights = [linear.weight.detach() for linear in linears]
            biases = [None if linear.bias is None else linear.bias.detach() for linear in linears]
            weight, bias, copies = weights[0], biases[0], self.kernel.copies
            if len(weights) > 1 and how == "rows":
                weight, bias = torch.cat(weights), torch.cat(biases)
                if copies == 0:  # no copy: the model's own weights become parts of this one
                    sizes = [len(one) for one in weights]
                    for linear, part in zip(linears, weight.split(sizes)):
                        linear.weight.data = part
            elif len(weights) > 1:
                weight, bias = torch.cat(weights, dim=1), torch.stack(biases).sum(0)
                copies = copies or 4
            if copies:
                weight = weight.contiguous()
            self._products[key] = self.kernel.pack(weight, bias, relu, self.rows)
            self.weights += weight.numel()
            self._bytes += weight.numel() * copies
        return self._products[key]

    @property
    def megabytes(self) -> float:
        """What the packed weights take, in 10^6 bytes."""
        return self._bytes / 1e6
