"""Does measuring measure? Checks on a trained model, on an idle machine; status 1 if one fails.

    python scripts/check_latency.py
    python scripts/check_latency.py --checkpoint MODEL.pt --data DATA-BIN --gen-subset test

In one process, in turn on the same sentences: a model against a copy of itself (the interval has to
hold 1) and against a copy that is slowed down by 3% on purpose (the interval has to lie below 1).

Then what measuring costs, which has to be below 1%: plain fairseq, whose generator isn't wrapped,
in turn with the measured one and, as a control, with itself. All have the same model in memory. Of
each sentence the median over the rounds counts, so that a moment in which the machine is busy with
something else doesn't. On a machine that isn't idle even the control's interval can be wider than a
per cent; so the same calls are also timed round an ensemble that does nothing, which needs no idle
machine.

Last, fairseq-generate with --task translation_latency and one run, whose record has to agree with
fairseq's own stopwatch within 3%.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import logging
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence, Tuple

import numpy
import torch
from fairseq.dataclass.configs import FairseqConfig
from omegaconf import OmegaConf
from torch import nn

from fairseq_ffn.decoding.candidates import LoadedModel, Search, batches_of_set, load_checkpoints
from fairseq_ffn.decoding.measured_generator import MeasuredEnsemble, decode, measured
from fairseq_ffn.latency import statistics
from fairseq_ffn.latency.clock import Clock
from fairseq_ffn.latency.comparison import Candidate, Interleaved, Ratio
from fairseq_ffn.latency.measurement import Decoded, time_decode
from fairseq_ffn.latency.record import read_record

logger = logging.getLogger("check_latency")

REPOSITORY = Path(__file__).resolve().parents[1]
USER_DIR = REPOSITORY / "fairseq_ffn"
CPU = torch.device("cpu")
SLOW_DOWN = 0.03
#: what measuring may cost, and by how much two stopwatches may differ
COST, DIFFERENCE = 0.01, 0.03
#: the three that decode in turn to show the cost
SIDES = ("plain", "plain again", "measured")


@dataclass(frozen=True)
class Check:
    """One figure and whether it is as it has to be; a control (``passed`` None) only informs."""

    what: str
    figure: str
    condition: str
    passed: Optional[bool]

    def __str__(self) -> str:
        verdict = {None: "-", True: "ok", False: "FAILED"}[self.passed]
        return f"{verdict:6}  {self.what}: {self.figure} ({self.condition})"


# a model against its copies


def slowed(decode_: Callable[[Any], Decoded]) -> Callable[[Any], Decoded]:
    """The same decode, and then idle for 3% of its time."""

    def decode_slowly(batch: Any) -> Decoded:
        begin = time.perf_counter()
        decoded = decode_(batch)
        end = begin + (1 + SLOW_DOWN) * (time.perf_counter() - begin)
        while time.perf_counter() < end:
            continue
        return decoded

    return decode_slowly


def copies(loaded: Sequence[LoadedModel], batches: List[dict], rounds: int) -> List[Check]:
    """Three copies of a model, of which the last is slowed down."""
    first, copy, slow = (model.candidate(Search(), Clock(CPU)) for model in loaded)
    slow = Candidate("slowed", slowed(slow.decode))
    compared = Interleaved([first, copy, slow], batches, rounds)

    def refresh() -> None:
        for model in loaded:
            model.refresh()

    compared.run(Clock(CPU), warmup=3, between=refresh)
    return [check_copy(compared.ratio(1, 0)), check_slowed(compared.ratio(2, 0))]


def check_copy(ratio: Ratio) -> Check:
    """The interval has to hold 1."""
    told = ratio.low is not None and ratio.low <= 1 <= ratio.high
    return Check("a model's copy against it", str(ratio), "the interval has to hold 1", told)


def check_slowed(ratio: Ratio) -> Check:
    """The interval has to lie below 1."""
    told = ratio.high is not None and ratio.high < 1
    return Check(
        "a copy slowed down by 3% against it", str(ratio), "the interval has to lie below 1", told
    )


# what measuring costs


def plain(loaded: LoadedModel) -> Callable[[dict], Any]:
    """fairseq's own generator and ``inference_step``, nothing wrapped."""
    generator = _generator(loaded)
    return lambda sample: loaded.task.inference_step(generator, [loaded.model], sample)


