"""``fairseq-ffn compare-latency``: several models decode the same batches in turn."""

from __future__ import annotations

import argparse
import logging
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import torch

from fairseq_ffn.cli.arguments import positive
from fairseq_ffn.decoding.candidates import (
    LoadedModel,
    Search,
    SetToDecode,
    build_untrained,
    check_lengths,
    load_checkpoints,
    random_batches,
    task_of_data,
    task_of_size,
)
from fairseq_ffn.decoding.fast_model import arithmetic_of
from fairseq_ffn.errors import UserError
from fairseq_ffn.files import write_json
from fairseq_ffn.latency.break_even import BreakEven, break_even
from fairseq_ffn.latency.clock import Clock, PeakMemory
from fairseq_ffn.latency.comparison import Interleaved, Ratio
from fairseq_ffn.latency.comparison_record import SCHEMA
from fairseq_ffn.latency.interruption import unwind_on_sigterm
from fairseq_ffn.latency.machine import device_name, machine, versions
from fairseq_ffn.models.flags import CHOICES
from fairseq_ffn.models.transformer_ffn import TransformerFfnModel

logger = logging.getLogger(__name__)

#: batches at each batch size, if the set has them; with fewer the interval of a ratio is wide
FEWEST_BATCHES = 10
#: target tokens of untrained models, unless --force-length says otherwise
FORCED_LENGTH = 25

