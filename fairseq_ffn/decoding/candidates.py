"""Models and batches for a paired comparison: from checkpoints, or untrained from architectures."""

from __future__ import annotations

import contextlib
import io
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import torch
from fairseq import checkpoint_utils, options, utils
from fairseq.data import Dictionary, LanguagePairDataset, data_utils
from fairseq.dataclass.configs import FairseqConfig
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.models.nat import FairseqNATModel
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from omegaconf import OmegaConf

from fairseq_ffn.decoding.fast_model import FastDecoder, prepare
from fairseq_ffn.decoding.fast_search import search_class
from fairseq_ffn.decoding.measured_generator import decode, measured
from fairseq_ffn.decoding.model_facts import architecture_of, parameters_of
from fairseq_ffn.decoding.sets import check_set
from fairseq_ffn.errors import UserError
from fairseq_ffn.latency.clock import Clock
from fairseq_ffn.latency.comparison import Candidate
from fairseq_ffn.latency.protocol import spread_over

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Search:
    """Beam search as fairseq-generate's flags name it.

    Args:
        beam: beam size.
        max_len_a: limit of a hypothesis is ``max_len_a * source length + max_len_b``.
        max_len_b: see ``max_len_a``.
        force_length: decode exactly so many tokens, end of sentence not counted, or None.
    """

    beam: int = 5
    max_len_a: float = 0
    max_len_b: int = 200
    force_length: Optional[int] = None


@dataclass
class LoadedModel:
    """A model that is ready to decode, with the task that it belongs to."""

    name: str
    task: TranslationTask
    model: Any
    #: as ``--arch`` takes it, if the model doesn't know it
    arch: Optional[str] = None
    _config: Any = field(default=None, repr=False)
    _clock: Optional[Clock] = field(default=None, repr=False)
    _generator: Any = field(default=None, repr=False)

    def facts(self) -> Dict[str, Any]:
        """For the record."""
        return {
            "name": self.name,
            "arch": self.arch or architecture_of([self.model]),
            "parameters": parameters_of([self.model]),
        }

    def to_device(self, device: torch.device, half: bool) -> None:
        """As fairseq-generate does before it decodes."""
        if half:
            self.model.half()
        self.model.to(device)
        self.model.eval()

    def refresh(self) -> None:
        """Move the weights to other places in memory; on a GPU they stay where they are.

        Two copies of a model can differ in speed by a per cent through where they lie. What is
        shared stays shared. Meanwhile memory holds the model twice; all weights are copied before
        the old ones go, or each would only move to its neighbour's place.
        """
        tensors = [*self.model.parameters(), *self.model.buffers()]
        if any(tensor.device.type != "cpu" for tensor in tensors):
            return
        copies: Dict[int, torch.UntypedStorage] = {}
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in copies:
                copies[storage.data_ptr()] = storage.clone()
        for tensor in tensors:
            copy = copies[tensor.untyped_storage().data_ptr()]
            place = (tensor.storage_offset(), tensor.size(), tensor.stride())
            tensor.data = torch.empty(0, dtype=tensor.dtype).set_(copy, *place)
        if self._config is not None and isinstance(self.model.decoder, FastDecoder):
            prepare(self.model, self._config, level=logging.DEBUG)  # packs them anew
            self._build_generator(logging.DEBUG)

    def candidate(self, search: Search, clock: Clock) -> Candidate:
        """The model as something that decodes batches."""
        config = OmegaConf.structured(FairseqConfig())
        config.generation.beam = search.beam
        config.generation.max_len_a = search.max_len_a
        config.generation.max_len_b = search.max_len_b
        if search.force_length is not None:
            config.generation.max_len_a = 0
            config.generation.max_len_b = search.force_length
            config.generation.min_len = search.force_length
        self._config, self._clock = config, clock
        self.model.prepare_for_inference_(config)
        self._build_generator()
        return Candidate(self.name, lambda sample: decode(self._generator, [self.model], sample))

    def _build_generator(self, level: int = logging.INFO) -> None:
        """As ``--task translation_latency`` does."""
        options, models = self._config.generation, [self.model]
        kind = search_class(options, models, len(self.task.target_dictionary), level)
        generator = self.task.build_generator(models, options, seq_gen_cls=kind)
        self._generator = measured(generator, self._clock)


