"""The fast path gives what the plain path gives: models, layouts, options of the search."""

from __future__ import annotations

import copy
import logging
import math

import pytest
import torch
from fairseq.tasks.translation import TranslationConfig
from helpers import PRE_NORM, SMALL, batch, built_at_random, logits
from models.sharing_cases import CASES

from fairseq_ffn.decoding import fast_model, fast_search, products
from fairseq_ffn.tasks.translation_fast import TranslationFastTask
from fast_decoding.searches import CONFIG, WORDS, assert_same, is_fast, search, settings

SINGLE = torch.float32
MODELS = {
    "baseline": ("transformer_ffn_tiny", {}),
    "baseline, pre-norm": ("transformer_ffn_tiny", PRE_NORM),
    "no FFN in the decoder": ("transformer_ffn_tiny_shared_enc_no_dec", {}),
    "one wide": ("transformer_ffn_tiny_one_wide", {"encoder_ffn_embed_dim": 144}),
    "one wide, pre-norm": (
        "transformer_ffn_tiny_one_wide",
        {"encoder_ffn_embed_dim": 144, **PRE_NORM},
    ),
    "no FFN at all": ("transformer_ffn_tiny_no_enc_no_dec", {}),
    "parallel": ("transformer_ffn_tiny_parallel", {}),
    "parallel, pre-norm": ("transformer_ffn_tiny_parallel", PRE_NORM),
    "parallel, own norms, scaled": (
        "transformer_ffn_tiny_parallel",
        {**PRE_NORM, "parallel_norm": "own", "parallel_scale": "sqrt"},
    ),
    "parallel, scaled": ("transformer_ffn_tiny_parallel", {"parallel_scale": "sqrt"}),
    "one wide, parallel": (
        "transformer_ffn_tiny_one_wide_parallel",
        {"encoder_ffn_embed_dim": 144},
    ),
    "cross-attention beside the FFN": (
        "transformer_ffn_tiny",
        {"decoder_block": "parallel-cross-ffn", **PRE_NORM},
    ),
    "cross-attention beside the FFN, own norms, scaled": (
        "transformer_ffn_tiny",
        {
            "decoder_block": "parallel-cross-ffn",
            "parallel_norm": "own",
            "parallel_scale": "sqrt",
            **PRE_NORM,
        },
    ),
    "GELU, learned positions": (
        "transformer_ffn_tiny",
        {"activation_fn": "gelu", "decoder_learned_pos": True, "encoder_learned_pos": True},
    ),
    "no positions, norm of embeddings, no final norm": (
        "transformer_ffn_tiny",
        {
            "no_token_positional_embeddings": True,
            "layernorm_embedding": True,
            "no_decoder_final_norm": True,
            "no_scale_embedding": True,
            **PRE_NORM,
        },
    ),
}
POST_NORM = {"encoder_normalize_before": False, "decoder_normalize_before": False}


def model(name: str, seed: int = 1):
    """Small, with random weights."""
    arch, flags = MODELS[name]
    return built_at_random(arch, dtype=SINGLE, seed=seed, **{**SMALL, **POST_NORM, **flags})


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("path", ["model", "fast"])
def test_every_kind_of_model_gives_the_plain_hypotheses(name, path):
    one = model(name)
    assert_same(search([one], path), search([one], "plain"))


@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_sharing(name):
    flags = {"encoder_layers": 4, "decoder_layers": 4, **CASES[name].flags}
    one = built_at_random("transformer_ffn", dtype=SINGLE, **{**SMALL, **flags})
    assert_same(search([one]), search([one], "plain"))


