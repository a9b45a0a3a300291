"""Training speed, peak memory and building time of our models against stock fairseq.

    python scripts/benchmark_training.py                       tiny and base, 3 rounds
    python scripts/benchmark_training.py --sizes tiny --rounds 5

Each round trains every model for the same updates on the same batches with fairseq-train, in turn
(order rotated), each in a process of its own; the ratio to stock fairseq is taken update by update
within a round. Needs an idle machine and the quick start's data (data-bin/tatoeba_en_de/bin).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List, Tuple

REPOSITORY = Path(__file__).resolve().parents[1]
USER_DIR = REPOSITORY / "fairseq_ffn"
CONFIGS = ("baseline", "shared_enc_no_dec", "one_wide")
#: updates left out at the start of each run
WARMUP = 2


def stock_flags(size: str) -> List[str]:
    """Flags that give fairseq's ``transformer`` the shape of a size."""
    sys.path.insert(0, str(REPOSITORY))
    from fairseq_ffn.models.architectures import SIZES

    flags: List[str] = []
    for name, value in SIZES[size].settings.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            flags.append(flag)
        elif value is not False:
            flags += [flag, str(value)]
    return flags


def train(data: Path, model: List[str], args: argparse.Namespace) -> Tuple[List[float], float]:
    """One run of fairseq-train: target words/s of each update, and peak memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            str(Path(sys.executable).parent / "fairseq-train"),
            str(data),
            *("--user-dir", str(USER_DIR)),
            *model,
            *("--share-all-embeddings", "--optimizer", "adam", "--lr", "1e-4"),
            *("--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1"),
            *("--max-tokens", str(args.max_tokens), "--max-update", str(args.updates)),
            *("--disable-validation", "--no-save", "--num-workers", "0", "--seed", "1"),
            *("--log-format", "json", "--log-interval", "1"),
        ]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(args.threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "PYTHONWARNINGS": "ignore",
        }
        log = Path(folder) / "log"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=environment
            )
            _, status, usage = os.wait4(process.pid, 0)
        text = log.read_text(errors="replace")
    if status != 0:
        raise SystemExit(f"fairseq-train failed:\n{text[-2000:]}")
    found = re.findall(r"train_inner \| (\{.*\})", text)
    return [float(json.loads(line)["wps"]) for line in found][WARMUP:], usage.ru_maxrss / 1024


BUILD = """
import argparse, sys, time, torch
sys.path.insert(0, {repository!r})
import fairseq_ffn
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
dictionary = Dictionary.load({dictionary!r})
task = argparse.Namespace(source_dictionary=dictionary, target_dictionary=dictionary)
seconds = []
for run in range(4):
    args = argparse.Namespace(arch={arch!r}, share_all_embeddings=True, **{settings!r})
    ARCH_CONFIG_REGISTRY[args.arch](args)
    started = time.perf_counter()
    ARCH_MODEL_REGISTRY[args.arch].build_model(args, task)
    seconds.append(time.perf_counter() - started)
print(min(seconds[1:]))
"""


def build_seconds(data: Path, arch: str, settings: Dict[str, object], threads: int) -> float:
    """Best of three constructions of a model in a fresh process."""
    dictionary = str(next(data.glob("dict.*.txt")))
    code = BUILD.format(
        repository=str(REPOSITORY), dictionary=dictionary, arch=arch, settings=settings
    )
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout.split()[-1])


def benchmark(size: str, args: argparse.Namespace) -> Dict[str, Dict[str, object]]:
    """All models of one size."""
    sys.path.insert(0, str(REPOSITORY))
    from fairseq_ffn.models.architectures import SIZES

    models = {"stock fairseq": ["--arch", "transformer", *stock_flags(size)]}
    builds = {"stock fairseq": ("transformer", dict(SIZES[size].settings))}
    for config in args.configs:
        models[config] = ["--arch", f"transformer_ffn_{size}_{config}"]
        builds[config] = (f"transformer_ffn_{size}_{config}", {})
    names = list(models)
    speeds: Dict[str, List[List[float]]] = {name: [] for name in names}
    memory: Dict[str, List[float]] = {name: [] for name in names}
    seconds: Dict[str, List[float]] = {name: [] for name in names}
    for number in range(args.rounds):
        turn = number % len(names)
        for name in [*names[turn:], *names[:turn]]:
            started = time.monotonic()
            words, peak = train(args.data, models[name], args)
            speeds[name].append(words)
            memory[name].append(peak)
            seconds[name].append(build_seconds(args.data, *builds[name], args.threads))
            print(
                f"{size} round {number + 1}/{args.rounds} {name}: "
                f"{statistics.median(words):.0f} words/s, {peak:.0f} MB "
                f"({time.monotonic() - started:.0f} s)",
                file=sys.stderr,
            )
    stock = names[0]
    results: Dict[str, Dict[str, object]] = {}
    for name in names:
        ratios = [
            mine / other
            for mine_round, other_round in zip(speeds[name], speeds[stock])
            for mine, other in zip(mine_round, other_round)
        ]
        by_round = [
            statistics.median(a / b for a, b in zip(mine, other))
            for mine, other in zip(speeds[name], speeds[stock])
        ]
        results[name] = {
            "speed_ratio": statistics.median(ratios),
            "speed_ratio_rounds": by_round,
            "memory_ratio": statistics.median(memory[name]) / statistics.median(memory[stock]),
            "build_ratio": min(seconds[name]) / min(seconds[stock]),
            "words_per_second": speeds[name],
            "memory_mb": memory[name],
            "build_seconds": seconds[name],
        }
    return results


def main() -> None:
    """Print the table and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["tiny", "base"], help="default: tiny base")
    parser.add_argument("--configs", nargs="+", default=list(CONFIGS), help="beside stock fairseq")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--updates", type=int, default=12, help="a run (default: 12)")
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
    record: Dict[str, object] = {
        "settings": {
            key: str(value) if isinstance(value, Path) else value
            for key, value in vars(args).items()
            if key != "output"
        }
    }
    print("| size | model | words/s against stock | by round | peak memory | building |")
    print("| --- | --- | --- | --- | --- | --- |")
    for size in args.sizes:
        record[size] = benchmark(size, args)
        for name, result in record[size].items():
            rounds = ", ".join(f"{ratio:.2f}" for ratio in result["speed_ratio_rounds"])
            print(
                f"| {size} | {name} | {result['speed_ratio']:.2f}x | {rounds} | "
                f"{result['memory_ratio']:.2f}x | {result['build_ratio']:.2f}x |"
            )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    temporary = args.output.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n")
    temporary.replace(args.output)


if __name__ == "__main__":
    main()
