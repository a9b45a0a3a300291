"""Task ``translation_latency``: fairseq's translation, with each batch of fairseq-generate timed.

The flow, in fairseq-generate's order: ``get_batch_iterator`` learns what batches there will be;
``build_generator`` makes the generator count, and warms up; ``inference_step``, called once a
batch, times the first run while fairseq-generate prints its translations; when it asks for one
batch more, the other runs are made and the report is written.
"""

import atexit
import logging
import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence

import torch
from fairseq import utils
from fairseq.data import iterators
from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig
from omegaconf import II

from fairseq_ffn.decoding.fast_model import arithmetic_of
from fairseq_ffn.decoding.measured_generator import decode, measured
from fairseq_ffn.decoding.model_facts import architecture_of, parameters_of
from fairseq_ffn.decoding.sets import check_set
from fairseq_ffn.errors import UserError
from fairseq_ffn.files import write_json
from fairseq_ffn.latency.clock import Clock, PeakMemory
from fairseq_ffn.latency.interruption import unwind_on_sigterm
from fairseq_ffn.latency.machine import device_name, machine, versions
from fairseq_ffn.latency.measurement import Decoded, Measurement
from fairseq_ffn.latency.protocol import Protocol, spread_over
from fairseq_ffn.latency.record import build_record, summary
from fairseq_ffn.tasks.translation_fast import TranslationFastTask

logger = logging.getLogger(__name__)


@dataclass
class TranslationLatencyConfig(TranslationConfig):
    """Flags of the task; batch size, beam and precision are fairseq's own flags."""

    latency_report: Optional[str] = field(
        default=None,
        metadata={
            "help": "write the measurement to this JSON file once it is complete (docs/latency.md)"
        },
    )
    latency_runs: int = field(
        default=5,
        metadata={"help": "time all batches so many times; translations are printed once"},
    )
    latency_warmup: int = field(
        default=10,
        metadata={"help": "batches to decode untimed before the first run, spread over the set"},
    )
    latency_threads: int = field(
        default=1, metadata={"help": "CPU threads of PyTorch; 0 leaves its default"}
    )
    latency_max_batches: Optional[int] = field(
        default=None,
        metadata={
            "help": "time only so many batches, spread evenly over the set (default: all); the "
            "others are translated once, untimed"
        },
    )
    # what other groups of flags say
    checkpoint: Optional[str] = II("common_eval.path")
    world_size: int = II("distributed_training.distributed_world_size")


