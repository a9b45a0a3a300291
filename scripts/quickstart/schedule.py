"""Which model trains when, so that all cores are busy until the end."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Dict, List


@dataclass(frozen=True)
class Workers:
    """How the machine is split: one model a core beats all cores on one model at this size."""

    processes: int
    threads: int

    @staticmethod
    def for_machine(models: int) -> Workers:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        processes = max(1, min(models, cores or 1))
        return Workers(processes, max(1, (cores or 1) // processes))


@dataclass(frozen=True)
class Piece:
    """A part of one model's training: its updates up to the share ``until`` of all of them."""

    model: str
    until: float = 1.0


def makespan(costs: Dict[str, float], processes: int) -> float:
    """Time until the last process ends, with :func:`pieces`: no model on two cores at once."""
    return max(max(costs.values()), sum(costs.values()) / processes)


def pieces(costs: Dict[str, float], processes: int) -> List[Piece]:
    """Split trainings so that all processes end together (McNaughton's wrap-around rule).

    The jobs fill one process after the other; one that doesn't fit into what is left of a process
    goes on at the *beginning* of the next. There it trains first, and stops; what is left of it
    is resumed at the end of the process before, when a core is free.

    Args:
        costs: time of each model's training.
        processes: how many train at once.

    Returns:
        the pieces in the order in which to start them, each as soon as a process is free; the
        second piece of a model only once its first is done.
    """
    end = makespan(costs, processes)
    sliver = 0.02 * end  # less isn't worth a second start
    starts = []  # (planned start, piece)
    filled = 0.0
    for model in sorted(costs, key=lambda name: -costs[name]):
        cost, room = costs[model], end - filled
        if cost > room + sliver:
            over = cost - room
            starts += [(0.0, Piece(model, until=over / cost)), (filled, Piece(model))]
            filled = over
        else:
            starts.append((filled, Piece(model)))
            filled += cost
        if filled > end - sliver:
            filled = 0.0
    return [piece for _, piece in sorted(starts, key=lambda entry: entry[0])]
