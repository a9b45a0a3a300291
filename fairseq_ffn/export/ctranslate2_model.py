"""The CTranslate2 model of a plain Transformer, through CTranslate2's specification API.

CTranslate2 stores equal tensors once, so what layers share stays shared in the file. Each layer has
its own FFN width there, and each stack its own number of heads and kind of norm.
"""

from __future__ import annotations

import importlib
from typing import Any, List

from fairseq.data import Dictionary
from fairseq.models.transformer import TransformerModel
from torch import Tensor, nn

from fairseq_ffn.errors import UserError
from fairseq_ffn.export.plain import PlainTransformer, plain_transformer

#: fairseq's --activation-fn: CTranslate2's name
ACTIVATIONS = {
    "relu": "RELU",
    "gelu": "GELU",
    "gelu_accurate": "GELUTanh",
    "gelu_fast": "GELUTanh",
    "tanh": "Tanh",
}


def import_ctranslate2() -> Any:
    """The package, which is an extra.

    Raises:
        UserError: it isn't installed.
    """
    try:
        importlib.import_module("ctranslate2.specs")
        return importlib.import_module("ctranslate2")
    except ImportError as error:
        raise UserError(
            "--format ctranslate2 needs the package ctranslate2, which can't be imported "
            f"({error}); pip install 'fairseq-ffn[export]' or pip install ctranslate2"
        ) from error


def write_ctranslate2(
    model: TransformerModel, source: Dictionary, target: Dictionary, folder: str, quantization: str
) -> None:
    """Write the model into ``folder``, which must not exist.

    Args:
        model: in series; see ``refusals``.
        source: its dictionary.
        target: its dictionary.
        folder: for ``model.bin``, ``config.json`` and the vocabulary.
        quantization: one of CTranslate2's types of weights; ``float32`` changes nothing.
    """
    import_ctranslate2()
    from ctranslate2.converters import Converter

    class FfnConverter(Converter):
        def _load(self):
            return specification(model, source, target)

    FfnConverter().convert(folder, quantization=quantization)


def check_activation(name: str) -> None:
    """Raises:
    UserError: CTranslate2 doesn't have fairseq's activation ``name``.
    """
    if name not in ACTIVATIONS:
        raise UserError(
            f"--activation-fn {name}: can't be exported to CTranslate2, which has "
            f"{', '.join(ACTIVATIONS)} of fairseq's activations"
        )


def specification(model: TransformerModel, source: Dictionary, target: Dictionary) -> Any:
    """The filled-in ``TransformerSpec``."""
    from ctranslate2.specs import transformer_spec

    args, plain = model.args, plain_transformer(model, one_width=False)
    activation = _activation(args.activation_fn)
    encoder = transformer_spec.TransformerEncoderSpec(
        args.encoder_layers,
        args.encoder_attention_heads,
        pre_norm=args.encoder_normalize_before,
        activation=activation,
        layernorm_embedding=args.layernorm_embedding,
    )
    decoder = transformer_spec.TransformerDecoderSpec(
        args.decoder_layers,
        args.decoder_attention_heads,
        pre_norm=args.decoder_normalize_before,
        activation=activation,
        layernorm_embedding=args.layernorm_embedding,
        no_final_norm=getattr(args, "no_decoder_final_norm", False),
    )
    _fill_stack(encoder, "encoder", model.encoder, plain, args.max_source_positions)
    _fill_stack(decoder, "decoder", model.decoder, plain, args.max_target_positions)
    _linear(decoder.projection, plain, "decoder.output_projection")
    spec = transformer_spec.TransformerSpec(encoder, decoder)
    spec.register_source_vocabulary(list(source.symbols))
    spec.register_target_vocabulary(list(target.symbols))
    # fairseq ends sources and starts targets with its end of sentence
    spec.config.add_source_eos = True
    spec.config.bos_token, spec.config.unk_token = source.bos_word, source.unk_word
    spec.config.eos_token = spec.config.decoder_start_token = source.eos_word
    return spec


def _activation(name: str) -> Any:
    from ctranslate2.specs import common_spec

    check_activation(name)
    return getattr(common_spec.Activation, ACTIVATIONS[name])


def _fill_stack(
    spec: Any, stack: str, module: nn.Module, plain: PlainTransformer, positions: int
) -> None:
    embeddings = spec.embeddings[0] if isinstance(spec.embeddings, list) else spec.embeddings
    embeddings.weight = _numpy(plain.state[f"{stack}.embed_tokens.weight"])
    spec.scale_embeddings = float(module.embed_scale)
    spec.position_encodings.encodings = _numpy(_positions(module, positions))
    for name in ("layernorm_embedding", "layer_norm"):
        if f"{stack}.{name}.weight" in plain.state:
            _norm(getattr(spec, name), plain, f"{stack}.{name}")
    for number, layer in enumerate(spec.layer):
        prefix = f"{stack}.layers.{number}"
        _attention(layer.self_attention, plain, f"{prefix}.self_attn", [("q", "k", "v")])
        if stack == "decoder":
            _attention(layer.attention, plain, f"{prefix}.encoder_attn", [("q",), ("k", "v")])
        _norm(layer.ffn.layer_norm, plain, f"{prefix}.final_layer_norm")
        _linear(layer.ffn.linear_0, plain, f"{prefix}.fc1")
        _linear(layer.ffn.linear_1, plain, f"{prefix}.fc2")


def _attention(spec: Any, plain: PlainTransformer, name: str, projections: List[tuple]) -> None:
    """Projections that read the same input are one matrix in CTranslate2."""
    import numpy

    for linear, group in zip(spec.linear, projections):
        for part in ("weight", "bias"):
            matrices = [_numpy(plain.state[f"{name}.{one}_proj.{part}"]) for one in group]
            setattr(linear, part, numpy.concatenate(matrices) if len(group) > 1 else matrices[0])
    _linear(spec.linear[-1], plain, f"{name}.out_proj")
    _norm(spec.layer_norm, plain, f"{name}_layer_norm")


def _linear(spec: Any, plain: PlainTransformer, name: str) -> None:
    spec.weight = _numpy(plain.state[f"{name}.weight"])
    if f"{name}.bias" in plain.state:
        spec.bias = _numpy(plain.state[f"{name}.bias"])


def _norm(spec: Any, plain: PlainTransformer, name: str) -> None:
    spec.gamma = _numpy(plain.state[f"{name}.weight"])
    spec.beta = _numpy(plain.state[f"{name}.bias"])


def _positions(module: nn.Module, count: int) -> Tensor:
    """Encodings of positions 0 to ``count`` - 1; fairseq counts from the padding index on.

    Without positions it is a table of zeros, which adds nothing.
    """
    embedding = module.embed_positions
    if embedding is None:
        return module.embed_tokens.weight.new_zeros(count, module.embed_tokens.embedding_dim)
    table = embedding.weight if isinstance(embedding, nn.Embedding) else embedding.weights
    first = embedding.padding_idx + 1
    return table[first : first + count]


def _numpy(tensor: Tensor) -> Any:
    return tensor.detach().cpu().float().contiguous().numpy()
