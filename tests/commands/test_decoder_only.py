"""The decoder-only model on real command lines: trained, averaged, decoded, measured, refused."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from fairseq.checkpoint_utils import load_model_ensemble_and_task

from commands.lab import (
    INSTALLED,
    TRAINING,
    bleu,
    hypotheses,
    result_lines,
    scores,
    weights,
    words,
)
from fairseq_ffn.checkpoints import load_checkpoint
from fairseq_ffn.cli.main import main
from fairseq_ffn.latency.record import read_record

pytestmark = pytest.mark.slow

ARCH = "transformer_ffn_decoder_only_tiny_shared_dec"
SHAPE = words(
    "--decoder-embed-dim 32 --decoder-ffn-embed-dim 64 --decoder-attention-heads 2 "
    "--decoder-layers 3"
)
UPDATES = 300


def trained(lab) -> Path:
    """A folder with the checkpoints of a training, and the mean of two."""

    def make(folder: Path) -> None:
        saving = words(f"--max-update {UPDATES} --save-interval-updates 60 --disable-validation")
        plugin = ["--user-dir", INSTALLED, "--arch", ARCH]
        arguments = [lab.data(), *plugin, *SHAPE, *TRAINING, *saving, "--save-dir", folder]
        lab.run("fairseq-train", *arguments)
        number = words("--num-update-checkpoints 2")
        output = ["--output", folder / "average.pt"]
        lab.run("fairseq-ffn", "average", "--inputs", folder, *number, *output)

    return lab.once("decoder-only", make)


def generated(lab) -> str:
    """What fairseq-generate prints for the mean, beam 4."""

    def make(folder: Path) -> None:
        result = lab.generate(trained(lab) / "average.pt", "--beam", 4, "--max-len-b", 20)
        (folder / "out").write_text(result.out)

    return (lab.once("generated-decoder-only", make) / "out").read_text()


def test_it_learns_and_translates(lab):
    found = hypotheses(generated(lab))
    assert len(found) == 30 and len({word for text in found.values() for word in text.split()}) > 9
    assert float(bleu(generated(lab)).split(",")[0]) > 1


def test_checkpoints_hold_the_shared_ffn_and_the_embedding_of_one_stack(lab):
    names = {key.split(".fc1")[0] for key in weights(trained(lab) / "average.pt") if ".fc1" in key}
    assert names == {"decoder.layers.0"}
    assert all(key.startswith("decoder.") for key in weights(trained(lab) / "average.pt"))
    one, other = (weights(trained(lab) / f"checkpoint_{name}.pt") for name in ("6_240", "7_300"))
    mean = weights(trained(lab) / "average.pt")
    for key, value in mean.items():
        assert torch.allclose(value, (one[key] + other[key]) / 2, atol=1e-6), key
    flags = load_checkpoint(trained(lab) / "average.pt")["cfg"]["model"]
    assert flags.target_positions == "continue" and flags.encoder_layers == 0


def test_interactive_gives_the_same_translations(lab):
    lines = (lab.root / "data" / "test.xx").read_text()
    search = ["--beam", 4, "--max-len-b", 20, "--buffer-size", 30, "--batch-size", 7]
    result = lab.run(
        "fairseq-interactive",
        lab.data(),
        *["--path", trained(lab) / "average.pt", "--user-dir", INSTALLED],
        *search,
        stdin=lines,
    )
    assert hypotheses(result.out) == hypotheses(generated(lab))


def test_measured_decoding_gives_the_same_translations_and_a_record(lab, tmp_path):
    report = tmp_path / "latency.json"
    short = words("--task translation_latency --latency-runs 2 --latency-warmup 1")
    search = ["--beam", 4, "--max-len-b", 20, "--latency-report", report]
    result = lab.generate(trained(lab) / "average.pt", *short, *search)
    assert result_lines(result.out) == result_lines(generated(lab))
    record = read_record(report)
    assert record["arch"] == ARCH and 0 < record["encoder_ms"] < record["latency_ms"]["mean"]
    stored = weights(trained(lab) / "average.pt")
    embedding = stored.pop("decoder.output_projection.weight").numel()
    total = sum(value.numel() for key, value in stored.items() if key != "decoder.version")
    assert record["parameters"] == {"total": total, "body": total - embedding}


def test_paired_latency_of_a_checkpoint(lab, tmp_path):
    checkpoint, report = trained(lab) / "average.pt", tmp_path / "comparison.json"
    short = words("--cpu --batch-sizes 1 --rounds 1 --sentences 5 --warmup 1 --beam 1")
    given = [checkpoint, checkpoint, "--data", lab.data(), *short, "--output", report]
    assert main(["compare-latency", *map(str, given)]) == 0
    assert [one["arch"] for one in json.loads(report.read_text())["models"]] == [ARCH, ARCH]


def test_scores_of_the_search_are_those_of_the_same_words_at_once(lab):
    """Every hypothesis, forced through the stack in one go."""
    models, _, task = load_model_ensemble_and_task(
        [str(trained(lab) / "average.pt")], arg_overrides={"data": str(lab.data())}
    )
    model, words_of = models[0].eval(), task.source_dictionary
    out = generated(lab)
    sources = dict(re.findall(r"^S-(\d+)\t(.*)$", out, re.MULTILINE))
    found = scores(out)
    assert len(found) == 30
    for number, text in hypotheses(out).items():
        source = words_of.encode_line(sources[str(number)], add_if_not_exist=False).long()
        target = words_of.encode_line(text, add_if_not_exist=False).long()
        before = torch.cat((target[-1:], target[:-1]))
        with torch.no_grad():
            output = model(source[None], torch.tensor([len(source)]), before[None])
            each = model.get_normalized_probs(output, log_probs=True)[0]
        forced = each.gather(1, target[:, None]).mean() / math.log(2)
        assert found[number] == pytest.approx(forced.item(), abs=1e-4)


@pytest.mark.parametrize(
    "command",
    [
        ["export", "CHECKPOINT", "--data", "DATA", "--output", "OUT"],
        ["convert", "CHECKPOINT", "--output", "OUT", "--encoder-ffn-layout", "shared"],
    ],
)
def test_export_and_conversion_are_refused_by_name(lab, tmp_path, capsys, command):
    values = {
        "CHECKPOINT": trained(lab) / "average.pt",
        "DATA": lab.data(),
        "OUT": tmp_path / "out",
    }
    assert main([str(values.get(word, word)) for word in command]) != 0
    line = capsys.readouterr().err.splitlines()[-1]
    assert ARCH in line and "'transformer_ffn' and 'transformer'" in line
    assert "a decoder-only model reads the source in both directions" in line
    assert not (tmp_path / "out").exists()


def test_analysis_is_refused_by_name(lab, tmp_path, capsys):
    given = ["--data", lab.data(), "--gen-subset", "test", "--output", tmp_path / "out"]
    command = ["analyze", "similarity", trained(lab) / "average.pt", *given]
    assert main([str(word) for word in command]) != 0
    line = capsys.readouterr().err.splitlines()[-1]
    assert "TransformerFfnDecoderOnlyModel has no encoder layers" in line
    assert not (tmp_path / "out").exists()