DESCRIPTION = """compare the speed of several models, decoding the same sentences in turn

All models are loaded into one process. For every batch they decode in turn, in an order drawn
anew, so that a machine that slows down or speeds up does so for all of them. Each pair gets the
ratio of its tokens per second with a 95% interval (bootstrap over batches). A token is a generated
target symbol of the best hypothesis, end of sentence counted.

  trained models on real text:
    fairseq-ffn compare-latency A.pt B.pt --data DATA-BIN
  any architectures without training, at a forced length:
    fairseq-ffn compare-latency --random-init --vocab-size 32000 \\
        --arch transformer_ffn_big,transformer_ffn_big_one_wide
  from which batch size on is which faster:
    ... --batch-sizes 1,2,4,8,16,32,64"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("checkpoints", nargs="*", metavar="CHECKPOINT", help="models to compare")
    models = parser.add_argument_group("untrained models")
    models.add_argument(
        "--random-init", action="store_true", help="compare architectures with random weights"
    )
    models.add_argument(
        "--arch", type=_names, metavar="A,B,...", help="architectures, with --random-init"
    )
    models.add_argument(
        "--vocab-size",
        type=positive,
        metavar="V",
        help="symbols of the joined dictionary, with --random-init and without --data",
    )
    text = parser.add_argument_group("what is decoded")
    text.add_argument("--data", metavar="DIR", help="folder of fairseq-preprocess")
    text.add_argument("--gen-subset", default="test", help="set to decode (default: test)")
    text.add_argument("--source-lang", help="source language, if not the checkpoints'")
    text.add_argument("--target-lang", help="target language, if not the checkpoints'")
    text.add_argument(
        "--source-lengths",
        type=_numbers,
        metavar="N,N,...",
        help="decode random symbols of these lengths, one table each, instead of the set",
    )
    text.add_argument(
        "--force-length",
        type=positive,
        metavar="N",
        help="decode exactly N target tokens (and end of sentence), so that the models' work "
        f"doesn't depend on what they translate (default with --random-init: {FORCED_LENGTH})",
    )
    text.add_argument(
        "--sentences",
        type=positive,
        default=100,
        metavar="N",
        help="sentences at each batch size, spread over the set, or more if they don't make up "
        "--least-batches (default: %(default)s)",
    )
    text.add_argument(
        "--least-batches",
        type=positive,
        default=FEWEST_BATCHES,
        metavar="N",
        help="batches at each batch size at least, if the set has so many; fewer make a sweep to "
        "large batches quicker and its intervals wider (default: %(default)s)",
    )
    protocol = parser.add_argument_group("how")
    protocol.add_argument(
        "--batch-sizes",
        type=_numbers,
        default=[1],
        metavar="N,N,...",
        help="sentences a batch; several give the break-even (default: 1)",
    )
    protocol.add_argument("--beam", type=positive, default=5, help="beam size (default: 5)")
    protocol.add_argument("--max-len-a", type=_factor, default=0, help="as in fairseq-generate")
    protocol.add_argument("--max-len-b", type=positive, default=200, help="as in fairseq-generate")
    protocol.add_argument(
        "--threads", type=positive, default=1, help="CPU threads of PyTorch (default: 1)"
    )
    protocol.add_argument(
        "--rounds",
        type=positive,
        default=5,
        help="how often each model decodes each batch (default: 5)",
    )
    protocol.add_argument(
        "--warmup",
        type=positive,
        default=3,
        help="batches each model decodes before, not counted (default: 3)",
    )
    protocol.add_argument(
        "--keep-in-place",
        action="store_true",
        help="leave the weights where they lie in memory; by default they move between rounds (CPU "
        "only), since where they lie can make a per cent",
    )
    protocol.add_argument(
        "--inference",
        choices=CHOICES["inference"],
        help="arithmetic of our models on a CPU (docs/performance.md; default: the checkpoint's)",
    )
    protocol.add_argument("--fp16", action="store_true", help="half precision (GPU)")
    protocol.add_argument("--cpu", action="store_true", help="use the CPU even if there is a GPU")
    protocol.add_argument(
        "--seed", type=int, default=1, help="of order, random weights and symbols (default: 1)"
    )
    parser.add_argument(
        "--output", metavar="FILE", help="write all figures and raw values to this JSON file"
    )


def run(args: argparse.Namespace) -> None:
    """Load, decode in turn, print, save."""
    _check(args)
    undo = unwind_on_sigterm()
    try:
        _compare(args)
    finally:
        undo()


def _compare(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
    loaded = _load(args)
    for model in loaded:
        model.to_device(device, args.fp16)
        if args.inference is not None and isinstance(model.model, TransformerFfnModel):
            model.model.args.inference = args.inference
        facts = model.facts()
        logger.info(
            f"{model.name}: {facts['arch']}, {facts['parameters']['total'] / 1e6:.1f}M parameters"
        )
    check_lengths(loaded, args.source_lengths or [], args.force_length)
    if len(loaded) == 1:
        logger.info("one model, so there is no ratio; name more checkpoints to compare")
    text = None
    if not args.source_lengths:
        text = SetToDecode(loaded, args.gen_subset)
        text.check_batch_size(max(args.batch_sizes))
    clock, memory = Clock(device), PeakMemory(device)
    search = Search(args.beam, args.max_len_a, args.max_len_b, args.force_length)
    candidates = [model.candidate(search, clock) for model in loaded]

    def refresh() -> None:
        for model in loaded:  # one after the other: memory holds one model more
            model.refresh()

    results, break_evens = [], []
    for length in args.source_lengths or [None]:
        tables = []
        for batch_size in args.batch_sizes:
            count = max(args.least_batches, -(-args.sentences // batch_size))
            if length is None:
                batches = text.batches(batch_size, count, device)
            else:
                dictionary = loaded[0].task.source_dictionary
                batches = random_batches(dictionary, [length], batch_size, count, device, args.seed)
            label = f"batch size {batch_size}, " if len(args.batch_sizes) > 1 else ""
            memory.reset()
            interleaved = Interleaved(candidates, batches, args.rounds, args.seed)
            between = None if args.keep_in_place else refresh
            interleaved.run(clock, args.warmup, label=label, between=between)
            tables.append(_result(interleaved, batch_size, length, memory.megabytes()))
            print("\n".join(_table(tables[-1])), flush=True)
        if len(tables) > 1:
            found = _break_evens(tables)
            print("\n".join(["", "break-even in sentences a batch", *map(str, found)]), flush=True)
            break_evens += [{"source_length": length, **asdict(pair)} for pair in found]
        results += tables
    if args.output is not None:
        record = {
            "schema": SCHEMA,
            "models": [model.facts() for model in loaded],
            "protocol": {
                "device": device_name(device),
                "threads": torch.get_num_threads(),
                "dtype": ", ".join(sorted({arithmetic_of(one.model) for one in loaded})),
                "beam": args.beam,
                "rounds": args.rounds,
                "warmup": args.warmup,
                "keep_in_place": args.keep_in_place,
                "max_len_a": args.max_len_a,
                "max_len_b": args.max_len_b,
                "force_length": args.force_length,
                "data": args.data,
                "subset": None if text is None else args.gen_subset,
                "sentences_left_out": None if text is None else text.left_out,
                "seed": args.seed,
            },
            "results": results,
            "break_evens": break_evens,
            "versions": versions(),
            "machine": machine(device),
        }
        write_json(Path(args.output), record)
        logger.info(f"written to {args.output}")


def _check(args: argparse.Namespace) -> None:
    """Refuse what doesn't fit together, before anything is loaded."""
    if args.random_init:
        if args.checkpoints:
            raise UserError("--random-init: give --arch A,B,... and no checkpoints")
        if not args.arch:
            raise UserError("--random-init: name the architectures with --arch A,B,...")
        if (args.vocab_size is None) == (args.data is None):
            raise UserError("--random-init: give either --vocab-size V or --data DIR")
        if args.force_length is None:
            args.force_length = FORCED_LENGTH
            logger.info(
                f"--force-length {FORCED_LENGTH}, since untrained models never end a sentence"
            )
        if args.data is None and not args.source_lengths:
            args.source_lengths = [args.force_length]
    else:
        if len(args.checkpoints) < 1:
            raise UserError("name checkpoints to compare, or use --random-init --arch A,B,...")
        for flag, value in (("--arch", args.arch), ("--vocab-size", args.vocab_size)):
            if value is not None:
                raise UserError(f"{flag}: only with --random-init")
        if args.data is None:
            raise UserError("--data DIR: say which data the checkpoints translate")
    if (args.source_lang is None) != (args.target_lang is None):
        raise UserError("--source-lang and --target-lang go together")
    if args.fp16 and (args.cpu or not torch.cuda.is_available()):
        raise UserError("--fp16: needs a GPU; on a CPU half precision is slower than float32")
    if args.output is not None and Path(args.output).is_dir():
        raise UserError(f"--output {args.output}: is a directory; name a file")
    if args.output is not None and not os.access(Path(args.output).absolute().parent, os.W_OK):
        raise UserError(f"--output {args.output}: its directory isn't there or can't be written to")


