"""Time, memory and disk of the data steps by the size of the text, and what 296M pairs would take.

    python scripts/recipes/measure_scale.py --output runs/scale
    python scripts/recipes/measure_scale.py --output runs/scale --sizes 1000000 --steps clean

Text: pairs of the shipped Tatoeba corpus, three joined to one at random, so about as long as WMT's,
and all different; one in twenty is a duplicate. Each size is measured for each step: wall-clock
and CPU seconds, the largest process's peak memory, and bytes written. Results go to
OUTPUT/scale.json, where those of other calls stay, and a table is printed. clean and binarise are
extrapolated by their time per pair at the largest size; the vocabulary's sample has a fixed size,
whatever the text.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List

from tools import UserError, read_json, read_lines, run_program, whole, write_json

RECIPES = Path(__file__).resolve().parent
TATOEBA = RECIPES.parents[1] / "data-bin" / "tatoeba_en_de" / "raw"
STEPS = ("clean", "vocabulary", "binarise")
#: pairs of WMT22's English-German training text (One Wide FFN, p. 3)
WMT22 = 296_000_000
#: bucket of 02_clean: small, so that every size fills several, as 296M pairs fill 296 of a million
BUCKET_LINES = 50_000
JOINED = 3
DUPLICATES = 20


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument("--keep", action="store_true", help="leave the text for another call")
    return parser.parse_args()


def main() -> None:
    """Measure, write, print."""
    args = parse()
    record_path = args.output / "scale.json"
    records = read_json(record_path)["measured"] if record_path.is_file() else []
    for size in sorted(args.sizes):
        work = args.output / str(size)
        if not (work / "text").is_dir():
            write_text(work / "text", size)
        for step in STEPS:
            if step in args.steps:
                found = {"step": step, "pairs": size, **measure(step, work, args.workers)}
                same = ("step", "pairs", "workers")
                records = [one for one in records if any(one[key] != found[key] for key in same)]
                records.append(found)
                write_json(record_path, {"bucket_lines": BUCKET_LINES, "measured": records})
                print(json.dumps(found), file=sys.stderr)
        if not args.keep:
            shutil.rmtree(work)
    print("\n".join(table(records)))


def write_text(text: Path, size: int) -> None:
    """So many pairs, as 01_download leaves them."""
    number = random.Random(size)
    sides = [list(read_lines(TATOEBA / f"train.{side}.gz")) for side in ("en", "de")]
    total = len(sides[0])
    folder = text / "train" / "scale" / "en-de"
    last = ""
    for part in range(0, size, 100_000):
        with whole(folder / f"{part // 100_000:05d}.tsv.gz") as file:
            for index in range(part, min(size, part + 100_000)):
                if index % DUPLICATES or not last:
                    rows = [number.randrange(total) for _ in range(JOINED)]
                    last = "\t".join(" ".join(side[row] for row in rows) for side in sides) + "\n"
                file.write(last)
    write_json(folder.parent / "lines.json", {"lines": size, "origin": "scale"})
    for split, name in (("valid", "dev"), ("test", "test")):
        (text / split).mkdir(parents=True)
        for side in ("en", "de"):
            shutil.copy(TATOEBA / f"{name}.{side}", text / split / f"{name}.{side}")


def measure(step: str, work: Path, workers: int) -> Dict[str, float]:
    """Run one step; seconds, CPU seconds, peak megabytes of its largest process, bytes written."""
    python = sys.executable
    clean, vocabulary, pieces = work / "clean", work / "vocabulary", work / "pieces" / "train"
    if step == "clean":
        commands: List[List[object]] = [
            [
                *(python, RECIPES / "clean.py", "--text", work / "text", "--output", clean),
                *("--workers", workers, "--bucket-lines", BUCKET_LINES),
            ]
        ]
        made = [clean]
    elif step == "vocabulary":
        commands = [
            [
                *(python, RECIPES / "vocabulary.py", "--clean", clean, "--output", vocabulary),
                *("--size", 32_000, "--threads", workers),
            ]
        ]
        made = [vocabulary]
    else:
        encode = [
            *(python, RECIPES / "encode.py", "train", "--clean", clean, "--shard", 0),
            *("--vocabulary", vocabulary, "--directions", "en-de", "--output", pieces),
            *("--threads", workers),
        ]
        preprocess = [
            *(Path(python).parent / "fairseq-preprocess", "--source-lang", "en"),
            *("--target-lang", "de", "--trainpref", pieces, "--joined-dictionary"),
            *("--srcdict", vocabulary / "dict.txt", "--destdir", work / "bin"),
            *("--workers", workers),
        ]
        commands, made = [encode, preprocess], [pieces.parent, work / "bin"]
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)
    wall, cpu, peak = 0.0, 0.0, 0.0
    for command in commands:
        started = time.monotonic()
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            raise UserError(f"{step} failed: {' '.join(map(str, command))}")
        wall += time.monotonic() - started
        cpu += usage.ru_utime + usage.ru_stime
        peak = max(peak, usage.ru_maxrss * 1024 / 1e6)
    written = sum(path.stat().st_size for one in made for path in one.rglob("*") if path.is_file())
    return {
        "workers": workers,
        "seconds": round(wall, 2),
        "cpu_seconds": round(cpu, 2),
        "peak_mb": round(peak, 1),
        "written_bytes": written,
    }


def table(records: List[Dict[str, float]]) -> List[str]:
    """Markdown: what was measured, then the extrapolation."""
    lines = [
        "| step | pairs | seconds | CPU seconds | CPU s per million | peak memory | written |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    order = {step: index for index, step in enumerate(STEPS)}
    for one in sorted(records, key=lambda one: (order[one["step"]], one["pairs"])):
        million = one["pairs"] / 1e6
        lines.append(
            f"| {one['step']} | {one['pairs']:,} | {one['seconds']:.0f} | {one['cpu_seconds']:.0f} "
            f"| {one['cpu_seconds'] / million:.0f} | {one['peak_mb']:.0f} MB "
            f"| {one['written_bytes'] / 1e6:.0f} MB |"
        )
    lines += ["", f"At {WMT22:,} pairs, by the largest size:", ""]
    for step in ("clean", "binarise"):
        found = [one for one in records if one["step"] == step]
        if found:
            largest = max(found, key=lambda one: one["pairs"])
            factor = WMT22 / largest["pairs"]
            lines.append(
                f"- {step}: {largest['cpu_seconds'] * factor / 3600:.1f} CPU hours, "
                f"{largest['written_bytes'] * factor / 1e9:.0f} GB"
            )
    return lines


if __name__ == "__main__":
    run_program("measure_scale", main)
