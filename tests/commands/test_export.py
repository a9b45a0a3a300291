"""Trained models, taken elsewhere by the command line, translate as they did."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece
import torch
from hostile_files import UNUSABLE, checkpoint_state

from commands.lab import BIN, assert_equal, hypotheses, result_lines, weights, words
from fairseq_ffn.cli.main import main
from fairseq_ffn.errors import UserError
from fairseq_ffn.export.package import new_folder

ctranslate2 = pytest.importorskip("ctranslate2", reason="needs requirements/test.txt")

pytestmark = pytest.mark.slow

#: of a translation's length; at it fairseq adds an end of sentence, CTranslate2 doesn't
LIMIT = 200
#: of lab.MODELS: both kinds of norm, with and without FFN, wide, stock fairseq's
TRAINED = ("one_wide", "shared_enc_no_dec_post_norm", "stock_post_norm")


def exported(lab, name: str, form: str = "ctranslate2") -> Path:
    """A folder that tests must not change."""

    def make(folder: Path) -> None:
        checkpoint = lab.trained(name) / "checkpoint_last.pt"
        options = ["--data", lab.data(), "--output", folder / "model", "--format", form]
        lab.run("fairseq-ffn", "export", checkpoint, *options)

    return lab.once(f"exported-{name}-{form}", make) / "model"


def test_lines(lab) -> list:
    return (lab.root / "data" / "test.xx").read_text().splitlines()


test_lines.__test__ = False


class TestCTranslate2:
    @pytest.mark.parametrize("name", TRAINED)
    def test_same_hypotheses_and_scores(self, lab, name):
        output = lab.generated(name)
        expected = hypotheses(output)
        scores = dict(re.findall(r"^H-(\d+)\t(\S+)", output, re.MULTILINE))
        translator = ctranslate2.Translator(str(exported(lab, name)))
        results = translator.translate_batch(
            [line.split() for line in test_lines(lab)],
            beam_size=4,
            length_penalty=1,
            max_decoding_length=LIMIT,
            return_scores=True,
        )
        found = [" ".join(result.hypotheses[0]) for result in results]
        assert found == [expected[number] for number in range(30)]
        assert len(set(found)) > 20  # it has learnt something
        # CTranslate2 leaves an end at once out of the first distribution, fairseq doesn't
        sources = [line.split() for line in test_lines(lab)]
        at_once = translator.score_batch(sources, [[]] * len(sources))
        for number, result in enumerate(results):
            if len(result.hypotheses[0]) >= LIMIT:
                continue  # fairseq adds an end of sentence there
            rest = math.log(1 - math.exp(at_once[number].log_probs[0]))
            length = len(result.hypotheses[0]) + 1
            score = float(scores[str(number)]) * math.log(2) - rest / length
            assert result.scores[0] == pytest.approx(score, abs=2e-4)

    def test_int8_is_smaller_and_translates(self, lab, tmp_path):
        options = ["--data", lab.data(), "--output", tmp_path / "int8", "--quantization", "int8"]
        lab.run("fairseq-ffn", "export", lab.trained("one_wide") / "checkpoint_last.pt", *options)
        sizes = [
            (folder / "model.bin").stat().st_size
            for folder in (tmp_path / "int8", exported(lab, "one_wide"))
        ]
        assert sizes[0] < 0.8 * sizes[1]  # the tables of positions stay as they are
        results = ctranslate2.Translator(str(tmp_path / "int8")).translate_batch(
            [line.split() for line in test_lines(lab)], beam_size=4
        )
        expected = hypotheses(lab.generated("one_wide"))
        same = sum(" ".join(r.hypotheses[0]) == expected[n] for n, r in enumerate(results))
        assert same >= 10  # a weak model, whose choices are close

    def test_the_example_in_its_readme_runs(self, lab, tmp_path):
        """With a sentencepiece model, and without."""
        for name, options in (("with", ["--sentencepiece-model", pieces(lab)]), ("without", [])):
            folder = tmp_path / name
            checkpoint = lab.trained("one_wide") / "checkpoint_last.pt"
            where = ["--data", lab.data(), "--output", folder]
            lab.run("fairseq-ffn", "export", checkpoint, *where, *options)
            text = (folder / "README.md").read_text()
            code = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
            code = code.replace("Where did you buy this book?", "w1 w2 w3 w4")
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True
            )
            assert done.returncode == 0 and done.stdout.strip(), done.stderr
            assert ("sentencepiece.model" in {p.name for p in folder.iterdir()}) == bool(options)

    def test_fewer_layers(self, lab, tmp_path):
        """Pruned as fairseq-generate prunes, by its own flag."""
        overrides = "{'encoder_layers_to_keep': '1', 'decoder_layers_to_keep': '0,1'}"
        checkpoint = lab.trained("one_wide") / "checkpoint_last.pt"
        options = ["--data", lab.data(), "--model-overrides", overrides]
        # fairseq's own path, whose figures are stock fairseq's to the last digit
        plain = overrides.replace("}", ", 'inference': 'plain'}")
        lab.run("fairseq-ffn", "export", checkpoint, *options, "--output", tmp_path / "a")
        output = lab.generate(checkpoint, "--model-overrides", plain, "--beam", 4).out
        results = ctranslate2.Translator(str(tmp_path / "a")).translate_batch(
            [line.split() for line in test_lines(lab)], beam_size=4, max_decoding_length=LIMIT
        )
        expected = hypotheses(output)
        ended = [n for n, r in enumerate(results) if len(r.hypotheses[0]) < LIMIT]
        assert ended
        for number in ended:
            assert " ".join(results[number].hypotheses[0]) == expected[number]
        more = ["--format", "fairseq", "--output", tmp_path / "b"]
        lab.run("fairseq-ffn", "export", checkpoint, *options, *more)
        assert result_lines(stock_generate(lab, tmp_path / "b")) == result_lines(output)


def pieces(lab) -> Path:
    """A sentencepiece model whose pieces are the corpus' words."""

    def make(folder: Path) -> None:
        sentencepiece.SentencePieceTrainer.train(
            input=str(lab.data().parent / "train.xx"),
            model_prefix=str(folder / "model"),
            vocab_size=31,
            model_type="char",
            minloglevel=2,
            user_defined_symbols=[f"w{number}" for number in range(16)],
            hard_vocab_limit=False,
        )

    return lab.once("pieces", make) / "model.model"


