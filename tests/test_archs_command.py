"""``fairseq-ffn archs``: the tables, JSON, the extra row, and errors."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Dict, List

import pytest
from helpers import arguments

from fairseq_ffn.cli import archs
from fairseq_ffn.cli.main import main
from fairseq_ffn.costs import count_multiply_adds, count_parameters, shape_of
from fairseq_ffn.models.architectures import (
    ALL_SIZES,
    SIZES,
    all_architectures,
    architecture_name,
    configs_of,
)
from fairseq_ffn.models.transformer_ffn import TransformerFfnModel


@pytest.fixture(autouse=True)
def nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command must not build a model, which for Transformer Big takes seconds and memory."""

    def refuse(*unused: object) -> None:
        raise AssertionError("a model was built")

    monkeypatch.setattr(TransformerFfnModel, "build_model", refuse)


def printed(capsys: pytest.CaptureFixture, *flags: str) -> str:
    assert main(["archs", *flags]) == 0
    return capsys.readouterr().out


def records(capsys: pytest.CaptureFixture, *flags: str) -> List[Dict]:
    return json.loads(printed(capsys, "--json", *flags))["architectures"]


def row(table: str, name: str) -> List[str]:
    """Cells of the one row of that name; cells are at least two spaces apart."""
    (line,) = (line for line in table.splitlines() if line.split(" ")[0] == name)
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def refused(capsys: pytest.CaptureFixture, *flags: str) -> str:
    """The last line that a refused command prints; it exits with a status other than 0."""
    try:
        status = main(["archs", *flags])
    except SystemExit as stop:  # argparse
        status = stop.code
    assert status not in (0, None)
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()[-1]


# --- as a process ---------------------------------------------------------------------------------


