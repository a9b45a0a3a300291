"""The quick start: prepare, train, generate, score, measure, compare. Run by quickstart.sh.

Everything heavy is a plain fairseq command, shown in ``commands.sh`` of the output folder.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import logging
import math
import os
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

import decoding
from comparison import comparison
from corpus import Corpus, Longest, guess_languages, prepare
from fairseq.models.transformer import DEFAULT_MAX_SOURCE_POSITIONS
from jobs import KEEP_MEMORY, UserError
from output import check_same, default_output, settings
from schedule import Workers
from steps import Steps
from training import (
    MAX_TOKENS,
    REPOSITORY,
    plan_updates,
    train,
    train_command,
)

from fairseq_ffn.cpu_speed import faster_cpu_autocast
from fairseq_ffn.errors import explain_os_error, printable
from fairseq_ffn.files import write_json, write_text
from fairseq_ffn.models.architectures import CONFIGS, SIZES

logger = logging.getLogger("quickstart")

VOCABULARY_SIZE = 4000
OUTPUT = REPOSITORY / "runs" / "quickstart"
DEFAULT_DATA = REPOSITORY / "data-bin" / "tatoeba_en_de" / "raw"
#: seconds kept for scoring, and per model for generation and measuring
RESERVE = (45.0, 65.0)
#: trainings beside each other slow down a little after the short measurement, and they validate
SLACK = 0.9


def parse(arguments: List[str]) -> argparse.Namespace:
    """Options of ``bash scripts/quickstart.sh``."""
    parser = argparse.ArgumentParser(
        prog="bash scripts/quickstart.sh",
        description="Trains and compares Transformers whose feed-forward networks are laid out "
        "differently, on real text: prepare, train, generate, score, measure, report. Steps that "
        "are done are skipped; interrupted ones go on. Set-up time is not part of the minutes.",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=20,
        help="wall-clock minutes for everything after set-up; training gets what the other steps "
        "leave (default: 20)",
    )
    parser.add_argument(
        "--models",
        default="baseline,shared_enc_no_dec,one_wide",
        help="configs of transformer_ffn_tiny, with commas; the first is compared against "
        f"(default: %(default)s; there are {', '.join(CONFIGS)})",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=DEFAULT_DATA,
        metavar="DIR",
        help="folder with train, dev and test files of two languages, such as train.en and "
        "train.de, plain or .gz (default: the shipped English-German corpus)",
    )
    parser.add_argument("--source-lang", help="source language (default: en, if there is one)")
    parser.add_argument("--target-lang", help="target language (default: the other)")
    parser.add_argument("--seed", type=int, default=1, help="random seed (default: 1)")
    parser.add_argument(
        "--updates", type=int, help="train for so many updates instead of so many minutes"
    )
    parser.add_argument(
        "--vocabulary-size",
        type=int,
        default=VOCABULARY_SIZE,
        help="joint pieces (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="where models and results go (default: runs/quickstart, with what differs from the "
        "defaults in its name, such as runs/quickstart-minutes60-seed2; own text by its folder's "
        "name and a checksum of its path)",
    )
    args = parser.parse_args(arguments)
    args.models = list(dict.fromkeys(name.strip() for name in args.models.split(",")))
    unknown = [name for name in args.models if name not in CONFIGS]
    if unknown:
        parser.error(f"--models: unknown '{unknown[0]}'; use {', '.join(CONFIGS)}")
    least = 0 if args.updates else _reserve(args) / 60
    if not least < args.minutes < math.inf:
        parser.error(
            f"--minutes {args.minutes:g}: translating and measuring alone take about {least:g}, "
            "and preparing a minute or two; give more, or choose --updates"
        )
    if not 0 <= args.seed < 2**32:
        parser.error("--seed: must be from 0 to 4294967295")
    if args.updates is not None and args.updates < 1:
        parser.error("--updates: must be at least 1")
    if (args.source_lang is None) != (args.target_lang is None):
        parser.error("--source-lang and --target-lang go together")
    return args


def find_corpus(args: argparse.Namespace) -> Tuple[Corpus, Path]:
    """The text, and the folder for its binary data; fills in ``args.output``."""
    defaults = parse([])
    raw = args.data.resolve()
    usual = None
    if args.source_lang is None:
        usual = guess_languages(raw)
    else:
        with contextlib.suppress(UserError):
            usual = guess_languages(raw)
    languages = usual if args.source_lang is None else (args.source_lang, args.target_lang)
    if args.output is None:
        args.output = default_output(args, defaults, OUTPUT, raw, languages, usual)
    shipped = raw == DEFAULT_DATA.resolve() and languages == usual
    shipped = shipped and args.vocabulary_size == VOCABULARY_SIZE
    return Corpus(raw, *languages), raw.parent if shipped else args.output / "data"


def quickstart(args: argparse.Namespace, corpus: Corpus, folder: Path) -> None:
    """All steps."""
    started = time.monotonic()
    wanted = settings(args, corpus)
    plan = _plan_that_is_there(args.output, wanted)  # before anything in the folder changes
    reserve = decoding.seconds_after_training(args.models, args.output, *RESERVE)
    steps = Steps(started, reserve)
    if all((args.output / model / "trained.json").is_file() for model in args.models):
        steps.expect_training(0.0)
    elif args.updates is None and plan is None:
        steps.expect_training(60 * args.minutes - _reserve(args))
    steps.begin("data")
    logger.info(f"data: {corpus.source} to {corpus.target}, {corpus.raw}; results: {args.output}")
    # fairseq adds one symbol, the end, to each sentence
    longest = Longest(MAX_TOKENS - 1, DEFAULT_MAX_SOURCE_POSITIONS - 1)
    with alone_in(folder):
        binary = prepare(corpus, folder, args.vocabulary_size, longest)

    workers = Workers.for_machine(len(args.models))
    steps.begin("plan")
    if plan is None:
        plan = _plan(args, binary, workers, wanted, steps)
    else:
        logger.info(f"plan: {plan['updates']} updates for each model, as before")
    _write_commands(args, binary, plan)
    steps.begin("train")
    train(
        binary,
        args.models,
        args.output,
        workers,
        plan["updates"],
        plan["seconds_per_update"],
        args.seed,
        plan["cpu_autocast"],
        steps,
    )
    steps.begin("generate")
    decoding.generate(binary, args.models, args.output, workers, corpus, steps)
    steps.begin("measure")
    decoding.measure_speed(binary, args.models, args.output, steps)
    steps.begin("report")
    decoding.report(args.models, args.output, steps)
    minutes = (time.monotonic() - started) / 60
    text = comparison(args.output, args.models, corpus, args.vocabulary_size, plan, minutes)
    write_text(args.output / "comparison.md", text)
    print(text)


def _reserve(args: argparse.Namespace) -> float:
    """Seconds that everything after training may take."""
    return RESERVE[0] + RESERVE[1] * len(args.models)


def _plan_that_is_there(output: Path, wanted: Dict[str, object]) -> Optional[Dict[str, object]]:
    path = output / "plan.json"
    if not path.is_file():
        return None
    try:
        plan = json.loads(path.read_text())
        there = plan["settings"]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: damaged; remove it to plan anew, or the whole folder") from error
    check_same(output, there, wanted)
    return plan


def _plan(
    args: argparse.Namespace,
    binary: Path,
    workers: Workers,
    wanted: Dict[str, object],
    steps: Steps,
) -> Dict[str, object]:
    """The number of updates, decided once for an output folder."""
    shape = SIZES["tiny"].settings
    autocast = faster_cpu_autocast(
        d_model=shape["encoder_embed_dim"],
        d_ff=shape["encoder_ffn_embed_dim"],
        vocabulary=args.vocabulary_size,
        tokens=MAX_TOKENS,
        threads=workers.threads,
    )
    costs: Dict[str, float] = {}
    updates = args.updates
    if updates is None:
        passed = time.monotonic() - steps.started
        seconds = 60 * args.minutes - _reserve(args) - passed
        if seconds <= 0:
            raise UserError(
                f"--minutes {args.minutes:g}: preparing, translating and measuring alone take "
                f"about {(_reserve(args) + passed) / 60:.1f}; give more"
            )
        probe_started = time.monotonic()
        updates, costs = plan_updates(
            binary,
            args.models,
            workers,
            seconds,
            args.seed,
            autocast,
            args.output / "probe",
            steps,
        )
        left = 1 - (time.monotonic() - probe_started) / seconds
        updates = max(1, int(SLACK * left * updates))
        shutil.rmtree(args.output / "probe", ignore_errors=True)
    plan = {
        "settings": wanted,
        "updates": updates,
        "seconds_per_update": costs,
        "cpu_autocast": autocast,
    }
    args.output.mkdir(parents=True, exist_ok=True)
    write_json(args.output / "plan.json", plan)
    logger.info(f"plan: {updates} updates for each model, cpu autocast: {autocast}")
    return plan


def _write_commands(args: argparse.Namespace, binary: Path, plan: Dict[str, object]) -> None:
    """The commands behind the numbers, to read or to run by hand."""
    lines = [
        "#!/usr/bin/env bash",
        "# The fairseq commands of the quick start, with .venv activated. Training goes on in the",
        "# folders that are there; change --save-dir to train anew.",
        "export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE CUDA_VISIBLE_DEVICES=",
        f"export GLIBC_TUNABLES={KEEP_MEMORY}",
        "",
    ]
    for model in args.models:
        run_dir = args.output / model
        for command in (
            train_command(
                binary,
                model,
                run_dir / "checkpoints",
                plan["updates"],
                args.seed,
                plan["cpu_autocast"],
            ),
            decoding.generate_command(binary, run_dir),
            decoding.speed_command(binary, run_dir),
        ):
            lines.append(shlex.join(str(argument) for argument in command))
        lines.append("")
    for command in (
        decoding.compare_command(binary, args.models, args.output),
        decoding.report_command(args.models, args.output),
    ):
        lines += [shlex.join(str(argument) for argument in command), ""]
    write_text(args.output / "commands.sh", "\n".join(lines))


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def only_one(output: Path) -> Iterator[None]:
    """Keep a second quick start out of the same folder."""
    output.mkdir(parents=True, exist_ok=True)
    with open(output / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another quick start is at work in {output}") from error
        yield


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other quick start, with another output, makes the same binary data."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info(f"data: waiting for another quick start that is at work in {folder}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def main() -> int:
    """Returns the exit status."""
    logging.basicConfig(
        level=logging.INFO, format="[quick start] %(message)s", stream=sys.stderr, force=True
    )
    for name in ("fairseq", "torch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    args = parse(sys.argv[1:])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)  # so that trainings end with the script
    try:
        corpus, folder = find_corpus(args)
        with only_one(args.output):
            quickstart(args, corpus, folder)
    except (UserError, OSError) as error:
        line = explain_os_error(error) if isinstance(error, OSError) else str(error)
        print(f"quickstart: error: {printable(line)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("quickstart: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
