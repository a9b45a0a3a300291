"""A checkpoint of one layout from a trained one of another.

Every group of the new layout takes the place of the modules that its layers had. FFNs become one by
a method of :data:`METHODS`; attention projections by their mean, or the first. Layers that lose
their FFN, or get one, keep their output as far as can be (``models/absent_ffn``).
"""

from __future__ import annotations

import argparse
import copy
import logging
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, Optional, Tuple

import torch
from fairseq import utils
from torch import Tensor

from fairseq_ffn.averaging import without_training_state
from fairseq_ffn.conversion.activations import Place
from fairseq_ffn.conversion.feed_forward import (
    FeedForward,
    concatenate,
    distinct,
    fresh,
    mean,
    select,
    widen,
)
from fairseq_ffn.conversion.least_squares import NormalEquations
from fairseq_ffn.decoding.sources import Source
from fairseq_ffn.errors import UserError
from fairseq_ffn.models import flags
from fairseq_ffn.models.absent_ffn import NORM, insert_ffn, norm_before_ffn, remove_ffn
from fairseq_ffn.models.shared_state import SUB_BLOCKS, SharedState
from fairseq_ffn.models.transformer_ffn import TransformerFfnModel

logger = logging.getLogger(__name__)

METHODS = ("mean", "first", "least-squares", "concatenate")
STACKS = ("encoder", "decoder")


@dataclass
class Group:
    """Layers that share an FFN in the new layout, and what they had.

    Args:
        name: in the layout, with its stack.
        places: its layers.
        width: its new d_ff.
        ffns: the different FFNs that its layers had.
        shares: the share of the layers that had each.
        donors: FFNs that the new layout leaves out, which fill up a greater width.
        equations: for least squares.
    """

    name: str
    places: List[Place]
    width: int = 0
    ffns: List[FeedForward] = field(default_factory=list)
    shares: List[float] = field(default_factory=list)
    donors: List[FeedForward] = field(default_factory=list)
    equations: Optional[NormalEquations] = None

    @property
    def units(self) -> int:
        """Hidden units of all its FFNs."""
        return sum(ffn.width for ffn in self.ffns)

    def candidates(self) -> FeedForward:
        """All units that it can choose from; donors are silent."""
        return concatenate(self.ffns + self.donors, self.shares + [0.0] * len(self.donors))

    def __str__(self) -> str:
        layers: Dict[str, List[str]] = {}
        for stack, layer in self.places:
            layers.setdefault(stack, []).append(str(layer))
        return "FFN of " + " and ".join(
            f"{stack} layer{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"
            for stack, numbers in layers.items()
        )


