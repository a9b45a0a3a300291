"""Training speed, peak memory and building time of our models against stock fairseq.

    python scripts/benchmark_training.py                       tiny and base
    python scripts/benchmark_training.py --sizes tiny --rounds 5

Speed: one process holds a fairseq Trainer for every model; for each batch they make one update in
turn, in an order drawn anew, so that a machine that drifts does so for all. The ratio to stock
fairseq's ``--arch transformer`` of the same shape has a 95% interval (bootstrap over batches).
Building: the models are built in turn in the same way. Memory: the peak resident size of one
fairseq-train per model and round. Needs an idle machine and the quick start's data
(data-bin/tatoeba_en_de/bin).
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List

import torch
from fairseq import options, tasks, utils
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.trainer import Trainer

from fairseq_ffn.files import write_json
from fairseq_ffn.latency.clock import Clock
from fairseq_ffn.latency.comparison import Candidate, Interleaved, Ratio
from fairseq_ffn.latency.machine import machine, versions
from fairseq_ffn.latency.measurement import Decoded
from fairseq_ffn.models.architectures import SIZES

REPOSITORY = Path(__file__).resolve().parents[1]
USER_DIR = REPOSITORY / "fairseq_ffn"
CONFIGS = ("baseline", "shared_enc_no_dec", "one_wide")
STOCK = "stock fairseq"
#: updates of each model, and models built, that aren't counted
WARMUP = 2
BUILDS = 60


def model_flags(size: str, name: str) -> List[str]:
    """Flags of one model; stock fairseq's ``transformer`` gets the shape of the size."""
    if name != STOCK:
        return ["--arch", f"transformer_ffn_{size}_{name}"]
    flags = ["--arch", "transformer"]
    for setting, value in SIZES[size].settings.items():
        flag = "--" + setting.replace("_", "-")
        if value is True:
            flags.append(flag)
        elif value is not False:
            flags += [flag, str(value)]
    return flags


def train_flags(args: argparse.Namespace, model: List[str]) -> List[str]:
    """The command line of a training, without the command."""
    return [
        str(args.data),
        *("--user-dir", str(USER_DIR)),
        *model,
        *("--share-all-embeddings", "--optimizer", "adam", "--lr", "1e-4", "--cpu"),
        *("--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1"),
        *("--max-tokens", str(args.max_tokens), "--max-update", str(args.updates)),
        *("--disable-validation", "--no-save", "--num-workers", "0", "--seed", "1"),
        *("--data-buffer-size", "0", "--log-format", "json", "--log-interval", "1"),
    ]


def trainer_of(args: argparse.Namespace, model: List[str]) -> Trainer:
    """What fairseq-train makes of its command line."""
    parsed = options.parse_args_and_arch(options.get_training_parser(), train_flags(args, model))
    cfg = convert_namespace_to_omegaconf(parsed)
    utils.set_torch_seed(cfg.common.seed)
    task = tasks.setup_task(cfg.task)
    trainer = Trainer(cfg, task, task.build_model(cfg.model), task.build_criterion(cfg.criterion))
    trainer.lr_step_begin_epoch(1)
    return trainer


def batches_of(args: argparse.Namespace, trainer: Trainer) -> List[dict]:
    """Training batches of a usual epoch, drawn by a seed."""
    task = trainer.task
    task.load_dataset("train")
    iterator = task.get_batch_iterator(
        task.dataset("train"), max_tokens=args.max_tokens, required_batch_size_multiple=8
    )
    dataset, frozen = task.dataset("train"), list(iterator.frozen_batches)
    chosen = random.Random(1).sample(frozen, args.updates)
    return [dataset.collater([dataset[int(index)] for index in batch]) for batch in chosen]


def speed(args: argparse.Namespace, models: Dict[str, List[str]]) -> Interleaved:
    """Updates of all models in turn."""
    trainers = {name: trainer_of(args, flags) for name, flags in models.items()}
    batches = batches_of(args, next(iter(trainers.values())))

    def update(trainer: Trainer, batch: dict) -> Decoded:
        trainer.train_step([batch])
        return Decoded(None, len(batch["id"]), batch["ntokens"])

    candidates = [
        Candidate(name, lambda batch, trainer=trainer: update(trainer, batch))
        for name, trainer in trainers.items()
    ]
    compared = Interleaved(candidates, batches, args.rounds)
    compared.run(Clock(torch.device("cpu")), WARMUP, progress, "updates, ")
    return compared


