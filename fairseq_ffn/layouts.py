"""The layout language: which module each layer of a stack uses for one kind of sub-block.

A layout string says, for the N layers of one stack and one kind of sub-block (FFN, self-attention
or cross-attention), which layers share a module and which have none:

=====================  ==========================================================================
``independent``        a module of its own per layer (the usual Transformer)
``shared``             one module for the whole stack (One Wide FFN, section "Sharing")
``none``               no such sub-block: its residual and layer norm go too (same paper, note 2)
``tied``               one module common to encoder and decoder; both stacks must say so
``sequence:M``         M modules, each for a run of consecutive layers: 0 0 1 1 2 2
``cycle:M``            M modules in turn: 0 1 2 0 1 2
``cycle-rev:M``        in turn, but the last M layers in reverse: 0 1 2 2 1 0
``a,a,b,-,c,c``        one name per layer, ``-`` for none; ``@name`` is common to both stacks
=====================  ==========================================================================

``sequence``, ``cycle`` and ``cycle-rev`` are the strategies of Takase & Kiyono, "Lessons on
Parameter Sharing across Layers in Transformers". Where M doesn't divide N, ``sequence`` makes runs
whose lengths differ by at most one, and the cycles end early; every one of the M modules is used.

This file is pure: it needs no torch and no fairseq.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Dict, Iterable, Optional, Tuple

from fairseq_ffn.errors import UserError

KEYWORDS = ("independent", "shared", "none", "tied")
STRATEGIES = ("sequence", "cycle", "cycle-rev")
FORMS = (
    "independent, shared, none, tied, sequence:M, cycle:M, cycle-rev:M, "
    "or one name per layer such as a,a,b,-,c,c"
)
#: of attention, which can't be absent
ATTENTION_FORMS = FORMS.replace("none, ", "").replace("-,c,c", "b,c,c")
#: of cross-attention, which only one stack has
CROSS_ATTENTION_FORMS = ATTENTION_FORMS.replace("tied, ", "")
#: stack and kind of sub-block of each layout, in the order of the fields of ``ModelLayouts``
_MODEL_LAYOUTS = (
    ("encoder", "ffn"),
    ("decoder", "ffn"),
    ("encoder", "self_attn"),
    ("decoder", "self_attn"),
    ("decoder", "cross_attn"),
)
_NAME = re.compile(r"@?[A-Za-z0-9_.]+")


class LayoutError(UserError):
    """A layout string that is malformed, or that doesn't fit the stack it is for."""


@dataclass(frozen=True)
class Layout:
    """The module that each layer uses: a group name, or None where the sub-block is absent.

    Args:
        modules: one entry a layer.
        text: the string that it was parsed from, for messages; it doesn't count for equality.
    """

    modules: Tuple[Optional[str], ...]
    text: Optional[str] = field(default=None, compare=False)

    def __str__(self) -> str:
        """A string that ``parse_layout`` reads back: the one that was parsed, if there was one."""
        if self.text is not None:
            return self.text
        if set(self.modules) == {"shared"}:
            return "shared"  # a list of names can't hold this word
        return ",".join("-" if name is None else name for name in self.modules)

    @cached_property
    def groups(self) -> Dict[str, Tuple[int, ...]]:
        """Layers of every group, groups in the order in which their first layers come."""
        found: Dict[str, Tuple[int, ...]] = {}
        for layer, name in enumerate(self.modules):
            if name is not None:
                found[name] = found.get(name, ()) + (layer,)
        return found

    @property
    def absent(self) -> Tuple[int, ...]:
        """Layers without this sub-block."""
        return tuple(layer for layer, name in enumerate(self.modules) if name is None)

    @cached_property
    def common(self) -> Tuple[str, ...]:
        """Names of groups that are common to encoder and decoder."""
        return tuple(name for name in self.groups if name.startswith("@"))

    @property
    def is_independent(self) -> bool:
        """True for the usual Transformer: nothing shared, nothing absent."""
        return not self.absent and not self.has_sharing

    @property
    def has_sharing(self) -> bool:
        """True when a module serves more than one layer, of this stack or of both."""
        return bool(self.common) or any(len(layers) > 1 for layers in self.groups.values())

    def keep(self, layers: Iterable[int]) -> Layout:
        """The layout of a stack pruned to ``layers`` (in ascending order, as fairseq prunes)."""
        return Layout(tuple(self.modules[layer] for layer in sorted(layers)))


