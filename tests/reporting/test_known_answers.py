"""Official scores of WMT systems and published p-values; skipped where the data isn't."""

from __future__ import annotations

import csv
import gzip
import os
from pathlib import Path

import pytest

from fairseq_ffn.files import read_lines
from fairseq_ffn.reporting.scores import score
from fairseq_ffn.reporting.significance import compare

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("FFN_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
WMT22, WMT17 = DATA / "wmt22_en_de", DATA / "wmt17_en_de_systems"


def table(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.skipif(not WMT22.is_dir(), reason="no WMT22 data in FFN_TEST_DATA")
@pytest.mark.parametrize("references", ["A", "B", "all"])
def test_official_bleu_and_chrf_of_wmt22(references):
    letters = ["A", "B"] if references == "all" else [references]
    texts = [read_lines(WMT22 / f"generaltest2022.en-de.ref.{letter}.de") for letter in letters]
    rows = table(WMT22 / "official_scores.tsv")
    checked = 0
    for path in sorted((WMT22 / "systems").iterdir()):
        system = path.name.split(".hyp.")[1].removesuffix(".de")
        record = score(read_lines(path), texts)
        for metric in ("bleu", "chrf"):
            official = next(
                row["score"]
                for row in rows
                if row["system"] == system and row["metric"] == f"{metric}-{references}"
            )
            assert record[metric]["score"] == pytest.approx(float(official), abs=1e-9)
            checked += 1
    assert checked == 18


@pytest.mark.skipif(not WMT17.is_dir(), reason="no WMT17 data in FFN_TEST_DATA")
def test_published_scores_and_p_values_of_wmt17():
    reference = read_lines(WMT17 / "newstest2017.ref.de")
    rows = table(WMT17 / "known_answers.tsv")

    def hypotheses(system):
        path = WMT17 / "systems" / f"newstest2017.hyp.{system}.de.gz"
        return gzip.decompress(path.read_bytes()).decode().removesuffix("\n").split("\n")

    chosen = [
        rows[0],
        *(row for row in rows[1:] if row["system"].startswith(("FBK", "KIT", "xmu"))),
    ]
    for row in chosen:
        found = score(hypotheses(row["system"]), [reference])["bleu"]["score"]
        assert found == pytest.approx(float(row["bleu_13a"]), abs=6e-5)
    results = compare(
        (rows[0]["system"], hypotheses(rows[0]["system"])),
        [(row["system"], hypotheses(row["system"])) for row in chosen[1:]],
        [reference],
        samples=2000,
        tokenizer="none",
    )
    for row, result in zip(chosen[1:], results):
        assert result["bleu_p"] == pytest.approx(float(row["sacrebleu_bs_p"]), abs=1e-4)
        # Moses drew its own resamples
        assert result["bleu_p"] == pytest.approx(float(row["moses_bootstrap_p"]), abs=0.01)
        assert (result["bleu_p"] < 0.05) == (float(row["moses_bootstrap_p"]) < 0.05)