@register_task("translation_latency", dataclass=TranslationLatencyConfig)
class TranslationLatencyTask(TranslationFastTask):
    """Translation whose decoding is timed; hypotheses and output are those of ``translation``.

    Works with any model of fairseq that translates, and with ensembles (``--path a.pt:b.pt``).

    Raises:
        UserError: a flag's value can't be honoured; the report can't be written where it is asked
            for; the task is used to train or interactively.
    """

    cfg: TranslationLatencyConfig

    def __init__(self, cfg: TranslationLatencyConfig, src_dict: Any, tgt_dict: Any):
        check(cfg)
        super().__init__(cfg, src_dict, tgt_dict)
        self._measurement: Optional[Measurement] = None
        self._protocol: Optional[Protocol] = None
        self._models: Sequence[Any] = ()
        self._dataset: Any = None
        self._batches: List[Sequence[int]] = []
        self._batch_size: Optional[int] = None
        self._max_tokens: Optional[int] = None
        self._chosen: frozenset = frozenset()
        self._seen = 0

    def build_criterion(self, *args: Any, **kwargs: Any) -> Any:
        """Only training and validation ask for a criterion."""
        raise UserError(
            "--task translation_latency measures fairseq-generate; train and validate with "
            "--task translation"
        )

    def build_dataset_for_inference(self, *args: Any, **kwargs: Any) -> Any:
        """Only fairseq-interactive and hub interfaces come here."""
        raise UserError(
            "--task translation_latency measures a whole set with fairseq-generate; use "
            "--task translation for interactive translation"
        )

    def load_dataset(self, split: str, *args: Any, **kwargs: Any) -> None:
        """fairseq's."""
        check_set(self, split)
        super().load_dataset(split, *args, **kwargs)

    def get_batch_iterator(
        self,
        dataset: Any,
        max_tokens: Optional[int] = None,
        max_sentences: Optional[int] = None,
        **kwargs: Any,
    ) -> Any:
        """fairseq's iterator; remembers the batches that it will give.

        It makes each batch when it is asked for it, so between two timers: another process or
        thread (``--num-workers``, ``--data-buffer-size``) would make the next one meanwhile.
        """
        kwargs.update(num_workers=0, data_buffer_size=0)
        iterator = super().get_batch_iterator(dataset, max_tokens, max_sentences, **kwargs)
        self._batch_size, self._max_tokens = max_sentences, max_tokens
        self._dataset = dataset
        self._batches = [list(batch) for batch in iterator.frozen_batches]
        count = len(self._batches)
        if count == 0:
            raise UserError("there is nothing to decode: the set has no batch")
        asked = min(self.cfg.latency_max_batches or count, count)
        self._chosen = frozenset(spread_over(count, asked))
        sentences = sum(len(batch) for batch in self._batches)
        if sentences < len(dataset):
            logger.warning(
                f"latency: fairseq leaves out {len(dataset) - sentences} of {len(dataset)} "
                "sentences: too long for a model, or of a last batch that "
                "--required-batch-size-multiple 1 keeps"
            )
        return _IteratorWithEnd(iterator, self._repeat_and_report)

    def build_generator(self, models: Sequence[Any], args: Any, *rest: Any, **kwargs: Any) -> Any:
        """That of ``translation_fast``, which counts steps and times its encoder; already warm."""
        if self.cfg.latency_threads:
            torch.set_num_threads(self.cfg.latency_threads)
        parameter = next(models[0].parameters())
        clock = Clock(parameter.device)
        generator = measured(super().build_generator(models, args, *rest, **kwargs), clock)
        self._models = models
        self._measurement = Measurement(
            self.cfg.latency_runs, len(self._chosen), clock, PeakMemory(parameter.device)
        )
        self._protocol = Protocol(
            device=device_name(parameter.device),
            threads=torch.get_num_threads(),
            dtype=arithmetic_of(models[0]),
            batch_size=self._batch_size,
            max_tokens=self._max_tokens,
            beam=args.beam,
            runs=self.cfg.latency_runs,
            warmup=self.cfg.latency_warmup,
            max_len_a=args.max_len_a,
            max_len_b=args.max_len_b,
            min_len=args.min_len,
            prefix_size=args.prefix_size,
        )
        atexit.register(self._say_if_incomplete)
        self._undo = unwind_on_sigterm()
        numbers = spread_over(len(self._batches), self.cfg.latency_warmup)
        self._measurement.warm_up(
            [
                partial(self._decode_untimed, generator, number, args.prefix_size)
                for number in numbers
            ]
        )
        return generator

    def inference_step(
        self,
        generator: Any,
        models: Sequence[Any],
        sample: dict,
        prefix_tokens: Optional[torch.Tensor] = None,
        constraints: Optional[torch.Tensor] = None,
    ) -> Any:
        """Decode one batch of the first run, timed if it is among the chosen."""
        decode_batch = partial(decode, generator, models, sample, prefix_tokens, constraints)
        number = self._seen
        self._seen += 1
        if number in self._chosen:
            return self._measurement.first(decode_batch)
        return decode_batch().output

    def _decode_untimed(self, generator: Any, number: int, prefix_size: int) -> Decoded:
        sample = self._dataset.collater([self._dataset[index] for index in self._batches[number]])
        if next(self._models[0].parameters()).is_cuda:
            sample = utils.move_to_cuda(sample)
        prefix = sample["target"][:, :prefix_size] if prefix_size > 0 else None
        return decode(generator, self._models, sample, prefix, sample.get("constraints"))

    def _repeat_and_report(self) -> None:
        measurement = self._measurement
        measurement.repeat()
        record = build_record(
            measurement.timed,
            measurement.peak_megabytes,
            measurement.memory.kind,
            self._protocol,
            str(self.cfg.checkpoint),
            architecture_of(self._models),
            parameters_of(self._models),
            versions(),
            machine(measurement.clock.device),
            batches_of_set=len(self._batches),
        )
        if self.cfg.latency_report is not None:
            write_json(Path(self.cfg.latency_report), record)
        self._undo()
        for line in summary(record):
            logger.info(f"latency: {line}")
        if self.cfg.latency_report is not None:
            logger.info(f"latency: report written to {self.cfg.latency_report}")

    def _say_if_incomplete(self) -> None:
        if not self._measurement.complete:
            missing = ""
            if self.cfg.latency_report is not None:
                missing = f"; {self.cfg.latency_report} was not written"
            logger.error(f"latency: interrupted in {self._measurement.how_far()}{missing}")


class _BatchesWithEnd(iterators.CountingIterator):
    """Batches of one epoch, and something to do when they have been used up."""

    def __init__(self, batches: iterators.CountingIterator, at_end: Callable[[], None]):
        super().__init__(batches, start=0, total=len(batches))
        self._at_end: Optional[Callable[[], None]] = at_end

    def __next__(self) -> dict:
        if not self.has_next() and self._at_end is not None:
            at_end, self._at_end = self._at_end, None
            at_end()
        return super().__next__()


class _IteratorWithEnd:
    """fairseq's iterator of epochs, as far as fairseq-generate uses it."""

    def __init__(self, iterator: Any, at_end: Callable[[], None]):
        self._iterator, self._at_end = iterator, at_end

    def next_epoch_itr(self, **kwargs: Any) -> _BatchesWithEnd:
        return _BatchesWithEnd(self._iterator.next_epoch_itr(**kwargs), self._at_end)


def check(cfg: TranslationLatencyConfig) -> None:
    """Refuse what can't be honoured, before anything is loaded."""
    for name, least in (("runs", 1), ("warmup", 0), ("threads", 0), ("max_batches", 1)):
        value = getattr(cfg, f"latency_{name}")
        if value is not None and value < least:
            flag = f"--latency-{name.replace('_', '-')}"
            raise UserError(f"{flag} {value}: must be at least {least}")
    if cfg.world_size > 1:
        raise UserError(
            f"--distributed-world-size {cfg.world_size}: latency is measured in one process"
        )
    if cfg.latency_report is not None:
        path = Path(cfg.latency_report)
        folder = path.parent
        if path.is_dir():
            raise UserError(f"--latency-report {path}: is a directory; name a file")
        if not folder.is_dir():
            raise UserError(f"--latency-report {path}: there is no directory {folder}")
        if not os.access(folder, os.W_OK):
            raise UserError(f"--latency-report {path}: {folder} can't be written to")
