"""CTranslate2 gives the same probabilities as the model, for every option that can be exported."""

from __future__ import annotations

import math
from pathlib import Path
from typing import List

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from helpers import SMALL, batch, build, cloned, net_input

from export.cases import EXPORTABLE, exportable
from fairseq_ffn.errors import UserError
from fairseq_ffn.export.ctranslate2_model import check_activation, write_ctranslate2

ctranslate2 = pytest.importorskip("ctranslate2", reason="needs requirements/test.txt")


def converted(model, folder: Path, quantization: str = "float32"):
    """The exported model, ready to translate."""
    dictionaries = model.encoder.dictionary, model.decoder.dictionary
    before = cloned(model.state_dict())
    write_ctranslate2(model, *dictionaries, str(folder), quantization)
    # CTranslate2 quantizes in place
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    return ctranslate2.Translator(str(folder), compute_type="default")


def tokens(rows: torch.Tensor, words) -> List[List[str]]:
    """Symbols of a batch without pads and end of sentence."""
    keep = {words.pad(), words.eos()}
    return [[words[token] for token in row.tolist() if token not in keep] for row in rows]


def log_probabilities(model, sentences) -> List[torch.Tensor]:
    """Of every target token, end of sentence included."""
    scores = model.get_normalized_probs(model(**net_input(sentences)), log_probs=True)
    target = sentences["target"]
    of_target = scores.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    return [row[wanted != 1] for row, wanted in zip(of_target, target)]


@pytest.mark.parametrize("name", EXPORTABLE)
def test_probability_of_every_token(name, tmp_path):
    model = exportable(name, dtype=torch.float32)
    sentences = batch(vocabulary=26)
    translator = converted(model, tmp_path / "model")
    found = translator.score_batch(
        tokens(sentences["src_tokens"], model.encoder.dictionary),
        tokens(sentences["target"], model.decoder.dictionary),
    )
    with torch.no_grad():
        expected = log_probabilities(model, sentences)
    for one, other in zip(expected, found):
        assert one.abs().max() > 1  # not the uniform distribution's
        assert torch.allclose(one, torch.tensor(other.log_probs), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("name", ["gelu", "accurate gelu"])
def test_kinds_of_gelu_are_told_apart(name, tmp_path):
    """They differ by 5e-4 at most, but by a tenth where they are about -0.004."""
    model = exportable(name, dtype=torch.float32)
    for layer in (*model.encoder.layers, *model.decoder.layers):
        if layer.fc1 is not None:
            layer.fc1.weight.data.mul_(0.01)
            layer.fc1.bias.data.fill_(-3)
            layer.fc2.weight.data.mul_(300)
    sentences = batch(vocabulary=26)
    found = converted(model, tmp_path / "model").score_batch(
        tokens(sentences["src_tokens"], model.encoder.dictionary),
        tokens(sentences["target"], model.decoder.dictionary),
    )
    with torch.no_grad():
        expected = log_probabilities(model, sentences)
    for one, other in zip(expected, found):
        assert torch.allclose(one, torch.tensor(other.log_probs), atol=2e-3, rtol=2e-3)


def never_pads(model) -> None:
    """fairseq forbids it; a model with random weights must be told."""
    model.decoder.layer_norm.bias.data[0] = 20
    projection = model.decoder.output_projection.weight.data
    projection[:, 0] = 0
    projection[model.decoder.dictionary.pad(), 0] = -5
    projection[model.decoder.dictionary.eos(), 0] = 0.15  # translations end


@pytest.mark.parametrize(
    "name", ["one_wide, pre-norm", "no_enc_no_dec, pre-norm", "attention shared"]
)
def test_beam_search(name, tmp_path):
    model = exportable(name, dtype=torch.float32)
    never_pads(model)
    sentences = batch(vocabulary=26)
    words = model.decoder.dictionary
    search = SequenceGenerator([model], words, beam_size=4, max_len_b=30)
    translator = converted(model, tmp_path / "model")
    sources = tokens(sentences["src_tokens"], model.encoder.dictionary)
    found = translator.translate_batch(
        sources, beam_size=4, max_decoding_length=30, return_scores=True, num_hypotheses=2
    )
    # neither ends at once; CTranslate2 leaves that out of the first distribution, fairseq doesn't
    at_once = translator.score_batch(sources, [[]] * len(sources))
    compared = 0
    expected = search.generate([model], {"net_input": net_input(sentences)})
    for best, result, ends in zip(expected, found, at_once):
        rest = math.log(1 - math.exp(ends.log_probs[0]))
        for mine, theirs, score in zip(best, result.hypotheses, result.scores):
            symbols = [words[token] for token in mine["tokens"].tolist()]
            if len(theirs) < 30:  # at the limit fairseq puts an end of sentence by force
                assert symbols == [*theirs, words.eos_word]
                total = mine["score"].item() * len(symbols) - rest
                assert total / len(symbols) == pytest.approx(score, abs=1e-3)
                compared += 1
    assert compared


#: of a logarithm, for a model as small as this one
LIMITS = {
    **{"int8": 3, "int8_float32": 3, "int8_float16": 3, "int8_bfloat16": 3},
    **{"int16": 3, "float16": 0.1, "bfloat16": 0.6},
}


@pytest.mark.filterwarnings("error:.*divi:RuntimeWarning", "error:invalid value:RuntimeWarning")
@pytest.mark.parametrize("quantization", LIMITS)
def test_every_quantization_of_an_absent_ffn(quantization, tmp_path):
    """A wrong scale gives nan, or another distribution altogether."""
    for name in ("no_enc_no_dec, pre-norm", "no_dec, post-norm"):
        model = exportable(name, dtype=torch.float32)
        sentences = batch(vocabulary=26)
        found = converted(model, tmp_path / name, quantization).score_batch(
            tokens(sentences["src_tokens"], model.encoder.dictionary),
            tokens(sentences["target"], model.decoder.dictionary),
        )
        with torch.no_grad():
            expected = log_probabilities(model, sentences)
        for one, other in zip(expected, found):
            assert (one - torch.tensor(other.log_probs)).abs().max() < LIMITS[quantization]


def test_shared_modules_are_stored_once(tmp_path):
    """Sizes of files: parameters, tables of positions, and little else."""
    flags = {**SMALL, "encoder_normalize_before": True, "decoder_normalize_before": True}
    flags.update(encoder_ffn_embed_dim=512, share_all_embeddings=True)
    layouts = {"encoder_ffn_layout": "shared", "decoder_ffn_layout": "none"}
    for name, more, tables in (("one_wide", layouts, 1), ("baseline", {}, 1)):
        model = build("transformer_ffn", **flags, **more)
        converted(model, tmp_path / name)
        numbers = sum(parameter.numel() for parameter in model.parameters()) + tables * 1024 * 16
        size = (tmp_path / name / "model.bin").stat().st_size
        names = 60 * (len(model.state_dict()) + 40)  # of variables and aliases
        assert 4 * numbers < size + 4 * 16 * 20 and size < 4 * numbers + names, name


def test_vocabulary(tmp_path):
    model = exportable("gelu")
    converted(model, tmp_path / "model")
    assert {"source_vocabulary.json", "target_vocabulary.json"} <= {
        path.name for path in (tmp_path / "model").iterdir()
    }


def test_an_activation_that_ctranslate2_hasnt():
    with pytest.raises(UserError, match="--activation-fn relu_squared: can't be exported"):
        check_activation("relu_squared")