def test_prints_every_architecture() -> None:
    command = [sys.executable, "-m", "fairseq_ffn.cli.main", "archs"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    for size, config in all_architectures():
        assert row(result.stdout, architecture_name(size, config))
    assert "custom" not in result.stdout
    assert "INFO" not in result.stdout and "tensorboardX" not in result.stdout


# --- tables ---------------------------------------------------------------------------------------


def test_rows_of_transformer_big(capsys: pytest.CaptureFixture) -> None:
    table = printed(capsys, "--size", "big")
    assert row(table, "transformer_ffn_big_baseline") == [
        *("transformer_ffn_big_baseline", "227.9M", "100", "176.4M", "100"),
        *("88.1M", "88.1M", "1.00", "independent 4,096", "independent 4,096", "series"),
        "fairseq's Transformer",
    ]
    assert row(table, "transformer_ffn_big_one_wide_parallel") == [
        *("transformer_ffn_big_one_wide_parallel", "227.9M", "100", "176.3M", "100"),
        *("641.7M", "37.7M", "3.86", "shared 49,152", "none", "parallel"),
        "One Wide FFN in PAF blocks (ours)",
    ]
    assert row(table, "transformer_ffn_big_shared_enc_no_dec")[1:5] == [
        "135.6M",
        "59",
        "84.0M",
        "48",
    ]
    assert "output projection: 51.6M" in table and "50,368 symbols" in table
    assert "transformer_ffn_base" not in table


def test_rows_of_the_decoder_only_model(capsys: pytest.CaptureFixture) -> None:
    table = printed(capsys, "--size", "decoder_only_big")
    assert row(table, "transformer_ffn_decoder_only_big_baseline") == [
        *("transformer_ffn_decoder_only_big_baseline", "202.7M", "100", "151.2M", "100"),
        *("140.5M", "151.0M", "1.00", "-", "independent 4,096", "series"),
        "Table 6, Decoder-Only",
    ]
    assert row(table, "transformer_ffn_decoder_only_big_shared_dec_wide")[7:10] == [
        *("8.28", "-", "shared 49,152"),
    ]


def test_columns_are_aligned(capsys: pytest.CaptureFixture) -> None:
    for size in ALL_SIZES:
        lines = printed(capsys, "--size", size).splitlines()
        header = next(line for line in lines if line.startswith("architecture "))
        rows = [line for line in lines if line.startswith("transformer_ffn_")]
        assert len(rows) == len(configs_of(size))
        for column in ("encoder FFN", "decoder FFN", "block", "from"):  # aligned to the left
            start = header.index(column)
            assert {line[start - 1] for line in rows} == {" "}
            assert all(line[start] != " " for line in rows)
        for column in (" total", " body", " source", " target", " x"):  # to the right
            end = header.index(column) + len(column)
            assert {line[end] for line in (header, *rows)} == {" "}
            assert all(line[end - 1] != " " for line in rows)


def test_tables_come_in_order_and_once(capsys: pytest.CaptureFixture) -> None:
    table = printed(capsys, "--size", "big", "tiny", "big")
    headings = [line.split(":")[0] for line in table.splitlines() if "output projection:" in line]
    assert headings == ["tiny", "big"]


def test_vocabulary_changes_embeddings_only(capsys: pytest.CaptureFixture) -> None:
    small, large = (
        records(capsys, "--size", "base", "--vocab-size", size) for size in ("32000", "50368")
    )
    for one, other in zip(small, large):
        assert one["parameters"]["body"] == other["parameters"]["body"]
        more = other["parameters"]["embedding"] - one["parameters"]["embedding"]
        assert more == (50368 - 32000) * 512
        assert one["ratio"]["multiply_adds"] == other["ratio"]["multiply_adds"]
    assert "32,000 symbols" in printed(capsys, "--vocab-size", "32000")


# --- JSON -----------------------------------------------------------------------------------------


def test_json_holds_the_exact_counts(capsys: pytest.CaptureFixture) -> None:
    found = json.loads(printed(capsys, "--json", "--vocab-size", "1000"))
    assert found["vocabulary"] == 1000
    names = [record["arch"] for record in found["architectures"]]
    assert names == [architecture_name(size, config) for size, config in all_architectures()]
    for record in found["architectures"]:
        args = arguments(record["arch"], share_all_embeddings=True)
        shape = shape_of(args, 1000)
        parameters, costs = count_parameters(shape), count_multiply_adds(shape)
        assert record["parameters"] == {
            "total": parameters.total,
            "body": parameters.body,
            "embedding": parameters.embedding,
        }
        assert record["multiply_adds"] == {
            "source_token": costs.source_token,
            "target_token": costs.target_token,
            "output_projection": costs.output_projection,
        }
        for name in ("layers", "embed_dim", "ffn_layout", "ffn_embed_dim", "block"):
            for stack in ("encoder", "decoder"):
                assert record[f"{stack}_{name}"] == getattr(args, f"{stack}_{name}")


def test_json_ratios_are_to_the_baseline_of_the_size(capsys: pytest.CaptureFixture) -> None:
    ratios = {r["arch"]: r["ratio"] for r in records(capsys, "--size", "big", "deep")}
    for size in ("big", "deep"):
        ones = {"total": 1, "body": 1, "multiply_adds": 1}
        assert ratios[f"transformer_ffn_{size}_baseline"] == ones
    wide = ratios["transformer_ffn_deep_one_wide"]
    assert wide["multiply_adds"] == pytest.approx(8.0, abs=0.01)
    assert wide["total"] == pytest.approx(1, abs=1e-3)


# --- one more row ---------------------------------------------------------------------------------


def test_a_layout_of_ones_own(capsys: pytest.CaptureFixture) -> None:
    flags = ("--encoder-ffn-layout", "cycle:2", "--share-ffn-norm")
    table = printed(capsys, "--size", "base", "big", *flags)
    lines = [line for line in table.splitlines() if line.startswith("custom")]
    assert len(lines) == 2
    assert "194.4M" in lines[1] and "cycle:2 4,096" in lines[1]
    assert lines[1].endswith("  --encoder-ffn-layout cycle:2 --share-ffn-norm")


def test_flags_of_the_extra_row_are_those_of_training(capsys: pytest.CaptureFixture) -> None:
    given = {
        "encoder_layers": 5,
        "decoder_layers": 2,
        "encoder_ffn_embed_dim": 300,
        "decoder_ffn_embed_dim": 7,
        "encoder_ffn_layout": "a,a,-,b,b",
        "encoder_self_attn_layout": "shared",
        "decoder_cross_attn_layout": "cycle-rev:2",
        "encoder_block": "parallel",
        "decoder_block": "parallel-cross-ffn",
        "parallel_norm": "own",
        "parallel_scale": "sqrt",
        "share_ffn_norm": True,
        "encoder_normalize_before": True,
        "decoder_normalize_before": True,
        "layernorm_embedding": True,
    }
    flags: List[str] = []
    for name, value in given.items():
        flags.append(f"--{name.replace('_', '-')}")
        flags += [] if value is True else [str(value)]
    record = records(capsys, "--size", "base", *flags)[-1]
    assert record["arch"] == record["config"] == "custom" and record["size"] == "base"
    shape = shape_of(
        arguments("transformer_ffn_base", share_all_embeddings=True, **given),
        archs.PAPER_VOCABULARY,
    )
    assert record["parameters"]["total"] == count_parameters(shape).total
    assert record["multiply_adds"]["source_token"] == count_multiply_adds(shape).source_token
    assert sorted(record["source"].split()) == sorted(flags)
    assert set(given) <= set(archs.CUSTOM_FLAGS)


def test_the_extra_row_is_of_the_sizes_that_have_both_stacks(capsys) -> None:
    sizes = {r["size"] for r in records(capsys, "--encoder-ffn-layout", "shared")}
    assert sizes == set(SIZES)
    rows = records(capsys, "--size", "decoder_only_big", "--decoder-ffn-layout", "cycle:2")
    assert rows[-1]["arch"] == "custom" and rows[-1]["encoder_layers"] == 0
    assert rows[-1]["parameters"]["body"] == rows[0]["parameters"]["body"] - 10 * 8_393_728
    line = refused(capsys, "--size", "decoder_only_big", "--encoder-ffn-layout", "shared")
    assert "size decoder_only_big: --encoder-ffn-layout shared" in line


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["0", "-5", "1e5", "50k", "", "٣"])
def test_bad_vocabulary(capsys: pytest.CaptureFixture, value: str) -> None:
    line = refused(capsys, f"--vocab-size={value}")
    assert "--vocab-size" in line and f"'{value}' is not a whole number above 0" in line


