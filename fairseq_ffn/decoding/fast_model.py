"""Our models as fairseq's searches drive them, with packed weights and caches that don't move.

:func:`prepare` is called from fairseq's hook ``prepare_for_inference_``. It puts a fast encoder and
decoder in front of the model's own, which stay as they are and take over whatever the fast ones
don't do; or it leaves the model alone, and says why.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any, Dict, List, Optional, Tuple

import torch
from fairseq.models import FairseqEncoder, FairseqIncrementalDecoder
from torch import Tensor, nn

from fairseq_ffn.decoding.beam_cache import BeamCache
from fairseq_ffn.decoding.fast_layers import (
    DecoderCrossAttention,
    Pass,
    SubBlock,
    decoder_sub_blocks,
    encoder_sub_blocks,
    plain_norm,
)
from fairseq_ffn.decoding.products import Product, ProductPool, activations_of, fastest

logger = logging.getLogger(__name__)

#: key in an encoder's output: which sentence each row of the decoder is of
ROWS = "rows"
#: key in fairseq's incremental state
STATE = "fairseq_ffn"
#: tokens of a sentence, for timing the encoder's products
USUAL_LENGTH = 25


class InFront(nn.Module):
    """A module that stands in front of the model's own, ``plain``, and else is it."""

    plain: Any

    def max_positions(self) -> Any:
        """As of the model's own."""
        return self.plain.max_positions()

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own names."""
        return self.plain.state_dict(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "plain":
                raise
            return getattr(super().__getattr__("plain"), name)


class FastEncoder(InFront, FairseqEncoder):
    """The model's encoder with fused, packed products.

    Its output stays one row a sentence however many beams there are: ``reorder_encoder_out`` only
    notes which sentence each row is of.

    Args:
        plain: the model's encoder.
        layers: its layers' sub-blocks.
        dtype: of the products.
    """

    def __init__(self, plain: FairseqEncoder, layers: List[SubBlock], dtype: torch.dtype):
        super().__init__(plain.dictionary)
        self.plain = plain
        self._layers, self._dtype = layers, dtype

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Optional[Tensor] = None,
        return_all_hiddens: bool = False,
        token_embeddings: Optional[Tensor] = None,
    ) -> Dict[str, List[Tensor]]:
        """As fairseq's Transformer encoder; ``src_tokens`` is ``(B, S)``."""
        if return_all_hiddens or self.training:
            return self.plain(src_tokens, src_lengths, return_all_hiddens, token_embeddings)
        plain = self.plain
        padding = src_tokens.eq(plain.padding_idx)
        x, embedding = plain.forward_embedding(src_tokens, token_embeddings)
        mask = None
        if bool(padding.any()):
            x = x.masked_fill(padding.unsqueeze(-1), 0.0)
            mask = _additive(padding, self._dtype)
        sentences, length, width = x.shape
        now = Pass(sentences, mask)
        x = x.reshape(sentences * length, width)
        for block in self._layers:
            x = block(x, now)
        if plain.layer_norm is not None:
            x = plain.layer_norm(x)
        lengths = padding.logical_not().sum(dim=1, dtype=torch.int32).reshape(-1, 1)
        return {
            "encoder_out": [x.view(sentences, length, width).transpose(0, 1)],
            "encoder_padding_mask": [padding],
            "encoder_embedding": [embedding],
            "encoder_states": [],
            "fc_results": [],
            "src_tokens": [],
            "src_lengths": [lengths],
        }

    def reorder_encoder_out(
        self, encoder_out: Dict[str, List[Tensor]], new_order: Tensor
    ) -> Dict[str, List[Tensor]]:
        """Note the new rows; the decoder makes what it needs of the source once, see ROWS."""
        rows = encoder_out.get(ROWS)
        return {**encoder_out, ROWS: [new_order if not rows else rows[0][new_order]]}

    def expanded(
        self, encoder_out: Optional[Dict[str, List[Tensor]]]
    ) -> Optional[Dict[str, List[Tensor]]]:
        """The same with what the model's own decoder wants: everything once for each row."""
        if encoder_out is None or ROWS not in encoder_out:
            return encoder_out
        own = {name: value for name, value in encoder_out.items() if name != ROWS}
        return self.plain.reorder_encoder_out(own, encoder_out[ROWS][0])