OPTIONS = {
    "greedy": {"beam": 1},
    "beam 2": {"beam": 2},
    "beam 14, nearly the vocabulary": {"beam": 14},
    "length penalty": {"lenpen": 2.0},
    "unnormalised": {"unnormalized": True},
    "unknown words": {"unkpen": -3.0},
    "no unknown words": {"unkpen": 1000.0},
    "least length": {"min_len": 8},
    "limit of length": {"max_len_a": 0.5, "max_len_b": 1},
    "forced length": {"max_len_b": 40, "min_len": 40},
    "temperature": {"temperature": 1.7},
    "diverse beams": {"diverse_beam_groups": 2},
    "diverse siblings": {"diversity_rate": 0.5},
    "sampling": {"sampling": True, "sampling_topk": 5},
    "length of the source": {"match_source_len": True},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_of_the_search(name):
    one = model("baseline, pre-norm")
    plain = search([one], "plain", **OPTIONS[name])
    for path in ("model", "fast"):
        assert_same(search([one], path, **OPTIONS[name]), plain)


def test_a_given_first_word_and_words_that_are_never_chosen():
    one = model("baseline, pre-norm")
    options = {"bos_token": 7, "suppressed": ("w3", "w20"), "min_len": 5}
    plain = search([one], "plain", **options)
    for path in ("model", "fast"):
        assert_same(search([one], path, **options), plain)
    assert plain[0][0]["tokens"].tolist() != search([one], "plain")[0][0]["tokens"].tolist()


def test_an_end_that_is_forbidden_ends_nothing():
    """Though it is among the best where fewer words are allowed than there are beams."""
    one = model("baseline, pre-norm")
    options = {"suppressed": [f"w{word}" for word in range(2, 27)], "min_len": 2, "beam": 14}
    plain = search([one], "plain", **options)
    fast = search([one], **options)
    assert_same(fast, plain)
    assert all(math.isfinite(h["score"]) for sentence in fast for h in sentence)


def test_a_row_of_no_numbers_is_never_gone_on_with():
    """Here one of the models knows nothing of a word: its scores after it are all NaN."""
    ours = model("baseline")
    stock = built_at_random("transformer", dtype=SINGLE, seed=4, **SMALL)
    plain = search([ours, stock], "plain")
    often = plain[0][0]["tokens"][0]
    stock.decoder.embed_tokens.weight.data[often] = math.nan
    plain = search([ours, stock], "plain")
    assert_same(search([ours, stock]), plain)
    assert all(often not in h["tokens"][:-2] for sentence in plain for h in sentence)


@pytest.mark.parametrize("at_once", [1, 2**20])
@pytest.mark.parametrize(
    "prefix",
    [
        None,
        [[5, 6], [5, 6], [7, 8], [9, 9], [9, 8]],
        # most sentences are free while one still has a prefix to follow
        [
            [5, *[1] * 8],
            [6, *[1] * 8],
            [7, *[1] * 8],
            [8, *[1] * 8],
            [5, 6, 7, 8, 9, 10, 11, 12, 13],
        ],
    ],
)
@pytest.mark.parametrize("size", [2, 3])
def test_no_repeated_sequences_of_words(size, prefix, at_once, monkeypatch):
    """fairseq's own search doesn't block on a CPU unless its blocker is given the tokens alone.

    A large vocabulary is gone through a few sentences at a time.
    """
    monkeypatch.setattr(fast_search, "AT_ONCE", at_once)
    one = model("baseline, pre-norm")
    options = {"no_repeat_ngram_size": size, "prefix": prefix and torch.tensor(prefix)}
    fast = search([one], **options)
    for sentence in fast:
        for hypothesis in sentence:
            words = hypothesis["tokens"].tolist()
            runs = [tuple(words[place : place + size]) for place in range(len(words) + 1 - size)]
            assert len(set(runs)) == len(runs)
    assert_same(fast, search([one], "plain", mend_blocker=True, **options))


@pytest.mark.parametrize(
    "prefix",
    [
        [[5], [6], [7], [8], [9]],
        [[5, 6, 7], [8, 9, 10], [11, 12, 2], [13, 14, 15], [16, 17, 18]],
        [[5, 6, 7], [8, 1, 1], [11, 12, 2], [13, 2, 1], [3, 17, 1]],
        # sentences end while others still have a prefix to follow
        [[5, 6, 7, 8], [8, 2, 1, 1], [11, 12, 13, 14], [13, 2, 1, 1], [3, 17, 18, 19]],
    ],
)
@pytest.mark.parametrize("more", [{}, {"min_len": 4, "unkpen": 1.0}])
def test_prefixes_also_of_different_length_and_with_an_end(prefix, more):
    one = model("baseline")
    prefix = torch.tensor(prefix)
    plain = search([one], "plain", prefix=prefix, **more)
    for path in ("model", "fast"):
        assert_same(search([one], path, prefix=prefix, **more), plain)


@pytest.mark.parametrize("seed", range(6))
def test_other_sentences_and_batches(seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 20, (1 + 3 * seed,), generator=generator).tolist()
    one = model("baseline", seed=seed + 5)
    plain = search([one], "plain", seed=seed, lengths=lengths)
    for path in ("model", "fast"):
        assert_same(search([one], path, seed=seed, lengths=lengths), plain)


@pytest.mark.parametrize("few", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", ["one wide", "baseline, pre-norm", "one wide, parallel"])
@pytest.mark.parametrize("kernel", [0, 1])
def test_hidden_units_that_are_zero_are_left_out(name, few, kernel, monkeypatch):
    """Exactly, whether some, few or all units may be left out."""
    monkeypatch.setattr(products, "WIDE", 1)
    monkeypatch.setattr(products, "FEW", few)
    monkeypatch.setitem(products.KERNELS, "float32", products.KERNELS["float32"][kernel:][:1])
    left_out = []
    real = products._active_columns

    def noted(by_unit, bias, product):
        return real(by_unit, bias, lambda h: left_out.append(False) or product(h))

    monkeypatch.setattr(products, "_active_columns", noted)
    one = model(name)
    assert_same(search([one]), search([one], "plain"))
    assert bool(left_out) == (few < 1.0)


def test_ensembles_of_our_models_and_with_one_of_fairseq():
    ours = [model("baseline"), model("one wide")]
    assert_same(search(ours), search(ours, "plain"))
    stock = built_at_random("transformer", dtype=SINGLE, seed=4, **SMALL)
    mixed = [model("baseline"), stock]
    assert_same(search(mixed), search(mixed, "plain"))


def test_alignments_are_those_of_the_plain_path():
    one = model("baseline")
    options = {"print_alignment": "hard", "beam": 2}
    fast, plain = search([one], **options), search([one], "plain", **options)
    assert_same(fast, plain)
    alignments = [[h["alignment"] for h in sentence] for sentence in fast]
    assert alignments == [[h["alignment"] for h in sentence] for sentence in plain]
    assert any(alignment for sentence in alignments for alignment in sentence)


def test_a_translation_does_not_depend_on_its_batch():
    one = model("baseline")
    lengths = (6, 4, 7, 3, 9)
    together = search([one], lengths=lengths)
    sources = batch(lengths, [3] * len(lengths), seed=3)["src_tokens"]
    prepared = copy.deepcopy(one)
    config = settings()
    prepared.prepare_for_inference_(config)
    for number, length in enumerate(lengths):
        sentence = sources[number : number + 1, -length:]
        alone = _search_sources(prepared, config, sentence)
        assert_same(alone, together[number : number + 1])


def _search_sources(prepared, config, sources):
    task = TranslationFastTask(TranslationConfig(**CONFIG), WORDS, WORDS)
    generator = task.build_generator([prepared], config.generation)
    sizes = torch.tensor([sources.shape[1]] * len(sources))
    sample = {"net_input": {"src_tokens": sources, "src_lengths": sizes}}
    return task.inference_step(generator, [prepared], sample)


def test_a_prepared_model_keeps_its_names_and_scores_as_before():
    one = model("one wide")
    before = {name: value.clone() for name, value in one.state_dict().items()}
    expected = logits(one, batch())
    one.prepare_for_inference_(settings())
    assert is_fast(one)
    after = one.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert torch.allclose(logits(one, batch()), expected, atol=1e-6)
    assert one.decoder.layers is one.decoder.plain.layers
    one.prepare_for_inference_(settings())
    assert is_fast(one) and not isinstance(one.decoder.plain, fast_model.FastDecoder)
    assert list(one.state_dict()) == list(before)


@pytest.mark.parametrize(
    ("flags", "generation", "reason"),
    [
        ({"inference": "plain"}, {}, "inference is 'plain'"),
        ({}, {"print_alignment": "hard"}, "--print-alignment"),
        ({}, {"retain_dropout": True}, "--retain-dropout"),
        ({}, {"score_reference": True}, "--score-reference"),
        ({"no_cross_attention": True}, {}, "--no-cross-attention"),
        ({"cross_self_attention": True}, {}, "--cross-self-attention"),
        ({"adaptive_softmax_cutoff": "10,20"}, {}, "--adaptive-softmax-cutoff"),
        ({"decoder_output_dim": 8}, {}, "--decoder-output-dim"),
        ({"scale_heads": True}, {}, "--scale-heads"),
        ({"scale_fc": True}, {}, "--scale-fc"),
    ],
)
def test_what_is_not_offered_decodes_on_the_plain_path_and_says_why(
    flags, generation, reason, caplog
):
    one = built_at_random("transformer_ffn", dtype=SINGLE, **{**SMALL, **flags})
    with caplog.at_level(logging.INFO):
        one.prepare_for_inference_(settings(**generation))
    assert not is_fast(one)
    lines = [record.message for record in caplog.records if "decoding:" in record.message]
    assert len(lines) == 1 and reason in lines[0]


def test_another_device_takes_fairseqs_path(caplog):
    one = built_at_random("transformer_ffn", dtype=SINGLE, **SMALL).to("meta")
    with caplog.at_level(logging.INFO):
        one.prepare_for_inference_(settings())
    assert not is_fast(one) and "plain model, since the model is on device meta" in caplog.text


@pytest.mark.parametrize(
    ("move", "reason"),
    [
        (lambda one: one.double(), "the model's weights are torch.float64"),
        (lambda one: one.to("meta"), "the model is on device meta"),
    ],
)
def test_a_model_that_is_moved_after_it_was_prepared_takes_fairseqs_path(move, reason, caplog):
    """As the hub interface does it."""
    one, plain = prepared()
    assert is_fast(one.float()) and is_fast(one.cpu())  # these change nothing
    with caplog.at_level(logging.INFO):
        move(one)
    assert not is_fast(one) and f"decoding: plain model, since {reason}" in caplog.text
    if reason.endswith("float64"):
        assert_same(search([one]), search([plain.double()], "plain"), tolerance=1e-12)


def test_double_precision_stays_double(caplog):
    one = built_at_random("transformer_ffn", **SMALL)
    with caplog.at_level(logging.INFO):
        one.prepare_for_inference_(settings())
    assert not is_fast(one) and "torch.float64" in caplog.text


def test_the_log_says_that_the_fast_path_is_taken(caplog):
    with caplog.at_level(logging.INFO):
        search([model("baseline")], "fast")
    assert "decoding: fast model, float32" in caplog.text
    assert "decoding: fast beam search" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        search([model("baseline")], "fast", diverse_beam_groups=2)
    assert "decoding: fairseq's search, because of --diverse-beam-groups" in caplog.text


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize("name", ["baseline", "parallel, pre-norm", "one wide"])
def test_low_precision_is_close(name, precision):
    one = model(name)
    one.args.inference = precision
    scores = []
    for path in ("fast", "plain"):
        hypotheses = search([one], path, beam=1, max_len_b=1, min_len=1)
        scores.append(torch.stack([h[0]["positional_scores"][0] for h in hypotheses]))
    difference = (scores[0] - scores[1]).abs().max()
    assert 0 < difference < 0.3


def test_weights_of_several_layers_are_packed_once():
    flags = {"encoder_ffn_layout": "shared", "decoder_ffn_layout": "shared"}
    shared, own = (
        built_at_random("transformer_ffn", dtype=SINGLE, **{**SMALL, **more})
        for more in (flags, {})
    )
    sizes = []
    for one in (shared, own):
        pool = products.ProductPool(products.PLAIN, 5, {})
        for layer in one.encoder.layers:
            fast_model.encoder_sub_blocks(layer, pool, SINGLE)
        sizes.append(pool.weights)
    ffn = 2 * 16 * 24
    assert sizes[1] - sizes[0] == 2 * ffn


def test_weights_that_layers_of_a_parallel_decoder_share_are_packed_once(monkeypatch):
    """So that they aren't part of one product with what is a layer's own."""
    pools = []

    class Noted(products.ProductPool):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            pools.append(self)

    monkeypatch.setattr(fast_model, "ProductPool", Noted)
    sizes = []
    for layout in ("shared", "independent"):
        flags = {"decoder_ffn_layout": layout, "decoder_block": "parallel"}
        one = built_at_random(
            "transformer_ffn", dtype=SINGLE, **{**SMALL, **flags, "layernorm_embedding": True}
        )
        one.prepare_for_inference_(settings())
        sizes.append(pools[-1].weights)
    assert sizes[1] - sizes[0] == 2 * (2 * 16 * 24)


@pytest.mark.parametrize(
    ("block", "products_of_a_layer"),
    # read, write, and the source's keys and values; in series for each of three sub-blocks
    [("parallel", 3), ("parallel-cross-ffn", 5), ("series", 7)],
)
def test_products_that_read_the_same_are_one(block, products_of_a_layer):
    flags = {"decoder_block": block, "layernorm_embedding": True, **PRE_NORM}
    one = built_at_random("transformer_ffn", dtype=SINGLE, **{**SMALL, **flags})
    calls = []

    def pack(weight, bias, relu, rows):
        product = products.PLAIN.pack(weight, bias, relu, rows)
        return lambda x: calls.append(tuple(weight.shape)) or product(x)

    pool = products.ProductPool(products.Kernel("counted", pack, 0, 0), 5, {})
    (*blocks,) = fast_model.decoder_sub_blocks(one.decoder.layers[0], 0, pool, SINGLE)
    (cross,) = (
        branch
        for sub_block in blocks
        for strand in sub_block.strands
        for branch in strand.branches
        if isinstance(branch, fast_model.DecoderCrossAttention)
    )
    cache = fast_model.BeamCache(1, 1, 2, cross.heads, cross.width, torch.empty(0))
    now = fast_model.Pass(1, None, cache, [cross.remember(torch.randn(1, 4, 16))])
    cache.advance()
    x = torch.randn(2, 16)
    with torch.no_grad():
        for sub_block in blocks:
            x = sub_block(x, now)
    assert len(calls) == products_of_a_layer


def prepared(name: str = "baseline"):
    """A fast model, and the same on fairseq's path."""
    fast = model(name)
    plain = copy.deepcopy(fast)
    fast.prepare_for_inference_(settings())
    assert is_fast(fast)
    return fast, plain


def steps_of(one, encoder_out, tokens, reorder=()):
    """Logits of each step of an incremental decoder; ``reorder`` by step."""
    state, found, reorder = {}, [], dict(reorder)
    with torch.no_grad():
        for step in range(tokens.shape[1]):
            if step in reorder:
                one.decoder.reorder_incremental_state_scripting(state, reorder[step])
                encoder_out = one.encoder.reorder_encoder_out(encoder_out, reorder[step])
            logits, _ = one.decoder(tokens[:, : step + 1], encoder_out, incremental_state=state)
            found.append(logits[:, -1])
    return torch.stack(found, 1), encoder_out


def test_the_encoders_output_is_that_of_the_plain_one_also_at_pads():
    fast, plain = prepared()
    source = batch()["src_tokens"]
    with torch.no_grad():
        found, expected = fast.encoder(source), plain.encoder(source)
    assert bool(expected["encoder_padding_mask"][0].any())
    torch.testing.assert_close(found["encoder_out"], expected["encoder_out"])
    assert torch.equal(found["encoder_padding_mask"][0], expected["encoder_padding_mask"][0])


@pytest.mark.parametrize("order", [[0, 0, 1, 1, 2, 2], [2, 0, 1, 1], [1]])
def test_rows_may_come_in_any_order_of_sentences(order):
    """fairseq's searches give each sentence as many rows as the next; others may not."""
    fast, plain = prepared()
    source, order = batch()["src_tokens"], torch.tensor(order)
    tokens = torch.randint(4, 31, (len(order), 6), generator=torch.Generator().manual_seed(1))
    found = []
    for one in (fast, plain):
        with torch.no_grad():
            encoder_out = one.encoder.reorder_encoder_out(one.encoder(source), order)
        found.append(steps_of(one, encoder_out, tokens)[0])
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)


def test_a_whole_target_is_scored_after_sentences_were_dropped_twice():
    """By the model's own decoder, which wants the source once for each row."""
    fast, plain = prepared()
    source = batch()["src_tokens"]
    beams = torch.arange(3).repeat_interleave(2)
    drops = {2: torch.tensor([2, 2, 4, 5]), 4: torch.tensor([3, 2])}
    tokens = torch.randint(4, 31, (2, 6), generator=torch.Generator().manual_seed(1))
    found = []
    for one in (fast, plain):
        with torch.no_grad():
            encoder_out = one.encoder.reorder_encoder_out(one.encoder(source), beams)
            for order in drops.values():
                encoder_out = one.encoder.reorder_encoder_out(encoder_out, order)
            found.append(one.decoder(tokens, encoder_out)[0])
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)