def load_checkpoints(
    paths: Sequence[str],
    data: str,
    source: Optional[str] = None,
    target: Optional[str] = None,
    model_overrides: Optional[Mapping[str, Any]] = None,
) -> List[LoadedModel]:
    """Load checkpoints that translate the same data.

    Args:
        paths: checkpoint files; the same one may come twice.
        data: folder of fairseq-preprocess.
        source: language, if not the checkpoint's.
        target: language, if not the checkpoint's.
        model_overrides: flags of the training to change, as fairseq's --model-overrides does.

    Raises:
        UserError: a path is a directory, or they don't translate the same pair of languages.
    """
    for path in paths:
        _refuse_directory(path)
    overrides: Dict[str, Any] = {**(model_overrides or {}), "data": data}
    if source is not None:
        overrides.update(source_lang=source, target_lang=target)
    loaded: List[LoadedModel] = []
    pairs: List[str] = []
    for path, name in zip(paths, short_names(paths)):
        models, _, task = checkpoint_utils.load_model_ensemble_and_task(
            [path], arg_overrides=dict(overrides)
        )
        if not isinstance(task, TranslationTask):
            raise UserError(f"checkpoint {path}: not a model of fairseq's translation")
        pair = f"{task.cfg.source_lang}-{task.cfg.target_lang}"
        if loaded and pair != pairs[0]:
            raise UserError(
                f"checkpoint {path}: translates {pair}, but {paths[0]} {pairs[0]}; only models of "
                "one pair decode the same sentences"
            )
        pairs.append(pair)
        loaded.append(LoadedModel(name, task, models[0]))
    return loaded


def _refuse_directory(path: str) -> None:
    """Name a checkpoint in it, since a run directory is easily given instead."""
    if not Path(path).is_dir():
        return
    within = [Path(path), Path(path) / "checkpoints"]
    found = [one for folder in within for one in sorted(folder.glob("checkpoint*.pt"))]
    # the last comes after those with numbers, and is what most people mean
    cure = f"name a checkpoint in it, such as {found[-1]}" if found else "name a .pt file"
    raise UserError(f"checkpoint {path}: is a directory; {cure}")


def build_untrained(
    architectures: Sequence[str],
    task: TranslationTask,
    seed: int = 1,
    flags: Sequence[str] = (),
) -> List[LoadedModel]:
    """Models with random weights; at a forced length their speed is that of trained ones.

    Args:
        architectures: values of ``--arch``, of this plugin or of fairseq.
        task: from :func:`task_of_data` or :func:`task_of_size`; embeddings and output projection
            are one matrix if it has a joined dictionary.
        seed: of the weights.
        flags: more of those of ``fairseq-train``, such as ``--encoder-ffn-embed-dim 24576``.

    Raises:
        UserError: an architecture isn't known, or beam search can't translate with it.
    """
    loaded = []
    for arch, name in zip(architectures, short_names(architectures)):
        if arch not in ARCH_MODEL_REGISTRY:
            raise UserError(f"--arch {arch}: no such architecture; fairseq-ffn archs lists ours")
        try:
            loaded.append(LoadedModel(name, task, _untrained(arch, task, seed, flags), arch))
        except Exception as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"--arch {arch}: no model that beam search translates with "
                f"({type(error).__name__}{': ' if reason else ''}{reason})"
            ) from error
    return loaded


