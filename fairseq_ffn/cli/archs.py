"""``fairseq-ffn archs``: size and cost of every architecture, in closed form."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from fairseq_ffn.cli.arguments import positive
from fairseq_ffn.costs import (
    MultiplyAdds,
    ParameterCount,
    count_multiply_adds,
    count_parameters,
    shape_of,
)
from fairseq_ffn.errors import UserError
from fairseq_ffn.models import flags
from fairseq_ffn.models.architectures import (
    ALL_SIZES,
    SIZES,
    apply,
    architecture_name,
    configs_of,
)

DESCRIPTION = """print parameters and multiply-adds of every architecture

One table per size, one row per value of --arch (transformer_ffn_SIZE alone is the baseline). The
sizes decoder_only_... are of the model transformer_ffn_decoder_only, whose one stack reads source
and target: all its layers are in the columns of the decoder.
Source embedding, target embedding and output projection are taken to be one matrix, as in
One Wide FFN (--share-all-embeddings with a joined dictionary). Nothing is built: the counts are
computed from the shapes, and are exact."""

#: symbols of the joined dictionary that the paper's sizes imply: 228M for Transformer Big
PAPER_VOCABULARY = 50368

#: fairseq's own flags that shape the row "custom", besides ours
WIDTHS_AND_DEPTHS = tuple(
    f"{stack}_{name}" for stack in ("encoder", "decoder") for name in ("layers", "ffn_embed_dim")
)
SWITCHES = ("encoder_normalize_before", "decoder_normalize_before", "layernorm_embedding")
CUSTOM_FLAGS = (*(name for name, _ in flags.DEFAULTS), *WIDTHS_AND_DEPTHS, *SWITCHES)

LEGEND = """total, body: parameters, and percent of the baseline's; the body is all parameters but
embeddings and output projection.
source, target: multiply-adds per source token and per target token, without attention scores and
output projection; keys and values of cross-attention count with the source token.
x: source + target against the baseline's."""


@dataclass(frozen=True)
class Row:
    """One architecture.

    Args:
        size: name of its size.
        config: name of its config, or ``custom``.
        args: its flags, all set.
        parameters: its size.
        multiply_adds: its cost.
        source: where it is from.
    """

    size: str
    config: str
    args: argparse.Namespace
    parameters: ParameterCount
    multiply_adds: MultiplyAdds
    source: str

    @property
    def name(self) -> str:
        """The value of ``--arch``, or ``custom``."""
        return self.config if self.config == "custom" else architecture_name(self.size, self.config)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument(
        "--vocab-size",
        type=positive,
        default=PAPER_VOCABULARY,
        metavar="V",
        help="symbols of the joined dictionary (default: %(default)s, which reproduces the "
        "paper's sizes: its text says 32K, but 228M parameters imply about 50K)",
    )
    parser.add_argument(
        "--size",
        nargs="+",
        choices=tuple(ALL_SIZES),
        help="sizes to print (default: all; with a row 'custom', those with an encoder)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with exact numbers")
    custom = parser.add_argument_group(
        "one more row",
        "With any of these flags, which are those of fairseq-train, each table gets a row "
        "'custom': the baseline with these flags. A layout with one name per layer fits only sizes "
        "with so many layers: add --size.",
    )
    flags.add_arguments(custom)  # type: ignore[arg-type]
    for name in WIDTHS_AND_DEPTHS:
        custom.add_argument(flags.flag_of(name), type=positive, metavar="N", help="as in fairseq")
    for name in SWITCHES:
        custom.add_argument(flags.flag_of(name), action="store_true", help="as in fairseq")


def run(args: argparse.Namespace) -> None:
    """Print the tables, or JSON."""
    custom = {
        name: getattr(args, name)
        for name in CUSTOM_FLAGS
        if getattr(args, name, None) not in (None, False)
    }
    for line in flags.refused_choices(custom, flags.CHOICES):  # whatever the size
        raise UserError(line)
    chosen = args.size or (SIZES if custom else ALL_SIZES)
    # all rows first: bad flags leave no half table
    sizes = {
        size: list(_rows(size, args.vocab_size, custom, one_of_all=args.size is None))
        for size in ALL_SIZES  # in the order of the table, each once
        if size in chosen
    }
    if args.json:
        records = [_record(row, rows[0]) for rows in sizes.values() for row in rows]
        print(json.dumps({"vocabulary": args.vocab_size, "architectures": records}, indent=2))
        return
    print(f"Joined dictionary of {args.vocab_size:,} symbols, one matrix for all embeddings.")
    print(LEGEND)
    for size, rows in sizes.items():
        digits = 1 if rows[0].parameters.total > 50e6 else 2
        projection = _millions(rows[0].multiply_adds.output_projection, digits)
        print(
            f"\n{size}: {ALL_SIZES[size].source}; output projection: {projection} per target token"
        )
        print("\n".join(_table(rows, digits)))