def building(args: argparse.Namespace, models: Dict[str, List[str]]) -> Interleaved:
    """Building the models in turn."""
    configs = {}
    for name, flags in models.items():
        parsed = options.parse_args_and_arch(
            options.get_training_parser(), train_flags(args, flags)
        )
        configs[name] = convert_namespace_to_omegaconf(parsed)
    task = tasks.setup_task(next(iter(configs.values())).task)

    def build(cfg: Any) -> Decoded:
        task.build_model(cfg.model)
        return Decoded(None, 1, 1)

    candidates = [Candidate(name, lambda _, cfg=cfg: build(cfg)) for name, cfg in configs.items()]
    compared = Interleaved(candidates, range(BUILDS), 1)
    compared.run(Clock(torch.device("cpu")), WARMUP, progress, "building, ")
    return compared


def peak_megabytes(args: argparse.Namespace, model: List[str]) -> float:
    """Peak resident size of one fairseq-train, in 10^6 bytes."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "PYTHONWARNINGS": "ignore"}
    command = str(Path(sys.executable).parent / "fairseq-train")
    # fairseq makes the folder for checkpoints even with --no-save
    with tempfile.TemporaryFile() as log, tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [command, *train_flags(args, model), "--save-dir", folder],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            log.seek(0)
            raise SystemExit(f"fairseq-train failed:\n{log.read().decode()[-2000:]}")
    return usage.ru_maxrss * 1024 / 1e6


def progress(line: str) -> None:
    """To the terminal, beside the table."""
    print(line, file=sys.stderr)


def text_of(ratio: Ratio) -> str:
    """With two digits."""
    if ratio.low is None or ratio.high is None:
        return f"{ratio.ratio:.2f}x"
    return f"{ratio.ratio:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]"


def benchmark(size: str, args: argparse.Namespace) -> Dict[str, Any]:
    """All models of one size; prints their rows."""
    models = {name: model_flags(size, name) for name in (STOCK, *args.configs)}
    names = list(models)
    # memory first: a process begins with the peak of the one that started it
    memory: Dict[str, List[float]] = {name: [] for name in names}
    for number in range(args.memory_rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            memory[name].append(peak_megabytes(args, models[name]))
            progress(f"memory, round {number + 1}: {name} {memory[name][-1]:.0f} MB")
    speeds, builds = speed(args, models), building(args, models)
    record: Dict[str, Any] = {}
    for position, name in enumerate(names):
        peak = statistics.median(memory[name]) / statistics.median(memory[STOCK])
        record[name] = {
            "speed": speeds.ratio(position, 0).__dict__,
            "building": builds.ratio(position, 0).__dict__,
            "memory": peak,
            "memory_mb": memory[name],
            "seconds": [[timed.seconds for timed in one] for one in speeds.timed[position]],
            "build_seconds": [timed.seconds for timed in builds.timed[position][0]],
        }
        print(
            f"| {size} | {name} | {text_of(speeds.ratio(position, 0))} | {peak:.2f}x | "
            f"{text_of(builds.ratio(position, 0))} |",
            flush=True,
        )
    return record


def main() -> None:
    """Print the table and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["tiny", "base"], help="default: tiny base")
    parser.add_argument("--configs", nargs="+", default=list(CONFIGS), help="beside stock fairseq")
    parser.add_argument("--rounds", type=int, default=3, help="over all batches (default: 3)")
    parser.add_argument("--updates", type=int, default=20, help="batches (default: 20)")
    parser.add_argument("--memory-rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--max-tokens", type=int, default=1024, help="an update (default: 1024)")
    parser.add_argument("--threads", type=int, default=1, help="default: 1")
    parser.add_argument(
        "--data", type=Path, default=REPOSITORY / "data-bin" / "tatoeba_en_de" / "bin"
    )
    parser.add_argument(
        "--output", type=Path, default=REPOSITORY / "runs" / "benchmark_training.json"
    )
    args = parser.parse_args()
    if not args.data.is_dir():
        parser.error(f"{args.data}: no such folder; bash scripts/quickstart.sh makes it")
    torch.set_num_threads(args.threads)
    settings = {key: str(value) for key, value in vars(args).items() if key != "output"}
    record: Dict[str, Any] = {
        "settings": settings,
        "versions": versions(),
        "machine": machine(torch.device("cpu")),
    }
    print("| size | model | words/s against stock | peak memory | builds/s against stock |")
    print("| --- | --- | --- | --- | --- |")
    for size in args.sizes:
        record[size] = benchmark(size, args)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.output, record)


if __name__ == "__main__":
    main()
