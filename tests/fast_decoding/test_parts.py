"""Parts of the fast path against slow, literal versions of them."""

from __future__ import annotations

import math

import pytest
import torch

from fairseq_ffn.decoding import products
from fairseq_ffn.decoding.beam_cache import COMPACT_AFTER, FIRST_POSITIONS, BeamCache
from fairseq_ffn.decoding.fast_search import largest


@pytest.mark.parametrize("beams", [1, 2, 5])
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_every_beam_sees_its_own_past_and_nothing_else(beams, narrow, batch):
    """Against lists that are copied at every step; through growing and compacting."""
    layers, sentences, heads, width = 2, batch, 2, 4
    generator = torch.Generator().manual_seed(beams)
    like = torch.empty(0)
    cache = BeamCache(layers, sentences, beams, heads, width, like)
    past = [[] for _ in range(sentences * beams)]
    largest_room = 0
    steps = 3 * FIRST_POSITIONS
    for step in range(steps):
        cache.advance()
        new = torch.randn(layers, 2, sentences, heads, beams, width, generator=generator)
        for layer in range(layers):
            cache.places[layer].copy_(new[layer])
        for row in range(len(past)):
            past[row] = past[row] + [new[:, :, row // beams, :, row % beams]]
        for layer in range(layers):
            for row, seen in enumerate(past):
                sentence, beam = divmod(row, beams)
                for kind, stored in enumerate((cache.keys, cache.values)):
                    slots = stored[layer][sentence]
                    if beams > 1:
                        slots = slots[:, cache.mask[sentence, 0, beam] == 0]
                    expected = torch.stack([one[layer, kind] for one in seen], dim=1)
                    assert torch.equal(slots, expected)
        largest_room = max(largest_room, cache.keys[0].shape[2])
        if step == 40 and sentences == 3:
            kept = torch.tensor([0, 2])
            sentences = 2
        else:
            kept = torch.arange(sentences)
        inside = torch.randint(0, beams, (sentences, beams), generator=generator)
        if narrow:  # all go on from one beam: no other past is left
            inside = inside[:, :1].expand(sentences, beams)
        order = (kept.unsqueeze(1) * beams + inside).flatten()
        cache.reorder(order)
        past = [past[row] for row in order.tolist()]
    if beams > 1:
        # without compacting there would be steps x beams
        patience = COMPACT_AFTER[batch > 1]
        assert largest_room <= 1.2 * steps + patience * beams


def test_beams_of_different_sentences_do_not_change_places():
    cache = BeamCache(1, 2, 2, 1, 4, torch.empty(0))
    cache.advance()
    with pytest.raises(ValueError, match="different sentences"):
        cache.reorder(torch.tensor([0, 2, 2, 3]))


@pytest.mark.parametrize("width", [10, 64, 640, 5000, 32003])
def test_largest_is_topk(width):
    generator = torch.Generator().manual_seed(width)
    values = torch.randn(7, width, generator=generator)
    values[1, : width // 2] = -math.inf
    values[2, 3:] = -math.inf
    values[3, -1] = 100.0
    best, places = largest(values, 6)
    expected = values.topk(6, dim=1)
    assert torch.equal(best, expected.values)
    finite = best > -math.inf
    assert torch.equal(places[finite], expected.indices[finite])
    assert torch.equal(values.gather(1, places), best)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("precision", "kernel"),
    [(precision, kernel) for precision, all_ in products.KERNELS.items() for kernel in all_],
    ids=lambda value: getattr(value, "name", value),
)
def test_every_kernel_multiplies(precision, kernel, bias, relu):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(48, 32, generator=generator)
    b = torch.randn(48, generator=generator) if bias else None
    try:
        product = kernel.pack(weight, b, relu, 5)
    except RuntimeError as error:
        pytest.skip(f"not on this machine: {error}")
    for rows in (1, 5, 33):
        x = torch.randn(rows, 32, generator=generator)
        expected = x @ weight.t() + (b if bias else 0)
        expected = expected.relu() if relu else expected
        got = product(x.to(products.activations_of(precision))).float()
        error = (got - expected).abs().max() / expected.abs().max()
        assert error <= kernel.tolerance


def _wrong(weight, bias, relu, rows):
    return lambda x: 1.01 * torch.nn.functional.linear(x, weight, bias)


def _missing(weight, bias, relu, rows):
    raise RuntimeError("no such operator")


def _instant(weight, bias, relu, rows):
    result = {}

    def multiply(x):
        if not result:
            result["y"] = torch.nn.functional.linear(x, weight, bias)
        return result["y"]

    return multiply


def test_a_kernel_that_is_wrong_or_missing_is_not_chosen_and_the_fastest_right_one_is(monkeypatch):
    weights = [torch.randn(600, 500), torch.randn(500, 600)]
    wrong = products.Kernel("wrong", _wrong, 1e-5, 0)
    missing = products.Kernel("missing", _missing, 1e-5, 0)
    quick = products.Kernel("quick", _instant, 1e-5, 0)
    monkeypatch.setattr(products, "SMALL", 0)
    monkeypatch.setitem(products.KERNELS, "float32", (products.PLAIN, wrong, missing))
    kernel, said = products.fastest("float32", weights, 5)
    assert kernel is products.PLAIN
    assert "wrong: its result is off by 0.01" in said and "missing: no such operator" in said
    monkeypatch.setitem(products.KERNELS, "float32", (products.PLAIN, quick))
    kernel, said = products.fastest("float32", weights, 64)
    assert kernel is quick and "as fast as F.linear" in said
    monkeypatch.setattr(products, "SMALL", 2**20)
    assert products.fastest("float32", weights, 64)[0] is products.PLAIN
    monkeypatch.setitem(products.KERNELS, "float32", (missing,))
    with pytest.raises(RuntimeError, match="missing: no such operator"):
        products.fastest("float32", weights, 5)


def test_a_result_that_is_no_number_is_wrong(monkeypatch):
    def pack(weight, bias, relu, rows):
        return lambda x: math.nan * torch.nn.functional.linear(x, weight, bias)

    nan = products.Kernel("nan", pack, 1e-5, 0)
    monkeypatch.setitem(products.KERNELS, "float32", (nan, products.PLAIN))
    kernel, said = products.fastest("float32", [torch.randn(6, 5)], 5)
    assert kernel is products.PLAIN and "nan: its result is off by nan" in said


@pytest.mark.parametrize(
    ("first", "second", "chosen"),
    [(1.0, 0.7, "second"), (1.0, 0.9, "first"), (1.0, 1.1, "first")],
)
def test_another_kernel_is_taken_only_where_it_is_clearly_faster(
    monkeypatch, first, second, chosen
):
    """By a clock that only the products move."""
    now = [0.0]

    def kernel(name, seconds):
        def pack(weight, bias, relu, rows):
            def multiply(x):
                now[0] += seconds
                return torch.nn.functional.linear(x, weight, bias)

            return multiply

        return products.Kernel(name, pack, 1e-5, 0)

    kernels = (kernel("first", first), kernel("second", second))
    monkeypatch.setitem(products.KERNELS, "float32", kernels)
    monkeypatch.setattr(products, "SMALL", 0)
    monkeypatch.setattr(products.time, "perf_counter", lambda: now[0])
    assert products.fastest("float32", [torch.randn(6, 5)], 5)[0].name == chosen


INT8 = products.KERNELS["int8"]


@pytest.mark.parametrize("kernel", INT8, ids=lambda kernel: kernel.name)
def test_int8_has_a_scale_for_each_output_channel(kernel):
    """Also for one of zeros, whose result is the bias alone."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(8, 32, generator=generator) * 10.0 ** torch.arange(-6, 2).unsqueeze(1)
    weight[3] = 0
    bias = torch.zeros(8)
    bias[3] = 2.5
    x = torch.randn(5, 32, generator=generator)
    before = torch.backends.quantized.engine
    got = kernel.pack(weight, bias, False, 5)(x)
    assert torch.backends.quantized.engine == before
    expected = x @ weight.t() + bias
    error = (got - expected).abs().amax(0) / expected.abs().amax(0)
    assert error.max() < kernel.tolerance
    assert torch.equal(got[:, 3], torch.full((5,), 2.5))


@pytest.mark.parametrize("vnni", [False, True])
@pytest.mark.parametrize("kernel", INT8, ids=lambda kernel: kernel.name)
def test_int8_takes_seven_bits_of_the_input_where_sums_have_only_sixteen(kernel, vnni, monkeypatch):
    """Of two products of 8 bits each the sum may have 17: FBGEMM's, on a CPU without VNNI."""
    monkeypatch.setattr(products, "_has_vnni", lambda: vnni)
    product = kernel.pack(torch.eye(16), None, False, 5)
    x = torch.linspace(0, 1, 4096).view(-1, 16)
    levels = len(product(x).unique())
    assert 120 <= levels <= 128 if not vnni else 240 <= levels <= 256


def test_a_product_leaves_columns_out_where_at_most_a_tenth_is_active():
    units, rows, outputs = 4000, 3, 5
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(outputs, units, generator=generator)
    bias = torch.randn(outputs, generator=generator)
    whole = []

    def product(h):
        whole.append(len(h))
        return torch.nn.functional.linear(h, weight, bias)

    multiply = products._active_columns(weight.t().contiguous(), bias, product)
    for active, expected in ((0, 0), (390, 0), (401, 1), (700, 1), (4000, 1)):
        h = torch.zeros(rows, units)
        columns = torch.randperm(units, generator=generator)[:active]
        # each row has others of them
        for place, column in enumerate(columns.tolist()):
            h[place % rows, column] = 1 + torch.rand((), generator=generator)
        whole.clear()
        y = multiply(h)
        assert len(whole) == expected, active
        torch.testing.assert_close(y, torch.nn.functional.linear(h, weight, bias))


def test_a_pool_keeps_products_apart_that_are_different_and_shares_the_others():
    torch.manual_seed(1)
    a, b = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    pool = products.ProductPool(products.PLAIN, 5, {})
    x = torch.randn(3, 4)
    one, with_relu = pool.rows_of([a]), pool.rows_of([a], relu=True)
    torch.testing.assert_close(one(x), a(x))
    torch.testing.assert_close(with_relu(x), a(x).relu())
    torch.testing.assert_close(pool.rows_of([a, b])(x), torch.cat([a(x), b(x)], 1))
    both = torch.cat([x, 2 * x], 1)
    torch.testing.assert_close(pool.columns_of([a, b])(both), a(x) + b(2 * x))
    assert pool.rows_of([a]) is one and pool.rows_of([b, a]) is not pool.rows_of([a, b])
