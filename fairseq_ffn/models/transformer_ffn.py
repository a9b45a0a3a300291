"""The model ``transformer_ffn``: fairseq's Transformer with laid-out sub-blocks.

How a model comes to be: the flags are checked and parsed into five layouts (``flags``,
``layouts``); each stack turns its layouts into one plan per layer and builds the layers
(``modules``); the model hands modules that both stacks use from the encoder to the decoder, and
sees to it that a checkpoint holds each shared module once (``shared_state``).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import logging
from typing import Iterable, Iterator, Optional

import torch
from fairseq.distributed import fsdp_wrap
from fairseq.models import register_model
from fairseq.models.transformer import (
    TransformerConfig,
    TransformerDecoderBase,
    TransformerEncoderBase,
    TransformerModel,
)
from fairseq.models.transformer.transformer_legacy import base_architecture
from fairseq.modules.checkpoint_activations import checkpoint_wrapper
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fairseq_ffn.errors import UserError
from fairseq_ffn.layouts import ModelLayouts
from fairseq_ffn.models import flags
from fairseq_ffn.models.cpu_matmul import CpuMatmul
from fairseq_ffn.models.shared_state import SharedState
from fairseq_ffn.modules import LayerPlan, ModulePool, build_decoder_layer, build_encoder_layer
from fairseq_ffn.modules.attention import use_projections_of

logger = logging.getLogger(__name__)

#: FSDP is fairscale's; fairseq looks for it once a layer, which costs most where it isn't there
HAS_FAIRSCALE = importlib.util.find_spec("fairscale") is not None


@register_model("transformer_ffn")
class TransformerFfnModel(TransformerModel):
    """Encoder-decoder Transformer with shared, absent, widened or parallel feed-forward networks.

    With all flags at their defaults it is fairseq's ``transformer``: same parameters under the
    same names, same initial weights from the same seed, same results.
    """

    def __init__(self, args: argparse.Namespace, encoder, decoder):
        super().__init__(args, encoder, decoder)
        self.layouts: ModelLayouts = flags.layouts_of(args)
        self._hand_over_common_modules()
        self._shared_state = SharedState(self.layouts, share_ffn_norm=args.share_ffn_norm)
        self._shared_state.attach(self)
        #: sharing in the file, when fairseq prunes layers of it while loading
        self._unpruned_state: Optional[SharedState] = None
        self._cpu_matmul = CpuMatmul(
            args.cpu_matmul,
            d_model=args.encoder_embed_dim,
            d_ff=args.encoder_ffn_embed_dim,
            vocabulary=len(decoder.dictionary),
        )

    @classmethod
    def add_args(cls, parser: argparse.ArgumentParser) -> None:
        """Add fairseq's Transformer flags and ours."""
        super().add_args(parser)
        flags.add_arguments(parser)

    @classmethod
    def build_model(cls, args: argparse.Namespace, task) -> TransformerFfnModel:
        """Check the flags, then build as fairseq does.

        Raises:
            UserError: a layout or option that can't be honoured.
        """
        base_architecture(args)
        flags.set_defaults(args)
        _restore_unpruned_flags(args)
        layouts = flags.check(args)
        unpruned = None
        if args.encoder_layers_to_keep or args.decoder_layers_to_keep:
            unpruned = SharedState(layouts, share_ffn_norm=args.share_ffn_norm)
            _prune_layouts(args, layouts)
        for stack in flags.warn_of_raw_embeddings(args):
            logger.warning(
                f"--{stack}-block parallel with post-norm: the first layer's branches read raw "
                "embeddings; add --layernorm-embedding, as the parallel architectures do"
            )
        model = super().build_model(args, task)
        model._unpruned_state = unpruned
        return model

    @classmethod
    def build_encoder(cls, args, src_dict, embed_tokens) -> TransformerFfnEncoder:
        cfg = TransformerConfig.from_namespace(args)
        return TransformerFfnEncoder(cfg, src_dict, embed_tokens, layer_plans(args, "encoder"))

    @classmethod
    def build_decoder(cls, args, tgt_dict, embed_tokens) -> TransformerFfnDecoder:
        cfg = TransformerConfig.from_namespace(args)
        plans = layer_plans(args, "decoder")
        return TransformerFfnDecoder(cfg, tgt_dict, embed_tokens, plans, cfg.no_cross_attention)

    def train(self, mode: bool = True) -> TransformerFfnModel:
        """As in PyTorch; fairseq calls it before each update, and again before validation."""
        self._cpu_matmul.training(mode and self._is_on_cpu())
        return super().train(mode)

    def _is_on_cpu(self) -> bool:
        return self.encoder.embed_tokens.weight.device.type == "cpu"

    def __call__(self, *args, **kwargs):
        """fairseq's forward pass, on a CPU under autocast if ``--cpu-autocast`` says so.

        Arguments and result are those of fairseq's Transformer. ``forward`` itself is left alone,
        so that TorchScript can compile it.
        """
        if self.training and self._is_on_cpu():
            self._cpu_matmul.batch((args[0] if args else kwargs["src_tokens"]).numel())
        with self.arithmetic():
            return super().__call__(*args, **kwargs)

    def arithmetic(self) -> contextlib.AbstractContextManager:
        """Within it, products are taken as the model's flags say; a loss may need it as well."""
        return _cpu_autocast(self.args.cpu_autocast, self.encoder.embed_tokens.weight.device)

    def prepare_for_inference_(self, cfg) -> None:
        """fairseq's, then the fast encoder and decoder where they can be used (``--inference``)."""
        # here, since what is imported reads this package's layers
        from fairseq_ffn.decoding.fast_model import prepare

        super().prepare_for_inference_(cfg)
        prepare(self, cfg)

    def _apply(self, fn, recurse: bool = True) -> TransformerFfnModel:
        """As in PyTorch, whose ``cuda``, ``half`` and ``to`` come here.

        fairseq's hub interface prepares a model for inference before it is moved: packed weights
        would stay behind.
        """
        super()._apply(fn, recurse)
        if not isinstance(self.decoder, TransformerFfnDecoder):  # a fast one stands in front
            from fairseq_ffn.decoding.fast_model import restore_if_moved

            restore_if_moved(self)
        return self

    def upgrade_state_dict_named(self, state_dict: dict, name: str) -> None:
        """Write shared modules out for every layer before fairseq prunes layers by their names."""
        super().upgrade_state_dict_named(state_dict, name)
        if self._unpruned_state is not None:
            self._unpruned_state.expand(state_dict, f"{name}." if name else "")
            self._unpruned_state = None

    def _hand_over_common_modules(self) -> None:
        for name in self.layouts.encoder_ffn.common:
            owner = self.encoder.layers[self.layouts.encoder_ffn.groups[name][0]]
            for layer in self.layouts.decoder_ffn.groups[name]:
                self.decoder.layers[layer].adopt_ffn(owner)
        for name in self.layouts.encoder_self_attn.common:
            owner = self.encoder.layers[self.layouts.encoder_self_attn.groups[name][0]]
            for layer in self.layouts.decoder_self_attn.groups[name]:
                use_projections_of(self.decoder.layers[layer].self_attn, owner.self_attn)