class FastDecoder(InFront, FairseqIncrementalDecoder):
    """The model's decoder with fused, packed products, and caches that don't move.

    Args:
        plain: the model's decoder.
        encoder: the fast encoder whose output it reads.
        layers: its layers' sub-blocks.
        output: to the vocabulary.
        dtype: of the products.
    """

    def __init__(
        self,
        plain: FairseqIncrementalDecoder,
        encoder: FastEncoder,
        layers: List[SubBlock],
        output: Product,
        dtype: torch.dtype,
    ):
        super().__init__(plain.dictionary)
        self.plain = plain
        self._layers, self._output, self._dtype = layers, output, dtype
        self._attentions = [
            branch
            for block in layers
            for strand in block.strands
            for branch in strand.branches
            if isinstance(branch, DecoderCrossAttention)
        ]
        # not a sub-module
        self._expanded = encoder.expanded
        self._final = plain_norm(plain.layer_norm)

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: Optional[Dict[str, List[Tensor]]] = None,
        incremental_state: Optional[Dict[str, Any]] = None,
        features_only: bool = False,
        full_context_alignment: bool = False,
        alignment_layer: Optional[int] = None,
        alignment_heads: Optional[int] = None,
        src_lengths: Optional[Any] = None,
        return_all_hiddens: bool = False,
    ) -> Tuple[Tensor, Dict[str, List[Optional[Tensor]]]]:
        """As fairseq's Transformer decoder; step by step it is ours, all at once the model's own.

        Args:
            prev_output_tokens: ``(rows, T)``.
            encoder_out: of the encoder.
            incremental_state: of this search, or None.

        Returns:
            logits ``(rows, 1, V)``, or ``(rows, T, V)`` all at once; and no attention.
        """
        asks_for_more = features_only or full_context_alignment or alignment_layer is not None
        if incremental_state is None or asks_for_more or self.training:
            return self.plain(
                prev_output_tokens,
                encoder_out=self._expanded(encoder_out),
                incremental_state=incremental_state,
                features_only=features_only,
                full_context_alignment=full_context_alignment,
                alignment_layer=alignment_layer,
                alignment_heads=alignment_heads,
                src_lengths=src_lengths,
                return_all_hiddens=return_all_hiddens,
            )
        logits = self.step(prev_output_tokens, encoder_out, incremental_state)
        return logits.unsqueeze(1), {"attn": [None], "inner_states": []}

    def step(
        self,
        tokens: Tensor,
        encoder_out: Dict[str, List[Tensor]],
        incremental_state: Dict[str, Any],
    ) -> Tensor:
        """One step of a search: ``(rows, T)`` tokens so far to logits ``(rows, V)``."""
        now = incremental_state.get(STATE)
        if now is None:
            now = incremental_state[STATE] = self._begin(tokens, encoder_out)
        now.cache.advance()
        x = self._embed(tokens)
        for block in self._layers:
            x = block(x, now)
        return self._output((x if self._final is None else self._final(x)).to(self._dtype)).float()

    def reorder_incremental_state_scripting(
        self, incremental_state: Dict[str, Any], new_order: Tensor
    ) -> None:
        """Go on from other beams."""
        now = incremental_state.get(STATE)
        if now is None:
            self.plain.reorder_incremental_state_scripting(incremental_state, new_order)
            return
        kept = now.cache.reorder(new_order)
        if kept is not None:
            now.sentences = len(kept)
            now.memory = [(k.index_select(0, kept), v.index_select(0, kept)) for k, v in now.memory]
            now.mask = None if now.mask is None else now.mask.index_select(0, kept)

    def _begin(self, tokens: Tensor, encoder_out: Dict[str, List[Tensor]]) -> Pass:
        """What all steps need of the source."""
        source = encoder_out["encoder_out"][0].transpose(0, 1)  # (B, S, C)
        padding = encoder_out["encoder_padding_mask"][0]
        rows, sentences = len(tokens), len(source)
        order = encoder_out.get(ROWS, [None])[0]
        beams = rows // sentences
        if order is not None:
            grouped = torch.arange(sentences, device=order.device).repeat_interleave(beams)
            if not torch.equal(order, grouped):
                source, padding, beams = source[order], padding[order], 1
                sentences = rows
        attention = self._attentions[0]
        cache = BeamCache(
            len(self._attentions),
            sentences,
            beams,
            attention.heads,
            attention.width,
            source.new_empty(0, dtype=self._dtype),
        )
        source = source.to(self._dtype)
        mask = _additive(padding, self._dtype) if bool(padding.any()) else None
        return Pass(sentences, mask, cache, [one.remember(source) for one in self._attentions])

    def _embed(self, tokens: Tensor) -> Tensor:
        """The last token of each row and its position: ``(rows, T) -> (rows, C)``."""
        plain = self.plain
        x = nn.functional.embedding(tokens[:, -1], plain.embed_tokens.weight) * plain.embed_scale
        if plain.embed_positions is not None:
            x += self._position(tokens)
        return x if plain.layernorm_embedding is None else plain.layernorm_embedding(x)

    def _position(self, tokens: Tensor) -> Tensor:
        """Of the last token: ``(C,)``."""
        positions = self.plain.embed_positions
        table = getattr(positions, "weights", None)  # sinusoidal, else learned
        if table is None:
            table = positions.weight
        place = positions.padding_idx + tokens.shape[1]
        if place < len(table):
            return table[place]
        return positions(tokens[:1], incremental_state={})[0, -1]