def _rows(size: str, vocabulary: int, custom: Dict[str, Any], one_of_all: bool) -> Iterator[Row]:
    """All configs of one size, the baseline first; then the custom row, if any."""
    for name, config in configs_of(size).items():
        yield _row(size, name, {}, vocabulary, config.source)
    if custom:
        words = [
            flags.flag_of(name) if value is True else f"{flags.flag_of(name)} {value}"
            for name, value in custom.items()
        ]
        try:
            yield _row(size, "custom", custom, vocabulary, " ".join(words))
        except UserError as error:
            cure = "; choose the sizes with --size" if one_of_all else ""
            raise UserError(f"size {size}: {error}{cure}") from error


def _row(size: str, config: str, given: Dict[str, Any], vocabulary: int, source: str) -> Row:
    args = argparse.Namespace(share_all_embeddings=True, **given)
    apply(args, size, "baseline" if config == "custom" else config)
    shape = shape_of(args, vocabulary)
    return Row(size, config, args, count_parameters(shape), count_multiply_adds(shape), source)


def _record(row: Row, baseline: Row) -> Dict[str, Any]:
    """One architecture for JSON; ratios are to the baseline of its size."""
    stacks = {
        f"{stack}_{name}": getattr(row.args, f"{stack}_{name}")
        for stack in ("encoder", "decoder")
        for name in ("layers", "embed_dim", "ffn_layout", "ffn_embed_dim", "block")
    }
    return {
        "arch": row.name,
        "size": row.size,
        "config": row.config,
        "parameters": {
            "total": row.parameters.total,
            "body": row.parameters.body,
            "embedding": row.parameters.embedding,
        },
        "multiply_adds": {
            "source_token": row.multiply_adds.source_token,
            "target_token": row.multiply_adds.target_token,
            "output_projection": row.multiply_adds.output_projection,
        },
        "ratio": {
            "total": row.parameters.total / baseline.parameters.total,
            "body": row.parameters.body / baseline.parameters.body,
            "multiply_adds": row.multiply_adds.token_pair / baseline.multiply_adds.token_pair,
        },
        **stacks,
        "source": row.source,
    }


HEADER = (
    *("architecture", "total", "%", "body", "%", "source", "target", "x"),
    *("encoder FFN", "decoder FFN", "block", "from"),
)
#: columns of numbers, aligned to the right
NUMBERS = range(1, 8)


def _table(rows: Sequence[Row], digits: int) -> List[str]:
    """Lines of an aligned table."""
    cells: List[Tuple[str, ...]] = [HEADER, *(_cells(row, rows[0], digits) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADER))]
    return [
        "  ".join(
            text.rjust(width) if column in NUMBERS else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in cells
    ]


def _cells(row: Row, baseline: Row, digits: int) -> Tuple[str, ...]:
    parameters, costs = row.parameters, row.multiply_adds
    blocks = dict.fromkeys(
        getattr(row.args, f"{stack}_block")
        for stack in ("encoder", "decoder")
        if getattr(row.args, f"{stack}_layers")
    )
    return (
        row.name,
        _millions(parameters.total, digits),
        f"{100 * parameters.total / baseline.parameters.total:.0f}",
        _millions(parameters.body, digits),
        f"{100 * parameters.body / baseline.parameters.body:.0f}",
        _millions(costs.source_token, digits),
        _millions(costs.target_token, digits),
        f"{costs.token_pair / baseline.multiply_adds.token_pair:.2f}",
        _ffn(row.args, "encoder"),
        _ffn(row.args, "decoder"),
        ", ".join(blocks),
        row.source,
    )


def _ffn(args: argparse.Namespace, stack: str) -> str:
    if not getattr(args, f"{stack}_layers"):
        return "-"
    layout = getattr(args, f"{stack}_ffn_layout")
    width: Optional[int] = getattr(args, f"{stack}_ffn_embed_dim")
    return layout if layout == "none" else f"{layout} {width:,}"


def _millions(number: int, digits: int) -> str:
    return f"{number / 1e6:,.{digits}f}M"
