"""Keys and values of beam search that stay where they were written.

When beams are reordered, fairseq copies all keys and values of all layers. Here each position of
each beam has a *slot* that never moves, and every beam knows the slots of its own past, its
*ancestry*; a beam attends to all slots of its sentence, those that aren't its own masked:

::

    slot            0   1   2   3   4   5       2 beams, 3 steps; slots 2t and 2t + 1 are step t's
    beam 0 sees     x       x       x           both go on from beam 0 of the first step;
    beam 1 sees     x           x       x       slot 1 is nobody's any more

All layers share one mask a step. Beams soon have most of their past in common, so that many slots
are nobody's any more: now and then those still in use are moved together, so that a long output
costs little more per token than a short one.
"""

from __future__ import annotations

from typing import List, Optional

import torch
from torch import Tensor

#: positions that room is made for at first
FIRST_POSITIONS = 32
#: positions after which slots that nobody sees are looked for, at first and again: for a single
#: sentence, and for several, where attention is a small part of the work
COMPACT_AFTER = (8, 32)


class BeamCache:
    """Of one batch of sentences, for the self-attention of all layers.

    Args:
        layers: how many layers.
        sentences: B.
        beams: K, hypotheses per sentence; row ``b * K + k`` of all inputs is beam k of sentence b.
        heads: H.
        width: D, size of a head.
        like: a tensor of the type and device of the keys.
    """

    def __init__(
        self, layers: int, sentences: int, beams: int, heads: int, width: int, like: Tensor
    ):
        self.beams = beams
        #: steps so far
        self.steps = 0
        self._end = 0
        room = FIRST_POSITIONS * beams
        #: ``(layers, 2, B, H, room, D)``
        self._cache = like.new_empty((layers, 2, sentences, heads, room, width))
        #: ``(B, K, steps)``, slots
        self._ancestry = torch.empty((sentences, beams, 0), dtype=torch.long, device=like.device)
        self._all = torch.arange(sentences, device=like.device)
        self._new = torch.arange(beams, device=like.device)
        self._patience = COMPACT_AFTER[sentences > 1] * beams
        self._compact_at = self._patience
        self.mask: Optional[Tensor] = None
        self.places: List[Tensor] = []
        self.keys: List[Tensor] = []
        self.values: List[Tensor] = []

    @property
    def sentences(self) -> int:
        return self._cache.shape[2]

    def advance(self) -> None:
        """Make room for one more position of every beam.

        Sets, one per layer, ``places`` ``(2, B, H, K, D)`` to write its keys and values to, and
        ``keys`` and ``values`` ``(B, H, slots, D)``, the new ones among them; and ``mask``
        ``(B, 1, K, slots)``, to be added to attention scores, or None for a single beam.
        """
        beams = self.beams
        if self._end + beams > self._compact_at and beams > 1:
            self._compact()
        if self._end + beams > self._cache.shape[4]:
            self._grow()
        begin, self._end = self._end, self._end + beams
        self.steps += 1
        self.places = list(self._cache[:, :, :, :, begin : self._end].unbind(0))
        self.keys = list(self._cache[:, 0, :, :, : self._end].unbind(0))
        self.values = list(self._cache[:, 1, :, :, : self._end].unbind(0))
        if beams > 1:
            new = (self._new + begin).expand(self.sentences, beams).unsqueeze(-1)
            self._ancestry = torch.cat([self._ancestry, new], dim=-1)
            mask = self._cache.new_full((self.sentences, beams, self._end), float("-inf"))
            self.mask = mask.scatter_(2, self._ancestry, 0.0).unsqueeze(1)

    def reorder(self, order: Tensor) -> Optional[Tensor]:
        """Continue from other beams, or with fewer sentences.

        Args:
            order: ``(sentences to keep x K,)``, rows; the K of a sentence must be of one sentence.

        Returns:
            the sentences that are kept, or None if all are, in their order.

        Raises:
            ValueError: they aren't.
        """
        beams = self.beams
        sentence = torch.div(order.view(-1, beams), beams, rounding_mode="trunc")
        kept = sentence[:, 0]
        if not torch.equal(sentence, kept.unsqueeze(1).expand_as(sentence)):
            raise ValueError("beams of different sentences can't change places")
        if beams > 1:
            flat = self._ancestry.view(-1, self._ancestry.shape[-1])
            self._ancestry = flat.index_select(0, order).view(len(kept), beams, -1)
        if torch.equal(kept, self._all[: self.sentences]):
            return None
        self._cache = self._cache.index_select(2, kept)
        return kept

    def _grow(self) -> None:
        """Twice the room."""
        shape = list(self._cache.shape)
        shape[4] *= 2
        grown = self._cache.new_empty(shape)
        grown[:, :, :, :, : self._end] = self._cache[:, :, :, :, : self._end]
        self._cache = grown

    def _compact(self) -> None:
        """Move the slots that are still in somebody's ancestry together."""
        sentences = self.sentences
        used = torch.zeros((sentences, self._end), dtype=torch.bool, device=self._ancestry.device)
        used.scatter_(1, self._ancestry.view(sentences, -1), True)
        needed = int(used.sum(1).max())
        if needed < self._end:
            # those in use first, in their order
            slots = used.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :needed]
            for sentence, chosen in enumerate(slots):
                own = self._cache[:, :, sentence]
                own[:, :, :, :needed] = own.index_select(3, chosen)
            places = used.cumsum(1) - 1
            flat = self._ancestry.view(sentences, -1)
            self._ancestry = places.gather(1, flat).view_as(self._ancestry)
            self._end = needed
        self._compact_at = self._end + max(self._patience, self._end // 2)
