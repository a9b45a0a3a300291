"""Peak memory and time of the attention maps of one long sentence, for an untrained model.

python scripts/attention_map_costs.py transformer_ffn_big
python scripts/attention_map_costs.py transformer_ffn_big_one_wide --dtype float32
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import torch

from fairseq_ffn.analysis.map_study import Sentence, Settings, study
from fairseq_ffn.analysis.players import CHUNK
from fairseq_ffn.analysis.text import Batch
from fairseq_ffn.cli.arguments import positive
from fairseq_ffn.decoding.candidates import build_untrained, random_batches, task_of_size


def main() -> None:
    """Build, decompose one sentence, print one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("arch", help="architecture of this plugin or of fairseq")
    parser.add_argument("--tokens", type=positive, default=60, help="source and target (60)")
    parser.add_argument("--vocab-size", type=positive, default=50368, help="symbols (50368)")
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    parser.add_argument("--chunk", type=positive, default=CHUNK, help=f"neurons ({CHUNK})")
    args = parser.parse_args()
    task = task_of_size(args.vocab_size)
    (loaded,) = build_untrained([args.arch], task)
    loaded.to_device(torch.device("cpu"), half=False)
    loaded.model.requires_grad_(False)
    before = peak()
    dictionary = task.source_dictionary
    (sample,) = random_batches(dictionary, [args.tokens - 1], 1, 1, torch.device("cpu"))
    source = sample["net_input"]["src_tokens"]
    batch = Batch([0], source, sample["net_input"]["src_lengths"], source.roll(1), dictionary.pad())
    symbols = ["w"] * args.tokens
    settings = Settings(dtype=getattr(torch, args.dtype), chunk=args.chunk)
    start = time.perf_counter()
    found = study(loaded.model, [Sentence(0, batch, symbols, symbols)], 1, settings)
    seconds = time.perf_counter() - start
    error = max(
        layer["reconstruction_error"] for layers in found["layers"].values() for layer in layers
    )
    print(
        f"{args.arch}, {args.tokens} + {args.tokens} tokens, {args.dtype}, chunks of {args.chunk}: "
        f"peak {peak():.2f} GiB ({before:.2f} with the model only), {seconds:.0f} s, largest error "
        f"{error:.0e}"
    )


def peak() -> float:
    """Most memory that this process has held so far, in GiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