def _additive(padding: Tensor, dtype: torch.dtype) -> Tensor:
    """``(B, S)``, True at pads, as a mask to add to scores, ``(B, 1, 1, S)``."""
    mask = torch.zeros(padding.shape, dtype=dtype, device=padding.device)
    return mask.masked_fill_(padding, float("-inf"))[:, None, None]


def prepare(model: Any, cfg: Any, level: int = logging.INFO) -> None:
    """Make a model translate faster, or leave it as it is; one line in the log says which and why.

    Args:
        model: a ``TransformerFfnModel`` in evaluation mode; it may have been prepared before.
        cfg: fairseq's, with ``generation``.
        level: of that line.
    """
    # kept until the end, so that what is packed anew lies in another place (LoadedModel.refresh)
    before = (model.encoder, model.decoder)
    restore(model)
    generation = getattr(cfg, "generation", None)
    reason = why_plain(model, generation)
    if reason is not None:
        logger.log(level, f"decoding: plain model, since {reason}")
        return
    precision = model.args.inference
    beam = getattr(generation, "beam", None) or 5
    batch_size = getattr(getattr(cfg, "dataset", None), "batch_size", None) or 1
    try:
        measured = _replace(model, precision, beam * batch_size, USUAL_LENGTH * batch_size)
    except RuntimeError as error:
        logger.warning(f"decoding: plain model, since {precision} doesn't work here: {error}")
        return
    logger.log(level, f"decoding: fast model, {precision}; {measured}")
    del before


def arithmetic_of(model: Any) -> str:
    """In what the model's matrix products are done, such as ``float32`` or ``int8``."""
    if isinstance(model.decoder, FastDecoder):
        return model.args.inference
    return str(next(model.parameters()).dtype).replace("torch.", "")


def restore(model: Any) -> None:
    """Take the fast encoder and decoder away."""
    if isinstance(model.encoder, FastEncoder):
        model.encoder = model.encoder.plain
    if isinstance(model.decoder, FastDecoder):
        model.decoder = model.decoder.plain


def restore_if_moved(model: Any) -> None:
    """Take them away from a model that is now where, or of a type that, they aren't made for."""
    reason = why_plain(model, None)
    if reason is not None and isinstance(model.decoder, FastDecoder):
        restore(model)
        logger.info(f"decoding: plain model, since {reason}")


