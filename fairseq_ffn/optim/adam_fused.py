"""``--optimizer adam_fused``: fairseq's Adam in one pass over the parameters.

fairseq's Adam makes several passes over memory and about ten small calls for each parameter;
PyTorch's fused kernel makes one. Flags, formula and state are those of fairseq's ``adam``; only the
order of rounding differs.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Callable, Dict, List, Optional, Tuple

import torch
from fairseq.optim import adam, register_optimizer
from torch import Tensor
from torch.optim.adamw import adamw

from fairseq_ffn.errors import UserError

#: what the kernel can work on as it is; fairseq's own Adam takes the others
FUSED_TYPES = (torch.float32, torch.float64)


# The name of this class is part of each checkpoint, and fairseq refuses to go on from another's.
# The state is the same, so a training may change from one Adam to the other.
@register_optimizer("adam_fused", dataclass=adam.FairseqAdamConfig)
class FairseqAdam(adam.FairseqAdam):
    """fairseq's ``adam`` with :class:`FusedAdam` inside."""

    def __init__(self, cfg: adam.FairseqAdamConfig, params):
        if cfg.fp16_adam_stats:
            raise UserError("--fp16-adam-stats can't be honoured with --optimizer adam_fused")
        super().__init__(cfg, params)
        self._optimizer = FusedAdam(params, **self.optimizer_config)


class FusedAdam(adam.Adam):
    """fairseq's Adam with decoupled weight decay, computed by PyTorch's fused kernel.

    With step t, gradient g and ``c_i = 1 - beta_i^t`` fairseq computes
    ``p -= lr sqrt(c_2) / c_1 * m / (sqrt(v) + eps)``, PyTorch
    ``p -= lr / c_1 * m / (sqrt(v / c_2) + eps')``: the same with ``eps' = eps / sqrt(c_2)``.
    """

    @torch.no_grad()
    def step(self, closure: Optional[Callable[[], Tensor]] = None) -> Optional[Tensor]:
        """One update of all parameters that have a gradient; ``closure`` as in PyTorch."""
        if not self._can_be_fused():
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for steps, parameters in self._by_step(group).items():
                self._update(group, steps, parameters)
        return loss

    def _can_be_fused(self) -> bool:
        return all(
            parameter.dtype in FUSED_TYPES
            and (parameter.grad is None or parameter.grad.layout == torch.strided)
            for group in self.param_groups
            for parameter in group["params"]
        )

    def _by_step(self, group: dict) -> Dict[Tuple[int, torch.device], List[Tensor]]:
        """Parameters with a gradient, by how often they were updated (LayerDrop skips some)."""
        found: Dict[Tuple[int, torch.device], List[Tensor]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["step"] = 0
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            found[state["step"], parameter.device].append(parameter)
        return found

    def _update(self, group: dict, key: Tuple[int, torch.device], parameters: List[Tensor]) -> None:
        step, device = key
        states = [self.state[parameter] for parameter in parameters]
        beta1, beta2 = group["betas"]
        adamw(
            parameters,
            [parameter.grad for parameter in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            # one a parameter: the kernel's wrapper counts each of them up
            [torch.full((), float(step), device=device) for _ in states],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"] / math.sqrt(1 - beta2 ** (step + 1)),
            maximize=False,
        )
        for state in states:
            state["step"] += 1