def test_unknown_size(capsys: pytest.CaptureFixture) -> None:
    line = refused(capsys, "--size", "huge")
    assert "--size" in line and "'huge'" in line and "big" in line


def test_bad_layout(capsys: pytest.CaptureFixture) -> None:
    line = refused(capsys, "--encoder-ffn-layout", "wheel:2")
    assert "--encoder-ffn-layout" in line and "unknown strategy 'wheel'" in line


@pytest.mark.parametrize("output", [(), ("--json",)])
def test_a_layout_that_does_not_fit_one_size(capsys: pytest.CaptureFixture, output: tuple) -> None:
    """Nothing is printed for the sizes that it does fit."""
    line = refused(capsys, *output, "--encoder-ffn-layout", "cycle:5")
    assert line == (
        "fairseq-ffn archs: error: size tiny: --encoder-ffn-layout 'cycle:5': 5 modules for 3 "
        "layers; use 1 to 3; choose the sizes with --size"
    )


def test_a_misspelt_value_is_no_question_of_sizes(capsys: pytest.CaptureFixture) -> None:
    line = refused(capsys, "--encoder-block", "paralel")
    assert line == (
        "fairseq-ffn archs: error: --encoder-block 'paralel': use one of series, parallel; did "
        "you mean parallel?"
    )


def test_flags_that_do_not_go_together(capsys: pytest.CaptureFixture) -> None:
    line = refused(capsys, "--size", "big", "--encoder-ffn-layout", "tied")
    assert "size big: --encoder-ffn-layout" in line and "both stacks must say so" in line
    line = refused(capsys, "--size", "big", "--parallel-norm", "own")
    assert "size big: --parallel-norm own" in line