def why_plain(model: Any, generation: Any) -> Optional[str]:
    """Why this model has to decode on fairseq's path, or None."""
    encoder, decoder = model.encoder, model.decoder
    weight = decoder.embed_tokens.weight
    rules = (
        (model.args.inference == "plain", "inference is 'plain'"),
        (weight.device.type != "cpu", f"the model is on device {weight.device.type}"),
        (weight.dtype != torch.float32, f"the model's weights are {weight.dtype}"),
        (bool(_option(generation, "print_alignment")), "--print-alignment needs attention weights"),
        (bool(_option(generation, "score_reference")), "--score-reference doesn't search"),
        (bool(_option(generation, "retain_dropout")), "--retain-dropout needs dropout"),
    )
    for applies, reason in rules:
        if applies:
            return reason
    return _unknown_part(encoder, decoder)


def _unknown_part(encoder: nn.Module, decoder: nn.Module) -> Optional[str]:
    """A part of fairseq's Transformer that the fast layers don't have."""
    if not hasattr(encoder, "layers"):
        return f"{type(encoder).__name__} has no layers of its own"
    if decoder.adaptive_softmax is not None:
        return "it has --adaptive-softmax-cutoff"
    if decoder.cross_self_attention:
        return "it has --cross-self-attention"
    for stack in (encoder, decoder):
        if stack.quant_noise is not None:
            return "it has --quant-noise-pq"
    if decoder.project_in_dim is not None or decoder.project_out_dim is not None:
        return "it has --decoder-input-dim or --decoder-output-dim"
    for layer in (*encoder.layers, *decoder.layers):
        if not hasattr(layer, "plan"):
            return f"it has a layer of another kind, {type(layer).__name__}"
        for name, flag in (
            ("c_attn", "--scale-heads"),
            ("attn_ln", "--scale-attn"),
            ("ffn_layernorm", "--scale-fc"),
            ("w_resid", "--scale-resids"),
        ):
            if getattr(layer, name, None) is not None:
                return f"it has {flag}"
        for attention in (layer.self_attn, getattr(layer, "encoder_attn", layer.self_attn)):
            if attention is None:
                return "it has --no-cross-attention"
            if attention.bias_k is not None or attention.add_zero_attn:
                return "its attention has further keys"
            if attention.use_xformers:
                return "it has --encoder-xformers-att-config or --decoder-xformers-att-config"
    return None


def _option(generation: Any, name: str) -> Any:
    return None if generation is None else getattr(generation, name, None)


def _replace(model: Any, precision: str, step_rows: int, source_rows: int) -> str:
    """Put the fast encoder and decoder in front of the model's own; what was measured."""
    encoder, decoder = model.encoder, model.decoder
    dtype = activations_of(precision)
    uses: Counter = Counter(
        id(module.weight)
        for layer in (*encoder.layers, *decoder.layers)
        for module in layer.modules()
        if isinstance(module, nn.Linear)
    )
    pools, said = [], []
    for stack, rows in ((encoder, source_rows), (decoder, step_rows)):
        weights = {
            id(module.weight): module.weight.detach()
            for module in stack.layers.modules()
            if isinstance(module, nn.Linear)
        }
        kernel, measured = fastest(precision, list(weights.values()), rows)
        pools.append(ProductPool(kernel, rows, uses))
        said.append(measured)
    encoder_pool, decoder_pool = pools
    sources = [
        block
        for layer in encoder.layers
        for block in encoder_sub_blocks(layer, encoder_pool, dtype)
    ]
    steps = [
        block
        for index, layer in enumerate(decoder.layers)
        for block in decoder_sub_blocks(layer, index, decoder_pool, dtype)
    ]
    output = decoder_pool.rows_of([decoder.output_projection])
    model.encoder = FastEncoder(encoder, sources, dtype)
    model.decoder = FastDecoder(decoder, model.encoder, steps, output, dtype)
    model.encoder.eval()
    model.decoder.eval()
    own = sum(4 * parameter.numel() for parameter in model.parameters()) / 1e6
    packed = sum(pool.megabytes for pool in pools)
    return (
        f"encoder: {said[0]}; decoder: {said[1]}; packed weights take {packed:.0f} MB besides the "
        f"model's {own:.0f} MB"
    )