class TransformerFfnEncoder(TransformerEncoderBase):
    """fairseq's Transformer encoder; its layers follow the encoder's layouts.

    Args:
        cfg: fairseq's configuration.
        dictionary: of the source.
        embed_tokens: source embedding.
        plans: one per layer.
    """

    def __init__(
        self, cfg: TransformerConfig, dictionary, embed_tokens, plans: Iterable[LayerPlan]
    ):
        # plain attributes: fairseq's constructor calls build_encoder_layer before it returns
        self._plans = iter(plans)
        self._pool = ModulePool()
        super().__init__(cfg, dictionary, embed_tokens)
        del self._plans, self._pool
        self.dropout_module.module_name = "TransformerEncoder"  # for --retain-dropout-modules

    def build_encoder_layer(self, cfg: TransformerConfig) -> nn.Module:
        """The next layer, wrapped as fairseq wraps its own."""
        return _wrap(build_encoder_layer(cfg, next(self._plans), self._pool), cfg)


class TransformerFfnDecoder(TransformerDecoderBase):
    """fairseq's Transformer decoder; its layers follow the decoder's layouts.

    A module that belongs to both stacks is still missing after construction: the model, which
    knows both, hands it over.

    Args:
        cfg: fairseq's configuration.
        dictionary: of the target.
        embed_tokens: target embedding.
        plans: one per layer.
        no_encoder_attn: leave cross-attention out.
    """

    #: of a plan; another stack has other layers
    layer_builder = staticmethod(build_decoder_layer)

    def __init__(
        self,
        cfg: TransformerConfig,
        dictionary,
        embed_tokens,
        plans: Iterable[LayerPlan],
        no_encoder_attn: bool = False,
    ):
        self._plans = iter(plans)
        self._pool = ModulePool()
        super().__init__(cfg, dictionary, embed_tokens, no_encoder_attn=no_encoder_attn)
        del self._plans, self._pool
        self.dropout_module.module_name = "TransformerDecoder"  # for --retain-dropout-modules

    def build_decoder_layer(self, cfg: TransformerConfig, no_encoder_attn=False) -> nn.Module:
        """The next layer, wrapped as fairseq wraps its own."""
        layer = self.layer_builder(cfg, next(self._plans), self._pool, no_encoder_attn)
        return _wrap(layer, cfg)


