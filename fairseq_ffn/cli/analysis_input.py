"""What the analyses have in common: flags, models, sentences, folder of results."""

from __future__ import annotations

import argparse
import copy
import logging
import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

import numpy as np
import torch
from fairseq import utils

from fairseq_ffn.analysis.layer_steps import layers_of
from fairseq_ffn.analysis.map_study import Sentence
from fairseq_ffn.analysis.text import Batch
from fairseq_ffn.cli.arguments import positive, seed
from fairseq_ffn.decoding.candidates import LoadedModel, SetToDecode, load_checkpoints
from fairseq_ffn.errors import UserError
from fairseq_ffn.files import write_json
from fairseq_ffn.reporting.plots import Figure, save

logger = logging.getLogger(__name__)

#: tokens of a batch, the longer side counted, pads included
BATCH_TOKENS = 2000
#: seconds between two progress lines
PROGRESS_EVERY = 5.0


def add_input_arguments(parser: argparse.ArgumentParser, sentences: int, what: str) -> None:
    """Add checkpoints, data and output.

    Args:
        parser: of the command.
        sentences: default of ``--sentences``.
        what: what several checkpoints are for.
    """
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help=what)
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of fairseq-preprocess")
    parser.add_argument("--gen-subset", default="test", help="set to analyse (default: test)")
    parser.add_argument("--source-lang", help="source language, if not the checkpoints'")
    parser.add_argument("--target-lang", help="target language, if not the checkpoints'")
    parser.add_argument(
        "--sentences",
        type=positive,
        default=sentences,
        metavar="N",
        help="sentences, drawn from the set at random (default: %(default)s, or all there are)",
    )
    parser.add_argument(
        "--seed", type=seed, default=1, metavar="N", help="of all random draws (default: 1)"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="where JSON and figures go"
    )
    parser.add_argument(
        "--no-plots", action="store_true", help="leave figures out (they need matplotlib)"
    )
    parser.add_argument("--cpu", action="store_true", help="use the CPU even if there is a GPU")


class AnalysisInput:
    """Models that are ready, and the sentences that all of them take.

    Args:
        args: flags of :func:`add_input_arguments`.
        further: checkpoints besides ``args.checkpoints``.
        fewest: sentences without which the analysis makes no sense.

    Raises:
        UserError: naming flag, file or layer.
    """

    def __init__(self, args: argparse.Namespace, further: Sequence[str] = (), fewest: int = 1):
        if (args.source_lang is None) != (args.target_lang is None):
            raise UserError("--source-lang and --target-lang go together")
        if args.output.exists() and not args.output.is_dir():
            raise UserError(f"--output {args.output}: is a file; name a directory")
        if args.sentences < fewest:
            raise UserError(f"--sentences {args.sentences}: at least {fewest} are needed")
        self.device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
        paths = [*args.checkpoints, *further]
        self.loaded = load_checkpoints(paths, args.data, args.source_lang, args.target_lang)
        for path, one in zip(paths, self.loaded):
            # in training mode, layers that fairseq drops at random would hide
            one.to_device(self.device, half=False)
            one.model.requires_grad_(False)
            try:
                layers_of(one.model)
            except UserError as error:
                raise UserError(f"checkpoint {path}: {error}") from error
        self.task = self.loaded[0].task
        self.text = SetToDecode(self.loaded, args.gen_subset)
        if len(self.text.order) < fewest:
            raise UserError(
                f"--gen-subset {args.gen_subset}: has {len(self.text.order)} sentences that the "
                f"models take; at least {fewest} are needed"
            )
        generator = np.random.default_rng(args.seed)
        number = min(args.sentences, len(self.text.order))
        #: in random order, and so any beginning of it is a random draw
        self.drawn = generator.choice(self.text.order, size=number, replace=False).tolist()
        logger.info(
            f"{number} of {len(self.text.order)} sentences of {args.gen_subset}; models: "
            + ", ".join(one.name for one in self.loaded)
        )

    def batches(self) -> List[Batch]:
        """The sentences in batches of like length."""
        dataset = self.text.dataset
        sizes = {index: max(dataset.size(index)) for index in self.drawn}
        batches: List[List[int]] = []
        for index in sorted(self.drawn, key=lambda index: (sizes[index], index)):
            if not batches or (len(batches[-1]) + 1) * sizes[index] > BATCH_TOKENS:
                batches.append([])
            batches[-1].append(index)
        return [self._batch(batch) for batch in batches]

    def sentences(self) -> List[Sentence]:
        """The sentences one by one, with their symbols."""
        found = []
        for index in self.drawn:
            batch = self._batch([index])
            found.append(
                Sentence(
                    index,
                    batch,
                    _symbols(self.task.source_dictionary, batch.source[0]),
                    _symbols(self.task.target_dictionary, batch.target_input[0]),
                )
            )
        return found

    def _batch(self, indices: Sequence[int]) -> Batch:
        dataset = self.text.dataset
        samples = [dataset[index] for index in indices]
        if any(sample["target"] is None for sample in samples):
            raise UserError(
                f"--gen-subset {self.text.subset}: has no references; they are forced through the "
                "decoder"
            )
        sample = dataset.collater(samples)
        if self.device.type == "cuda":
            sample = utils.move_to_cuda(sample, self.device)
        return Batch.of_sample(sample, self.task.source_dictionary.pad())

    def untrained(self, seed: int) -> LoadedModel:
        """The first model's architecture with random weights."""
        first = self.loaded[0]
        utils.set_torch_seed(seed)
        model = type(first.model).build_model(copy.deepcopy(first.model.args), first.task)
        model.requires_grad_(False)
        found = LoadedModel(f"{first.name} untrained", first.task, model)
        found.to_device(self.device, half=False)
        return found

    def facts(self, args: argparse.Namespace) -> Dict[str, Any]:
        """For the record."""
        return {
            "models": [model.facts() for model in self.loaded],
            "data": args.data,
            "subset": args.gen_subset,
            "sentences": len(self.drawn),
            "seed": args.seed,
        }


def write_results(
    folder: Path, name: str, record: Dict[str, Any], figures: Sequence[Figure]
) -> None:
    """Write ``name.json`` and ``figures/`` into ``folder``; say where."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise UserError(f"--output {folder}: can't be written to")
    write_json(folder / f"{name}.json", without_nan(record))
    if figures:
        (folder / "figures").mkdir(exist_ok=True)
        logger.info(f"{len(figures)} figures")
    for figure in figures:
        save(replace(figure, heading=True), folder / "figures")
    print(f"Written: {folder / name}.json" + (f", {folder / 'figures'}" if figures else ""))


def without_nan(value: Any) -> Any:
    """Undefined numbers as None: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: without_nan(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def progress(label: str, total: int) -> Callable[[int], None]:
    """A function that says how many of ``total`` are done, now and then and at the end."""
    start = last = time.monotonic()

    def done(number: int) -> None:
        nonlocal last
        now = time.monotonic()
        if number == total or now - last >= PROGRESS_EVERY:
            last = now
            left = (now - start) / number * (total - number)
            rest = "" if number == total else f", about {left:.0f} s left"
            logger.info(f"{label}: {number} of {total} sentences, {now - start:.0f} s{rest}")

    return done


def _symbols(dictionary: Any, tokens: torch.Tensor) -> List[str]:
    return [dictionary[int(token)] for token in tokens]