class Conversion:
    """What becomes of a model's modules.

    Args:
        source: the trained model.
        settings: new layouts and widths, by name in the namespace; the rest stays.
        method: one of :data:`METHODS`.
        seed: of units that no FFN gives.

    Raises:
        UserError: a layout or width that can't be had.
    """

    def __init__(self, source: Source, settings: Dict[str, Any], method: str, seed: int = 1):
        self.source, self.method = source, method
        self.old = flags.layouts_of(source.args)
        self.state = dict(source.model.state_dict())
        SharedState(self.old, share_ffn_norm=source.args.share_ffn_norm).expand(self.state)
        self.args = _new_flags(source.args, settings)
        self.new = flags.layouts_of(self.args)
        self._generator = torch.Generator().manual_seed(seed)
        self._activation = utils.get_activation_fn(source.args.activation_fn)
        self.groups = self._groups()
        self._settle_widths(settings)
        self._check_method()
        flags.check(self.args)
        #: mean output of the FFNs that are left out, where sample text gave it
        self._constants: Dict[Place, Tensor] = {}

    @property
    def needs_sample(self) -> bool:
        """Whether the method looks at activations."""
        return self.method == "least-squares" and bool(self._to_fit() or self._dropped())

    def fit(self, sample: Iterable[Dict[Place, Tensor]]) -> None:
        """Take inputs of the FFNs in, for least squares.

        Raises:
            UserError: too many units for this machine's memory.
        """
        groups = self._to_fit()
        candidates = {}
        for group in groups:
            candidates[group.name] = group.candidates()
            group.equations = NormalEquations(
                candidates[group.name].width, candidates[group.name].d_model, str(group)
            )
        ffns = {place: self._ffn(place) for place in self._places_with_ffn()}
        sums = {place: torch.zeros(ffns[place].d_model).double() for place in self._dropped()}
        counts = dict.fromkeys(sums, 0)
        for inputs in sample:
            for group in groups:
                for place in group.places:
                    if place in ffns:
                        x = inputs[place]
                        hidden = candidates[group.name].hidden(x, self._activation)
                        group.equations.add(hidden, ffns[place](x, self._activation))
            for place in sums:
                output = ffns[place](inputs[place], self._activation)
                sums[place] += output.double().sum(0)
                counts[place] += len(output)
        self._constants = {
            place: total / counts[place] for place, total in sums.items() if counts[place]
        }

    def model(self) -> TransformerFfnModel:
        """The new model."""
        merged = {group.name: self._merged(group) for group in self.groups}
        self._merge_attention()
        of_place = {place: group for group in self.groups for place in group.places}
        for stack in STACKS:
            for layer, had in enumerate(getattr(self.old, f"{stack}_ffn").modules):
                group = of_place.get((stack, layer))
                if group is not None:
                    self._put(stack, layer, merged[group.name], had is not None)
                elif had is not None:
                    self._drop(stack, layer)
        if self.args.share_ffn_norm:
            for group in self.groups:
                self._merge_entries(group.places, (NORM,))
        model = TransformerFfnModel.build_model(copy.deepcopy(self.args), self.source.task)
        model.load_state_dict(self.state, strict=True)
        return model

    def checkpoint(self, model: TransformerFfnModel) -> Dict[str, Any]:
        """The checkpoint of the new model."""
        state = without_training_state(self.source.state)
        state["model"] = dict(model.state_dict())
        if state.get("args") is not None:
            state["args"] = self.args
        else:
            state["cfg"] = {**state["cfg"], "model": self.args}
        return state

    def _groups(self) -> List[Group]:
        found: Dict[str, Group] = {}
        for stack in STACKS:
            for name, layers in getattr(self.new, f"{stack}_ffn").groups.items():
                key = name if name.startswith("@") else f"{stack} {name}"
                group = found.setdefault(key, Group(key, []))
                group.places += [(stack, layer) for layer in layers]
        for group in found.values():
            group.ffns, group.shares = self._different(
                [place for place in group.places if self._had(place)]
            )
        return list(found.values())

    def _different(self, places: List[Place]) -> Tuple[List[FeedForward], List[float]]:
        """The different FFNs of some layers, and each one's share of the layers."""
        ffns = [self._ffn(place) for place in places]
        owners = distinct(ffns)
        order = list(dict.fromkeys(owners))
        return [ffns[owner] for owner in order], [
            owners.count(owner) / len(owners) for owner in order
        ]

    def _settle_widths(self, settings: Dict[str, Any]) -> None:
        """Widths that weren't given, and the donors for those that leave room."""
        wanted: Dict[str, int] = {}
        for group in self.groups:
            widths = [ffn.width for ffn in group.ffns]
            own = sum(widths) if self.method == "concatenate" else max(widths, default=0)
            for stack, _ in group.places:
                wanted[stack] = max(wanted.get(stack, 0), own)
        for stack, width in wanted.items():
            name = f"{stack}_ffn_embed_dim"
            if name not in settings and width:
                # one width for both stacks if a group is common to both
                common = getattr(self.new, f"{stack}_ffn").common
                setattr(self.args, name, max(wanted.values()) if common else width)
        left_out, _ = self._different(self._dropped())
        for group in self.groups:
            group.width = getattr(self.args, f"{group.places[0][0]}_ffn_embed_dim")
            room = group.width - group.units
            if self.method in ("concatenate", "least-squares"):
                for ffn in left_out:
                    if ffn.d_model == self._d_model(group.places[0][0]) and ffn.width <= room:
                        group.donors.append(ffn)
                        room -= ffn.width

    def _check_method(self) -> None:
        for group in self.groups:
            widths = {ffn.width for ffn in group.ffns}
            flag = f"--{group.places[0][0]}-ffn-embed-dim {group.width}"
            if self.method == "mean" and len(widths) > 1:
                raise UserError(
                    f"--merge mean: {group} had FFNs of widths {_listed(widths)}, which have no "
                    "mean; use --merge concatenate or least-squares"
                )
            least = {"concatenate": group.units, "least-squares": 0}.get(
                self.method, max(widths, default=0)
            )
            if group.width < least:
                raise UserError(
                    f"{flag}: {group} had {least} hidden units{self._in_all(group)}; give {least} "
                    "or more, or use --merge least-squares, which chooses among them"
                )

    def _in_all(self, group: Group) -> str:
        return " in all" if self.method == "concatenate" and len(group.ffns) > 1 else ""

    def _to_fit(self) -> List[Group]:
        """Groups whose FFN isn't simply one that was there."""
        return [
            group
            for group in self.groups
            if len(group.ffns) > 1 or (group.ffns and group.width < group.units)
        ]

    def _merged(self, group: Group) -> FeedForward:
        if not group.ffns:
            d_model = self._d_model(group.places[0][0])
            logger.info(f"{group}: new, and silent at first")
            return fresh(d_model, group.width, self._generator, torch.float32)
        how, ffn = f"{len(group.ffns)} FFNs, {self.method}", group.ffns[0]
        if self.method == "least-squares" and group.equations is not None:
            fit = group.equations.fit(group.width)
            chosen = select(group.candidates(), fit.units)
            ffn = FeedForward(
                chosen.w1, chosen.b1, fit.w2.to(chosen.w2.dtype), fit.b2.to(chosen.b2.dtype)
            )
            how += (
                f": {len(fit.units)} of {group.candidates().width} units explain "
                f"{100 * fit.explained:.1f}% of the variance on {group.equations.count:,} inputs"
            )
        elif len(group.ffns) == 1 and not group.donors:
            how = "as it was"
        elif self.method == "mean":
            ffn = mean(group.ffns, group.shares)
        elif self.method != "first":
            ffn = group.candidates()
            if group.donors:
                how += f", and {len(group.donors)} that are left out otherwise, silent at first"
        if ffn.width < group.width:
            how += f"; {group.width - ffn.width} new units, silent at first"
        logger.info(f"{group}: {how}")
        return widen(ffn, group.width, self._generator)

    def _put(self, stack: str, layer: int, ffn: FeedForward, had: bool) -> None:
        prefix = f"{stack}.layers.{layer}."
        if had or not self._in_series(stack):
            self.state.update({prefix + name: value for name, value in ffn.entries().items()})
        else:
            insert_ffn(self.state, prefix, ffn.entries(), self._pre_norm(stack))
        if not had and self._has_own_norms(stack):
            norm = self.state[f"{prefix}self_attn_layer_norm.weight"]
            self.state[f"{prefix}{NORM}.weight"] = torch.ones_like(norm)
            self.state[f"{prefix}{NORM}.bias"] = torch.zeros_like(norm)

    def _drop(self, stack: str, layer: int) -> None:
        """Leave an FFN out; least squares keeps its mean output, the best constant.

        The constant goes where the residual stream is just before the FFN: into the bias of the
        attention's output, or, in post-norm, of the norm that follows it.
        """
        prefix = f"{stack}.layers.{layer}."
        constant = self._constants.get((stack, layer))
        what = f"FFN of {stack} layer {layer}: left out"
        name = self._bias_before_ffn(stack, prefix)
        if constant is None or self.args.parallel_scale != "none" or self._is_shared(name):
            logger.info(what)
        else:
            logger.info(f"{what}; its mean output stays in {name}")
            self.state[name] = (self.state[name].double() + constant).to(self.state[name].dtype)
        series = self._in_series(stack)
        remove_ffn(self.state, prefix, pre_norm=self._pre_norm(stack) or not series)

    def _bias_before_ffn(self, stack: str, prefix: str) -> str:
        before = norm_before_ffn(self.state, prefix)
        if self._in_series(stack) and not self._pre_norm(stack):
            return f"{before}.bias"
        attention = "encoder_attn" if "encoder_attn" in before else "self_attn"
        return f"{prefix}{attention}.out_proj.bias"

    def _is_shared(self, entry: str) -> bool:
        copies = SharedState(self.new).copies
        return any(entry.startswith((copy, owner)) for copy, owner, _ in copies)

    def _merge_attention(self) -> None:
        for stack, kind, parts in SUB_BLOCKS:
            if kind == "ffn":
                continue
            for name, layers in getattr(self.new, f"{stack}_{kind}").groups.items():
                if name.startswith("@") and stack == "decoder":
                    continue  # with the encoder's
                places = [(stack, layer) for layer in layers]
                if name.startswith("@"):
                    others = getattr(self.new, f"decoder_{kind}").groups[name]
                    places += [("decoder", layer) for layer in others]
                self._merge_entries(places, parts)

    def _merge_entries(self, places: List[Place], parts: Iterable[str]) -> None:
        """One value for what these layers share: the mean, or the first."""
        prefixes = [f"{stack}.layers.{layer}." for stack, layer in places]
        for part in parts:
            for suffix in ("weight", "bias"):
                entry = f"{part}.{suffix}"
                values = [self.state[prefix + entry] for prefix in prefixes]
                one = values[0]
                if self.method != "first" and any(not torch.equal(one, v) for v in values[1:]):
                    one = torch.stack([v.double() for v in values]).mean(0).to(one.dtype)
                self.state.update({prefix + entry: one for prefix in prefixes})

    def _ffn(self, place: Place) -> FeedForward:
        return FeedForward.of_layer(self.state, f"{place[0]}.layers.{place[1]}.")

    def _had(self, place: Place) -> bool:
        return getattr(self.old, f"{place[0]}_ffn").modules[place[1]] is not None

    def _places_with_ffn(self) -> List[Place]:
        return [
            (stack, layer)
            for stack in STACKS
            for layer, name in enumerate(getattr(self.old, f"{stack}_ffn").modules)
            if name is not None
        ]

    def _dropped(self) -> List[Place]:
        return [
            (stack, layer)
            for stack, layer in self._places_with_ffn()
            if getattr(self.new, f"{stack}_ffn").modules[layer] is None
        ]

    def _d_model(self, stack: str) -> int:
        return getattr(self.args, f"{stack}_embed_dim")

    def _pre_norm(self, stack: str) -> bool:
        return getattr(self.args, f"{stack}_normalize_before")

    def _in_series(self, stack: str) -> bool:
        return getattr(self.args, f"{stack}_block") == "series"

    def _has_own_norms(self, stack: str) -> bool:
        own = self.args.parallel_norm == "own"
        return not self._in_series(stack) and own and self._pre_norm(stack)


def _new_flags(old: argparse.Namespace, settings: Dict[str, Any]) -> argparse.Namespace:
    """Flags of the new model."""
    args = copy.deepcopy(old)
    for name, value in settings.items():
        setattr(args, name, value)
    # pruning has been done
    args.encoder_layers_to_keep = args.decoder_layers_to_keep = None
    if hasattr(args, "unpruned_flags"):
        del args.unpruned_flags
    args.arch = args._name = "transformer_ffn"
    return args


def _listed(widths: Iterable[int]) -> str:
    return " and ".join(str(width) for width in sorted(widths))