def stock_generate(lab, folder: Path) -> str:
    """fairseq-generate without this plugin, with what lies in the folder only."""
    where = ["--path", folder / "checkpoint.pt", "--user-dir", folder / "safe_loading"]
    result = lab.run(
        "fairseq-generate",
        lab.data(),
        *where,
        *words("--beam 4 --batch-size 16 --required-batch-size-multiple 1"),
        env={"PYTHONPROFILEIMPORTTIME": "1"},
    )
    imported = re.findall(r"^import time:.*\| +(\S+)$", result.err, re.MULTILINE)
    assert "fairseq" in imported and "fairseq_ffn" not in imported
    return result.out


class TestStockFairseq:
    @pytest.mark.parametrize("name", TRAINED)
    def test_same_translations_without_the_plugin(self, lab, name):
        found = stock_generate(lab, exported(lab, name, "fairseq"))
        if name == "shared_enc_no_dec_post_norm":  # a second norm, and so its epsilon
            assert hypotheses(found) == hypotheses(lab.generated(name))
        else:
            assert result_lines(found) == result_lines(lab.generated(name))

    def test_there_and_back_to_the_bit(self, lab, tmp_path):
        for name in TRAINED[:2]:
            folder = exported(lab, name, "fairseq")
            layouts = words("--encoder-ffn-layout shared --decoder-ffn-layout none")
            where = ["--output", tmp_path / f"{name}.pt"]
            lab.run("fairseq-ffn", "convert", folder / "checkpoint.pt", *where, *layouts)
            original = weights(lab.trained(name) / "checkpoint_last.pt")
            found = weights(tmp_path / f"{name}.pt")
            assert_equal({key: found[key] for key in original}, original)
            assert set(found) == set(original)

    def test_shared_modules_are_stored_once(self, lab):
        size = (exported(lab, "one_wide", "fairseq") / "checkpoint.pt").stat().st_size
        numbers = sum(
            value.numel()
            for value in weights(lab.trained("one_wide") / "checkpoint_last.pt").values()
        )
        embeddings = 2 * 20 * 32  # three names for one matrix
        assert size < 4 * (numbers - embeddings) + 60_000

    def test_its_dictionaries_will_do(self, lab, tmp_path):
        """The command in its README, with nothing but the folder."""
        folder = tmp_path / "model"
        shutil.copytree(exported(lab, "one_wide", "fairseq"), folder)
        text = (folder / "README.md").read_text()
        command = re.search(r"```bash\n(.*?)```", text, re.DOTALL).group(1)
        command = command.replace("Where did you buy this book?", "w1 w2 w3 w4")
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            capture_output=True,
            text=True,
            env={"PATH": f"{BIN}:/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        )
        assert re.search(r"^H-0\t\S+\tw\d", done.stdout, re.MULTILINE), done.stderr


def fails(capsys, *arguments: object) -> str:
    """The one line of a command that can't be done."""
    assert main(["export", *map(str, arguments)]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith("fairseq-ffn export: error: ")]
    assert len(errors) == 1 and errors[0] == lines[-1]
    return errors[0]


class TestErrors:
    @pytest.fixture(autouse=True)
    def nothing_is_left(self, tmp_path):
        yield
        assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))

    @pytest.mark.parametrize("kind", UNUSABLE)
    def test_unusable_files(self, kind, tmp_path, capsys):
        write, part = UNUSABLE[kind]
        write(tmp_path / "bad.pt")
        where = ["--data", tmp_path, "--output", tmp_path / "out"]
        line = fails(capsys, tmp_path / "bad.pt", *where)
        assert f"checkpoint {tmp_path}/bad.pt" in line and part in line

    @pytest.mark.parametrize(
        "more, part",
        [
            (["{tmp}/b.pt"], "an ensemble can't be exported"),
            (["--quantization", "int8", "--format", "fairseq"], "only goes with --format ctr"),
            (["--source-lang", "xx"], "--source-lang and --target-lang go together"),
            (["--model-overrides", "x("], "--model-overrides x(: not a dictionary"),
            (["--sentencepiece-model", "a", "b", "c"], "one file for both languages"),
        ],
    )
    def test_flags(self, more, part, tmp_path, capsys):
        more = [word.replace("{tmp}", str(tmp_path)) for word in more]
        where = ["--data", tmp_path, "--output", tmp_path / "out"]
        assert part in fails(capsys, tmp_path / "a.pt", *more, *where)

    def test_fairseqs_form_of_an_ensemble(self, tmp_path, capsys):
        line = fails(capsys, "a.pt:b.pt", "--data", tmp_path, "--output", tmp_path / "out")
        assert "an ensemble can't be exported" in line

    @pytest.mark.parametrize(
        "change, part",
        [
            ({"arch": "lightconv"}, "its architecture is lightconv; only those of the models"),
            (
                {"arch": "transformer_ffn_decoder_only_tiny"},
                "are known here: a decoder-only model reads the source in both directions and goes",
            ),
            ({"arch": "no_such"}, "its architecture is no_such; only those of the models"),
            ({"task": "no_such"}, "trained with --task no_such, which may change sentences"),
        ],
    )
    def test_foreign_models(self, change, part, tmp_path, capsys):
        state = checkpoint_state()
        if "arch" in change:
            state["cfg"]["model"].arch = change["arch"]
        else:
            state["cfg"]["task"]["_name"] = change["task"]
        torch.save(state, tmp_path / "a.pt")
        where = ["--data", tmp_path, "--output", tmp_path / "out"]
        assert part in fails(capsys, tmp_path / "a.pt", *where)

    def test_without_the_package(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "ctranslate2", None)
        monkeypatch.setitem(sys.modules, "ctranslate2.specs", None)
        line = fails(capsys, "a.pt", "--data", tmp_path, "--output", tmp_path / "out")
        assert "needs the package ctranslate2" in line and "pip install" in line

    def test_dictionary_of_another_size(self, lab, tmp_path):
        data = tmp_path / "data"
        data.mkdir()
        for language in ("xx", "yy"):
            (data / f"dict.{language}.txt").write_text("w1 1\nw2 1\n")
        checkpoint = lab.trained("one_wide") / "checkpoint_last.pt"
        where = ["--data", data, "--output", tmp_path / "out"]
        where += words("--source-lang xx --target-lang yy")
        line = lab.run("fairseq-ffn", "export", checkpoint, *where, fails=True).error_line()
        assert "its vocabulary has 24 entries, the data's dictionary" in line

    def test_no_dictionary(self, lab, tmp_path):
        checkpoint = lab.trained("one_wide") / "checkpoint_last.pt"
        (tmp_path / "none").mkdir()
        where = ["--data", tmp_path / "none", "--output", tmp_path / "out"]
        where += words("--source-lang xx --target-lang yy")
        line = lab.run("fairseq-ffn", "export", checkpoint, *where, fails=True).error_line()
        assert "dict.xx.txt" in line

    def test_parallel_blocks(self, lab, tmp_path):
        parallel = lab.once("parallel", lambda folder: make_untrained(lab, folder, "parallel"))
        for form in ("ctranslate2", "fairseq"):
            where = ["--data", lab.data(), "--output", tmp_path / "out", "--format", form]
            result = lab.run(
                "fairseq-ffn", "export", parallel / "checkpoint_last.pt", *where, fails=True
            )
            assert "--encoder-block parallel: layer 0 of the encoder" in result.error_line()

    def test_anothers_sentencepiece_model(self, lab, tmp_path, capsys):
        (tmp_path / "text").write_text("aa bb cc dd ee ff gg\n" * 9)
        sentencepiece.SentencePieceTrainer.train(
            input=str(tmp_path / "text"),
            model_prefix=str(tmp_path / "other"),
            vocab_size=14,
            minloglevel=2,
            hard_vocab_limit=False,
        )
        checkpoint = lab.trained("one_wide") / "checkpoint_last.pt"
        where = ["--data", lab.data(), "--output", tmp_path / "out"]
        for file, part in (
            (tmp_path / "other.model", "only 0 of the dictionary's 16 words"),
            (tmp_path / "text", "not a sentencepiece model"),
            (tmp_path / "missing", "no such file"),
        ):
            line = fails(capsys, checkpoint, *where, "--sentencepiece-model", file)
            assert f"--sentencepiece-model {file}" in line and part in line


