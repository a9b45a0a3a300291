"""The CTranslate2 model of a plain Transformer, through CTranslate2's specification API.

CTranslate2 stores equal tensors once, so what layers share stays shared in the file. Each layer has
its own FFN width there, and each stack its own number of heads and kind of norm.
"""

from __future__ import annotations

import importlib
from typing import Any, Dict, List, Tuple

import numpy
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
            "this needs the package ctranslate2, which can't be imported "
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

    args, arrays = model.args, _Arrays(plain_transformer(model, one_width=False))
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
    _fill_stack(encoder, "encoder", model.encoder, arrays, args.max_source_positions)
    _fill_stack(decoder, "decoder", model.decoder, arrays, args.max_target_positions)
    _linear(decoder.projection, arrays, "decoder.output_projection")
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


class _Arrays:
    """Entries of a state dict as arrays of their own, since quantization changes them in place.

    What is one tensor in the state becomes one array.
    """

    def __init__(self, plain: PlainTransformer):
        self._state = plain.state
        self._known: Dict[Tuple[int, tuple], Any] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._state

    def __getitem__(self, name: str) -> Any:
        tensor = self._state[name]
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if key not in self._known:
            self._known[key] = _numpy(tensor)
        return self._known[key]


def _fill_stack(spec: Any, stack: str, module: nn.Module, arrays: _Arrays, positions: int) -> None:
    embeddings = spec.embeddings[0] if isinstance(spec.embeddings, list) else spec.embeddings
    embeddings.weight = arrays[f"{stack}.embed_tokens.weight"]
    spec.scale_embeddings = float(module.embed_scale)
    spec.position_encodings.encodings = _numpy(_positions(module, positions))
    for name in ("layernorm_embedding", "layer_norm"):
        if f"{stack}.{name}.weight" in arrays:
            _norm(getattr(spec, name), arrays, f"{stack}.{name}")
    for number, layer in enumerate(spec.layer):
        prefix = f"{stack}.layers.{number}"
        _attention(layer.self_attention, arrays, f"{prefix}.self_attn", [("q", "k", "v")])
        if stack == "decoder":
            _attention(layer.attention, arrays, f"{prefix}.encoder_attn", [("q",), ("k", "v")])
        _norm(layer.ffn.layer_norm, arrays, f"{prefix}.final_layer_norm")
        _linear(layer.ffn.linear_0, arrays, f"{prefix}.fc1")
        _linear(layer.ffn.linear_1, arrays, f"{prefix}.fc2")


def _attention(spec: Any, arrays: _Arrays, name: str, projections: List[tuple]) -> None:
    """Projections that read the same input are one matrix in CTranslate2."""
    for linear, group in zip(spec.linear, projections):
        for part in ("weight", "bias"):
            matrices = [arrays[f"{name}.{one}_proj.{part}"] for one in group]
            setattr(linear, part, numpy.concatenate(matrices) if len(group) > 1 else matrices[0])
    _linear(spec.linear[-1], arrays, f"{name}.out_proj")
    _norm(spec.layer_norm, arrays, f"{name}_layer_norm")


def _linear(spec: Any, arrays: _Arrays, name: str) -> None:
    spec.weight = arrays[f"{name}.weight"]
    if f"{name}.bias" in arrays:
        spec.bias = arrays[f"{name}.bias"]


def _norm(spec: Any, arrays: _Arrays, name: str) -> None:
    spec.gamma = arrays[f"{name}.weight"]
    spec.beta = arrays[f"{name}.bias"]


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
    return numpy.array(tensor.detach().cpu().float().numpy(), copy=True, order="C")