def as_measured(loaded: LoadedModel) -> Callable[[dict], Any]:
    """Decoding under the clock, as the task does it."""
    clock = Clock(CPU)
    generator = measured(_generator(loaded), clock)
    return lambda sample: time_decode(clock, lambda: decode(generator, [loaded.model], sample))


def _generator(loaded: LoadedModel) -> Any:
    config = OmegaConf.structured(FairseqConfig())
    loaded.model.prepare_for_inference_(config)
    return loaded.task.build_generator([loaded.model], config.generation)


def in_turn(
    sides: Sequence[Callable[[Any], Any]], batches: Sequence[Any], rounds: int
) -> numpy.ndarray:
    """Seconds ``(sides, rounds, batches)`` of several ways to decode the same.

    Every order of the sides comes equally often, one after the other, and Python collects its
    garbage only between rounds.
    """
    orders = list(itertools.permutations(range(len(sides))))
    seconds = numpy.empty((len(sides), rounds, len(batches)))
    for batch in batches[:3]:
        for side in sides:
            side(batch)
    collects = gc.isenabled()
    turns = itertools.cycle(orders)
    for round_ in range(rounds):
        logger.info(f"what measuring costs: round {round_ + 1} of {rounds}")
        gc.collect()
        gc.disable()
        try:
            for number, batch in enumerate(batches):
                for side in next(turns):
                    begin = time.perf_counter()
                    sides[side](batch)
                    seconds[side, round_, number] = time.perf_counter() - begin
        finally:
            if collects:
                gc.enable()
    return seconds


def relative_cost(
    plain_seconds: numpy.ndarray, other_seconds: numpy.ndarray
) -> Tuple[float, Optional[float], Optional[float]]:
    """How much longer the other takes, and the 95% interval over sentences.

    Args:
        plain_seconds: ``(rounds, sentences)``; of each sentence the median over rounds counts.
        other_seconds: likewise.
    """
    medians = [numpy.median(seconds, axis=0) for seconds in (plain_seconds, other_seconds)]
    found = statistics.ratio_interval(numpy.ones((2, len(medians[0]))), medians)
    return tuple(None if one is None else one - 1 for one in found)  # type: ignore[return-value]


def costs(seconds: numpy.ndarray) -> List[Check]:
    """The control, and the cost.

    Args:
        seconds: ``(sides, rounds, batches)``, see :data:`SIDES`.
    """
    first, again, wrapped = seconds
    return [
        check_cost("plain fairseq against itself", *relative_cost(first, again), control=True),
        check_cost("measuring costs", *relative_cost(first, wrapped)),
    ]


def check_cost(
    what: str,
    cost: float,
    low: Optional[float],
    high: Optional[float],
    control: bool = False,
) -> Check:
    """The interval has to end below 1%."""
    figure = f"{100 * cost:+.2f}%"
    if low is not None:
        figure += f" [{100 * low:+.2f}%, {100 * high:+.2f}%]"
    if control:
        return Check(what, figure, "so finely this machine tells", None)
    passed = high is not None and high < COST
    return Check(what, figure, "the interval has to end below +1%", passed)


class CountingEnsemble(MeasuredEnsemble):
    """Counts what passes through it besides encoder and decoder steps."""

    passed = 0

    def _pass_on(self, name: str) -> None:
        # each time anew, so that it is counted
        return None

    def __getattr__(self, name: str) -> Any:
        if name != "ensemble":
            self.passed += 1
        return super().__getattr__(name)


class StubEnsemble(nn.Module):
    """Does nothing."""

    def forward_encoder(self, sample: Any) -> None:
        """The encoder."""

    def forward_decoder(self, sample: Any) -> None:
        """A step."""

    def reorder_encoder_out(self) -> None:
        """What else the search asks for at every step."""


class StubGenerator:
    """Calls its ensemble as a search does, and finds nothing."""

    def __init__(self, steps: int, others: int):
        self.model: nn.Module = StubEnsemble()
        self.steps, self.others = steps, others

    def generate(self, models: Any, sample: Any, **more: Any) -> List[List[dict]]:
        """One sentence."""
        self.model.forward_encoder(sample)
        for _ in range(self.steps):
            self.model.forward_decoder(sample)
        for _ in range(self.others):
            self.model.reorder_encoder_out()
        return [[{"tokens": ()}]]


def calls_per_batch(loaded: LoadedModel, batches: Sequence[dict]) -> Tuple[int, int]:
    """Decoder steps, and other calls of the ensemble: the most that a batch needs."""
    generator = _generator(loaded)
    generator.model = counting = CountingEnsemble(generator.model, Clock(CPU))
    steps = others = 0
    for batch in batches:
        counting.passed = 0
        steps = max(steps, decode(generator, [loaded.model], batch).steps)
        others = max(others, counting.passed)
    return steps, others