def test_positions_go_on_after_the_end_of_the_table():
    """As in fairseq, which makes a longer table of sinusoidal positions."""
    arch, flags = MODELS["baseline"]
    fast = built_at_random(
        arch, dtype=SINGLE, **{**SMALL, **POST_NORM, **flags, "max_target_positions": 4}
    )
    plain = copy.deepcopy(fast)
    fast.prepare_for_inference_(settings())
    source = batch()["src_tokens"]
    tokens = torch.randint(4, 31, (3, 9), generator=torch.Generator().manual_seed(1))
    found = []
    for one in (fast, plain):
        with torch.no_grad():
            encoder_out = one.encoder(source)
        found.append(steps_of(one, encoder_out, tokens)[0])
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)


def test_in_training_mode_the_models_own_layers_compute():
    """With their dropout and gradients, whoever drives the stacks one by one."""
    fast, _ = prepared()
    fast.encoder.train()
    fast.decoder.train()
    sentences = batch()
    state = {}
    scores, _ = fast.decoder(
        sentences["prev_output_tokens"][:, :1],
        fast.encoder(sentences["src_tokens"]),
        incremental_state=state,
    )
    assert fast_model.STATE not in state
    scores.sum().backward()
    for stack in (fast.encoder, fast.decoder):
        assert stack.layers[0].fc1.weight.grad is not None
