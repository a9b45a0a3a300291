"""Beam search with one pass over the vocabulary and cheap bookkeeping.

The hypotheses are fairseq's, scores up to rounding. What is different:

* Scores over the vocabulary are gone through once, a few rows at a time so that they stay in the
  cache. The best 2K of a row are in those blocks of the vocabulary that have the largest maxima.
* Which candidate goes on and which is finished is decided in Python on 2K numbers a sentence, read
  in one go, not by a dozen tensor operations.

Searches that aren't plain beam search stay fairseq's own (:func:`why_stock`).
"""

from __future__ import annotations

import logging
import math
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from fairseq.search import BeamSearch
from fairseq.sequence_generator import EnsembleModel, SequenceGenerator
from torch import Tensor

from fairseq_ffn.decoding.fast_model import FastDecoder
from fairseq_ffn.errors import UserError

logger = logging.getLogger(__name__)

#: entries of the vocabulary whose maximum is taken first
BLOCK = 64
#: scores that are gone through at a time, 4 MB
AT_ONCE = 2**20


class LogitsEnsemble(EnsembleModel):
    """fairseq's ensemble; of a single fast model it gives logits, which need no normalising yet."""

    def __init__(self, models: Sequence[Any]):
        super().__init__(models)
        #: what forward_decoder gives are logits, not log-probabilities
        self.gives_logits = len(models) == 1 and isinstance(models[0].decoder, FastDecoder)
        self._step = models[0].decoder.step if self.gives_logits else None

    def forward_decoder(
        self,
        tokens: Tensor,
        encoder_outs: List[Dict[str, List[Tensor]]],
        incremental_states: List[Dict[str, Any]],
        temperature: float = 1.0,
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """``(rows, T)`` tokens so far to ``(rows, V)``."""
        if self._step is None:
            return super().forward_decoder(tokens, encoder_outs, incremental_states, temperature)
        logits = self._step(tokens, encoder_outs[0], incremental_states[0])
        return (logits if temperature == 1.0 else logits.div_(temperature)), None


def why_stock(args: Any, models: Sequence[Any], vocabulary: int) -> Optional[str]:
    """Why fairseq's own search has to be used, or None.

    Args:
        args: fairseq's generation options.
        models: to search with.
        vocabulary: V.
    """

    def given(name: str) -> bool:
        return bool(getattr(args, name, None))

    rules = (
        (given("score_reference"), "--score-reference"),
        (given("print_alignment"), "--print-alignment"),
        (given("sampling"), "--sampling"),
        (getattr(args, "diverse_beam_groups", -1) > 0, "--diverse-beam-groups"),
        (getattr(args, "diversity_rate", -1) > -1, "--diversity-rate"),
        (given("match_source_len"), "--match-source-len"),
        (given("constraints"), "--constraints"),
        (given("lm_path"), "--lm-path"),
        (getattr(args, "prefix_allowed_tokens_fn", None) is not None, "prefix_allowed_tokens_fn"),
        (2 * args.beam >= vocabulary, f"--beam {args.beam} with {vocabulary} words"),
    )
    for applies, what in rules:
        if applies:
            return what
    if not any(isinstance(getattr(model, "decoder", None), FastDecoder) for model in models):
        return "the plain model"
    return None


def search_class(
    args: Any, models: Sequence[Any], vocabulary: int, level: int = logging.INFO, **extra: Any
) -> Optional[type]:
    """Class for ``build_generator``: ours, or None for fairseq's choice; the log says which.

    Args:
        args: fairseq's generation options.
        models: to search with.
        vocabulary: V.
        level: of the line in the log.
        extra: what is asked for beside ``args``, such as ``lm_model``; None asks for nothing.
    """
    reason = why_stock(args, models, vocabulary)
    reason = reason or next((name for name, value in extra.items() if value is not None), None)
    if reason is not None:
        logger.log(level, f"decoding: fairseq's search, because of {reason}")
        return None
    logger.log(level, "decoding: fast beam search")
    return FastBeamSearch


class FastBeamSearch(SequenceGenerator):
    """fairseq's generator with its beam search done anew; see :func:`why_stock`."""

    def __init__(self, models: Sequence[Any], tgt_dict: Any, **options: Any):
        ensemble = LogitsEnsemble(models)
        super().__init__(ensemble, tgt_dict, **options)
        self._gives_logits = ensemble.gives_logits
        if type(self.search) is not BeamSearch or self.lm_model is not None:
            raise ValueError("only plain beam search without a language model is done here")

    def _generate(
        self,
        sample: Dict[str, Any],
        prefix_tokens: Optional[Tensor] = None,
        constraints: Optional[Tensor] = None,
        bos_token: Optional[int] = None,
    ) -> List[List[Dict[str, Tensor]]]:
        """Search; arguments and result as fairseq's, without attention.

        Raises:
            UserError: constraints, for which a generator has to be built with --constraints.
        """
        if constraints is not None:
            raise UserError(
                "constraints: this generator was built without --constraints; give the flag, and "
                "fairseq's constrained search is used"
            )
        source = sample["net_input"]["src_tokens"]
        device, beam = source.device, self.beam_size
        sentences, length = source.shape[:2]
        max_len = min(int(self.max_len_a * length + self.max_len_b), self.max_len - 1)
        if self.min_len > max_len:
            # as fairseq does
            raise AssertionError("min_len cannot be larger than max_len, please adjust these!")

        encoder_outs = self.model.forward_encoder(sample["net_input"])
        rows = torch.arange(sentences, device=device).repeat_interleave(beam)
        encoder_outs = self.model.reorder_encoder_out(encoder_outs, rows)
        states: List[Dict[str, Any]] = [{} for _ in range(self.model.models_size)]

        tokens = source.new_full((sentences * beam, max_len + 2), self.pad, dtype=torch.long)
        tokens[:, 0] = self.eos if bos_token is None else bos_token
        #: sums over the tokens so far
        scores = torch.zeros((sentences * beam, max_len + 1), device=device)
        finished: List[List[Dict[str, Tensor]]] = [[] for _ in range(sentences)]
        #: sentences still searched, in the order of the rows
        alive = list(range(sentences))

        for step in range(max_len + 1):
            logits, _ = self.model.forward_decoder(
                tokens[:, : step + 1], encoder_outs, states, self.temperature
            )
            if prefix_tokens is not None and step < prefix_tokens.shape[1] and step < max_len:
                scored = self._log_probabilities(logits, step, max_len, forced=True)
                scored, tokens, scores = self._prefix_tokens(
                    step, scored, scores, tokens, prefix_tokens, beam
                )
                self._block_repeats(scored, tokens, step)
                found = largest(scored if step > 0 else scored[::beam], 2 * beam)
            else:
                found = self._best_of_rows(logits, tokens, step, max_len)
            past = scores[:, step - 1 : step] if step > 0 else None
            best, words, origins = self._best_of_sentences(*found, past, len(alive))
            going_on, ended, kept = self._sort(best, words, origins, step, max_len, finished, alive)
            self._finish(step, tokens, scores, ended, finished)
            if not kept:
                break
            rows = torch.tensor([row for row, _, _ in going_on], device=device)
            if len(kept) < len(alive) and prefix_tokens is not None:
                prefix_tokens = prefix_tokens[kept]
            alive = [alive[index] for index in kept]
            self.model.reorder_incremental_state(states, rows)
            encoder_outs = self.model.reorder_encoder_out(encoder_outs, rows)
            tokens, scores = _follow(tokens, rows, step + 1), _follow(scores, rows, step)
            tokens[:, step + 1] = torch.tensor([word for _, word, _ in going_on], device=device)
            scores[:, step] = torch.tensor([score for _, _, score in going_on], device=device)

        return [
            sorted(hypotheses, key=lambda one: float(one["score"]), reverse=True)
            for hypotheses in finished
        ]

    def _best_of_rows(
        self, logits: Tensor, tokens: Tensor, step: int, max_len: int
    ) -> Tuple[Tensor, Tensor]:
        """The best 2K words of each row: log-probabilities and words, ``(rows, 2K)`` each.

        At the first step all beams of a sentence are alike, and only the first is looked at.
        """
        beam, count = self.beam_size, 2 * self.beam_size
        if step == 0:
            logits, tokens = logits[::beam], tokens[::beam]
            beam = 1
        at_once = max(1, AT_ONCE // (logits.shape[1] * beam)) * beam
        found = []
        for start in range(0, len(logits), at_once):
            some = slice(start, start + at_once)
            scored = self._log_probabilities(logits[some], step, max_len)
            if step > 0:
                self._block_repeats(scored, tokens[some], step)
            best, words = largest(scored, count)
            if bool(best.isnan().any()):  # as in fairseq, what isn't a number is never chosen
                best, words = largest(scored.nan_to_num(-math.inf, math.inf, -math.inf), count)
            found.append((best, words))
        if len(found) == 1:
            return found[0]
        return torch.cat([best for best, _ in found]), torch.cat([words for _, words in found])

    def _log_probabilities(
        self, logits: Tensor, step: int, max_len: int, forced: bool = False
    ) -> Tensor:
        """Of the next word, ``(rows, V)``; words are forbidden and penalised by the options."""
        never = -math.inf
        scored = logits.log_softmax(-1) if self._gives_logits else logits
        scored[:, self.pad] = never
        if self.unk_penalty != 0.0:
            scored[:, self.unk] -= self.unk_penalty
        if step >= max_len:
            scored[:, : self.eos] = never
            scored[:, self.eos + 1 :] = never
        if not forced:
            if step < self.min_len:
                scored[:, self.eos] = never
            if self.token_indices_to_suppress is not None:
                scored[:, self.token_indices_to_suppress] = never
        return scored

    def _block_repeats(self, scored: Tensor, tokens: Tensor, step: int) -> None:
        """``--no-repeat-ngram-size``, in place.

        fairseq gives its blocker the padding after the tokens, too, and then nothing is ever
        blocked on a CPU (facebookresearch/fairseq issues 4709 and 5206).
        """
        if self.repeat_ngram_blocker is not None:
            sentences = len(scored) // self.beam_size
            so_far = tokens[:, : step + 1]
            self.repeat_ngram_blocker(so_far, scored, sentences, self.beam_size, step)

    def _best_of_sentences(
        self, best: Tensor, words: Tensor, past: Optional[Tensor], sentences: int
    ) -> Tuple[List[List[float]], List[List[int]], List[List[int]]]:
        """The best 2K continuations of each sentence: scores, words, and beams they go on from.

        Args:
            best: log-probabilities of the best 2K words of each row.
            words: these words.
            past: ``(rows, 1)``, scores so far, or None at the first step.
            sentences: B.
        """
        beam, count = self.beam_size, 2 * self.beam_size
        if past is None:
            return best.tolist(), words.tolist(), [[0] * count] * sentences
        best, places = (best + past).view(sentences, beam * count).topk(count, dim=1)
        words = words.view(sentences, beam * count).gather(1, places)
        origins = torch.div(places, count, rounding_mode="trunc")
        return best.tolist(), words.tolist(), origins.tolist()

    def _sort(
        self,
        best: List[List[float]],
        words: List[List[int]],
        origins: List[List[int]],
        step: int,
        max_len: int,
        finished: List[List[Dict[str, Tensor]]],
        alive: List[int],
    ) -> Tuple[List[Tuple[int, int, float]], List[Tuple[int, float, int]], List[int]]:
        """Which candidates go on, and which are at their end.

        Of a sentence's best 2K candidates those among the first K that end a sentence are
        finished, and the first K others go on, until K are finished.

        Returns:
            ``(row, word, score)`` of those that go on, K a sentence; ``(row, score, sentence)`` of
            those that end; places in ``alive`` of the sentences that go on.
        """
        beam, eos, never = self.beam_size, self.eos, -math.inf
        going_on: List[Tuple[int, int, float]] = []
        ended: List[Tuple[int, float, int]] = []
        kept: List[int] = []
        for index, sentence in enumerate(alive):
            first, on = index * beam, []
            found = len(finished[sentence])
            before = found
            candidates = zip(best[index], words[index], origins[index])
            for place, (score, word, origin) in enumerate(candidates):
                if word == eos and score != never:
                    if place < beam and found < beam:
                        found += 1
                        ended.append((first + origin, score, sentence))
                elif len(on) < beam:
                    on.append((first + origin, word, score))
            if found < beam and not (step >= max_len and found > before):
                going_on += on
                kept.append(index)
        return going_on, ended, kept

    def _finish(
        self,
        step: int,
        tokens: Tensor,
        scores: Tensor,
        ended: List[Tuple[int, float, int]],
        finished: List[List[Dict[str, Tensor]]],
    ) -> None:
        """Make hypotheses of those that end at this step."""
        if not ended:
            return
        rows = torch.tensor([row for row, _, _ in ended], device=tokens.device)
        total = torch.tensor([score for _, score, _ in ended], device=tokens.device)
        words = tokens[:, 1 : step + 2].index_select(0, rows)
        words[:, step] = self.eos
        steps = scores[:, : step + 1].index_select(0, rows)
        steps[:, step] = total
        steps[:, 1:] = steps[:, 1:] - steps[:, :-1]
        if self.normalize_scores:
            total = total / (step + 1) ** self.len_penalty
        for number, (_, _, sentence) in enumerate(ended):
            finished[sentence].append(
                {
                    "tokens": words[number],
                    "score": total[number],
                    "attention": torch.empty(0),
                    "alignment": torch.empty(0),
                    "positional_scores": steps[number],
                }
            )


def largest(values: Tensor, count: int) -> Tuple[Tensor, Tensor]:
    """As ``values.topk(count, dim=1)``, up to ties; ``(rows, V)``.

    The entries are among those blocks that have the largest maxima, which are quickly found.
    """
    rows, width = values.shape
    blocks = width // BLOCK
    if blocks <= count or not values.is_contiguous():
        return values.topk(count, dim=1)
    blocked = values[:, : blocks * BLOCK].view(rows, blocks, BLOCK)
    chosen = blocked.amax(-1).topk(count, dim=1, sorted=False).indices
    few = blocked.gather(1, chosen.unsqueeze(-1).expand(rows, count, BLOCK)).view(rows, -1)
    few = torch.cat([few, values[:, blocks * BLOCK :]], dim=1)
    best, places = few.topk(count, dim=1)
    inside = torch.div(places, BLOCK, rounding_mode="trunc")
    # the rest of the vocabulary follows the chosen blocks
    block = torch.cat([chosen, chosen.new_full((rows, 1), blocks)], dim=1).gather(1, inside)
    return best, block * BLOCK + places % BLOCK


def _follow(table: Tensor, rows: Tensor, columns: int) -> Tensor:
    """Rows of ``(rows, length)`` that go on, in their new order; in place if none is dropped."""
    if len(rows) < len(table):
        return table.index_select(0, rows)
    if columns:
        table[:, :columns] = table[:, :columns].index_select(0, rows)
    return table
