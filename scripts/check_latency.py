"""Does measuring measure? Four checks on a trained model, on an idle machine.

    python scripts/check_latency.py
    python scripts/check_latency.py --checkpoint MODEL.pt --data DATA-BIN --gen-subset test

In one process, in turn on the same sentences: a model against a copy of itself (the interval has to
hold 1) and against a copy that is slowed down by 3% on purpose (the interval has to lie below 1).
Then what measuring costs: plain fairseq, whose generator isn't wrapped, in turn with the measured
one. Both have the same model in memory, since two copies can differ by a per cent through where they
lie. Last, fairseq-generate with --task translation_latency and one run, whose record has to agree
with fairseq's own stopwatch.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, List

import torch
from fairseq.dataclass.configs import FairseqConfig
from omegaconf import OmegaConf

from fairseq_ffn.decoding.candidates import LoadedModel, Search, batches_of_set, load_checkpoints
from fairseq_ffn.latency.clock import Clock
from fairseq_ffn.latency.comparison import Candidate, Interleaved
from fairseq_ffn.latency.measurement import Decoded
from fairseq_ffn.latency.record import read_record

REPOSITORY = Path(__file__).resolve().parents[1]
USER_DIR = REPOSITORY / "fairseq_ffn"
SLOW_DOWN = 0.03


def slowed(decode: Callable[[Any], Decoded]) -> Callable[[Any], Decoded]:
    """The same decode, and then idle for 3% of its time."""

    def decode_slowly(batch: Any) -> Decoded:
        begin = time.perf_counter()
        decoded = decode(batch)
        end = begin + (1 + SLOW_DOWN) * (time.perf_counter() - begin)
        while time.perf_counter() < end:
            continue
        return decoded

    return decode_slowly


def plain(loaded: LoadedModel) -> Candidate:
    """fairseq's own generator and ``inference_step``, nothing wrapped."""
    config = OmegaConf.structured(FairseqConfig())
    loaded.model.prepare_for_inference_(config)
    generator = loaded.task.build_generator([loaded.model], config.generation)

    def decode(sample: dict) -> Decoded:
        hypotheses = loaded.task.inference_step(generator, [loaded.model], sample)
        return Decoded(hypotheses, len(hypotheses), sum(len(h[0]["tokens"]) for h in hypotheses))

    return Candidate("plain fairseq", decode)


def interleaved(args: argparse.Namespace) -> None:
    """The checks in one process."""
    loaded = load_checkpoints([str(args.checkpoint)] * 3, str(args.data))
    cpu = torch.device("cpu")
    for model in loaded:
        model.to_device(cpu, half=False)
    batches = batches_of_set(loaded[0], args.gen_subset, 1, args.sentences, cpu)
    first, copy, slow = (model.candidate(Search(), Clock(cpu)) for model in loaded)
    _compare(
        [
            Candidate("model", first.decode),
            Candidate("its copy", copy.decode),
            Candidate("a copy slowed down by 3%", slowed(slow.decode)),
        ],
        batches,
        args.rounds,
    )
    _compare([plain(loaded[0]), Candidate("measured", first.decode)], batches, 3 * args.rounds)


def _compare(candidates: List[Candidate], batches: List[dict], rounds: int) -> None:
    """All others against the first."""
    compared = Interleaved(candidates, batches, rounds)
    compared.run(
        Clock(torch.device("cpu")), warmup=3, progress=lambda line: print(line, file=sys.stderr)
    )
    for position, candidate in enumerate(candidates[1:], start=1):
        print(f"{candidate.name} against {candidates[0].name}: {compared.ratio(position, 0)}")


def stopwatch(args: argparse.Namespace) -> None:
    """Our record against the time that fairseq-generate takes round the same calls."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "latency.json"
        command = [
            str(Path(sys.executable).parent / "fairseq-generate"),
            str(args.data),
            *("--user-dir", str(USER_DIR), "--path", str(args.checkpoint), "--cpu"),
            *("--gen-subset", args.gen_subset, "--batch-size", "1", "--beam", "5"),
            *("--required-batch-size-multiple", "1", "--num-workers", "0"),
            *("--task", "translation_latency", "--latency-runs", "1"),
            *("--latency-report", str(report)),
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        ours = read_record(report)["tokens_per_second"]["mean"]
    text = done.stdout + done.stderr
    theirs = float(re.search(r"sentences/s, ([\d.]+) tokens/s\)", text).group(1))
    print(
        f"translation_latency {ours:.2f} tokens/s, fairseq's stopwatch {theirs:.2f}: "
        f"{100 * (ours / theirs - 1):+.2f}%"
    )


def main() -> None:
    """Run all checks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    runs = REPOSITORY / "runs" / "quickstart"
    parser.add_argument(
        "--checkpoint", type=Path, default=runs / "baseline" / "checkpoints" / "checkpoint_last.pt"
    )
    parser.add_argument(
        "--data", type=Path, default=REPOSITORY / "data-bin" / "tatoeba_en_de" / "bin"
    )
    parser.add_argument("--gen-subset", default="test1", help="default: test1")
    parser.add_argument("--sentences", type=int, default=100, help="default: 100")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    args = parser.parse_args()
    for path in (args.checkpoint, args.data):
        if not path.exists():
            parser.error(f"{path} isn't there; bash scripts/quickstart.sh makes it")
    torch.set_num_threads(1)
    interleaved(args)
    stopwatch(args)


if __name__ == "__main__":
    main()