def _untrained(arch: str, task: TranslationTask, seed: int, more: Sequence[str]) -> Any:
    """One model, with the flags that fairseq-train would give it; it has decoded one symbol."""
    flags = ["", "--task", "translation", "--arch", arch, *more]
    if task.source_dictionary == task.target_dictionary:
        flags.append("--share-all-embeddings")
    parser = options.get_training_parser()
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            # a model that doesn't know a flag leaves it over
            args, _ = options.parse_args_and_arch(parser, flags, parse_known=True)
        except SystemExit as error:  # it needs flags of its own
            raise ValueError(said.getvalue().splitlines()[-1]) from error
    utils.set_torch_seed(seed)
    model = ARCH_MODEL_REGISTRY[arch].build_model(args, task)
    kind = type(model).__name__
    if not (hasattr(model, "encoder") and hasattr(model, "decoder")):
        raise TypeError(f"{kind} has no encoder and decoder")
    if isinstance(model, FairseqNATModel):
        raise TypeError(f"{kind} translates by a search of its own")
    model.eval()
    search = OmegaConf.structured(FairseqConfig()).generation
    search.max_len_b = 1
    batch = random_batches(task.source_dictionary, [1], 1, 1, torch.device("cpu"))[0]
    task.inference_step(task.build_generator([model], search), [model], batch)
    return model


def task_of_size(vocabulary_size: int) -> TranslationTask:
    """A task without data, with a joined dictionary of so many symbols.

    Raises:
        UserError: they leave no word beside the symbols that every dictionary has.
    """
    dictionary = Dictionary()
    if vocabulary_size <= len(dictionary):
        raise UserError(
            f"--vocab-size {vocabulary_size}: must be above {len(dictionary)}, since every "
            f"dictionary has {len(dictionary)} special symbols"
        )
    for number in range(vocabulary_size - len(dictionary)):
        dictionary.add_symbol(f"w{number}")
    return TranslationTask(_config(), dictionary, dictionary)


def task_of_data(
    data: str, source: Optional[str] = None, target: Optional[str] = None
) -> TranslationTask:
    """The task of a folder of fairseq-preprocess."""
    return TranslationTask.setup_task(_config(data=data, source_lang=source, target_lang=target))


def _config(**settings: Any) -> TranslationConfig:
    # what fairseq takes from other groups of flags
    return TranslationConfig(
        train_subset="train", dataset_impl=None, required_seq_len_multiple=1, **settings
    )


def short_names(names: Sequence[str]) -> List[str]:
    """Names for tables: a checkpoint's run directory, and a number where two are the same."""
    short = []
    for name in names:
        if name.endswith(".pt"):
            path = Path(name).absolute()
            folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
            last = path.stem in ("checkpoint_best", "checkpoint_last", "checkpoint_averaged")
            name = folder.name if last else f"{folder.name}/{path.stem}"
        short.append(name)
    if len(set(short)) < len(short):
        short = [
            f"{name}#{short[: index + 1].count(name)}" if short.count(name) > 1 else name
            for index, name in enumerate(short)
        ]
    return short


