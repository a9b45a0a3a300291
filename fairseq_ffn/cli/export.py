"""``fairseq-ffn export``: a checkpoint for CTranslate2, or for fairseq without this plugin."""

from __future__ import annotations

import argparse
import ast
import logging
from pathlib import Path
from typing import Any, Dict

from fairseq_ffn.decoding.sources import load_source
from fairseq_ffn.errors import UserError
from fairseq_ffn.export.ctranslate2_model import import_ctranslate2
from fairseq_ffn.export.package import export
from fairseq_ffn.export.refusals import CTRANSLATE2, FORMATS

logger = logging.getLogger(__name__)

DESCRIPTION = """\
Take a trained model elsewhere.

  fairseq-ffn export checkpoint_best.pt --data data-bin/wmt --output wmt-ct2 \\
      --quantization int8 --sentencepiece-model spm.model

writes a folder for CTranslate2, a fast engine for Transformers: the model, its vocabulary, the
sentencepiece model, and a README whose example runs. With --format fairseq it is a checkpoint of
fairseq's own "transformer", which fairseq decodes without this plugin.

Every layout of series blocks is expressed exactly: shared modules are written out for every layer
(and stored once), an absent FFN becomes one of zeros. Parallel blocks can't be expressed and are
refused. Checkpoints of stock fairseq's "transformer" can be exported as well."""

QUANTIZATIONS = (
    "float32",
    "int8",
    "int8_float32",
    "int8_float16",
    "int8_bfloat16",
    "int16",
    "float16",
    "bfloat16",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("checkpoint", nargs="+", metavar="CHECKPOINT", help="one checkpoint file")
    parser.add_argument(
        "--data",
        required=True,
        metavar="DIR",
        help="folder with the dict.*.txt that it was trained with",
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="new folder for the model"
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default=CTRANSLATE2,
        help="ctranslate2, or fairseq for a stock checkpoint (default: %(default)s)",
    )
    parser.add_argument(
        "--quantization",
        choices=QUANTIZATIONS,
        help="how CTranslate2 stores the weights: float32 is exact, int8 is a quarter of the size "
        "and usually faster (default: float32)",
    )
    parser.add_argument(
        "--sentencepiece-model",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="model that cut the training text, to go along: one for both languages, or one for "
        "the source and one for the target",
    )
    parser.add_argument("--source-lang", metavar="LANG", help="if not the checkpoint's")
    parser.add_argument("--target-lang", metavar="LANG", help="if not the checkpoint's")
    parser.add_argument(
        "--model-overrides",
        default="{}",
        metavar="DICT",
        help="as fairseq-generate's, such as \"{'encoder_layers_to_keep': '0,2', "
        "'decoder_layers_to_keep': '0,1,2'}\" to export fewer layers",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the output folder if it is there"
    )


def run(args: argparse.Namespace) -> None:
    """Check what can be checked at once, load, then write."""
    path = args.checkpoint[0]
    if len(args.checkpoint) > 1 or (":" in path and not Path(path).exists()):
        raise UserError(
            "an ensemble can't be exported: name one checkpoint, or make one of several by "
            "fairseq-ffn average"
        )
    if args.format != CTRANSLATE2 and args.quantization is not None:
        raise UserError(f"--quantization {args.quantization}: only goes with --format ctranslate2")
    if args.format == CTRANSLATE2:
        import_ctranslate2()
    if (args.source_lang is None) != (args.target_lang is None):
        raise UserError("--source-lang and --target-lang go together")
    if len(args.sentencepiece_model) > 2:
        raise UserError("--sentencepiece-model: give one file for both languages, or one each")
    _check_output(args.output, args.overwrite)
    source = load_source(
        path, args.data, args.source_lang, args.target_lang, _overrides(args.model_overrides)
    )
    quantization = args.quantization or "float32"
    export(source, args.format, args.output, quantization, args.sentencepiece_model)
    size = sum(file.stat().st_size for file in args.output.rglob("*") if file.is_file())
    logger.info(f"{args.output}: {size / 1e6:.2f} MB; README.md there shows how to use it")


def _check_output(output: Path, overwrite: bool) -> None:
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output}: is a file; name a new folder")
    if output.exists() and any(output.iterdir()) and not overwrite:
        raise UserError(f"--output {output}: isn't empty; name a new folder or add --overwrite")
    if not output.absolute().parent.is_dir():
        raise UserError(f"--output {output}: the folder {output.absolute().parent} doesn't exist")


def _overrides(text: str) -> Dict[str, Any]:
    try:
        overrides = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        overrides = None
    if not isinstance(overrides, dict) or not all(isinstance(name, str) for name in overrides):
        raise UserError(f"--model-overrides {text}: not a dictionary, such as \"{{'name': 0.1}}\"")
    return overrides
