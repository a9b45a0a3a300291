"""Layers with and without FFN, turned into each other in a state dict.

Leaving an FFN out takes its residual and its layer norm with it, so the two kinds of layer differ
by more than the FFN. h is what the attention before the FFN adds up to, ``n(.)`` plain layer
normalisation, ``(g1, b1)`` the affine part of the norm before the FFN (LN1), ``(g2, b2)`` that of
the FFN's own norm (LN2).

pre-norm
    Without FFN ``y = h``, with one ``y = h + FFN(LN2(h))``: equal to the bit if the FFN gives 0.

post-norm
    Without FFN ``y = g1 n(h) + b1``, with one ``y = LN2(LN1(h) + FFN(LN1(h)))``. With an FFN that
    gives 0, ``LN1 = (1, 0)`` and ``LN2 = (g1, b1)`` that is ``y = g1 n(n(h)) + b1``, and
    normalising twice is normalising once, up to the epsilon in the root: for a variance v of h the
    two differ by the factor ``1 + eps/2 (1/v - 1)``, which is within 5e-6 of 1 for v from 0.5 on
    (eps is 1e-5), about the rounding of single precision. The affine part must move to the second
    norm, since ``n(g1 n(h) + b1)`` isn't affine in ``n(h)``.
"""

from __future__ import annotations

from typing import Dict, Mapping

import torch
from torch import Tensor

FFN_ENTRIES = ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")
NORM = "final_layer_norm"


def silent_ffn(d_model: int, width: int, dtype: torch.dtype = torch.float32) -> Dict[str, Tensor]:
    """An FFN that gives 0 for every input.

    No output weight reads the first hidden unit, and all others are 0, since the activation of 0 is
    0. Neither matrix is all zeros: CTranslate2's 16-bit integers are in units of the largest weight
    of a matrix.

    Args:
        d_model: size of input and output.
        width: d_ff, at least 2.
        dtype: of the weights.
    """
    shapes = ((width, d_model), (width,), (d_model, width), (d_model,))
    ffn = {name: torch.zeros(shape, dtype=dtype) for name, shape in zip(FFN_ENTRIES, shapes)}
    ffn["fc1.weight"][0, 0] = 1
    ffn["fc2.weight"][0, 1] = 1
    return ffn


def insert_ffn(
    state: Dict[str, Tensor], layer: str, ffn: Mapping[str, Tensor], pre_norm: bool
) -> None:
    """Give a layer in series that has no FFN one that gives 0 (in place); its output stays.

    Args:
        state: state dict that names all layers.
        layer: prefix, such as ``decoder.layers.0.``.
        ffn: see :data:`FFN_ENTRIES`; its output must be 0.
        pre_norm: kind of the stack.
    """
    before = norm_before_ffn(state, layer)
    for part, neutral in (("weight", torch.ones_like), ("bias", torch.zeros_like)):
        affine = state[f"{before}.{part}"]
        state[f"{layer}{NORM}.{part}"] = neutral(affine) if pre_norm else affine
        if not pre_norm:
            state[f"{before}.{part}"] = neutral(affine)
    state.update({f"{layer}{name}": value for name, value in ffn.items()})


def remove_ffn(state: Dict[str, Tensor], layer: str, pre_norm: bool) -> None:
    """Take a layer's FFN and its norm out (in place), in series.

    Post-norm: the two norms become one. ``LN2(LN1(h))`` isn't an affine function of ``n(h)``, but
    nearly: the mean and the spread of ``g1 n(h) + b1`` over its components vary little with h, and
    with the values that they have on average,

        ``s^2 = mean(g1^2) + var(b1); g = g1 g2 / s; b = (b1 - mean(b1)) g2 / s + b2``.

    This undoes :func:`insert_ffn` to the bit, where g1 is 1 and b1 is 0.
    """
    if not pre_norm:
        before = norm_before_ffn(state, layer)
        g1, b1 = (state[f"{before}.{part}"].double() for part in ("weight", "bias"))
        g2, b2 = (state[f"{layer}{NORM}.{part}"].double() for part in ("weight", "bias"))
        spread = (g1.square().mean() + b1.var(unbiased=False)).sqrt()
        gain = g2 / spread
        for part, value in (("weight", g1 * gain), ("bias", (b1 - b1.mean()) * gain + b2)):
            state[f"{before}.{part}"] = value.to(state[f"{before}.{part}"].dtype)
    for name in (*FFN_ENTRIES, f"{NORM}.weight", f"{NORM}.bias"):
        state.pop(layer + name, None)


def norm_before_ffn(state: Mapping[str, Tensor], layer: str) -> str:
    """Name of the norm of the last attention in a layer."""
    cross = f"{layer}encoder_attn_layer_norm"
    return cross if f"{cross}.weight" in state else f"{layer}self_attn_layer_norm"
