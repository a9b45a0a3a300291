"""``fairseq-ffn analyze`` on trained models: what it writes, and hostile input."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from hostile_files import UNUSABLE

from commands.lab import MODELS, words, write_corpus
from fairseq_ffn.checkpoints import load_checkpoint, save_checkpoint
from fairseq_ffn.cli.main import main
from fairseq_ffn.reporting import similarity_figures
from fairseq_ffn.reporting.map_figures import figures
from fairseq_ffn.reporting.plots import save

ANALYSES = ("similarity", "geometry", "attention-maps")
RECORD = {name: f"{name.replace('-', '_')}.json" for name in ANALYSES}


def checkpoint(lab, name: str = "baseline") -> Path:
    return lab.trained(name) / "checkpoint_last.pt"


def analyze(*arguments) -> int:
    return main(["analyze", *map(str, arguments)])


def refused(capsys, *arguments) -> str:
    """The one line of a call that fails in this process."""
    assert analyze(*arguments) == 1
    (line,) = (line for line in capsys.readouterr().err.splitlines() if ": error: " in line)
    return line.removeprefix("fairseq-ffn analyze: error: ")


@pytest.fixture(scope="module")
def results(lab) -> Path:
    """All three analyses of three models that have all kinds of layers."""

    def make(folder: Path) -> None:
        flags = ("transformer_ffn_tiny_parallel", *words("--max-update 5 --parallel-norm own"))
        lab.train(folder / "parallel", *flags)
        models = [
            checkpoint(lab),
            checkpoint(lab, "one_wide"),
            folder / "parallel" / "checkpoint_last.pt",
        ]
        for name, more in (
            ("similarity", ["--seeds", checkpoint(lab, "stock"), "--resamples", 20]),
            ("geometry", []),
            ("attention-maps", ["--show", 2, "--map-figures", 0]),
        ):
            arguments = ["analyze", name, *models, "--data", lab.data(), "--sentences", 25]
            arguments += [*more, "--output", folder / name]
            if name == "geometry":
                done = lab.run("fairseq-ffn", *arguments)
                out, log = done.out, done.err
                assert "25 of 30 sentences of test; models: baseline, one_wide, parallel" in log
            else:
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    assert main([str(word) for word in arguments]) == 0
                out = printed.getvalue()
            (folder / f"{name}.out").write_text(out)

    return lab.once("analyses", make)


def record_of(results: Path, name: str) -> dict:
    text = (results / name / RECORD[name]).read_text()
    assert "NaN" not in text
    record = json.loads(text)
    assert record["sentences"] == 25 and record["subset"] == "test"
    assert [model["arch"] for model in record["models"]][:3] == [
        f"transformer_ffn_tiny_{config}" for config in ("baseline", "one_wide", "parallel")
    ]
    return record


@pytest.mark.parametrize("name", ANALYSES)
def test_figures_are_there_as_png_and_svg(results, name):
    folder = results / name / "figures"
    stems = {path.stem for path in folder.iterdir()}
    assert len(stems) >= 6
    assert {path.name for path in folder.iterdir()} == {
        f"{stem}.{suffix}" for stem in stems for suffix in ("png", "svg")
    }
    assert all(path.stat().st_size > 2000 for path in folder.iterdir())


def test_maps_of_a_sentence_as_figures(results, tmp_path):
    record = record_of(results, "attention-maps")
    found = {figure.key: figure for figure in figures(record, 1) if figure.key.startswith("map_")}
    number = record["attention_maps"]["baseline"]["maps"][0]["sentence"]
    assert list(found) == [
        f"map_{model}_{number}_{stack}_{layer}"
        for model in ("baseline", "one_wide", "parallel")
        for stack in ("encoder", "decoder")
        for layer in (0, 1)
    ]
    _, svg = save(found[f"map_baseline_{number}_decoder_1"], tmp_path)
    text = svg.read_text()
    assert all(f">{scope}</text>" in text for scope in ("ATTN-W", "SATB", "ATB", "ATBLNFFRES"))
    assert text.count(">&lt;/s&gt;</text>") > 2  # symbols on the axes


def test_similarity(results):
    record = record_of(results, "similarity")
    assert set(record["within"]) == {"baseline", "one_wide", "parallel"}
    others = {entry["model"]: entry for entry in record["between"]}
    assert set(others) == {"one_wide", "parallel", "stock"} and others["stock"]["is_seed"]
    assert others["one_wide"]["encoder"]["compared"] == "sub-blocks"
    assert others["one_wide"]["decoder"]["compared"] == "whole layers"
    assert others["parallel"]["decoder"]["compared"] == "sub-blocks"
    # stock fairseq from the same seed is the baseline
    for stack in ("encoder", "decoder"):
        for measure in ("cka", "lns"):
            assert others["stock"][stack]["same_module"][measure]["mean"]["value"] == (
                pytest.approx(1, abs=1e-6)
            )
            ratio = others["one_wide"][stack]["normalised"][measure]
            same = others["one_wide"][stack]["same_module"][measure]["mean"]
            assert ratio["value"] == pytest.approx(same["value"], abs=1e-6)
            assert same["low"] <= same["value"] <= same["high"]
    text = (results / "similarity.out").read_text()
    assert "Chance: untrained" in text
    assert re.search(r"compared +debiased CKA +biased +LNS", text)


def test_heat_maps_of_both_measures_and_the_floor_of_biased_cka(results):
    record = record_of(results, "similarity")
    found = {figure.key: figure for figure in similarity_figures.figures(record)}
    for where, models in (("within", record["within"]), ("between", ("one_wide", "parallel"))):
        for model in models:
            assert {f"{where}_{part}{model}_decoder" for part in ("", "lns_")} <= set(found)
    floors = []
    for form in ("debiased", "biased"):
        record["cka"] = form
        record["between"][0]["encoder"]["permuted_sentences"]["cka"]["mean"]["value"] = 0.25
        axes = MagicMock()
        axes.get_ylim.return_value = (0, 1)
        figure = {one.key: one for one in similarity_figures.figures(record)}
        figure["same_module_cka_encoder"].draw(axes)
        floors.append(axes.axhline.call_args.args[0])
    assert floors == [0, 0.25]


def test_geometry(results):
    record = record_of(results, "geometry")
    assert "ours" in record["definition"]
    one_wide = record["geometry"]["one_wide"]
    assert all(layer["around_ffn"] is None for layer in one_wide["layers"]["decoder"])
    assert one_wide["answers"]["decoder"]["isotropy_rises_over_ffn"]["verdict"] == "no FFN"
    parallel = record["geometry"]["parallel"]["layers"]["decoder"][0]
    assert [point["point"] for point in parallel["points"]] == [
        *("x", "x+a", "x+c", "x+f", "x+a+c", "y")
    ]
    text = (results / "geometry.out").read_text()
    assert text.count("A1: ") == text.count("A2: ") == 6


def test_attention_maps(results):
    record = record_of(results, "attention-maps")
    for model in record["attention_maps"].values():
        for stack in ("encoder", "decoder"):
            assert len(model["layers"][stack]) == 2 == len(model["maps"])
            for layer in model["layers"][stack]:
                assert layer["reconstruction_error"] < 1e-10
                assert layer["difference_to_model"] < 1e-4
    one_wide = record["attention_maps"]["one_wide"]["layers"]["decoder"]
    assert all(layer["change"]["FF"]["all"]["mean"] == 0 for layer in one_wide)
    parallel = record["attention_maps"]["parallel"]["layers"]["encoder"]
    assert all(layer["change"]["FF"]["without_diagonal"]["mean"] == 0 for layer in parallel)
    assert all(layer["ff_amp"]["top_pairs"] == [] for layer in parallel)
    page = (results / "attention-maps" / "attention_maps.html").read_text()
    assert "http" not in page and '"maps":[{"sentence":' in page


@pytest.mark.parametrize("name", ANALYSES)
def test_same_seed_same_record(lab, results, tmp_path, name):
    models = [checkpoint(lab), checkpoint(lab, "one_wide")]
    for folder in ("one", "two"):
        arguments = ["--data", lab.data(), "--sentences", 20, "--output", tmp_path / folder]
        assert analyze(name, *models, *arguments, "--no-plots") == 0
    texts = [(tmp_path / folder / RECORD[name]).read_text() for folder in ("one", "two")]
    texts = [re.sub(r'"seconds_per_sentence": [\d.e-]+', "", text) for text in texts]
    assert texts[0] == texts[1]
    assert not (tmp_path / "one" / "figures").exists()


def test_stock_models_and_post_norm_and_the_fixed_bias(lab, tmp_path):
    arguments = ["--data", lab.data(), "--sentences", 4, "--show", 1, "--no-plots"]
    assert MODELS["stock_post_norm"] == ("transformer",)
    for name, more in (("player", []), ("fixed", ["--bias", "fixed", "--dtype", "float32"])):
        folder = tmp_path / name
        model = checkpoint(lab, "stock_post_norm")
        assert analyze("attention-maps", model, *arguments, *more, "--output", folder) == 0
    found = [
        json.loads((tmp_path / name / "attention_maps.json").read_text())["attention_maps"]
        for name in ("player", "fixed")
    ]
    layers = [next(iter(models.values()))["layers"]["encoder"] for models in found]
    assert "ATBFFRESLN" in layers[0][0]["mixing_ratio"]
    assert layers[0][0]["change"]["FF"] != layers[1][0]["change"]["FF"]
    assert layers[1][0]["reconstruction_error"] < 1e-4


def test_a_set_of_single_tokens(lab, tmp_path):
    write_corpus(tmp_path)
    for language in ("xx", "yy"):
        (tmp_path / f"test.{language}").write_text("w1\n\nw2\nw1 w2\n" * 8)
    lab.preprocess(tmp_path)
    for name in ANALYSES:
        arguments = [checkpoint(lab), "--data", tmp_path / "bin", "--output", tmp_path / name]
        assert analyze(name, *arguments, "--no-plots") == 0
        assert "NaN" not in (tmp_path / name / RECORD[name]).read_text()


def test_too_few_sentences(lab, tmp_path, capsys):
    model, end = checkpoint(lab), ["--data", lab.data(), "--output", tmp_path]
    line = refused(capsys, "similarity", model, *end, "--sentences", 19)
    assert line == "--sentences 19: at least 20 are needed"
    line = refused(capsys, "geometry", model, *end, "--sentences", 1)
    assert line == "--sentences 1: at least 2 are needed"
    write_corpus(tmp_path)
    for language in ("xx", "yy"):
        (tmp_path / f"test.{language}").write_text("w1 w2\n" * 12)
    lab.preprocess(tmp_path)
    end = ["--data", tmp_path / "bin", "--output", tmp_path / "out"]
    line = refused(capsys, "similarity", model, *end)
    assert line == (
        "--gen-subset test: has 12 sentences that the models take; at least 20 are needed"
    )
    assert not (tmp_path / "out").exists()


def test_other_numbers_of_layers(lab, tmp_path, capsys, monkeypatch):
    lab.train(tmp_path, "transformer_ffn_tiny", *words("--decoder-layers 3 --max-update 1"))
    deep, end = tmp_path / "checkpoint_last.pt", ["--data", lab.data(), "--no-plots"]
    output = tmp_path / "out"
    with monkeypatch.context() as patch:
        # it is said before any sentence is read
        patch.delattr("fairseq_ffn.cli.analyze_similarity.SentenceMeans")
        line = refused(capsys, "similarity", checkpoint(lab), deep, *end, "--output", output)
    assert line.endswith(
        "has 3 decoder layers, but baseline 2; only models with the same numbers of layers are "
        "compared module by module"
    )
    assert not output.exists()
    # the other analyses look at each model by itself
    assert analyze("geometry", checkpoint(lab), deep, *end, "--output", output) == 0


def test_a_dictionary_that_doesnt_fit(lab, tmp_path):
    write_corpus(tmp_path, vocabulary=9)
    lab.preprocess(tmp_path)
    result = lab.run(
        *("fairseq-ffn", "analyze", "similarity", checkpoint(lab), "--data", tmp_path / "bin"),
        *("--output", tmp_path / "out"),
        fails=True,
    )
    assert "its vocabulary has" in result.error_line()
    assert not (tmp_path / "out").exists()


def test_models_of_two_pairs_of_languages(lab, tmp_path, capsys):
    state = load_checkpoint(checkpoint(lab))
    task = state["cfg"]["task"]
    turned = {"source_lang": "yy", "target_lang": "xx"}
    task.update(turned) if isinstance(task, dict) else vars(task).update(turned)
    save_checkpoint(state, tmp_path / "turned.pt")
    line = refused(
        *(capsys, "geometry", checkpoint(lab), tmp_path / "turned.pt"),
        *("--data", lab.data(), "--output", tmp_path / "out"),
    )
    assert "translates yy-xx, but" in line


def test_files_that_arent_there_or_arent_checkpoints(lab, tmp_path, capsys):
    (tmp_path / "text.pt").write_text("no checkpoint")
    end = ["--data", lab.data(), "--output", tmp_path / "out"]
    line = refused(capsys, "geometry", tmp_path / "missing.pt", *end)
    assert "missing.pt" in line
    # PyTorch says "Invalid argument" and no more
    write, part = UNUSABLE["cut in half"]
    write(tmp_path / "half.pt")
    where = ["--source-lang", "xx", "--target-lang", "yy"]
    line = refused(capsys, "geometry", tmp_path / "half.pt", *end, *where)
    assert line.startswith(f"checkpoint {tmp_path}/half.pt: ") and part in line
    result = lab.run("fairseq-ffn", "analyze", "geometry", tmp_path / "text.pt", *end, fails=True)
    assert "text.pt: not a PyTorch checkpoint" in result.error_line()


def test_data_that_isnt_there(lab, tmp_path):
    result = lab.run(
        *("fairseq-ffn", "analyze", "geometry", checkpoint(lab), "--data", tmp_path / "none"),
        *("--output", tmp_path / "out"),
        fails=True,
    )
    assert "none" in result.error_line()


def test_a_set_that_isnt_there(lab, tmp_path, capsys):
    arguments = [checkpoint(lab), "--data", lab.data(), "--output", tmp_path / "out"]
    assert "nosuch" in refused(capsys, "geometry", *arguments, "--gen-subset", "nosuch")


def test_an_output_that_is_a_file(lab, tmp_path, capsys):
    (tmp_path / "file").write_text("kept")
    line = refused(
        capsys, "geometry", checkpoint(lab), "--data", lab.data(), "--output", tmp_path / "file"
    )
    assert line == f"--output {tmp_path / 'file'}: is a file; name a directory"
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--sentences 0", "'0' is not a whole number above 0"),
        ("--seed -1", "'-1' is not a whole number from 0"),
        ("--seed x", "'x' is not a whole number from 0"),
    ],
)
def test_numbers_that_arent(lab, capsys, flags, said):
    with pytest.raises(SystemExit):
        analyze("geometry", "a.pt", "--data", ".", "--output", "o", *words(flags))
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name", ANALYSES)
def test_help_teaches(lab, name, capsys):
    with pytest.raises(SystemExit) as stop:
        analyze(name, "--help")
    text = capsys.readouterr().out
    assert stop.value.code == 0 and f"fairseq-ffn analyze {name}" in text and "--sentences" in text
