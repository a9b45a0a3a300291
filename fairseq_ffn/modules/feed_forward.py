"""The FFN sub-block of a layer: its own, its group's, or none.

FFN(x) = W2 max(0, x W1 + b1) + b2 (One Wide FFN, section 2; GELU and others through fairseq's
``--activation-fn``). fairseq keeps the two linears as ``fc1`` and ``fc2`` of the layer and builds
them through the hooks ``build_fc1`` and ``build_fc2``; this mixin answers these hooks, so that
names in checkpoints and the stream of random numbers stay fairseq's.
"""

from __future__ import annotations

from typing import List, Optional

from torch import Tensor, nn

from fairseq_ffn.errors import UserError
from fairseq_ffn.modules.chunked_feed_forward import chunked_feed_forward


class FeedForwardMixin:
    """Gives a fairseq Transformer layer the FFN that its plan names.

    The layer's constructor sets ``plan`` (a ``LayerPlan``) and ``_pool`` (a ``ModulePool``) before
    ``nn.Module.__init__`` runs, since fairseq calls the hooks from there. Neither is annotated in
    the class: TorchScript would want to compile their types.
    """

    def build_fc1(
        self, input_dim: int, output_dim: int, q_noise: float, qn_block_size: int
    ) -> Optional[nn.Module]:
        """The group's first linear, d -> d_ff; None without FFN."""
        return self._of_group(
            "fc1",
            lambda: super(FeedForwardMixin, self).build_fc1(  # type: ignore[misc]
                input_dim, output_dim, q_noise, qn_block_size
            ),
        )

    def build_fc2(
        self, input_dim: int, output_dim: int, q_noise: float, qn_block_size: int
    ) -> Optional[nn.Module]:
        """The group's second linear, d_ff -> d; None without FFN."""
        return self._of_group(
            "fc2",
            lambda: super(FeedForwardMixin, self).build_fc2(  # type: ignore[misc]
                input_dim, output_dim, q_noise, qn_block_size
            ),
        )

    def _of_group(self, name, build):
        if self.plan.ffn is None or self.plan.ffn_comes_later:
            return None
        return self._pool.get(("ffn", self.plan.ffn, name), build)

    def _settle_ffn_norm(self) -> None:
        """Drop the norm of an absent FFN (paper, note 2), or take the group's."""
        if self.plan.ffn is None:
            self.final_layer_norm = None
        elif self.plan.share_ffn_norm:
            own = self.final_layer_norm
            self.final_layer_norm = self._pool.get(("ffn_norm", self.plan.ffn), lambda: own)

    def adopt_ffn(self, owner: FeedForwardMixin) -> None:
        """Use the FFN of ``owner``, a layer of the other stack (layouts ``tied`` and ``@name``)."""
        self.fc1, self.fc2 = owner.fc1, owner.fc2
        if self.plan.share_ffn_norm:
            self.final_layer_norm = owner.final_layer_norm

    def feed_forward(self, x: Tensor) -> Tensor:
        """FFN branch with its dropouts, before residual and norm. ``(T, B, C) -> (T, B, C)``."""
        if self.training and self.plan.ffn_chunk:
            return self.dropout_module(
                chunked_feed_forward(
                    x,
                    self.fc1,
                    self.fc2,
                    self.activation_fn,
                    self.activation_dropout_module.p,
                    self.plan.ffn_chunk,
                )
            )
        x = self.activation_fn(self.fc1(x))
        x = self.activation_dropout_module(x)
        return self.dropout_module(self.fc2(x))

    def feed_forward_sub_block(self, x: Tensor) -> Tensor:
        """FFN with its residual and norm. ``(T, B, C) -> (T, B, C)``."""
        residual = x
        if self.normalize_before:
            x = self.final_layer_norm(x)
        x = self.residual_connection(self.feed_forward(x), residual)
        return x if self.normalize_before else self.final_layer_norm(x)

    def _get_fc_rank(self, remove_num: int) -> List[int]:
        self._refuse_neuron_pruning()
        return super()._get_fc_rank(remove_num)  # type: ignore[misc]

    def _prune_fc_layer(self, remove_index: List[int]) -> None:
        self._refuse_neuron_pruning()
        super()._prune_fc_layer(remove_index)  # type: ignore[misc]

    def _refuse_neuron_pruning(self) -> None:
        if self.plan.ffn is None:
            raise UserError(f"layer {self.plan.index} has no FFN whose neurons could be pruned")
        if self.plan.ffn_is_shared:
            raise UserError(
                f"layer {self.plan.index} shares its FFN (group '{self.plan.ffn}'): pruning its "
                "neurons layer by layer would un-share it"
            )
