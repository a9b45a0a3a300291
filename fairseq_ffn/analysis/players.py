"""Players: one vector per position that a layer's output came from, and one for the biases.

The norm-based attention maps of Kobayashi et al. (2020, 2021; 2024 with the FFN) follow the vectors
that the input tokens of a layer contribute to each of its output tokens. Attention weights and the
standard deviations of layer norms are constants of the forward pass; everything else is linear,
but for the FFN's activation, which integrated gradients with baseline 0 split exactly. At every
point: sum of the players = true activation.

The activation in closed form: it acts on each neuron's z = sum_j p_j alone, so along the path t z
every player sees the slope g'(t z), and ``a_j = p_j (g(z) - g(0)) / z``. No steps, no gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Tuple

import torch
from torch import Tensor, nn

#: hidden neurons that are split at a time; the sum over neurons makes chunks exact
CHUNK = 512


@dataclass
class Players:
    """The vectors of every output position.

    Args:
        tokens: ``(T, P, C)``; P are the stack's own positions, then the source's in a decoder.
        bias: ``(T, C)``: the player of all biases.
        live: ``(T, P)``: False where the vector is zero by construction (the future, mostly).
    """

    tokens: Tensor
    bias: Tensor
    live: Tensor

    @classmethod
    def of_input(cls, x: Tensor, sources: int = 0) -> Players:
        """Before a layer: every token is its own player. ``x (T, C)``."""
        length, width = x.shape
        tokens = x.new_zeros(length, length + sources, width)
        own = torch.arange(length)
        tokens[own, own] = x
        live = torch.zeros(length, length + sources, dtype=torch.bool, device=x.device)
        live[own, own] = True
        return cls(tokens, torch.zeros_like(x), live)

    @property
    def total(self) -> Tensor:
        """The activation that the players add up to. ``(T, C)``."""
        return self.tokens.sum(dim=1) + self.bias

    def add(self, other: Players, scale: float = 1.0) -> None:
        """Add the players of a branch, in place."""
        self.tokens.add_(other.tokens, alpha=scale)
        self.bias.add_(other.bias, alpha=scale)
        self.live |= other.live


def layer_norm_split(players: Players, total: Tensor, norm: Any) -> Players:
    """Each player through the layer norm of their sum (Kobayashi et al. 2021).

    ``g(c) = (c - mean(c)) / s * gamma`` with s the standard deviation of the sum (population, eps
    inside); beta goes to the bias.

    Args:
        players: adding up to ``total``.
        total: ``(T, C)``.
        norm: an ``nn.LayerNorm``.
    """
    spread = (total.var(dim=-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    scale = 1 / spread if norm.weight is None else norm.weight.to(total.dtype) / spread

    def through(part: Tensor, scale: Tensor) -> Tensor:
        return (part - part.mean(dim=-1, keepdim=True)).mul_(scale)

    bias = through(players.bias, scale)
    if norm.bias is not None:
        bias = bias + norm.bias.to(total.dtype)
    return Players(through(players.tokens, scale.unsqueeze(1)), bias, players.live.clone())


def attention_split(
    attention: Any, query: Tensor, keys: Tensor, causal: bool
) -> Tuple[Tensor, Tensor, Tensor]:
    """What every key position adds to every query position, over all heads (Kobayashi et al. 2020).

    ``c_ij = sum_h alpha^h_ij f^h(x_j)``, ``f^h(x) = (x W_V^h + b_V^h) W_O^h``; since the weights of
    a row add up to 1, b_V inside f is exact. The output's bias isn't part of it.

    Args:
        attention: fairseq's ``MultiheadAttention``; only its projections are used.
        query: ``(T, C)``.
        keys: ``(S, C)``, values as well.
        causal: position t sees keys up to t.

    Returns:
        weights ``(heads, T, S)``, vectors ``(T, S, C)``, and the attention's output ``(T, C)``
        computed as usual, bias included, to check against.
    """
    heads, width = attention.num_heads, attention.head_dim

    def project(x: Tensor, linear: Any) -> Tensor:
        return _linear(x, linear).view(len(x), heads, width).transpose(0, 1)

    q = project(query, attention.q_proj) * width**-0.5
    k, v = project(keys, attention.k_proj), project(keys, attention.v_proj)
    scores = q @ k.transpose(1, 2)
    if causal:
        future = torch.ones(scores.shape[1:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
    if attention.encoder_decoder_attention:
        # fairseq takes this softmax in float32 whatever the model's type
        weights = scores.float().softmax(dim=-1).to(query.dtype)
    else:
        weights = scores.softmax(dim=-1)
    out = attention.out_proj.weight.to(query.dtype)
    vectors = query.new_zeros(len(query), len(keys), out.shape[0])
    for head in range(heads):
        contribution = v[head] @ out[:, head * width : (head + 1) * width].t()
        vectors.addcmul_(weights[head].unsqueeze(-1), contribution)
    joined = (weights @ v).transpose(0, 1).reshape(len(query), heads * width)
    return weights, vectors, _linear(joined, attention.out_proj)


def feed_forward_split(
    players: Players,
    total: Tensor,
    layer: Any,
    fixed_bias: bool = False,
    chunk: int = CHUNK,
) -> Tuple[Players, Tensor]:
    """Each player through the FFN of their sum, exactly.

    Args:
        players: adding up to ``total``.
        total: ``(T, C)``.
        layer: has ``fc1``, ``fc2`` and ``activation_fn`` (elementwise).
        fixed_bias: False: fc1's bias is part of the bias player. True: it is a fixed part of the
            path, ``z(t) = t s + b1``; then ``a_j = p_j (g(s + b1) - g(b1)) / s``, and g(b1) goes to
            the bias player. Both are exact, the maps differ.
        chunk: neurons at a time.

    Returns:
        the players of the FFN's output, and that output computed as usual ``(T, C)``.
    """
    activation = activation_of(layer)
    dtype = total.dtype
    rows, columns = players.live.nonzero(as_tuple=True)
    tokens = players.tokens[rows, columns]
    result = torch.zeros_like(tokens)
    bias, output = torch.zeros_like(total), torch.zeros_like(total)
    for start in range(0, layer.fc1.weight.shape[0], chunk):
        part = slice(start, start + chunk)
        w1, w2 = layer.fc1.weight[part].to(dtype), layer.fc2.weight[:, part].to(dtype)
        b1 = w1.new_zeros(len(w1)) if layer.fc1.bias is None else layer.fc1.bias[part].to(dtype)
        z = total @ w1.t() + b1
        anchor = b1 if fixed_bias else torch.zeros_like(b1)
        slope = secant(activation, z, anchor)
        bias_part = players.bias @ w1.t() + (0 if fixed_bias else b1)
        bias += (bias_part * slope + activation(anchor)) @ w2.t()
        result += (tokens @ w1.t()).mul_(slope[rows]) @ w2.t()
        output += activation(z) @ w2.t()
    if layer.fc2.bias is not None:
        bias += layer.fc2.bias.to(dtype)
        output += layer.fc2.bias.to(dtype)
    whole = torch.zeros_like(players.tokens)
    whole[rows, columns] = result
    return Players(whole, bias, players.live.clone()), output


def secant(activation: Callable[[Tensor], Tensor], z: Tensor, anchor: Tensor) -> Tensor:
    """``(g(z) - g(anchor)) / (z - anchor)``, and g' where the two are the same."""
    distance = z - anchor
    anchor = anchor.expand_as(z)
    # closer than this the quotient is noise
    limit = 1e-10 if z.dtype == torch.float64 else 1e-4
    same = distance.abs() <= limit * (1 + anchor.abs())
    quotient = (activation(z) - activation(anchor)) / distance.where(~same, distance.new_tensor(1))
    if not same.any():
        return quotient
    with torch.enable_grad():
        middle = ((z + anchor) / 2).detach()[same].requires_grad_()
        (slope,) = torch.autograd.grad(activation(middle).sum(), middle)
    return quotient.masked_scatter(same, slope)


def activation_of(layer: Any) -> Callable[[Tensor], Tensor]:
    """The layer's activation in the precision of its input."""
    activation = layer.activation_fn
    # fairseq computes this one in float32 whatever it is given
    if getattr(activation, "__name__", "") == "gelu":
        return nn.functional.gelu
    return activation


def _linear(x: Tensor, linear: Any) -> Tensor:
    bias = None if linear.bias is None else linear.bias.to(x.dtype)
    return nn.functional.linear(x, linear.weight.to(x.dtype), bias)
