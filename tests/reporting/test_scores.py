"""BLEU and chrF are sacreBLEU's, with signatures; sides that don't match are an error."""

from __future__ import annotations

import pytest
import sacrebleu

from fairseq_ffn.errors import UserError
from fairseq_ffn.reporting.scores import score

HYPOTHESES = ["Das ist ein kleiner Test.", "Wo ist mein Buch?", "Er kam gestern spät nach Hause."]
REFERENCES = ["Das ist ein kleiner Versuch.", "Wo ist mein Buch?", "Er kam gestern spät heim."]
OTHERS = ["Dies ist ein kleiner Test.", "Wo liegt mein Buch?", "Gestern kam er spät nach Hause."]


def test_one_reference():
    record = score(HYPOTHESES, [REFERENCES])
    assert record["bleu"]["score"] == sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score
    assert record["chrf"]["score"] == sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES]).score
    assert record["bleu"]["signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp")
    assert record["chrf"]["signature"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no")
    assert (record["sentences"], record["references"]) == (3, 1)


def test_two_references_are_used():
    both = score(HYPOTHESES, [REFERENCES, OTHERS])
    assert both["references"] == 2 and "nrefs:2" in both["bleu"]["signature"]
    assert both["bleu"]["score"] > score(HYPOTHESES, [REFERENCES])["bleu"]["score"]


def test_a_copy_of_the_reference_is_100():
    assert score(REFERENCES, [REFERENCES])["bleu"]["score"] == pytest.approx(100)


def test_sides_that_do_not_match_are_refused():
    with pytest.raises(UserError, match="reference 0 has 2 lines, but there are 3"):
        score(HYPOTHESES, [REFERENCES[:2]])
    with pytest.raises(UserError, match="nothing to score"):
        score([], [[]])
