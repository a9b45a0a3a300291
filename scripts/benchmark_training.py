"""Training speed, memory, building time and loss of our models against stock fairseq.

    python scripts/benchmark_training.py                       tiny and base
    python scripts/benchmark_training.py --sizes tiny --rounds 5
    python scripts/benchmark_training.py --configs baseline --options default bf16 bf16_fused

Speed: one process holds a fairseq Trainer for every model; for each batch they make one update in
turn, in an order drawn anew, so that a machine that drifts does so for all. The ratio to stock
fairseq's ``--arch transformer`` of the same shape has a 95% interval (bootstrap over batches).
Building: the models are built in turn in the same way. Memory: the peak resident size (VmHWM) of
one fairseq-train per model and round. Loss: on the validation set after some updates, of several
seeds. Profile: what an update's time goes to, and how fast its matrix products are. Needs an idle
machine and the quick start's data (data-bin/tatoeba_en_de/bin), whose dictionary it pads to
``--vocabulary`` rows if asked to.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List

import torch
from fairseq import options, tasks, utils
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.logging import metrics
from fairseq.trainer import Trainer

from fairseq_ffn import onednn
from fairseq_ffn.errors import run_script
from fairseq_ffn.files import read_lines, write_json, write_text
from fairseq_ffn.latency.clock import Clock
from fairseq_ffn.latency.comparison import Candidate, Interleaved, Ratio
from fairseq_ffn.latency.machine import machine, versions
from fairseq_ffn.latency.measurement import Decoded
from fairseq_ffn.models.architectures import SIZES

REPOSITORY = Path(__file__).resolve().parents[1]
USER_DIR = REPOSITORY / "fairseq_ffn"
CONFIGS = ("baseline", "shared_enc_no_dec", "one_wide")
STOCK = "stock fairseq"
FUSED = "--criterion label_smoothed_cross_entropy_fused --optimizer adam_fused"
#: name of a way to train -> its flags (docs/performance.md)
OPTIONS = {
    "default": "",
    "fp32": "--cpu-matmul auto",
    "fp32_fused": f"--cpu-matmul auto {FUSED}",
    "bf16": "--cpu-autocast bfloat16",
    "bf16_fused": f"--cpu-autocast bfloat16 {FUSED}",
    "unchunked": "--ffn-chunk-width 0",
}
#: runs fairseq-train and prints the peak resident size of its process, in 1024 bytes
MEASURED_TRAINING = """
import re, sys
from fairseq_cli.train import cli_main
cli_main()
print("VmHWM", re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""
#: what PyTorch's profiler calls matrix products
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
#: updates of each model, and models built, that aren't counted
WARMUP = 2


def model_flags(size: str, name: str) -> List[str]:
    """Flags of ``config`` or ``config, option``; stock fairseq's model gets the size's shape."""
    if name != STOCK:
        config, _, option = name.partition(", ")
        return ["--arch", f"transformer_ffn_{size}_{config}", *OPTIONS[option or "default"].split()]
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
        *("--share-all-embeddings", "--optimizer", "adam", "--lr", "1e-4", "--cpu"),
        *("--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1"),
        *("--max-tokens", str(args.max_tokens), "--max-update", str(args.updates)),
        *("--disable-validation", "--no-save", "--num-workers", "0", "--seed", str(args.seed)),
        *("--data-buffer-size", "0", "--log-format", "json", "--log-interval", "1"),
        *model,  # the last one counts
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
        onednn.use(False)  # a switch of the process, which the model before may have left on
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
    compared = Interleaved(candidates, range(args.builds), 1)
    compared.run(Clock(torch.device("cpu")), WARMUP, progress, "building, ")
    return compared


def peak_megabytes(args: argparse.Namespace, model: List[str]) -> float:
    """Peak resident size of one fairseq-train, in 10^6 bytes."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "PYTHONWARNINGS": "ignore"}
    settings = argparse.Namespace(**{**vars(args), "updates": args.memory_updates})
    if args.memory_tokens:
        settings.max_tokens = args.memory_tokens
    # fairseq makes the folder for checkpoints even with --no-save
    with tempfile.TemporaryDirectory() as folder:
        flags = [*train_flags(settings, model), "--save-dir", folder]
        finished = subprocess.run(
            [sys.executable, "-c", MEASURED_TRAINING, *flags],
            capture_output=True,
            text=True,
            env=environment,
        )
    found = re.search(r"^VmHWM (\d+)$", finished.stdout, re.MULTILINE)
    if found is None:
        raise SystemExit(f"fairseq-train failed:\n{(finished.stdout + finished.stderr)[-2000:]}")
    return int(found[1]) * 1024 / 1e6


def profile(args: argparse.Namespace, model: List[str]) -> Dict[str, Any]:
    """Where the time of an update goes, by PyTorch's profiler.

    Returns:
        ``products``, the share of matrix products, their ``gflops`` (10^9 operations a second), and
        ``others``, the share of each other operation.
    """
    updates = WARMUP + args.profile_updates
    settings = argparse.Namespace(**{**vars(args), "updates": updates})
    trainer = trainer_of(settings, model)
    batches = batches_of(settings, trainer)
    onednn.use(False)
    for batch in batches[:WARMUP]:
        trainer.train_step([batch])
    with torch.profiler.profile(with_flops=True) as profiler:
        for batch in batches[WARMUP:]:
            trainer.train_step([batch])
    onednn.use(False)
    times: Dict[str, float] = {}
    operations = 0
    for event in profiler.key_averages():
        times[event.key] = times.get(event.key, 0.0) + event.self_cpu_time_total
        operations += event.flops if event.key in PRODUCTS else 0
    total = sum(times.values())
    products = sum(times.get(name, 0.0) for name in PRODUCTS)
    others = {name: time / total for name, time in times.items() if name not in PRODUCTS}
    return {
        "products": products / total,
        "gflops": operations / products / 1e3,  # times are in microseconds
        "others": dict(sorted(others.items(), key=lambda item: -item[1])[:5]),
    }


def losses(args: argparse.Namespace, models: Dict[str, List[str]]) -> Dict[str, List[float]]:
    """Loss on the validation set after ``--loss-updates``, in bits a token, one a seed."""
    found: Dict[str, List[float]] = {name: [] for name in models}
    for seed in range(1, args.loss_seeds + 1):
        settings = argparse.Namespace(**{**vars(args), "seed": seed, "updates": args.loss_updates})
        for name, flags in models.items():
            trainer = trainer_of(settings, [*flags, "--lr", "1e-3", "--clip-norm", "1"])
            for batch in batches_of(settings, trainer):
                onednn.use(False)
                trainer.train_step([batch])
            onednn.use(False)
            trainer.task.load_dataset("valid")
            with metrics.aggregate(new_root=True) as meters:
                for batch in trainer.get_valid_iterator("valid").next_epoch_itr(shuffle=False):
                    trainer.valid_step(batch)
            found[name].append(float(meters.get_smoothed_values()["loss"]))
            progress(f"loss, seed {seed}: {name} {found[name][-1]:.3f}")
    return found


def with_vocabulary(data: Path, rows: int, folder: Path) -> Path:
    """The data in ``folder`` with its dictionaries filled up to ``rows`` with unused words."""
    for path in sorted(data.iterdir()):
        if path.name.startswith("dict."):
            lines = read_lines(path)
            missing = rows - len(lines) - Dictionary().nspecial
            if missing < 0:
                raise SystemExit(f"--vocabulary {rows}: {path} has more entries")
            lines += [f"madeupword{number:06d} 0" for number in range(missing)]
            write_text(folder / path.name, "".join(f"{line}\n" for line in lines))
        else:
            (folder / path.name).symlink_to(path.resolve())
    return folder


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
    names = [STOCK]
    for config in args.configs:
        for option in args.options:
            names.append(config if option == "default" else f"{config}, {option}")
    models = {name: model_flags(size, name) for name in names}
    memory: Dict[str, List[float]] = {name: [] for name in names}
    for number in range(args.memory_rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            memory[name].append(peak_megabytes(args, models[name]))
            progress(f"memory, round {number + 1}: {name} {memory[name][-1]:.0f} MB")
    speeds = speed(args, models) if args.rounds else None
    builds = building(args, models) if args.builds else None
    loss = losses(args, models) if args.loss_updates else {}
    record: Dict[str, Any] = {}
    for position, name in enumerate(names):
        found: Dict[str, Any] = {"memory_mb": memory[name], "loss": loss.get(name)}
        cells = ["", "", "", "", ""]
        if speeds is not None:
            ratio = speeds.ratio(position, 0)
            found["speed"] = ratio.__dict__
            found["words_per_second"] = speeds.tokens_per_second(position)
            found["seconds"] = [[timed.seconds for timed in one] for one in speeds.timed[position]]
            cells[:2] = [f"{found['words_per_second']['mean']:.0f}", text_of(ratio)]
        if memory[name]:
            peak = statistics.median(memory[name])
            found["memory"] = peak / statistics.median(memory[STOCK])
            cells[2] = f"{peak / 1e3:.2f} GB, {found['memory']:.2f}x"
        if builds is not None:
            ratio = builds.ratio(position, 0)
            found["building"] = ratio.__dict__
            found["build_seconds"] = [timed.seconds for timed in builds.timed[position][0]]
            cells[3] = text_of(ratio)
        if loss:
            cells[4] = " ".join(f"{value:.3f}" for value in loss[name])
        record[name] = found
        print(f"| {size} | {name} | " + " | ".join(cells) + " |", flush=True)
    for name in names if args.profile_updates else ():
        found = record[name]["profile"] = profile(args, models[name])
        others = ", ".join(f"{key} {share:.0%}" for key, share in found["others"].items())
        print(
            f"profile of {size} {name}: {found['products']:.0%} matrix products at "
            f"{found['gflops']:.0f} GFLOP/s, {others}",
            flush=True,
        )
    return record


def main() -> None:
    """Print the table and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", nargs="+", choices=SIZES, default=["tiny", "base"], help="default: tiny base"
    )
    parser.add_argument("--configs", nargs="+", default=list(CONFIGS), help="beside stock fairseq")
    parser.add_argument(
        "--options",
        nargs="+",
        choices=OPTIONS,
        default=["default"],
        help="ways to train each config (default: default)",
    )
    parser.add_argument("--rounds", type=int, default=3, help="over all batches (default: 3)")
    parser.add_argument("--updates", type=int, default=20, help="batches (default: 20)")
    parser.add_argument("--memory-rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--memory-updates", type=int, default=5, help="default: 5")
    parser.add_argument("--memory-tokens", type=int, help="default: as --max-tokens")
    parser.add_argument("--builds", type=int, default=60, help="of each model (default: 60)")
    parser.add_argument("--loss-updates", type=int, default=0, help="default: no loss")
    parser.add_argument("--loss-seeds", type=int, default=3, help="default: 3")
    parser.add_argument("--profile-updates", type=int, default=0, help="default: no profile")
    parser.add_argument("--seed", type=int, default=1, help="of all but the loss (default: 1)")
    parser.add_argument(
        "--vocabulary", type=int, help="rows, filled up with unused words (default: the data's own)"
    )
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
    print("| size | model | words/s | against stock | peak memory | builds/s | loss |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        if args.vocabulary is not None:
            args.data = with_vocabulary(args.data, args.vocabulary, Path(folder))
        for size in args.sizes:
            record[size] = benchmark(size, args)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.output, record)


if __name__ == "__main__":
    run_script(main)
