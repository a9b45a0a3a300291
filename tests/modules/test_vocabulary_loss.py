"""The fused loss is fairseq's label-smoothed cross-entropy: value, gradients and log."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    label_smoothed_nll_loss,
)
from helpers import SMALL, batch, build, net_input, randomise, task

from fairseq_ffn.criterions import label_smoothed_cross_entropy_fused as fused_criterion
from fairseq_ffn.errors import UserError
from fairseq_ffn.modules.vocabulary_loss import vocabulary_loss

PAD = 1
SYMBOLS = 31


def case(dtype=torch.float64, scale=1.0):
    """Features, weight and target; two tokens of seven are padding."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(3, 4, 6, generator=generator, dtype=torch.float64)
    weight = scale * torch.randn(SYMBOLS, 6, generator=generator, dtype=torch.float64)
    target = torch.randint(2, SYMBOLS, (3, 4), generator=generator)
    target[0, 3] = target[2, 2:] = PAD
    return features.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), target


def literal(features, weight, target, eps):
    """fairseq's function on log-probabilities in the features' own precision."""
    scores = torch.log_softmax(features.flatten(0, 1) @ weight.t(), -1)
    return label_smoothed_nll_loss(scores, target.flatten(), eps, ignore_index=PAD)


@pytest.mark.parametrize("rows", [1, 4, 100, None])
@pytest.mark.parametrize("eps", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_value_and_gradients(scale, eps, rows):
    features, weight, target = case(scale=scale)
    loss, nll = literal(features, weight, target, eps)
    expected = torch.autograd.grad(3 * loss, (features, weight))
    found = vocabulary_loss(features, weight, target, eps, PAD, rows=rows)
    torch.testing.assert_close(found.loss, loss, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(found.nll, nll, rtol=1e-11, atol=1e-11)
    assert found.tokens == 9 and found.correct is None and not found.nll.requires_grad
    gradients = torch.autograd.grad(3 * found.loss, (features, weight))
    for one, other in zip(gradients, expected):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11 * scale)
    assert gradients[0][0, 3].abs().sum() == 0  # padding


def test_known_answer():
    """Equal logits: every probability is 1/V, so the loss is log V whatever eps is."""
    features, target = torch.zeros(1, 2, 3), torch.tensor([[5, PAD]])
    found = vocabulary_loss(features, torch.randn(8, 3), target, 0.1, PAD, count_correct=True)
    assert found.loss.item() == pytest.approx(torch.tensor(8.0).log().item())
    assert found.tokens == 1 and found.correct == 0  # the first of equal logits is symbol 0


def test_correct_tokens_are_counted():
    features, weight, target = case()
    guess = (features.detach() @ weight.detach().t()).argmax(-1)
    target[0] = guess[0]
    target[0, 3] = PAD
    expected = ((guess == target) & (target != PAD)).sum()
    found = vocabulary_loss(features, weight, target, 0.1, PAD, count_correct=True, rows=2)
    assert found.correct == expected >= 3


def test_no_gradient_no_work():
    features, weight, target = case()
    with torch.no_grad():
        found = vocabulary_loss(features, weight, target, 0.1, PAD)
    assert not found.loss.requires_grad
    torch.testing.assert_close(found.loss, literal(features, weight, target, 0.1)[0].detach())
    weight.requires_grad_(False)
    loss = vocabulary_loss(features, weight, target, 0.1, PAD).loss
    expected = torch.autograd.grad(literal(features, weight, target, 0.1)[0], features)[0]
    torch.testing.assert_close(torch.autograd.grad(loss, features)[0], expected)


def test_only_padding_costs_nothing():
    features, weight, target = case()
    found = vocabulary_loss(features, weight, torch.full_like(target, PAD), 0.1, PAD)
    assert found.loss == 0 and found.tokens == 0
    found.loss.backward()
    assert weight.grad.abs().sum() == 0 and features.grad.abs().sum() == 0


def test_autocast_rounds_no_worse_than_the_plain_form():
    torch.manual_seed(2)
    features, weight = torch.randn(300, 64), 0.2 * torch.randn(2000, 64)
    target = torch.randint(2, 2000, (300,))

    def run(function, autocast):
        x, w = features.clone().requires_grad_(), weight.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = function(x, w)
        return [loss.detach(), *torch.autograd.grad(loss, (x, w))]

    def plain(x, w):
        scores = torch.log_softmax(torch.nn.functional.linear(x, w), -1, dtype=torch.float32)
        return label_smoothed_nll_loss(scores, target, 0.1, ignore_index=PAD)[0]

    exact = run(plain, autocast=False)
    stock = run(plain, autocast=True)
    fused = run(lambda x, w: vocabulary_loss(x, w, target, 0.1, PAD).loss, autocast=True)
    for found, usual, true in zip(fused, stock, exact):
        assert found.dtype == usual.dtype == torch.float32
        error, usual_error = ((y - true).norm() / true.norm() for y in (found, usual))
        assert error < 1.2 * usual_error
    # it did compute in bfloat16
    assert (fused[1] - exact[1]).norm() / exact[1].norm() > 1e-4


def criterions(sentence_avg=False, eps=0.1, ignore_prefix_size=0, report_accuracy=True):
    words = SimpleNamespace(target_dictionary=task().target_dictionary)
    kinds = (
        LabelSmoothedCrossEntropyCriterion,
        fused_criterion.LabelSmoothedCrossEntropyCriterion,
    )
    return [kind(words, sentence_avg, eps, ignore_prefix_size, report_accuracy) for kind in kinds]


def sample():
    sentences = batch()
    target = sentences["target"]
    return {
        "net_input": net_input(sentences),
        "target": target,
        "ntokens": target.ne(PAD).sum().item(),
    }


SETTINGS = {
    "plain": {},
    "no smoothing": {"eps": 0.0},
    "sentence average": {"sentence_avg": True},
    "prefix": {"ignore_prefix_size": 2},
    "no accuracy": {"report_accuracy": False},
}


#: one stack has no flags of an encoder
ONE_STACK = {name: value for name, value in SMALL.items() if name.startswith("decoder")}
SHAPES = {
    "transformer": SMALL,
    "transformer_ffn_tiny_one_wide": SMALL,
    "transformer_ffn_decoder_only_tiny_shared_dec": ONE_STACK,
}


@pytest.mark.parametrize("arch", SHAPES)
@pytest.mark.parametrize("name", SETTINGS)
def test_criterion_logs_and_trains_as_fairseqs(name, arch):
    found = []
    for criterion in criterions(**SETTINGS[name]):
        shape = {**SHAPES[arch], "share_all_embeddings": True}
        model = randomise(build(arch, dtype=torch.float64, **shape))
        loss, size, logged = criterion(model.train(), sample())
        loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        found.append((loss, size, logged, gradients))
    (loss, size, logged, gradients), ours = found
    # fairseq takes the log-softmax in float32 whatever the model's precision is
    torch.testing.assert_close(ours[0].float(), loss, rtol=1e-6, atol=1e-6)
    assert ours[1] == size and ours[2].keys() == logged.keys()
    for key, value in logged.items():
        assert float(ours[2][key]) == pytest.approx(float(value), rel=1e-6), key
        assert isinstance(ours[2][key], type(value)), key
    for key, gradient in gradients.items():
        torch.testing.assert_close(ours[3][key], gradient, rtol=1e-4, atol=1e-5)


def test_criterion_gives_losses_per_token_fairseqs_way():
    model = randomise(build("transformer_ffn", **SMALL)).eval()
    stock, ours = (criterion(model, sample(), reduce=False)[0] for criterion in criterions())
    assert stock.numel() > 1 and torch.equal(ours, stock)


def test_trainings_may_change_between_the_criterions():
    """What fairseq's trainer compares before it goes on from a checkpoint."""
    stock, ours = criterions()
    assert type(stock) is not type(ours) and type(stock).__name__ == type(ours).__name__


@pytest.mark.parametrize("autocast", ["none", "bfloat16"])
def test_criterion_uses_the_models_precision(monkeypatch, autocast):
    """The vocabulary's product is part of the loss, but the model's flag is about it too."""
    seen = []

    def watch(*args, **kwargs):
        seen.append(torch.is_autocast_enabled("cpu"))
        return vocabulary_loss(*args, **kwargs)

    monkeypatch.setattr(fused_criterion, "vocabulary_loss", watch)
    model = build("transformer_ffn", cpu_autocast=autocast, **SMALL)
    criterions()[1](model, sample())[0].backward()
    assert seen == [autocast == "bfloat16"]
    assert not torch.is_autocast_enabled("cpu")


def test_other_output_layers_are_refused_by_name():
    model = build("transformer_ffn", adaptive_softmax_cutoff="10,20", **SMALL)
    with pytest.raises(UserError, match="label_smoothed_cross_entropy_fused.*output layer"):
        criterions()[1](model, sample())
