"""What training costs: multiply-adds, activation memory and estimated GPU hours of every model.

    bash scripts/wmt22_en_de/costs.sh
    python scripts/recipes/costs.py --table 'big transformer_ffn_big_baseline' --updates 80000 \
        --batch-tokens 458752

Multiply-adds are exact (fairseq_ffn/costs.py). The rest is estimated, by these formulas; nothing
was measured on a GPU:

  FLOPs of training  6 x multiply-adds x pairs of tokens: 2 a multiply-add, and the backward pass
                     costs twice the forward pass
  GPU hours          FLOPs / (--peak x --utilisation) / 3600; by default 125 TFLOP/s, an NVIDIA
                     V100's peak in half precision by its data sheet, of which 35% is our guess
  activations        numbers kept for the backward pass, per token and layer, in 2 bytes (half
                     precision): FFN d + 2 d_ff (input; before and after the activation), attention
                     5 d (input, q, k, v, output before its projection), norm and residual 2 d each
                     sub-block, scores 2 x heads x length; and 3 x vocabulary per target token
                     (logits, their log-softmax and its gradient, 4 bytes)

A pair of tokens is one of the source and one of the target; an update of B tokens has B of each.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools import UserError, run_program

#: tokens of a usual sentence
LENGTH = 30


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", required=True, help="models: name, architecture, flags")
    parser.add_argument("--updates", type=int, required=True, metavar="N")
    parser.add_argument("--batch-tokens", type=int, required=True, metavar="N", help="an update")
    parser.add_argument("--vocabulary", type=int, default=32008, metavar="V", help="rows")
    parser.add_argument("--length", type=int, default=LENGTH, metavar="N", help="of a sentence")
    parser.add_argument("--peak", type=float, default=125, metavar="TFLOPS")
    parser.add_argument("--utilisation", type=float, default=0.35, metavar="X")
    parser.add_argument("--json", action="store_true", help="exact numbers")
    return parser.parse_args()


def main() -> None:
    """Print the table."""
    args = parse()
    rows = [cost(args, name, arch, flags) for name, arch, flags in models(args.table)]
    if args.json:
        print(json.dumps(rows, indent=2))
        return
    baseline = rows[0]
    print(
        "| model | parameters | multiply-adds | x | activations | FLOPs | GPU hours (estimate) |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    for row in rows:
        print(
            f"| {row['name']} | {row['parameters'] / 1e6:.0f}M | {row['multiply_adds'] / 1e6:.0f}M "
            f"| {row['multiply_adds'] / baseline['multiply_adds']:.2f} "
            f"| {row['activation_bytes'] / 1e6:.2f} MB | {row['flops']:.2g} "
            f"| {row['gpu_hours']:,.0f} |"
        )


def models(table: str) -> List[Tuple[str, str, List[str]]]:
    """Rows of a table of models."""
    rows = []
    for line in table.splitlines():
        words = line.split()
        if words and not words[0].startswith("#"):
            rows.append((words[0], words[1], words[2:]))
    if not rows:
        raise UserError("--table: no model")
    return rows


def cost(args: argparse.Namespace, name: str, arch: str, flags: List[str]) -> Dict[str, Any]:
    """One row."""
    from fairseq import options
    from fairseq.models import ARCH_MODEL_REGISTRY

    import fairseq_ffn  # noqa: F401  (registers the architectures)
    from fairseq_ffn.costs import count_multiply_adds, count_parameters, shape_of

    if arch not in ARCH_MODEL_REGISTRY:
        raise UserError(f"{name}: no architecture {arch}")
    parser = options.get_training_parser()
    words = ["data", "--arch", arch, "--share-all-embeddings", *flags]
    shape = shape_of(options.parse_args_and_arch(parser, words), args.vocabulary)
    work = count_multiply_adds(shape, args.length, args.length)
    total = work.token_pair + work.output_projection
    flops = 6 * total * args.batch_tokens * args.updates
    return {
        "name": name,
        "parameters": count_parameters(shape).total,
        "multiply_adds": total,
        "activation_bytes": activation_bytes(shape, args),
        "flops": float(flops),
        "gpu_hours": flops / (args.peak * 1e12 * args.utilisation) / 3600,
    }


def activation_bytes(shape: Any, args: argparse.Namespace) -> int:
    """Kept for the backward pass, per pair of tokens."""
    # the one stack of a decoder-only model reads both tokens of a pair
    one_stack = getattr(shape, "decoder_only", False)
    numbers = 0
    for stack, ffn, attentions, tokens in (
        (shape.encoder, shape.layouts.encoder_ffn, 1, 0 if one_stack else 1),
        (shape.decoder, shape.layouts.decoder_ffn, 1 + shape.cross_attention, 1 + one_stack),
    ):
        d, layers = stack.embed_dim, len(ffn.modules)
        with_ffn = layers - len(ffn.absent)
        # 64 numbers a head
        attention = 5 * d + 2 * d + 2 * (d // 64) * args.length * tokens
        numbers += tokens * layers * attentions * attention
        numbers += tokens * with_ffn * (d + 2 * stack.ffn_embed_dim + 2 * d)
    return 2 * numbers + 4 * 3 * args.vocabulary


if __name__ == "__main__":
    run_program("costs", main)