def _load(args: argparse.Namespace) -> List[LoadedModel]:
    if not args.random_init:
        return load_checkpoints(args.checkpoints, args.data, args.source_lang, args.target_lang)
    if args.data is None:
        task = task_of_size(args.vocab_size)
    else:
        task = task_of_data(args.data, args.source_lang, args.target_lang)
    return build_untrained(args.arch, task, args.seed)


def _result(
    interleaved: Interleaved, batch_size: int, length: Optional[int], peak_megabytes: float
) -> Dict[str, Any]:
    """One table, for the record."""
    models = range(len(interleaved.candidates))
    return {
        "batch_size": batch_size,
        "source_length": length,
        "batches": len(interleaved.batches),
        "peak_memory_mb_all_models": peak_megabytes,
        "models": [
            {
                "name": interleaved.candidates[model].name,
                "tokens_per_second": interleaved.tokens_per_second(model),
                "encoder_share": interleaved.encoder_share(model),
                "raw": [[timed.as_record() for timed in one] for one in interleaved.timed[model]],
            }
            for model in models
        ],
        "ratios": [asdict(ratio) for ratio in interleaved.ratios()],
    }


def _table(result: Dict[str, Any]) -> List[str]:
    """The table as lines: every model against every one before it."""
    names = [model["name"] for model in result["models"]]
    title = f"batch size {result['batch_size']}"
    if result["source_length"] is not None:
        title += f", {result['source_length']} source tokens"
    rows = [["model", "tokens/s", "encoder", *(f"against {name}" for name in names[:-1])]]
    for model in result["models"]:
        speed, share = model["tokens_per_second"], model["encoder_share"]
        spread = f" ± {speed['std']:.1f}" if speed["std"] is not None else ""
        cells = [
            model["name"],
            f"{speed['mean']:.1f}{spread}",
            f"{100 * share:.0f}%" if share is not None else "-",
        ]
        for ratio in result["ratios"]:
            if ratio["name"] == model["name"]:
                cells.append(str(Ratio(**ratio)))
        rows.append(cells + [""] * (len(rows[0]) - len(cells)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    note = "; [95% interval of the ratio]" if len(names) > 1 else ""
    lines = ["", f"{title} ({result['batches']} batches{note})"]
    for row in rows:
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    return lines


def _break_evens(tables: Sequence[Dict[str, Any]]) -> List[BreakEven]:
    """For each pair, where the faster model changes."""
    sizes = [table["batch_size"] for table in tables]
    return [
        break_even(sizes, [Ratio(**table["ratios"][pair]) for table in tables])
        for pair in range(len(tables[0]["ratios"]))
    ]


def _numbers(text: str) -> List[int]:
    return sorted({positive(part.strip()) for part in text.split(",")})


def _factor(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 0 on")
    return value


def _names(text: str) -> List[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