class TestOutput:
    def test_what_is_there_is_kept_unless_told(self, lab, tmp_path, capsys):
        folder = tmp_path / "out"
        folder.mkdir()
        (folder / "mine").write_text("x")
        checkpoint = lab.trained("one_wide") / "checkpoint_last.pt"
        where = ["--data", lab.data(), "--output", folder, "--format", "fairseq"]
        assert "isn't empty" in fails(capsys, checkpoint, *where)
        assert (folder / "mine").exists()
        assert main(["export", str(checkpoint), *map(str, where), "--overwrite"]) == 0
        names = {path.name for path in folder.iterdir()}
        expected = {"README.md", "checkpoint.pt", "dict.xx.txt", "dict.yy.txt", "safe_loading"}
        assert names == expected and not list(tmp_path.glob(".*"))

    def test_what_is_there_comes_back_if_it_cant_be_replaced(self, tmp_path, monkeypatch):
        folder = tmp_path / "out"
        folder.mkdir()
        (folder / "mine").write_text("x")
        replace = os.replace

        def fail(source, target):
            if str(source).endswith(".partial"):
                raise OSError(13, "Permission denied")
            replace(source, target)

        monkeypatch.setattr("fairseq_ffn.export.package.os.replace", fail)
        with pytest.raises(UserError, match="out: can't be written"), new_folder(folder) as there:
            there.mkdir()
        assert (folder / "mine").read_text() == "x" and list(tmp_path.iterdir()) == [folder]

    def test_a_file_and_a_missing_parent(self, tmp_path, capsys):
        (tmp_path / "file").touch()
        assert "is a file" in fails(capsys, "a", "--data", "b", "--output", tmp_path / "file")
        there = tmp_path / "none" / "out"
        assert "doesn't exist" in fails(capsys, "a", "--data", "b", "--output", there)

    def test_full_disk(self, lab, tmp_path, capsys, monkeypatch):
        def full(*unused, **more):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("fairseq_ffn.export.package.ctranslate2_readme", full)
        checkpoint = lab.trained("one_wide") / "checkpoint_last.pt"
        where = ["--data", lab.data(), "--output", tmp_path / "out"]
        line = fails(capsys, checkpoint, *where)
        assert f"{tmp_path}/out: can't be written (No space left on device)" in line
        assert not list(tmp_path.iterdir())


def make_untrained(lab, folder: Path, config: str) -> None:
    """A model after one update."""
    once = words("--max-update 1 --disable-validation")
    lab.train(folder, f"transformer_ffn_tiny_{config}", *once)
