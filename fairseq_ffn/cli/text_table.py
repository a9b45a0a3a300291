"""Aligned tables for the terminal."""

from __future__ import annotations

from typing import Collection, List, Sequence


def text_table(rows: Sequence[Sequence[str]], numbers: Collection[int] = ()) -> List[str]:
    """Lines of a table whose first row is its heading.

    Args:
        rows: all of one length.
        numbers: columns that are aligned to the right.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]
