"""Several FFNs become one: known answers."""

from __future__ import annotations

import pytest
import torch

from fairseq_ffn.conversion.feed_forward import (
    FeedForward,
    concatenate,
    distinct,
    fresh,
    mean,
    select,
    widen,
)
from fairseq_ffn.conversion.least_squares import RIDGE, NormalEquations
from fairseq_ffn.errors import UserError

RELU = torch.relu


def ffn(seed: int, width: int = 5, d_model: int = 4) -> FeedForward:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return FeedForward(draw(width, d_model), draw(width), draw(d_model, width), draw(d_model))


X = torch.randn((50, 4), generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def test_an_ffn_is_its_formula():
    one = ffn(1)
    expected = torch.stack([one.w2 @ RELU(one.w1 @ x + one.b1) + one.b2 for x in X])
    assert torch.allclose(one(X, RELU), expected)


def test_mean():
    merged = mean([ffn(1), ffn(2)], [0.75, 0.25])
    for name in ("w1", "b1", "w2", "b2"):
        expected = 0.75 * getattr(ffn(1), name) + 0.25 * getattr(ffn(2), name)
        assert torch.allclose(getattr(merged, name), expected)


@pytest.mark.parametrize("activation", [torch.relu, torch.nn.functional.gelu, torch.tanh])
def test_concatenated_it_is_the_scaled_sum(activation):
    ffns = [ffn(1), ffn(2, width=3), ffn(3)]
    merged = concatenate(ffns, [0.5, 0.5, 0.0])
    assert merged.width == 13
    expected = 0.5 * ffns[0](X, activation) + 0.5 * ffns[1](X, activation)
    assert torch.allclose(merged(X, activation), expected)


def test_scales_are_those_of_least_squares():
    """1/N for outputs that are uncorrelated and of equal size, 0 for one that no layer wants."""
    generator = torch.Generator().manual_seed(3)
    # outputs of 4 FFNs in 3 layers, the last one of no layer
    outputs = torch.randn((3, 4, 20000), generator=generator, dtype=torch.float64)
    wanted = torch.stack([outputs[layer, layer] for layer in range(3)])
    design = outputs.permute(0, 2, 1).reshape(-1, 4)
    scales = torch.linalg.lstsq(design, wanted.reshape(-1, 1)).solution.flatten()
    assert torch.allclose(scales, torch.tensor([1, 1, 1, 0]).double() / 3, atol=0.02)


def test_widened_it_is_the_same_function():
    wide = widen(ffn(1), 11, torch.Generator().manual_seed(1))
    assert wide.width == 11 and torch.allclose(wide(X, RELU), ffn(1)(X, RELU))
    assert wide.w1[5:].abs().max() > 0 and wide.w2[:, 5:].abs().max() == 0


def test_fresh_units_are_silent_and_as_fairseq_makes_them():
    units = fresh(64, 256, torch.Generator().manual_seed(1), torch.float32)
    assert units(torch.randn(3, 64), RELU).abs().max() == 0
    xavier = torch.nn.init.xavier_uniform_(torch.empty(256, 64))
    assert units.w1.std().item() == pytest.approx(xavier.std().item(), rel=0.03)


def test_all_units_selected_it_is_the_same_function():
    chosen = select(ffn(1), torch.arange(5))
    assert torch.equal(chosen(X, RELU), ffn(1)(X, RELU))


def test_distinct():
    assert distinct([ffn(1), ffn(2), ffn(1), ffn(1, width=4)]) == [0, 1, 0, 3]


class TestLeastSquares:
    def test_against_a_solver_on_all_data(self):
        """The ridge is small: compare with the solution of the same problem, written out."""
        one, wanted = ffn(1), ffn(2, width=9)(X, RELU)
        equations = NormalEquations(5, 4, "")
        for part in (slice(0, 20), slice(20, 50)):
            equations.add(one.hidden(X[part], RELU), wanted[part])
        fit = equations.fit(5)
        hidden = one.hidden(X, RELU)
        ridge = (RIDGE * hidden.square().sum(0).mean()).sqrt() * torch.eye(5, 6).double()
        design = torch.cat([torch.cat([hidden, torch.ones(50, 1)], 1), ridge])
        target = torch.cat([wanted, torch.zeros(5, 4)])
        expected = torch.linalg.lstsq(design, target).solution
        assert torch.allclose(fit.w2, expected[:5].t(), atol=1e-8)
        assert torch.allclose(fit.b2, expected[5], atol=1e-8)
        error = (hidden @ fit.w2.t() + fit.b2 - wanted).square().sum()
        spread = (wanted - wanted.mean(0)).square().sum()
        assert fit.explained == pytest.approx(1 - (error / spread).item(), abs=1e-9)
        assert equations.count == 50

    def test_units_that_the_output_needs_are_kept(self):
        """Of 30 units, the outputs are made of 6."""
        many = ffn(1, width=30)
        needed = torch.tensor([2, 3, 11, 17, 20, 29])
        x = torch.randn((4000, 4), generator=torch.Generator().manual_seed(1)).double()
        wanted = select(many, needed)(x, RELU)
        equations = NormalEquations(30, 4, "")
        equations.add(many.hidden(x, RELU), wanted)
        fit = equations.fit(6)
        assert fit.units.tolist() == needed.tolist()
        assert fit.explained > 0.9999
        assert torch.allclose(fit.w2, many.w2[:, needed], atol=0.02)

    def test_better_than_any_other_choice(self):
        """Few units: the one pair of all pairs that fits best, give or take a little."""
        many = ffn(4, width=7)
        x = torch.randn((500, 4), generator=torch.Generator().manual_seed(2)).double()
        wanted = ffn(5)(x, RELU)
        hidden = many.hidden(x, RELU)
        equations = NormalEquations(7, 4, "")
        equations.add(hidden, wanted)

        def error(units) -> float:
            design = torch.cat([hidden[:, units], torch.ones(500, 1)], 1)
            left = torch.linalg.lstsq(design, wanted).solution
            return (design @ left - wanted).square().sum().item()

        errors = sorted(error([a, b]) for a in range(7) for b in range(a))
        assert error(equations.fit(2).units.tolist()) <= errors[2]

    def test_a_large_weight_of_a_small_activation_counts_little(self):
        draw = torch.Generator().manual_seed(1)
        hidden = torch.randn((400, 2), generator=draw).double() * torch.tensor([3, 0.3])
        wanted = hidden @ torch.tensor([[1.0], [5.0]]).double()  # contribute 3 and 1.5
        equations = NormalEquations(2, 1, "")
        equations.add(hidden, wanted)
        assert equations.fit(1).units.tolist() == [0]

    def test_units_that_never_fire_and_units_that_are_there_twice(self):
        many = ffn(1, width=6)
        hidden = many.hidden(X, RELU)
        hidden[:, 1] = 0
        hidden[:, 4] = hidden[:, 3]
        equations = NormalEquations(6, 4, "")
        equations.add(hidden, many(X, RELU))
        fit = equations.fit(4)
        assert torch.isfinite(fit.w2).all()
        assert 1 not in fit.units.tolist() and len({3, 4} & set(fit.units.tolist())) == 1

    def test_nothing_to_fit_to(self):
        with pytest.raises(UserError, match="no sentence to fit to"):
            NormalEquations(3, 2, "").fit(3)

    def test_too_many_units_for_the_memory(self):
        with pytest.raises(UserError, match="10,000,000 hidden units .* GB of memory"):
            NormalEquations(10_000_000, 2, "FFN of encoder layer 0")
