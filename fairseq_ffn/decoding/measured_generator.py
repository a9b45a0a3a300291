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

#: what fairseq's search calls at every step besides the decoder
PASSED_ON = ("reorder_incremental_state", "reorder_encoder_out")


class Counts:
    """Of one batch; a plain object, since an ``nn.Module`` is slow to set numbers in."""

    def __init__(self) -> None:
        self.encoder_seconds = 0.0
        self.steps = 0


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
        self.counts = Counts()
        # nn.Module looks parts up slowly, and these are called at every step
        self._forward_decoder = ensemble.forward_decoder
        for name in PASSED_ON:
            self._pass_on(name)

    def _pass_on(self, name: str) -> None:
        if hasattr(self.ensemble, name):
            self.__dict__[name] = getattr(self.ensemble, name)

    def forward_encoder(self, *args: Any, **kwargs: Any) -> Any:
        """The encoder, once a batch."""
        begin = self.clock.now()
        output = self.ensemble.forward_encoder(*args, **kwargs)
        self.counts.encoder_seconds += self.clock.now() - begin
        return output

    def forward_decoder(self, *args: Any, **kwargs: Any) -> Any:
        """The decoder, once a step."""
        self.counts.steps += 1
        return self._forward_decoder(*args, **kwargs)

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
    counts = generator.model.counts = Counts()
    with torch.no_grad():
        hypotheses = generator.generate(
            models, sample, prefix_tokens=prefix_tokens, constraints=constraints
        )
    return Decoded(
        output=hypotheses,
        sentences=len(hypotheses),
        tokens=sum(len(best[0]["tokens"]) for best in hypotheses),
        encoder_seconds=counts.encoder_seconds,
        steps=counts.steps,
    )
