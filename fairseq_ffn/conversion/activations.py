"""Inputs of every FFN of a model while it reads sample text with its reference translations."""

from __future__ import annotations

import logging
from typing import Dict, Iterator, List, Tuple

import numpy
import torch
from fairseq import utils
from torch import Tensor, nn

from fairseq_ffn.decoding.sets import check_set
from fairseq_ffn.decoding.sources import Source
from fairseq_ffn.errors import UserError

logger = logging.getLogger(__name__)

#: stack and layer
Place = Tuple[str, int]
BATCH = 32


class FfnInputs:
    """Records what goes into the FFNs of a model, in one forward pass at a time.

    A shared FFN is called once per layer, the encoder's layers first; so its calls tell the layers.
    """

    def __init__(self, model: nn.Module):
        self._places: Dict[nn.Module, List[Place]] = {}
        for stack in ("encoder", "decoder"):
            for number, layer in enumerate(getattr(model, stack).layers):
                if layer.fc1 is not None:
                    self._places.setdefault(layer.fc1, []).append((stack, number))
        self._calls: Dict[nn.Module, int] = {}
        self._masks: Dict[str, Tensor] = {}
        #: of the last pass: ``(n, d)`` by layer, pads left out
        self.inputs: Dict[Place, Tensor] = {}
        self._handles = [module.register_forward_pre_hook(self._keep) for module in self._places]

    def _keep(self, module: nn.Module, inputs: Tuple[Tensor]) -> None:
        call = self._calls.get(module, 0)
        self._calls[module] = call + 1
        place = self._places[module][call]
        # (T, B, C) and (B, T)
        self.inputs[place] = inputs[0][self._masks[place[0]].t()].float()

    def run(self, model: nn.Module, sample: dict, pad: int) -> Dict[Place, Tensor]:
        """Inputs of all FFNs for one batch of fairseq."""
        net_input = sample["net_input"]
        self._calls.clear()
        self.inputs = {}
        self._masks = {
            "encoder": net_input["src_tokens"].ne(pad),
            "decoder": net_input["prev_output_tokens"].ne(pad),
        }
        with torch.no_grad():
            model(**net_input)
        return self.inputs

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()


def sample_inputs(
    source: Source, subset: str, sentences: int, seed: int = 1
) -> Iterator[Dict[Place, Tensor]]:
    """Inputs of all FFNs, batch by batch, for sentences of a set drawn at random.

    Args:
        source: the model, loaded with its data.
        subset: such as ``train``.
        sentences: how many at most.
        seed: of the draw.

    Raises:
        UserError: the set has no sentence that the model takes.
    """
    task, model = source.task, source.model
    check_set(task, subset, "--subset")
    task.load_dataset(subset)
    dataset = task.dataset(subset)
    limits = utils.resolve_max_positions(task.max_positions(), model.max_positions())
    order, _ = dataset.filter_indices_by_size(numpy.arange(len(dataset)), limits)
    if len(order) == 0:
        raise UserError(f"--subset {subset}: no sentence is short enough for the model")
    chosen = numpy.random.default_rng(seed).permutation(order)[:sentences]
    chosen = sorted(chosen, key=lambda index: int(dataset.src_sizes[index]))
    recorder = FfnInputs(model)
    try:
        for start in range(0, len(chosen), BATCH):
            if start % (BATCH * 10) == 0:
                logger.info(f"{subset}: {start:,} of {len(chosen):,} sentences read")
            batch = [dataset[int(index)] for index in chosen[start : start + BATCH]]
            yield recorder.run(model, dataset.collater(batch), task.source_dictionary.pad())
    finally:
        recorder.close()
