"""What a layer's weights compute, written out from the paper's formulas and nothing else."""

from __future__ import annotations

import math
from typing import Dict, Optional, Tuple

import torch
from helpers import SMALL, built_at_random
from torch import Tensor, nn

#: fairseq computes cross-attention's softmax in float32 even in a float64 model
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def linear(module: nn.Linear, x: Tensor) -> Tensor:
    return x @ module.weight.T + module.bias


def norm(module: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)
    return centred / torch.sqrt(variance + 1e-5) * module.weight + module.bias


def ffn(layer: nn.Module, x: Tensor) -> Tensor:
    """W2 max(0, W1 x + b1) + b2."""
    return linear(layer.fc2, torch.clamp(linear(layer.fc1, x), min=0))


def attention_with_weights(
    module: nn.Module,
    query: Tensor,
    memory: Tensor,
    pads: Optional[Tensor] = None,
    causal: bool = False,
) -> Tuple[Tensor, Tensor]:
    """Multi-head attention of ``query (T, B, C)`` to ``memory (S, B, D)``.

    ``pads (B, S)`` is True where nothing may be attended to. The weights are ``(B, H, T, S)``.
    """
    heads = SMALL["encoder_attention_heads"]
    (steps, sentences, width), keys = query.shape, memory.shape[0]

    def split(x: Tensor) -> Tensor:
        return x.reshape(-1, sentences, heads, width // heads).permute(1, 2, 0, 3)

    q = split(linear(module.q_proj, query))
    k = split(linear(module.k_proj, memory))
    v = split(linear(module.v_proj, memory))
    scores = q @ k.transpose(-1, -2) / math.sqrt(width // heads)
    if pads is not None:
        scores = scores.masked_fill(pads[:, None, None, :], -math.inf)
    if causal:
        later = torch.ones(steps, keys, dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    weights = scores.softmax(-1)
    joined = (weights @ v).permute(2, 0, 1, 3).reshape(steps, sentences, width)
    return linear(module.out_proj, joined), weights


def attention(*args, **kwargs) -> Tensor:
    return attention_with_weights(*args, **kwargs)[0]


def parameters_of(layer: nn.Module) -> Dict[str, int]:
    """Number of parameters by sub-block of the layer."""
    found: Dict[str, int] = {}
    for name, parameter in layer.named_parameters():
        found[name.split(".")[0]] = found.get(name.split(".")[0], 0) + parameter.numel()
    return found


def one_layer_each(**flags: object) -> Tuple[nn.Module, nn.Module]:
    """The middle layers of a random float64 model's encoder and decoder, in evaluation mode."""
    model = built_at_random("transformer_ffn", **{**SMALL, **flags})
    return model.encoder.layers[1], model.decoder.layers[1]


def states(length: int, seed: int = 5, width: int = 16) -> Tensor:
    """Random layer input ``(length, 3, width)``, neither centred nor of unit size."""
    generator = torch.Generator().manual_seed(seed)
    return 1.7 * torch.randn(length, 3, width, generator=generator, dtype=torch.float64) + 0.4


def padding(length: int) -> Tensor:
    """``(3, length)``: the first sentence has no pads, the second one, the third two."""
    return torch.arange(length)[None] < torch.tensor([[0], [1], [2]])


class Encoder:
    """An encoder layer's branches on one input, by the letters of the docstrings' formulas."""

    def __init__(self, layer: nn.Module):
        self.layer, self.pads, self.x = layer, padding(6), states(6)
        self.LN1, self.LN3 = layer.self_attn_layer_norm, layer.final_layer_norm

    def SA(self, x: Tensor) -> Tensor:
        return attention(self.layer.self_attn, x, x, self.pads)

    def FFN(self, x: Tensor) -> Tensor:
        return ffn(self.layer, x)

    def output(self) -> Tensor:
        with torch.no_grad():
            return self.layer(self.x.clone(), self.pads)


class Decoder:
    """As ``Encoder``, for a decoder layer in teacher forcing."""

    def __init__(self, layer: nn.Module):
        self.layer = layer
        self.x, self.e, self.pads = states(5), states(6, seed=6), padding(6)
        self.LN1, self.LN3 = layer.self_attn_layer_norm, layer.final_layer_norm
        self.LN2 = layer.encoder_attn_layer_norm

    def SA(self, x: Tensor) -> Tensor:
        return attention(self.layer.self_attn, x, x, causal=True)

    def CA(self, x: Tensor) -> Tensor:
        return attention(self.layer.encoder_attn, x, self.e, self.pads)

    def FFN(self, x: Tensor) -> Tensor:
        return ffn(self.layer, x)

    def result(self, **kwargs: object):
        """What the layer returns: states, attention weights, None."""
        later = torch.full((5, 5), -math.inf, dtype=torch.float64).triu(1)
        with torch.no_grad():
            return self.layer(
                self.x.clone(),
                encoder_out=self.e.clone(),
                encoder_padding_mask=self.pads,
                self_attn_mask=later,
                **kwargs,
            )

    def output(self) -> Tensor:
        return self.result()[0]
