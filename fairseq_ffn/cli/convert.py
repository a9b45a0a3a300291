"""``fairseq-ffn convert``: a new layout from trained weights."""

from __future__ import annotations

import argparse
import logging
import os
from typing import Any, Dict

from torch import nn

from fairseq_ffn.checkpoints import save_checkpoint
from fairseq_ffn.cli.arguments import positive, seed
from fairseq_ffn.conversion.activations import sample_inputs
from fairseq_ffn.conversion.convert import METHODS, Conversion
from fairseq_ffn.decoding.model_facts import parameters_of
from fairseq_ffn.decoding.sources import Source, load_source, load_source_without_data
from fairseq_ffn.errors import UserError
from fairseq_ffn.models import flags
from fairseq_ffn.models.architectures import CONFIGS

logger = logging.getLogger(__name__)

DESCRIPTION = """\
Start a new layout from the weights of a trained model.

  fairseq-ffn convert baseline.pt --config one_wide --merge concatenate --output start.pt
  fairseq-train data-bin/wmt --user-dir fairseq_ffn --arch transformer_ffn_big_one_wide \\
      --finetune-from-model start.pt ...

Layers that share an FFN in the new layout get one for those that they had:
  mean           the mean of the weights
  first          the first layer's
  concatenate    all hidden units side by side, which is as wide as all of them together, scaled
                 so that it computes the mean of the FFNs' outputs; a greater width takes in the
                 units of FFNs that are left out (One Wide FFN: all FFNs of the model)
  least-squares  the hidden units of all of them, or the best of these if the width is less, with
                 the output weights that fit the FFNs' outputs on sample text best; needs --data
An FFN that is left out is dropped; least-squares keeps its mean output as a bias. Shared attention
gets the mean, or the first layer's. What isn't named stays as in the checkpoint, which may also be
one of stock fairseq's "transformer"."""

#: configs whose layers flow as the checkpoint's do
LAYOUT_CONFIGS = tuple(
    name for name, config in CONFIGS.items() if "encoder_block" not in config.settings
)
WIDTHS = ("encoder_ffn_embed_dim", "decoder_ffn_embed_dim")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="the trained model")
    parser.add_argument("--output", required=True, metavar="FILE", help="where the result goes")
    parser.add_argument(
        "--config",
        choices=LAYOUT_CONFIGS,
        help="FFN layouts and widths of an architecture, transformer_ffn_SIZE_CONFIG; the flags "
        "below win over it",
    )
    flags.add_layout_arguments(parser, "as in the checkpoint")
    for name in WIDTHS:
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=positive,
            metavar="N",
            help="d_ff (default: that of the FFNs; with concatenate, all of a group's together)",
        )
    parser.add_argument(
        "--merge", choices=METHODS, default="mean", help="see above (default: %(default)s)"
    )
    parser.add_argument("--data", metavar="DIR", help="binarised text for least-squares")
    parser.add_argument(
        "--subset", default="train", help="of --data, to draw sentences from (default: train)"
    )
    parser.add_argument(
        "--sentences",
        type=positive,
        default=2000,
        metavar="N",
        help="how many sentences least-squares fits to (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=seed,
        default=1,
        metavar="N",
        help="of sentences and of new units (default: 1)",
    )


def run(args: argparse.Namespace) -> None:
    """Check the output, load, convert, save."""
    _check_output(args)
    if args.merge == "least-squares" and args.data is None:
        raise UserError("--merge least-squares: add --data DIR, whose sentences it fits to")
    if args.data is None:
        source = load_source_without_data(args.checkpoint)
    else:
        source = load_source(args.checkpoint, args.data)
    conversion = Conversion(source, _settings(args, source), args.merge, args.seed)
    if conversion.needs_sample:
        conversion.fit(sample_inputs(source, args.subset, args.sentences, args.seed))
    model = conversion.model()
    save_checkpoint(conversion.checkpoint(model), args.output)
    logger.info(
        f"{args.output}: {_millions(model)} parameters, before {_millions(source.model)}; go on "
        f"with fairseq-train --user-dir fairseq_ffn --arch {_command_line(conversion.args)} "
        f"--finetune-from-model {args.output}"
    )


def _check_output(args: argparse.Namespace) -> None:
    output = args.output
    if os.path.isdir(output):
        raise UserError(f"--output {output}: is a directory; add a file name")
    if not os.path.isdir(os.path.dirname(os.path.abspath(output))):
        raise UserError(f"--output {output}: its directory doesn't exist")
    same = os.path.exists(output) and os.path.exists(args.checkpoint)
    if same and os.path.samefile(output, args.checkpoint):
        raise UserError(f"--output {output}: is the checkpoint itself; give it another name")


def _settings(args: argparse.Namespace, source: Source) -> Dict[str, Any]:
    """Layouts and widths that were asked for, by name in the model's namespace."""
    settings: Dict[str, Any] = {}
    if args.config is not None:
        settings.update(CONFIGS[args.config].settings)
        if CONFIGS[args.config].one_wide:
            widths = [
                getattr(source.args, f"{stack}_layers")
                * getattr(source.args, f"{stack}_ffn_embed_dim")
                for stack in ("encoder", "decoder")
            ]
            settings["encoder_ffn_embed_dim"] = sum(widths)
    names = [f"{stack}_{kind}_layout" for stack, kind, _ in flags.LAYOUTS]
    for name in (*names, *WIDTHS):
        if getattr(args, name) is not None:
            settings[name] = getattr(args, name)
    if not settings:
        raise UserError("nothing to convert: give --config, a layout or a width")
    return settings


def _millions(model: nn.Module) -> str:
    return f"{parameters_of([model])['total'] / 1e6:.2f}M"


def _command_line(args: argparse.Namespace) -> str:
    """What fairseq-train needs to build the same model, as far as the FFNs go."""
    words = ["transformer_ffn ..."]
    for stack, kind, _ in flags.LAYOUTS:
        layout = getattr(args, f"{stack}_{kind}_layout")
        if layout != "independent":
            words.append(f"{flags.layout_flag(stack, kind)}={layout}")
    words += [f"--{name.replace('_', '-')} {getattr(args, name)}" for name in WIDTHS]
    return " ".join(words)
