"""Vocabulary, pieces and temperature sampling."""

from __future__ import annotations

import json
import random
import sys
from collections import Counter

import pytest

from recipes.bench import RECIPES, files, program, write_gz

sys.path.insert(0, str(RECIPES))
from sampling import Weights, times  # noqa: E402
from tools import fingerprint  # noqa: E402


def write_clean(folder, sizes, shards=1):
    """Clean text as 02_clean leaves it: pairs of languages with so many pairs."""
    number = random.Random(1)
    letters = "abcdefghijklmno"

    def words(language):
        own = random.Random(language)
        return [language + "".join(own.choices(letters, k=4)) for _ in range(60)]

    for pair, size in sizes.items():
        for shard in range(shards):
            rows = [
                "\t".join(
                    " ".join(number.choices(words(language), k=number.randint(3, 6)))
                    for language in pair.split("-")
                )
                for _ in range(shard, size, shards)
            ]
            write_gz(folder / pair / f"{shard:04d}.tsv.gz", "".join(f"{row}\n" for row in rows))
    (folder / "counts.json").write_text(json.dumps({p: {"kept": n} for p, n in sizes.items()}))


def vocabulary(tmp_path, *more, output="vocabulary", **how):
    return program(
        *("vocabulary.py", "--clean", tmp_path / "clean", "--output", tmp_path / output),
        *("--size", 60, *more),
        **how,
    )


def encode(tmp_path, *more, directions=("en-de",), output="train", shard=0, **how):
    program(
        *("encode.py", "train", "--clean", tmp_path / "clean", "--shard", shard),
        *("--vocabulary", tmp_path / "vocabulary", "--output", tmp_path / "pieces" / output),
        *("--directions", *directions, *more),
        **how,
    )
    return {
        path.suffix[1:]: path.read_text().splitlines()
        for path in (tmp_path / "pieces").glob(f"{output}.*")
    }


def rows_of(path):
    return [line.split()[0] for line in path.read_text().splitlines()]


def test_joint_and_merged_dictionaries(tmp_path):
    write_clean(tmp_path / "clean", {"en-de": 500})
    vocabulary(tmp_path, output="joint")
    done = vocabulary(tmp_path, "--kind", "merged", output="merged")
    joint, merged = (rows_of(tmp_path / kind / "dict.txt") for kind in ("joint", "merged"))
    assert all((len(rows) + 4) % 8 == 0 and len(set(rows)) == len(rows) for rows in (joint, merged))
    # two models of 57 pieces each, of which letters and the space are common
    pieces = [row for row in merged if not row.startswith("madeupword")]
    assert 60 < len(pieces) < 2 * 57 and f"{len(merged) + 4:,} rows" in done.out
    assert len([row for row in joint if not row.startswith("madeupword")]) == 57
    again = vocabulary(tmp_path, output="again")
    assert files(tmp_path / "again") == files(tmp_path / "joint") and again.status == 0


def test_pieces_are_the_text_and_in_the_dictionary(tmp_path):
    write_clean(tmp_path / "clean", {"en-de": 300}, shards=2)
    vocabulary(tmp_path, "--kind", "merged")
    known = set(rows_of(tmp_path / "vocabulary" / "dict.txt"))
    lines = encode(tmp_path, shard=1)
    assert set(lines) == {"en", "de"} and len(lines["en"]) == 150
    assert {piece for side in lines.values() for line in side for piece in line.split()} <= known
    text = lines["de"][0].replace(" ", "").replace("▁", " ").strip()
    assert all(word.startswith("de") for word in text.split())


def test_more_pieces_than_the_text_has_are_refused(tmp_path):
    write_clean(tmp_path / "clean", {"en-de": 20})
    done = vocabulary(tmp_path, "--size", 5000, fails=True)
    assert "sentencepiece can't make 5000 pieces" in done.error_line()
    assert not (tmp_path / "vocabulary").exists()


def test_long_pairs_are_left_out_of_training_but_refused_in_a_set(tmp_path):
    write_clean(tmp_path / "clean", {"en-de": 200})
    vocabulary(tmp_path)
    assert 0 < len(encode(tmp_path, "--max-pieces", 12)["en"]) < 200
    (tmp_path / "text" / "test").mkdir(parents=True)
    for language in ("en", "de"):
        (tmp_path / "text" / "test" / f"set.{language}").write_text("enab\n" + "enab " * 60 + "\n")
    done = program(
        *("encode.py", "set", "--text", tmp_path / "text", "--split", "test", "--name", "set"),
        *("--vocabulary", tmp_path / "vocabulary", "--directions", "en-de"),
        *("--output", tmp_path / "pieces" / "test", "--max-pieces", 50),
        fails=True,
    )
    assert "set, line 2: " in done.error_line() and "would change what is scored" in done.err


def test_shares_are_proportional_to_the_root(tmp_path):
    sizes = {"a": 100, "b": 3200, "c": 1}
    weights = Weights(sizes, 5)
    assert weights.share("b") / weights.share("a") == pytest.approx(2)
    assert sum(weights.copies(name) * size for name, size in sizes.items()) == pytest.approx(3301)
    assert all(Weights(sizes, 1).copies(name) == pytest.approx(1) for name in sizes)


def test_copies_of_many_pairs_are_as_many_as_asked():
    marks = [fingerprint(str(number)) for number in range(20_000)]
    for copies in (0.3, 1.0, 2.75):
        assert sum(times(mark, copies) for mark in marks) / 20_000 == pytest.approx(
            copies, rel=0.03
        )
        assert {times(mark, copies) for mark in marks} <= {int(copies), int(copies) + 1}


def test_directions_are_tagged_and_sampled_by_temperature(tmp_path):
    sizes = {"de-en": 1600, "en-fr": 50}
    write_clean(tmp_path / "clean", sizes)
    vocabulary(tmp_path, "--tags", "de", "en", "fr", "--size", 100)
    directions = ("de-en", "en-de", "en-fr", "fr-en", "fr-de")  # the last has no text
    lines = encode(tmp_path, "--tags", "--temperature", 5, directions=directions)
    assert set(lines) == {"source", "target"}
    found = Counter()
    for source, target in zip(lines["source"], lines["target"]):
        tag, *pieces = source.split()
        languages = {text.replace(" ", "").lstrip("▁")[:2] for text in (" ".join(pieces), target)}
        assert tag == f"<2{target.replace(' ', '').lstrip('▁')[:2]}>"
        found["-".join(sorted(languages))] += 1
    # 32 times the pairs give twice the share: (1600 / 50)^(1/5)
    assert found["de-en"] / found["en-fr"] == pytest.approx(2, rel=0.05)
    assert sum(found.values()) == pytest.approx(2 * 1650, rel=0.02)
    assert {f"<2{language}>" for language in ("de", "en", "fr")} <= set(
        rows_of(tmp_path / "vocabulary" / "dict.txt")
    )
