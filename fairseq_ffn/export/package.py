"""The folder of an exported model: the model, its vocabulary, a README, written whole or not."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence

import sentencepiece
from fairseq.data import Dictionary

from fairseq_ffn.checkpoint_errors import system_reason
from fairseq_ffn.checkpoints import save_checkpoint
from fairseq_ffn.decoding.model_facts import architecture_of, parameters_of
from fairseq_ffn.decoding.sources import Source
from fairseq_ffn.errors import UserError
from fairseq_ffn.export.ctranslate2_model import check_activation, write_ctranslate2
from fairseq_ffn.export.plain import layouts_of
from fairseq_ffn.export.readme import ctranslate2_readme, fairseq_readme
from fairseq_ffn.export.refusals import CTRANSLATE2, check_expressible
from fairseq_ffn.export.stock_checkpoint import SAFE_LOADING, stock_checkpoint

CHECKPOINT = "checkpoint.pt"


def export(
    source: Source,
    form: str,
    output: Path,
    quantization: str = "float32",
    sentencepiece_models: Sequence[Path] = (),
) -> None:
    """Write a model's folder.

    Args:
        source: see :mod:`fairseq_ffn.decoding.sources`.
        form: ``ctranslate2`` or ``fairseq``.
        output: the folder; one that is there is replaced.
        quantization: of CTranslate2's weights.
        sentencepiece_models: none, one for both languages, or one each.

    Raises:
        UserError: the format can't express the model, or the folder can't be written.
    """
    output = output.absolute()
    check_expressible(source.args, layouts_of(source.model), form)
    if form == CTRANSLATE2:
        check_activation(source.args.activation_fn)
    dictionaries = [source.task.source_dictionary, source.task.target_dictionary]
    names = _piece_names(source, sentencepiece_models)
    for path, dictionary in zip(sentencepiece_models, _for_each(names, dictionaries)):
        check_pieces(path, dictionary)
    with new_folder(output) as folder:
        if form == CTRANSLATE2:
            write_ctranslate2(source.model, *dictionaries, str(folder), quantization)
        else:
            _write_fairseq(source, folder)
        for path, name in zip(sentencepiece_models, names):
            shutil.copyfile(path, folder / name)
        write = ctranslate2_readme if form == CTRANSLATE2 else fairseq_readme
        text = write(facts(source, quantization if form == CTRANSLATE2 else None), names)
        (folder / "README.md").write_text(text, encoding="utf-8")


def facts(source: Source, quantization: Any) -> Dict[str, Any]:
    """For the README."""
    return {
        "checkpoint": Path(source.path).name,
        "arch": architecture_of([source.model]),
        "encoder_ffn": source.args.encoder_ffn_layout,
        "decoder_ffn": source.args.decoder_ffn_layout,
        "parameters": parameters_of([source.model])["total"],
        "source": source.task.cfg.source_lang,
        "target": source.task.cfg.target_lang,
        "longest": source.args.max_source_positions,
        "quantization": quantization,
        "autocast": source.args.cpu_autocast,
    }


def _write_fairseq(source: Source, folder: Path) -> None:
    folder.mkdir()
    save_checkpoint(stock_checkpoint(source), folder / CHECKPOINT)
    task = source.task
    for language, dictionary in (
        (task.cfg.source_lang, task.source_dictionary),
        (task.cfg.target_lang, task.target_dictionary),
    ):
        dictionary.save(str(folder / f"dict.{language}.txt"))
    (folder / "safe_loading").mkdir()
    (folder / "safe_loading" / "__init__.py").write_text(SAFE_LOADING, encoding="utf-8")


def _piece_names(source: Source, models: Sequence[Path]) -> List[str]:
    if len(models) == 2:
        languages = (source.task.cfg.source_lang, source.task.cfg.target_lang)
        return [f"sentencepiece.{language}.model" for language in languages]
    return ["sentencepiece.model"] * len(models)


def _for_each(names: Sequence[str], dictionaries: List[Dictionary]) -> List[Dictionary]:
    # one model must know the words of both languages: the target's are the ones that it puts out
    return dictionaries if len(names) == 2 else dictionaries[1:]


def check_pieces(path: Path, dictionary: Dictionary) -> None:
    """Refuse a sentencepiece model that can't have cut the training text.

    Raises:
        UserError: it can't be read, or most words of the dictionary aren't among its pieces.
    """
    if not path.is_file():
        raise UserError(f"--sentencepiece-model {path}: no such file")
    try:
        model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise UserError(f"--sentencepiece-model {path}: not a sentencepiece model") from error
    pieces = {model.id_to_piece(index) for index in range(len(model))}
    words = [
        word for word in dictionary.symbols[dictionary.nspecial :] if not word.startswith("madeup")
    ]
    known = sum(word in pieces for word in words)
    if 2 * known < len(words):
        raise UserError(
            f"--sentencepiece-model {path}: only {known} of the dictionary's {len(words)} words "
            "are pieces of it; name the model that cut the training text"
        )


@contextlib.contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """A path for a folder that takes the place of ``output`` once it is complete."""
    temporary = output.with_name(f".{output.name}.partial")
    former = output.with_name(f".{output.name}.former")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        yield temporary
        if output.exists():
            shutil.rmtree(former, ignore_errors=True)
            os.replace(output, former)
        os.replace(temporary, output)
        shutil.rmtree(former, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if former.exists() and not output.exists():
            os.replace(former, output)
        if isinstance(error, OSError):
            raise UserError(f"{output}: can't be written ({system_reason(error)})") from error
        raise