def parse_layout(text: str, num_layers: int, flag: str = "layout") -> Layout:
    """Parse one layout string for a stack of ``num_layers`` layers.

    Args:
        text: the layout string.
        num_layers: layers of the stack, N.
        flag: the flag to name in an error, such as ``--encoder-ffn-layout``.

    Raises:
        LayoutError: with one line that names flag, value and, where there is one, the layer.
    """
    _check_is_string(text, flag)
    stripped = text.strip()
    return replace(_parse(stripped, num_layers, flag), text=stripped)


def _check_is_string(text: object, flag: str) -> None:
    # --model-overrides can hold anything
    if not isinstance(text, str):
        raise LayoutError(f"{flag} {text!r}: not a string; use {forms_of(flag)}")


def _parse(stripped: str, num_layers: int, flag: str) -> Layout:
    if stripped == "independent":
        return Layout(tuple(str(layer) for layer in range(num_layers)))
    if stripped == "shared":
        return Layout(("shared",) * num_layers)
    if stripped == "none":
        return Layout((None,) * num_layers)
    if stripped == "tied":
        return Layout(("@tied",) * num_layers)
    if ":" in stripped:
        return _parse_strategy(stripped, num_layers, flag)
    return _parse_explicit(stripped, num_layers, flag)


def _parse_strategy(text: str, num_layers: int, flag: str) -> Layout:
    strategy, modules = _split_strategy(text, flag)
    if modules > num_layers:
        raise LayoutError(
            f"{flag} '{text}': {modules} modules for {num_layers} layers; use 1 to {num_layers}"
        )
    return Layout(tuple(str(m) for m in _strategy_indices(strategy, modules, num_layers)))


def _split_strategy(text: str, flag: str) -> Tuple[str, int]:
    strategy, _, number = text.partition(":")
    if strategy not in STRATEGIES:
        raise LayoutError(f"{flag} '{text}': unknown strategy '{strategy}'; use {forms_of(flag)}")
    if not (number.isascii() and number.isdecimal() and len(number) <= 4):
        raise LayoutError(f"{flag} '{text}': '{number}' is not a number of modules, as in cycle:2")
    modules = int(number)
    if modules == 0:
        raise LayoutError(f"{flag} '{text}': needs at least one module, as in {strategy}:1")
    return strategy, modules


