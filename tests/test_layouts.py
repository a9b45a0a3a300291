"""The layout language: what each form means, that every layout can be written down, and errors."""

from __future__ import annotations

import subprocess
import sys
from math import ceil
from typing import Dict, List, Optional, Tuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairseq_ffn.errors import UserError
from fairseq_ffn.layouts import (
    FORMS,
    KEYWORDS,
    STRATEGIES,
    Layout,
    LayoutError,
    ModelLayouts,
    layout_flag,
    parse_layout,
    parse_model_layouts,
)

FLAG = "--encoder-ffn-layout"

# a busy machine is no failure
settings.register_profile(
    "busy", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("busy")

depths = st.integers(min_value=1, max_value=24)
names = st.sampled_from(["a", "B", "0", "7", "_", "a.b", "none_", "@a", "@0", "@shared", "@_x.Y"])
#: depth and number of modules that fits it
shared_depths = depths.flatmap(
    lambda layers: st.tuples(st.just(layers), st.integers(min_value=1, max_value=layers))
)


@st.composite
def layout_texts(draw: st.DrawFn) -> Tuple[str, int]:
    """Any valid layout string with its number of layers."""
    layers, modules = draw(shared_depths)
    form = draw(st.sampled_from((*KEYWORDS, *STRATEGIES, "explicit")))
    if form in STRATEGIES:
        return f"{form}:{modules}", layers
    if form == "explicit":
        row = st.lists(st.one_of(names, st.just("-")), min_size=layers, max_size=layers)
        return draw(st.sampled_from((",", ", "))).join(draw(row)), layers
    return form, layers


def indices(text: str, layers: int) -> List[int]:
    """Modules of a strategy's layout as numbers."""
    return [int(name) for name in parse_layout(text, layers).modules if name is not None]


# --- every form -----------------------------------------------------------------------------------


@given(depths)
def test_independent_gives_every_layer_its_own(layers: int) -> None:
    layout = parse_layout("independent", layers)
    assert len(set(layout.modules)) == len(layout.modules) == layers
    assert layout.is_independent and not layout.has_sharing and layout.absent == ()


@given(depths)
def test_shared_gives_all_layers_one(layers: int) -> None:
    layout = parse_layout("shared", layers)
    assert list(layout.groups.values()) == [tuple(range(layers))]
    assert layout.has_sharing == (layers > 1)  # one layer alone shares with nobody
    assert layout.common == ()


@given(depths)
def test_none_leaves_all_layers_without(layers: int) -> None:
    layout = parse_layout("none", layers)
    assert layout.groups == {} and layout.absent == tuple(range(layers))
    assert not layout.has_sharing and not layout.is_independent


@given(depths)
def test_tied_is_one_module_common_to_both_stacks(layers: int) -> None:
    layout = parse_layout("tied", layers)
    assert layout == parse_layout(",".join(["@tied"] * layers), layers)
    assert layout.common == ("@tied",) and layout.groups["@tied"] == tuple(range(layers))
    assert layout.has_sharing and not layout.is_independent  # also with a single layer


@given(shared_depths, st.sampled_from(STRATEGIES))
def test_strategies_use_all_their_modules(depth: Tuple[int, int], strategy: str) -> None:
    layers, modules = depth
    found = indices(f"{strategy}:{modules}", layers)
    assert len(found) == layers and set(found) == set(range(modules))


@given(shared_depths)
def test_sequence_makes_runs_of_nearly_equal_length(depth: Tuple[int, int]) -> None:
    layers, modules = depth
    layout = parse_layout(f"sequence:{modules}", layers)
    runs = list(layout.groups.values())
    assert [layer for run in runs for layer in run] == list(range(layers))  # contiguous, in order
    lengths = {len(run) for run in runs}
    assert max(lengths) - min(lengths) <= 1


@given(shared_depths)
def test_cycle_repeats_after_m_layers(depth: Tuple[int, int]) -> None:
    layers, modules = depth
    found = indices(f"cycle:{modules}", layers)
    assert found[:modules] == list(range(modules))
    assert all(found[layer] == found[layer - modules] for layer in range(modules, layers))


@given(st.integers(min_value=1, max_value=20))
def test_cycle_rev_over_two_rounds_is_a_palindrome(modules: int) -> None:
    found = indices(f"cycle-rev:{modules}", 2 * modules)
    assert found == found[::-1] == [*range(modules), *reversed(range(modules))]


@given(shared_depths)
def test_cycle_rev_follows_takase_and_kiyono(depth: Tuple[int, int]) -> None:
    layers, modules = depth

    def rule(i: int) -> int:
        """Their algorithm 1, CYCLE (REV), with its layers and modules counted from 1."""
        if i <= modules or i <= modules * (ceil(layers / modules) - 1):
            return (i - 1) % modules + 1
        return modules - (i - 1) % modules

    theirs = [rule(i) for i in range(1, layers + 1)]
    if layers == modules:  # no sharing: only the names differ
        assert parse_layout(f"cycle-rev:{modules}", layers).is_independent
    else:
        assert [module + 1 for module in indices(f"cycle-rev:{modules}", layers)] == theirs


@given(depths, st.sampled_from(STRATEGIES))
def test_strategies_with_one_module_share_it(layers: int, strategy: str) -> None:
    assert set(indices(f"{strategy}:1", layers)) == {0}
    assert parse_layout(f"{strategy}:{layers}", layers).is_independent


@pytest.mark.parametrize(
    ("text", "layers", "modules"),
    [
        ("sequence:2", 6, "0 0 0 1 1 1"),
        ("sequence:3", 6, "0 0 1 1 2 2"),
        ("sequence:4", 6, "0 0 1 2 2 3"),
        ("cycle:2", 6, "0 1 0 1 0 1"),
        ("cycle:3", 6, "0 1 2 0 1 2"),
        ("cycle:4", 6, "0 1 2 3 0 1"),
        ("cycle-rev:2", 6, "0 1 0 1 1 0"),
        ("cycle-rev:3", 6, "0 1 2 2 1 0"),
        ("cycle-rev:3", 5, "0 1 2 2 1"),
        ("cycle-rev:2", 5, "0 1 0 1 1"),
        ("cycle-rev:3", 9, "0 1 2 0 1 2 2 1 0"),
        ("a,a,b,-,c,c", 6, "a a b - c c"),
        ("a, @b ,-", 3, "a @b -"),
        (" shared ", 2, "shared shared"),
        ("one", 1, "one"),
        ("-", 1, "-"),
        ("-,-", 2, "- -"),
    ],
)
def test_known_layouts(text: str, layers: int, modules: str) -> None:
    expected = tuple(None if name == "-" else name for name in modules.split())
    assert parse_layout(text, layers).modules == expected


def test_groups_come_in_the_order_of_their_first_layers() -> None:
    layout = parse_layout("b,-,a,b,@c,-", 6)
    assert list(layout.groups.items()) == [("b", (0, 3)), ("a", (2,)), ("@c", (4,))]
    assert layout.absent == (1, 5) and layout.common == ("@c",)


@given(layout_texts())
def test_groups_and_absent_layers_partition_the_stack(written: Tuple[str, int]) -> None:
    layout = parse_layout(*written)
    layers = [layer for group in layout.groups.values() for layer in group]
    assert sorted((*layers, *layout.absent)) == list(range(written[1]))
    assert layout.is_independent == (len(layout.groups) == written[1] and not layout.common)


# --- writing, checking, pruning -------------------------------------------------------------------


@given(layout_texts())
def test_a_layout_written_down_reads_back(written: Tuple[str, int]) -> None:
    layout = parse_layout(*written)
    assert parse_layout(str(layout), written[1]) == layout


@given(layout_texts())
def test_blanks_around_a_layout_don_t_matter(written: Tuple[str, int]) -> None:
    assert parse_layout(f" {written[0]} ", written[1]) == parse_layout(*written)


@given(layout_texts(), st.data())
def test_a_pruned_layout_keeps_the_modules_of_its_layers(
    written: Tuple[str, int], data: st.DataObject
) -> None:
    text, layers = written
    kept = data.draw(
        st.lists(st.integers(min_value=0, max_value=layers - 1), min_size=1, unique=True)
    )
    layout = parse_layout(text, layers)
    pruned = layout.keep(kept)
    assert pruned.modules == tuple(layout.modules[layer] for layer in sorted(kept))
    assert parse_layout(str(pruned), len(kept)) == pruned


def test_pruning_keeps_the_order_of_the_stack() -> None:
    assert str(parse_layout("a,b,-,c", 4).keep([3, 0, 2])) == "a,-,c"
    assert str(parse_layout("shared", 6).keep([0, 2, 4])) == "shared"


# --- both stacks ----------------------------------------------------------------------------------


def test_all_five_default_to_independent() -> None:
    layouts = parse_model_layouts(3, 2)
    assert list(layouts.all) == [
        "--encoder-ffn-layout",
        "--decoder-ffn-layout",
        "--encoder-self-attn-layout",
        "--decoder-self-attn-layout",
        "--decoder-cross-attn-layout",
    ]
    assert [len(layout.modules) for layout in layouts.all.values()] == [3, 2, 3, 2, 2]
    assert all(layout.is_independent for layout in layouts.all.values())


def test_a_common_group_may_serve_any_layers_of_both_stacks() -> None:
    layouts = parse_model_layouts(3, 2, encoder_ffn="@x,a,@x", decoder_ffn="-,@x")
    assert layouts.encoder_ffn.common == layouts.decoder_ffn.common == ("@x",)
    parse_model_layouts(3, 2, encoder_ffn="tied", decoder_ffn="@tied,-")  # the same group
    parse_model_layouts(2, 2, encoder_self_attn="tied", decoder_self_attn="tied")


def test_equal_names_without_at_sign_are_two_modules() -> None:
    layouts = parse_model_layouts(2, 2, encoder_ffn="a,a", decoder_ffn="a,a")
    assert layouts.encoder_ffn.common == layouts.decoder_ffn.common == ()


@given(st.sets(names.filter(lambda name: name[0] == "@"), max_size=3), st.data())
def test_common_groups_must_be_in_both_stacks(common: set, data: st.DataObject) -> None:
    pool = sorted(common) + ["own", "-"]
    stack = st.lists(st.sampled_from(pool), min_size=3, max_size=3)
    encoder, decoder = data.draw(stack), data.draw(stack)
    texts = {"encoder_ffn": ",".join(encoder), "decoder_ffn": ",".join(decoder)}
    one_sided = {name for name in set(encoder) ^ set(decoder) if name[0] == "@"}
    if not one_sided:
        parse_model_layouts(3, 3, **texts)
        return
    with pytest.raises(LayoutError, match="both stacks must say so"):
        parse_model_layouts(3, 3, **texts)


# --- errors: one line that names flag, value and layer --------------------------------------------


@pytest.mark.parametrize(
    ("text", "layers", "parts"),
    [
        ("sharred", 6, ["'sharred'", "not a layout", FORMS]),
        ("", 6, ["''", "not a layout"]),
        ("Shared", 6, ["'Shared'", "not a layout"]),
        ("a,b", 3, ["'a,b'", "2 layers", "has 3"]),
        ("a,a,b,c", 3, ["'a,a,b,c'", "4 layers", "has 3"]),
        ("a,b b,c", 3, ["'a,b b,c'", "layer 1", "'b b'"]),
        ("a,,c", 3, ["'a,,c'", "layer 1", "''"]),
        ("a,b,@", 3, ["'a,b,@'", "layer 2", "'@'"]),
        ("a,b,ü", 3, ["layer 2", "'ü'"]),
        ("a,--,c", 3, ["layer 1", "'--'"]),
        ("shared,shared,none", 3, ["layer 0", "'shared'", "whole layout"]),
        ("a,b,tied", 3, ["layer 2", "'tied'", "whole layout"]),
        ("cycle:0", 6, [FLAG, "'cycle:0'", "at least one module"]),
        ("cycle:7", 6, ["'cycle:7'", "7 modules", "6 layers", "1 to 6"]),
        ("cycle:", 6, ["'cycle:'", "not a number"]),
        ("cycle:two", 6, ["'two'", "not a number"]),
        ("cycle:-1", 6, ["'-1'", "not a number"]),
        ("cycle:2.0", 6, ["'2.0'", "not a number"]),
        ("cycle:²", 6, ["'²'", "not a number"]),
        ("cycle:٢", 6, ["'٢'", "not a number"]),
        ("cycle:2:3", 6, ["'2:3'", "not a number"]),
        ("sequenz:2", 6, ["'sequenz:2'", "unknown strategy 'sequenz'", FORMS]),
        ("cycle_rev:2", 6, ["unknown strategy 'cycle_rev'"]),
        (":2", 6, ["unknown strategy ''"]),
    ],
)
def test_bad_strings(text: str, layers: int, parts: List[str]) -> None:
    with pytest.raises(LayoutError) as caught:
        parse_layout(text, layers, FLAG)
    _assert_one_line(caught.value, [FLAG, *parts])


@pytest.mark.parametrize("value", [None, 3, ["a", "b"]])
def test_not_a_string(value: object) -> None:
    with pytest.raises(LayoutError) as caught:
        parse_layout(value, 2, FLAG)  # type: ignore[arg-type]
    _assert_one_line(caught.value, [FLAG, repr(value), "not a string"])


@pytest.mark.parametrize(
    "text", ["a,,c", "a b,c", "cycle:x", "cycle:0", "wheel:2", "shared,none", "cycle:٢", ""]
)
def test_no_stack_has_it(text: str) -> None:
    for layers in range(1, 5):
        with pytest.raises(LayoutError):
            parse_layout(text, layers)


def test_what_is_offered_is_what_the_sub_block_can_have() -> None:
    for kind, never in (("self_attn", ["none", "-"]), ("cross_attn", ["none", "-", "tied", "@"])):
        flag = layout_flag("decoder", kind)
        with pytest.raises(LayoutError) as caught:
            parse_layout("wheel:2", 6, flag)
        offered = str(caught.value).partition("; use ")[2].replace("cycle-rev", "")
        assert "sequence:M" in offered and not any(word in offered for word in never)


@pytest.mark.parametrize(
    ("texts", "parts"),
    [
        (
            {"encoder_self_attn": "none"},
            ["--encoder-self-attn-layout", "'none'", "layer 0", "attention can't be absent"],
        ),
        (
            {"decoder_self_attn": "a,-,a"},
            ["--decoder-self-attn-layout", "'a,-,a'", "layer 1", "attention can't be absent"],
        ),
        (
            {"decoder_cross_attn": "a,b,-"},
            ["--decoder-cross-attn-layout", "'a,b,-'", "layer 2", "attention can't be absent"],
        ),
        (
            {"decoder_cross_attn": "tied"},
            ["--decoder-cross-attn-layout 'tied'", "encoder has no cross-attention"],
        ),
        (
            {"encoder_ffn": "tied"},
            ["--encoder-ffn-layout", "layer 0", "'@tied'", "--decoder-ffn-layout 'independent'"],
        ),
        (
            {"encoder_ffn": "tied", "decoder_ffn": "shared"},
            ["--encoder-ffn-layout", "layer 0", "'@tied'", "--decoder-ffn-layout 'shared'"],
        ),
        (
            {"decoder_ffn": "a,@x,a"},
            ["--decoder-ffn-layout", "'a,@x,a'", "layer 1", "'@x'", "--encoder-ffn-layout"],
        ),
        (
            {"encoder_ffn": "@x,a,a", "decoder_ffn": "@x,a,@y"},
            ["--decoder-ffn-layout", "layer 2", "'@y'", "--encoder-ffn-layout '@x,a,a'"],
        ),
        (
            {"decoder_self_attn": "tied"},
            ["--decoder-self-attn-layout", "layer 0", "--encoder-self-attn-layout 'independent'"],
        ),
        ({"decoder_ffn": "cycle:4"}, ["--decoder-ffn-layout", "'cycle:4'", "3 layers"]),
    ],
)
def test_layouts_that_do_not_go_together(texts: Dict[str, str], parts: List[str]) -> None:
    with pytest.raises(LayoutError) as caught:
        parse_model_layouts(3, 3, **texts)
    _assert_one_line(caught.value, parts)


def test_a_common_ffn_does_not_excuse_attention() -> None:
    with pytest.raises(LayoutError, match="--encoder-self-attn-layout"):
        parse_model_layouts(
            2, 2, encoder_ffn="@x,@x", decoder_ffn="@x,@x", encoder_self_attn="@x,@x"
        )


@given(st.text(max_size=12), st.integers(min_value=1, max_value=4))
def test_any_text_is_a_layout_or_one_clear_line(text: str, layers: int) -> None:
    layout: Optional[Layout] = None
    try:
        layout = parse_layout(text, layers, FLAG)
    except LayoutError as error:
        assert str(error).startswith(FLAG)
    if layout is not None:
        assert len(layout.modules) == layers and parse_layout(str(layout), layers) == layout


def test_errors_are_the_users_to_mend() -> None:
    assert issubclass(LayoutError, UserError)


@pytest.mark.parametrize(
    ("stack", "kind", "flag"),
    [
        ("encoder", "ffn", "--encoder-ffn-layout"),
        ("decoder", "cross_attn", "--decoder-cross-attn-layout"),
    ],
)
def test_flag_names(stack: str, kind: str, flag: str) -> None:
    assert layout_flag(stack, kind) == flag


def test_layouts_are_values() -> None:
    assert parse_layout("tied", 2) == Layout(("@tied", "@tied"))
    assert hash(parse_layout("shared", 2)) == hash(Layout(("shared", "shared")))
    with pytest.raises(AttributeError):
        parse_layout("shared", 2).modules = ()  # type: ignore[misc]
    assert isinstance(parse_model_layouts(1, 1), ModelLayouts)


def test_the_language_needs_neither_torch_nor_fairseq() -> None:
    """Loaded without the package's own import, which registers models with fairseq."""
    code = """
import sys, types
import importlib.util
package = types.ModuleType("fairseq_ffn")
package.__path__ = [sys.argv[1]]
sys.modules["fairseq_ffn"] = package
import fairseq_ffn.layouts, fairseq_ffn.costs
assert not {"torch", "fairseq", "numpy"} & set(sys.modules)
"""
    import fairseq_ffn.layouts as layouts

    folder = layouts.__file__.rsplit("/", 1)[0]
    subprocess.run([sys.executable, "-c", code, folder], check=True, timeout=60)


def _assert_one_line(error: Exception, parts: List[str]) -> None:
    line = str(error)
    assert "\n" not in line
    missing = [part for part in parts if part not in line]
    assert not missing, f"{missing} not in {line!r}"
