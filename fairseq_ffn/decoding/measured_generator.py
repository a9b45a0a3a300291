"""A generator whose encoder and decoder steps are counted while it decodes as before.

fairseq's ``SequenceGenerator`` talks to its models through one object, the ensemble. A wrapper of
that object sees the encoder's call and each decoder step; everything else passes through it.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import nn

from fairseq_ffn.errors import UserError
from fairseq_ffn.latency.clock import Clock
from fairseq_ffn.latency.measurement import Decoded


class MeasuredEnsemble(nn.Module):
    """Passes all calls on to fairseq's ensemble, timing the encoder and counting the steps.

    Args:
        ensemble: fairseq's ``EnsembleModel`` or a subclass.
        clock: wall time.
    """

    def __init__(self, ensemble: nn.Module, clock: Clock):
        super().__init__()
        self.ensemble = ensemble
        self.clock = clock
        self.encoder_seconds = 0.0
        self.steps = 0

    def reset(self) -> None:
        """Before a batch."""
        self.encoder_seconds, self.steps = 0.0, 0

    def forward_encoder(self, *args: Any, **kwargs: Any) -> Any:
        """The encoder, once a batch."""
        begin = self.clock.now()
        output = self.ensemble.forward_encoder(*args, **kwargs)
        self.encoder_seconds += self.clock.now() - begin
        return output

    def forward_decoder(self, *args: Any, **kwargs: Any) -> Any:
        """The decoder, once a step."""
        self.steps += 1
        return self.ensemble.forward_decoder(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("ensemble"), name)


def measured(generator: Any, clock: Clock) -> Any:
    """Let ``generator`` count; its results stay the same.

    Raises:
        UserError: it doesn't search (``--score-reference``), so there is nothing to measure.
    """
    if not hasattr(generator, "model") or not hasattr(generator.model, "forward_encoder"):
        raise UserError(
            f"latency of {type(generator).__name__} can't be measured: it doesn't search; "
            "--score-reference can't be used here"
        )
    generator.model = MeasuredEnsemble(generator.model, clock)
    return generator


def decode(
    generator: Any,
    models: Any,
    sample: dict,
    prefix_tokens: Optional[torch.Tensor] = None,
    constraints: Optional[torch.Tensor] = None,
) -> Decoded:
    """Decode one batch with a measured generator, as ``TranslationTask.inference_step`` does."""
    generator.model.reset()
    with torch.no_grad():
        hypotheses = generator.generate(
            models, sample, prefix_tokens=prefix_tokens, constraints=constraints
        )
    return Decoded(
        output=hypotheses,
        sentences=len(hypotheses),
        tokens=sum(len(best[0]["tokens"]) for best in hypotheses),
        encoder_seconds=generator.model.encoder_seconds,
        steps=generator.model.steps,
    )