def layer_plans(args: argparse.Namespace, stack: str) -> Iterator[LayerPlan]:
    """One plan per layer of ``stack``, from the flags."""
    layouts = flags.layouts_of(args)
    ffn = getattr(layouts, f"{stack}_ffn")
    self_attn = getattr(layouts, f"{stack}_self_attn")
    block, chunk = getattr(args, f"{stack}_block"), flags.ffn_chunk(args, stack)
    for index in range(len(ffn.modules)):
        group = ffn.modules[index]
        yield LayerPlan(
            index=index,
            ffn=group,
            ffn_is_shared=group is not None
            and (group.startswith("@") or len(ffn.groups[group]) > 1),
            ffn_comes_later=stack == "decoder" and group in ffn.common,
            ffn_chunk=chunk,
            self_attn=self_attn.modules[index],
            self_attn_comes_later=stack == "decoder"
            and self_attn.modules[index] in self_attn.common,
            cross_attn=layouts.decoder_cross_attn.modules[index] if stack == "decoder" else None,
            block=block,
            parallel_norm=args.parallel_norm,
            parallel_scale=args.parallel_scale,
            share_ffn_norm=args.share_ffn_norm,
        )


def _wrap(layer: nn.Module, cfg: TransformerConfig) -> nn.Module:
    """Activation checkpointing and FSDP, as in fairseq's ``build_*_layer``."""
    if cfg.checkpoint_activations:
        layer = checkpoint_wrapper(layer, offload_to_cpu=cfg.offload_activations)
    if not HAS_FAIRSCALE:
        return layer
    # a checkpointed layer is always wrapped, whatever its size
    min_num_params = 0 if cfg.checkpoint_activations else cfg.min_params_to_wrap
    return fsdp_wrap(layer, min_num_params=min_num_params)


def _restore_unpruned_flags(args: argparse.Namespace) -> None:
    """Before layers are pruned: the flags of the whole model, if these were pruned already.

    As in fairseq, building a pruned model rewrites its flags; a second build from them must start
    from the same whole model.
    """
    if not (args.encoder_layers_to_keep or args.decoder_layers_to_keep):
        if hasattr(args, "unpruned_flags"):
            del args.unpruned_flags
    elif getattr(args, "unpruned_flags", None):
        for name, value in args.unpruned_flags.items():
            setattr(args, name, value)
    else:
        names = [f"{stack}_{kind}_layout" for stack, kind, _ in flags.LAYOUTS]
        names += ["encoder_layers", "decoder_layers"]
        args.unpruned_flags = {name: getattr(args, name) for name in names}


def _prune_layouts(args: argparse.Namespace, layouts: ModelLayouts) -> None:
    """Rewrite the layout flags for the layers that ``--*-layers-to-keep`` keeps."""
    for stack, kind, _ in flags.LAYOUTS:
        kept = getattr(args, f"{stack}_layers_to_keep")
        layers = [int(layer) for layer in kept.split(",")] if kept else []
        if layers:
            layout = getattr(layouts, f"{stack}_{kind}")
            if max(layers) >= len(layout.modules):
                raise UserError(
                    f"--{stack}-layers-to-keep '{kept}': layer {max(layers)}: the stack has only "
                    f"layers 0 to {len(layout.modules) - 1}"
                )
            setattr(args, f"{stack}_{kind}_layout", str(layout.keep(layers)))
    for stack in ("encoder", "decoder"):
        kept = getattr(args, f"{stack}_layers_to_keep")
        if kept:
            setattr(args, f"{stack}_layers", len(kept.split(",")))
    flags.layouts_of(args)  # a common group may have lost its last layer in one stack


@contextlib.contextmanager
def _cpu_autocast(dtype: str, device: torch.device) -> Iterator[None]:
    if dtype == "none" or device.type != "cpu":
        yield
        return
    # PyTorch's fused attention takes longer in bfloat16, up to three times for short sentences
    with torch.autocast("cpu", dtype=getattr(torch, dtype)), sdpa_kernel(SDPBackend.MATH):
        yield