def bound_seconds(steps: int, others: int, repeats: int = 200) -> float:
    """What measuring adds to a batch: the same calls round an ensemble that does nothing."""
    bare, wrapped = StubGenerator(steps, others), StubGenerator(steps, others)
    clock = Clock(CPU)
    measured(wrapped, clock)
    best = [float("inf")] * 2
    for _ in range(repeats):
        for side, call in enumerate(
            (
                lambda: bare.generate(None, None),
                lambda: time_decode(clock, lambda: decode(wrapped, None, None)),
            )
        ):
            begin = time.perf_counter()
            call()
            best[side] = min(best[side], time.perf_counter() - begin)
    return best[1] - best[0]


def check_bound(added: float, seconds: float, steps: int, others: int) -> Check:
    """It has to be below 1% of what a batch takes."""
    return Check(
        "measuring costs at most",
        f"{100 * added / seconds:.2f}%: {1e6 * added:.0f} microseconds for {steps} steps and "
        f"{others} other calls, of {1000 * seconds:.1f} ms",
        "below 1%, from an ensemble that does nothing",
        added < COST * seconds,
    )


# the task against fairseq's stopwatch


def stopwatch(args: argparse.Namespace) -> Check:
    """Our record against the time that fairseq-generate takes round the same calls."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "latency.json"
        command = [
            str(Path(sys.executable).parent / "fairseq-generate"),
            str(args.data),
            *("--user-dir", str(USER_DIR), "--path", str(args.checkpoint), "--cpu"),
            *("--gen-subset", args.gen_subset, "--batch-size", "1", "--beam", "5"),
            *("--required-batch-size-multiple", "1"),
            *("--task", "translation_latency", "--latency-runs", "1"),
            *("--latency-report", str(report)),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"fairseq-generate failed:\n{done.stderr[-2000:]}")
        ours = read_record(report)["tokens_per_second"]["mean"]
    return check_stopwatch(ours, tokens_per_second(done.stdout + done.stderr))


def tokens_per_second(text: str) -> float:
    """From fairseq-generate's last line on time."""
    return float(re.search(r"sentences/s, ([\d.]+) tokens/s\)", text).group(1))


def check_stopwatch(ours: float, theirs: float) -> Check:
    """Both have to agree within 3%."""
    return Check(
        "translation_latency against fairseq's stopwatch",
        f"{ours:.2f} and {theirs:.2f} tokens/s, {100 * (ours / theirs - 1):+.2f}%",
        "within 3%",
        abs(ours / theirs - 1) < DIFFERENCE,
    )


def in_process(args: argparse.Namespace) -> List[Check]:
    """The checks in one process."""
    loaded = load_checkpoints([str(args.checkpoint)] * 3, str(args.data))
    for model in loaded:
        model.to_device(CPU, half=False)
    batches = batches_of_set(loaded[0], args.gen_subset, 1, args.sentences, CPU)
    checks = copies(loaded, batches, args.rounds)
    sides = [plain(loaded[0]), plain(loaded[0]), as_measured(loaded[0])]
    seconds = in_turn(sides, batches, args.cost_rounds or 3 * args.rounds)
    steps, others = calls_per_batch(loaded[0], batches)
    # the most calls, the typical time
    bound = check_bound(
        bound_seconds(steps, others), float(numpy.median(seconds[0])), steps, others
    )
    return [*checks, *costs(seconds), bound]


def verdict(checks: Sequence[Check]) -> int:
    """Print the checks; gives the exit status."""
    for check in checks:
        print(check, flush=True)
    return int(any(check.passed is False for check in checks))


def main() -> int:
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
    parser.add_argument("--rounds", type=int, default=5, help="of the copies; default: 5")
    parser.add_argument(
        "--cost-rounds",
        type=int,
        help="of what measuring costs, whose interval shrinks with their square root; default: "
        "three times --rounds",
    )
    args = parser.parse_args()
    for path in (args.checkpoint, args.data):
        if not path.exists():
            parser.error(f"{path} isn't there; bash scripts/quickstart.sh makes it")
    torch.set_num_threads(1)
    failed = verdict(in_process(args))
    return max(failed, verdict([stopwatch(args)]))


if __name__ == "__main__":
    sys.exit(main())
