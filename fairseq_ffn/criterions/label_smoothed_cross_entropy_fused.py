"""``--criterion label_smoothed_cross_entropy_fused``: fairseq's loss without all its logits."""

from __future__ import annotations

import contextlib

import torch
from fairseq import utils
from fairseq.criterions import label_smoothed_cross_entropy as stock
from fairseq.criterions import register_criterion

from fairseq_ffn.errors import UserError
from fairseq_ffn.modules.vocabulary_loss import vocabulary_loss

NAME = "label_smoothed_cross_entropy_fused"
#: decoder layer whose attention weights fairseq computes for alignment; the loss needs none
NO_LAYER = -1


# The name of this class is part of each checkpoint, and fairseq refuses to go on from another's.
# The loss is the same, so a training may change from one to the other.
@register_criterion(NAME, dataclass=stock.LabelSmoothedCrossEntropyCriterionConfig)
class LabelSmoothedCrossEntropyCriterion(stock.LabelSmoothedCrossEntropyCriterion):
    """fairseq's ``label_smoothed_cross_entropy``: the same flags, value, gradients and log.

    The output projection is part of the loss (``modules/vocabulary_loss.py``), and the last
    layer's attention weights, which no loss reads, aren't computed. Losses per token
    (``reduce=False``) and float16, whose small gradients need the loss's scale, take fairseq's way.
    """

    def forward(self, model, sample, reduce=True):
        """As fairseq's: loss, its sample size, and what is logged."""
        projection = output_projection(model)
        if not reduce or projection.dtype == torch.float16:
            return super().forward(model, sample, reduce)
        features, _ = model(**sample["net_input"], features_only=True, alignment_layer=NO_LAYER)
        target = model.get_targets(sample, None)
        skipped = self.ignore_prefix_size
        arithmetic = getattr(model, "arithmetic", contextlib.nullcontext)
        with arithmetic():
            found = vocabulary_loss(
                features[:, skipped:],
                projection,
                target[:, skipped:],
                self.eps,
                self.padding_idx,
                count_correct=self.report_accuracy,
            )
        sample_size = sample["target"].size(0) if self.sentence_avg else sample["ntokens"]
        logging_output = {
            "loss": found.loss.data,
            "nll_loss": found.nll.data,
            "ntokens": sample["ntokens"],
            "nsentences": sample["target"].size(0),
            "sample_size": sample_size,
        }
        if self.report_accuracy:
            logging_output["n_correct"] = utils.item(found.correct)
            logging_output["total"] = found.tokens
        return found.loss, sample_size, logging_output


def output_projection(model) -> torch.Tensor:
    """The weight ``(V, C)`` that makes logits of the decoder's features.

    Raises:
        UserError: the model's output layer is none of that kind.
    """
    decoder = getattr(model, "decoder", None)
    projection = getattr(decoder, "output_projection", None)
    if (
        not isinstance(projection, torch.nn.Linear)
        or projection.bias is not None
        or getattr(decoder, "adaptive_softmax", None) is not None
    ):
        raise UserError(
            f"--criterion {NAME}: the model's output layer isn't one matrix of a Transformer "
            "decoder (--adaptive-softmax-cutoff?); use --criterion label_smoothed_cross_entropy"
        )
    return projection.weight
