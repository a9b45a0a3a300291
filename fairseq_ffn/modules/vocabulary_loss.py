"""Label-smoothed cross-entropy straight from the decoder's features, some tokens at a time.

fairseq projects all tokens to the vocabulary, takes the log-softmax, and sums it up twice; the
backward pass goes through all of that again. These are about ten passes over an array of tokens x
vocabulary, the largest one of a training. Here a few rows of it exist at a time, and as the loss is
a sum, whose gradient is known together with its value, the gradients of features and weights are
computed at once and the rows are never needed again.

With logits l, ``p = softmax(l)``, V symbols, target t, ``e = eps / (V - 1)`` and
``a = 1 - eps - e`` (fairseq's ``label_smoothed_nll_loss``):

    loss  = a (lse(l) - l_t) + e (V lse(l) - sum_j l_j)
    dl_j  = p_j - a [j = t] - e           (as a + e V = 1)

so the gradients are those of ``p``, one matrix product each, but for a scatter and a constant.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fairseq_ffn.modules.precision import Precision, add_product, sum_type

#: logits that exist at a time; 16 MB in float32
ELEMENTS = 4_000_000
#: fewer rows than that make the matrix products slow
LEAST_ROWS = 256


class VocabularyLoss(NamedTuple):
    """Sums over all tokens that aren't padding.

    Args:
        loss: label-smoothed cross-entropy, in nats; differentiable.
        nll: cross-entropy, in nats.
        correct: tokens whose target has the greatest logit; None unless asked for.
        tokens: how many there are.
    """

    loss: Tensor
    nll: Tensor
    correct: Optional[Tensor]
    tokens: int


def vocabulary_loss(
    features: Tensor,
    weight: Tensor,
    target: Tensor,
    eps: float,
    padding: int,
    count_correct: bool = False,
    rows: Optional[int] = None,
) -> VocabularyLoss:
    """The loss of ``features @ weight.T`` against ``target``.

    Products are taken in the type of autocast, if that is on; sums always in float32 or better.

    Args:
        features: decoder output ``(..., C)``.
        weight: output projection ``(V, C)``.
        target: symbols ``(...)``.
        eps: label smoothing.
        padding: symbol that isn't counted.
        count_correct: count the tokens that the model has right.
        rows: tokens at a time (default: as many as make 16 MB of logits, at least 256).
    """
    kept = target.flatten().ne(padding).nonzero().squeeze(1)
    kept_features = features.flatten(0, -2).index_select(0, kept)
    kept_target = target.flatten().index_select(0, kept)
    rows = rows or max(LEAST_ROWS, ELEMENTS // weight.shape[0])
    loss, nll, correct = _VocabularyLoss.apply(
        kept_features, weight, kept_target, eps, rows, count_correct
    )
    return VocabularyLoss(loss, nll, correct if count_correct else None, len(kept))


class _VocabularyLoss(torch.autograd.Function):
    """Value and gradients in one go; the backward pass only scales the gradients."""

    @staticmethod
    def forward(
        ctx,
        features: Tensor,
        weight: Tensor,
        target: Tensor,
        eps: float,
        rows: int,
        count_correct: bool,
    ):
        wants_features, wants_weight = ctx.needs_input_grad[:2]
        precision = Precision.in_force(features)
        with precision.as_written():
            w = precision.cast(weight)
            exact = sum_type(features.dtype)
            wide_features, wide_weight = features.to(exact), weight.to(exact)
            symbols = weight.shape[0]
            smooth = eps / (symbols - 1)
            peak = 1 - eps - smooth
            weight_sum = wide_weight.sum(0)
            # sum of all logits of a row, without reading them
            logit_sums = wide_features @ weight_sum
            loss, nll = (features.new_zeros((), dtype=exact) for _ in range(2))
            correct = torch.zeros((), dtype=torch.long, device=features.device)
            gradient = torch.empty_like(features) if wants_features else None
            weight_gradient = torch.zeros_like(wide_weight) if wants_weight else None
            for start in range(0, len(target), rows):
                part = slice(start, start + rows)
                x, t = precision.cast(features[part]), target[part].unsqueeze(1)
                logits = (x @ w.t()).to(exact)
                target_logits = logits.gather(1, t).squeeze(1)
                if count_correct:
                    correct = correct + logits.argmax(1, keepdim=True).eq(t).sum()
                # the greatest probability is well above 0, so its logarithm is exact
                top = logits.amax(1)
                probabilities = torch.softmax(logits, 1)
                normaliser = top - probabilities.amax(1).log()
                row_nll = normaliser - target_logits
                row_smooth = symbols * normaliser - logit_sums[part]
                nll = nll + row_nll.sum()
                loss = loss + (peak * row_nll + smooth * row_smooth).sum()
                if not (wants_features or wants_weight):
                    continue
                p = precision.cast(probabilities)
                if wants_features:
                    g = (p @ w).to(exact)
                    g -= peak * wide_weight.index_select(0, target[part]) + smooth * weight_sum
                    gradient[part] = g
                if wants_weight:
                    add_product(weight_gradient, p.t(), x)
            if wants_weight:
                weight_gradient.index_add_(0, target, wide_features, alpha=-peak)
                weight_gradient -= smooth * wide_features.sum(0)
                weight_gradient = weight_gradient.to(weight.dtype)
        ctx.save_for_backward(gradient, weight_gradient)
        ctx.mark_non_differentiable(nll, correct)
        return loss, nll, correct

    @staticmethod
    @once_differentiable
    def backward(ctx, scale: Tensor, *_):
        gradients = (
            None if gradient is None else gradient * scale.to(gradient.dtype)
            for gradient in ctx.saved_tensors
        )
        return (*gradients, None, None, None, None)