class SetToDecode:
    """The sentences of a set that all models take.

    Args:
        loaded: the models; the task of the first one reads the data.
        subset: name of the set.

    Raises:
        UserError: there is no sentence, or none that is short enough for all models.
    """

    def __init__(self, loaded: Sequence[LoadedModel], subset: str):
        task = loaded[0].task
        self.subset = subset
        if subset not in task.datasets:
            check_set(task, subset)
            task.load_dataset(subset)
        self.dataset = task.dataset(subset)
        with data_utils.numpy_seed(1):  # sentences of one length come in random order
            order = self.dataset.ordered_indices()
        limits = longest(loaded)
        self.order, left_out = self.dataset.filter_indices_by_size(order, limits)
        #: sentences that are too long for a model
        self.left_out = len(left_out)
        limit = f"longer than the models take ({limits[0]} source, {limits[1]} target tokens)"
        if len(self.order) == 0:
            raise UserError(f"--gen-subset {subset}: all {self.left_out} sentences are {limit}")
        if self.left_out:
            logger.warning(
                f"{subset}: {self.left_out} of {len(self.dataset)} sentences are left out, since "
                f"they are {limit}"
            )

    def batches(self, batch_size: int, count: int, device: torch.device) -> List[dict]:
        """Batches of sentences of like length, as fairseq-generate makes them, spread over the set.

        Args:
            batch_size: sentences a batch; a smaller last batch is left out.
            count: how many batches at most.
            device: where they go.

        Raises:
            UserError: see :meth:`check_batch_size`.
        """
        self.check_batch_size(batch_size)
        whole = len(self.order) // batch_size
        if whole < count:
            logger.info(
                f"{self.subset}: {whole} batches of {batch_size}, since it has no more; with few "
                "batches the intervals are wide"
            )
        chosen = [
            self.order[number * batch_size : (number + 1) * batch_size]
            for number in spread_over(whole, min(count, whole))
        ]
        return [
            _to(device, self.dataset.collater([self.dataset[int(index)] for index in batch]))
            for batch in chosen
        ]

    def check_batch_size(self, batch_size: int) -> None:
        """Refuse a batch size that the set can't fill once.

        Raises:
            UserError: naming the flag.
        """
        if batch_size > len(self.order):
            raise UserError(
                f"--batch-sizes {batch_size}: the set {self.subset} has only {len(self.order)} "
                "sentences"
            )


def batches_of_set(
    loaded: LoadedModel, subset: str, batch_size: int, count: int, device: torch.device
) -> List[dict]:
    """Batches for one model, see :class:`SetToDecode`."""
    return SetToDecode([loaded], subset).batches(batch_size, count, device)


def longest(loaded: Sequence[LoadedModel]) -> Tuple[int, int]:
    """The most tokens of source and target that all models take, end of sentence counted."""
    return utils.resolve_max_positions(
        *(
            limit
            for one in loaded
            for limit in (one.task.max_positions(), one.model.max_positions())
        )
    )


def check_lengths(
    loaded: Sequence[LoadedModel], source_lengths: Sequence[int], force_length: Optional[int]
) -> None:
    """Refuse lengths that a model doesn't take.

    Args:
        loaded: the models.
        source_lengths: end of sentence not counted.
        force_length: of the target, likewise, or None.

    Raises:
        UserError: naming the flag.
    """
    source, target = longest(loaded)
    # fairseq's search keeps one position more in reserve
    if force_length is not None and force_length > target - 1:
        raise UserError(
            f"--force-length {force_length}: the models give at most {target - 1} target tokens"
        )
    for length in source_lengths:
        if length > source - 1:
            raise UserError(
                f"--source-lengths {length}: the models take at most {source - 1} source tokens"
            )


def random_batches(
    dictionary: Dictionary,
    lengths: Sequence[int],
    batch_size: int,
    count: int,
    device: torch.device,
    seed: int = 1,
) -> List[dict]:
    """Batches of random symbols; all sentences of a batch have one length.

    Args:
        dictionary: of the source.
        lengths: source lengths, end of sentence not counted; the batches take turns.
        batch_size: sentences a batch.
        count: how many batches.
        device: where they go.
        seed: of the symbols.
    """
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for number in range(count):
        length = lengths[number % len(lengths)]
        symbols = torch.randint(
            dictionary.nspecial, len(dictionary), (batch_size, length), generator=generator
        )
        end = torch.full((batch_size, 1), dictionary.eos())
        sentences = list(torch.cat([symbols, end], dim=1))
        dataset = LanguagePairDataset(
            sentences, [length + 1] * batch_size, dictionary, tgt_dict=dictionary
        )
        batches.append(
            _to(device, dataset.collater([dataset[index] for index in range(batch_size)]))
        )
    return batches


def _to(device: torch.device, sample: dict) -> dict:
    return utils.move_to_cuda(sample, device) if device.type == "cuda" else sample