def _strategy_indices(strategy: str, modules: int, num_layers: int) -> Tuple[int, ...]:
    if strategy == "sequence":
        return tuple(layer * modules // num_layers for layer in range(num_layers))
    if strategy == "cycle":
        return tuple(layer % modules for layer in range(num_layers))
    last_round = modules * (-(-num_layers // modules) - 1)
    return tuple(
        layer % modules if layer < last_round else modules - 1 - layer % modules
        for layer in range(num_layers)
    )


def _parse_explicit(text: str, num_layers: int, flag: str) -> Layout:
    names = [name.strip() for name in text.split(",")]
    if not text or (len(names) == 1 and num_layers != 1):
        raise LayoutError(f"{flag} '{text}': not a layout; use {forms_of(flag)}")
    if len(names) != num_layers:
        raise LayoutError(
            f"{flag} '{text}': names {len(names)} layers, but the stack has {num_layers}"
        )
    for layer, name in enumerate(names):
        if name == "-":
            continue
        if not _NAME.fullmatch(name):
            raise LayoutError(
                f"{flag} '{text}': layer {layer}: '{name}' is not a name; use letters, digits, "
                "'_' and '.', with '@' before a name common to both stacks, or '-' for none"
            )
        if name in KEYWORDS and len(names) > 1:
            raise LayoutError(
                f"{flag} '{text}': layer {layer}: '{name}' stands for a whole layout and can't be "
                "the name of one module"
            )
    return Layout(tuple(None if name == "-" else name for name in names))


@dataclass(frozen=True)
class ModelLayouts:
    """The five layouts of an encoder-decoder Transformer."""

    encoder_ffn: Layout
    decoder_ffn: Layout
    encoder_self_attn: Layout
    decoder_self_attn: Layout
    decoder_cross_attn: Layout

    def __post_init__(self) -> None:
        for kind in ("self_attn", "cross_attn"):
            for stack in ("encoder", "decoder"):
                layout = getattr(self, f"{stack}_{kind}", None)
                if layout is not None and layout.absent:
                    raise LayoutError(
                        f"{layout_flag(stack, kind)} '{layout}': layer {layout.absent[0]}: "
                        "attention can't be absent; only the FFN can"
                    )
        if self.decoder_cross_attn.common:
            name = self.decoder_cross_attn.common[0]
            raise LayoutError(
                f"{layout_flag('decoder', 'cross_attn')} '{self.decoder_cross_attn}': '{name}' is "
                "common to both stacks, but the encoder has no cross-attention"
            )
        for kind in ("ffn", "self_attn"):
            self._check_common(kind)

    def _check_common(self, kind: str) -> None:
        encoder, decoder = getattr(self, f"encoder_{kind}"), getattr(self, f"decoder_{kind}")
        for here, there, stack, other in (
            (encoder, decoder, "encoder", "decoder"),
            (decoder, encoder, "decoder", "encoder"),
        ):
            for name in here.common:
                if name not in there.common:
                    raise LayoutError(
                        f"{layout_flag(stack, kind)} '{here}': layer {here.groups[name][0]}: "
                        f"'{name}' is common to both stacks, but {layout_flag(other, kind)} "
                        f"'{there}' doesn't use it; both stacks must say so"
                    )

    @property
    def all(self) -> Dict[str, Layout]:
        """Layout by flag."""
        return {
            layout_flag(stack, kind): getattr(self, f"{stack}_{kind}")
            for stack, kind in _MODEL_LAYOUTS
        }


def forms_of(flag: str) -> str:
    """What can be written after the flag of a layout."""
    if flag.endswith("-cross-attn-layout"):
        return CROSS_ATTENTION_FORMS
    return ATTENTION_FORMS if flag.endswith("-attn-layout") else FORMS


def layout_flag(stack: str, kind: str) -> str:
    """The command-line flag of a layout, such as ``--decoder-cross-attn-layout``."""
    return f"--{stack}-{kind.replace('_', '-')}-layout"


def parse_model_layouts(
    encoder_layers: int,
    decoder_layers: int,
    encoder_ffn: str = "independent",
    decoder_ffn: str = "independent",
    encoder_self_attn: str = "independent",
    decoder_self_attn: str = "independent",
    decoder_cross_attn: str = "independent",
) -> ModelLayouts:
    """Parse and cross-check the five layout strings of a model.

    Raises:
        LayoutError: for a bad string, absent attention, or a common group that only one stack has.
    """
    texts = (encoder_ffn, decoder_ffn, encoder_self_attn, decoder_self_attn, decoder_cross_attn)
    for (stack, kind), text in zip(_MODEL_LAYOUTS, texts):
        _check_is_string(text, layout_flag(stack, kind))
    return _parse_model_layouts(encoder_layers, decoder_layers, texts)


@lru_cache(maxsize=64)  # a model asks several times while it is built
def _parse_model_layouts(
    encoder_layers: int, decoder_layers: int, texts: Tuple[str, ...]
) -> ModelLayouts:
    layers = {"encoder": encoder_layers, "decoder": decoder_layers}
    return ModelLayouts(
        *(
            parse_layout(text, layers[stack], layout_flag(stack, kind))
            for (stack, kind), text in zip(_MODEL_LAYOUTS, texts)
        )
    )
