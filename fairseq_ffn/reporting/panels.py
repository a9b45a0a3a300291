"""What the figures of the analyses have in common: panels of one scale, one legend, safe names."""

from __future__ import annotations

import math
from typing import Any, Dict, Optional, Sequence, Tuple

#: of heat maps: even in lightness, and fit for every colour vision
COLOUR_MAP = "cividis"


def panel_size(panels: int) -> Tuple[float, float]:
    """Of a row of panels, in inches."""
    return (max(4.6, 1.4 + 2.3 * panels), 3.6)


def layer_axis(axes: Any, title: str, layers: int) -> None:
    """Layers on the axis below."""
    axes.set_title(title, fontsize=10)
    axes.set_xticks(range(layers))
    axes.set_xlim(-0.5, layers - 0.5)
    axes.set_xlabel("layer")


def one_scale(panels: Sequence[Any], bottom: Optional[float] = None) -> None:
    """The same limits for all panels, from ``bottom`` if given."""
    limits = [axes.get_ylim() for axes in panels]
    low, high = min(limit[0] for limit in limits), max(limit[1] for limit in limits)
    for axes in panels:
        axes.set_ylim(low if bottom is None else bottom, high)


def one_legend(panels: Sequence[Any]) -> None:
    """One legend below all panels, each label once."""
    handles: Dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            handles.setdefault(label, handle)
    canvas = panels[0].figure
    canvas.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=max(1, min(len(handles), int(canvas.get_figwidth() / 1.6))),
        frameon=False,
        fontsize=9,
    )


def defined(value: Optional[float]) -> float:
    """NaN for what a record leaves undefined."""
    return math.nan if value is None else value


def file_name(name: str) -> str:
    """A model's name as part of a file's."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)
