"""What the configurations say: models and steps, against the paper's tables and mtdata's index."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Dict, List

import pytest
import sacrebleu.tokenizers.tokenizer_spm as spbleu
from fairseq import options
from sacrebleu.dataset import DATASETS

import fairseq_ffn  # noqa: F401  (registers the architectures)
from fairseq_ffn.costs import count_multiply_adds, count_parameters, shape_of
from recipes.bench import (
    DATA,
    EXPERIMENTS,
    MTDATA_CACHE,
    MTDATA_PYTHON,
    RECIPES,
    REPOSITORY,
    STEPS,
    step,
)

#: rows of the joined dictionary that the paper's sizes imply: EN-DE, EN-RO, multilingual
ROWS = {"wmt22_en_de": 50_368, "wmt16_en_ro": 38_800, "multilingual": 240_000}
#: millions of parameters as printed in Tables 2, 3, 4, 6, 7 and 8
PRINTED = {
    "wmt22_en_de": {
        **{"baseline": 228, "shared_enc": 186, "shared_dec": 186, "shared_enc_shared_dec": 144},
        **{"shared_enc_dec": 136, "no_enc": 178, "no_dec": 178, "no_enc_no_dec": 127},
        **{"shared_enc_no_dec": 136, "no_enc_shared_dec": 136, "shared_enc_no_dec_24576": 177},
        **{"one_wide": 228, "shared_enc_no_dec_98304": 328, "base_baseline": 70},
        **{"base_shared_enc_no_dec": 47, "base_one_wide": 70, "deep_baseline": 236},
        **{"deep_shared_enc_no_dec": 127, "deep_one_wide": 236, "sequence_2": 194},
        **{"sequence_3": 202, "cycle_2": 194, "cycle_3": 202, "cycle_rev_2": 194},
        **{"cycle_rev_3": 202, "attention_sss": 165, "attention_ssi": 186, "attention_sii": 207},
        **{"attention_isi": 207, "attention_iss": 186, "attention_iis": 207},
    },
    "wmt16_en_ro": {"baseline": 64, "shared_enc_no_dec": 41, "one_wide": 64},
    "multilingual": {"baseline": 422, "shared_enc_no_dec": 330, "one_wide": 422},
}
#: at the size of the baseline; at its cost
CONTROLS = {"no_dec_wide": "parameters", "one_wide_same_cost": "multiply-adds"}


@functools.cache
def commands(experiment: str, *more: str) -> Dict[str, List[str]]:
    """The arguments of fairseq-train for every model of an experiment."""
    printed = step(experiment, "05_train", "--dry-run", *more).out.splitlines()
    found = [shlex.split(line) for line in printed]
    return {Path(words[words.index("--save-dir") + 1]).parent.name: words for words in found}


@functools.cache
def settings(experiment: str, model: str, *more: str):
    """What fairseq makes of a training's command line."""
    words = commands(experiment, *more)[model]
    start = next(index for index, word in enumerate(words) if "/bin/0000" in word)
    return options.parse_args_and_arch(options.get_training_parser(), words[start:])


def models(*experiments: str):
    return [(one, model) for one in experiments for model in commands(one)]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("mini", [(), ("--mini",)])
def test_every_training_is_a_command_that_fairseq_takes(experiment, mini):
    if experiment == "decoder_only":
        pytest.importorskip("fairseq_ffn.models.decoder_only")
    for model in commands(experiment, *mini):
        args = settings(experiment, model, *mini)
        assert ("tiny" in args.arch) == bool(mini)
        assert args.lr == [7e-4] and args.lr_scheduler == "inverse_sqrt"
        assert mini or args.warmup_updates == 4000


@pytest.mark.parametrize("experiment", ROWS)
def test_models_have_the_size_that_the_paper_prints(experiment):
    sizes = {
        model: count_parameters(shape_of(settings(experiment, model), ROWS[experiment])).total
        for model in PRINTED[experiment]
    }
    for model, printed in PRINTED[experiment].items():
        assert sizes[model] / 1e6 == pytest.approx(printed, abs=1.6), model


def test_every_row_of_the_papers_tables_is_there():
    for experiment, printed in PRINTED.items():
        assert {*printed} <= {*commands(experiment)}
    assert {*commands("decoder_only")} >= {"baseline", "shared_dec", "shared_dec_wide"}
    assert {"parallel", "one_wide_parallel"} <= {*commands("wmt22_en_de")}


def test_decoder_only_models_take_the_data_of_wmt22():
    """Binarised once, for both experiments; models and results are apart."""
    words = commands("decoder_only")["shared_dec_wide"]
    one_data = next(word for word in words if "/bin/0000" in word)
    assert one_data in commands("wmt22_en_de")["baseline"]
    assert f"{REPOSITORY}/runs/wmt22_en_de/bin/0000" in one_data
    assert words[words.index("--save-dir") + 1].startswith(f"{REPOSITORY}/runs/decoder_only/")
    assert "/runs/elsewhere/bin/" in " ".join(
        commands("decoder_only", "--work", f"{REPOSITORY}/runs/elsewhere")["baseline"]
    )


@pytest.mark.parametrize("experiment", ROWS)
def test_controls_match_the_baseline_in_what_they_are_for(experiment):
    shapes = {
        model: shape_of(settings(experiment, model), ROWS[experiment])
        for model in ("baseline", *CONTROLS)
    }
    same_cost, baseline = (
        count_multiply_adds(shapes[model]).token_pair
        for model in ("one_wide_same_cost", "baseline")
    )
    assert same_cost == baseline
    wide, original = (count_parameters(shapes[name]).body for name in ("no_dec_wide", "baseline"))
    assert wide == pytest.approx(original, rel=1e-3)


@pytest.mark.parametrize("gpus", [1, 3, 8, 128])
def test_the_batch_of_an_update_is_kept_for_any_number_of_gpus(gpus):
    for more in ((), ("--max-tokens", "2500")):
        words = commands("wmt22_en_de", "--gpus", str(gpus), *more)["one_wide"]
        tokens = int(words[words.index("--max-tokens") + 1])
        steps = int(words[words.index("--update-freq") + 1])
        assert tokens * steps * gpus == pytest.approx(458_752, rel=1e-3)
        assert tokens <= (2500 if more else 3584)
        assert (words[0] == "torchrun") == (gpus > 1)


def test_several_machines_meet_at_one_address():
    words = commands(
        *("wmt22_en_de", "--gpus", "8", "--nodes", "4", "--node-rank", "2"),
        *("--rendezvous", "host:29500"),
    )["one_wide"]
    text = " ".join(words)
    assert "--nnodes 4 --node-rank 2 --rdzv-backend c10d --rdzv-endpoint host:29500" in text
    assert "--update-freq 4 " in text
    missing = step("wmt22_en_de", "05_train", "--nodes", 2, fails=True)
    assert missing.status == 1 and "needs --rendezvous" in missing.err


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_step_has_help_and_a_dry_run_that_makes_nothing(experiment, tmp_path):
    for name in (*STEPS, "run", "costs"):
        text = step(experiment, name, "--help").out
        assert "--dry-run" in text and "shellcheck" not in text and len(text.splitlines()) > 17
    dry = step(experiment, "run", "--mini", "--dry-run", "--work", tmp_path / "work")
    commands_shown = dry.out
    for wanted in ("fetch.py", "to_text.py", "clean.py", "vocabulary.py", "fairseq-preprocess"):
        assert wanted in commands_shown
    for wanted in ("fairseq-train", "average", "generate", "score", "compare-latency", "report"):
        assert wanted in commands_shown
    assert not (tmp_path / "work").exists()


def test_bad_options_are_one_line():
    for arguments, message in (
        (("--modles", "x"), "unknown option --modles"),
        (("--models", "baseline,huge"), "no model 'huge'"),
        (("--gpus", "none"), "--gpus none: not a number"),
        (("--work",), "--work: needs a value"),
        (("--vocabulary", "big"), "joint or merged"),
        (("--raw-dir", "/nowhere"), "no such folder"),
    ):
        done = step("wmt22_en_de", "05_train", *arguments, fails=True)
        assert done.status == 1 and len(done.err.splitlines()) == 1 and message in done.err


def test_a_step_says_which_one_comes_before(tmp_path):
    for name, before in (("02_clean", "01_download"), ("05_train", "04_binarise")):
        done = step("wmt16_en_ro", name, "--mini", "--work", tmp_path / "work", fails=True)
        assert f"{before} isn't done" in done.err and f"{before}.sh first" in done.err


def test_shell_is_clean():
    """Every script of the repository, the recipes' sourced files among them."""
    checker = shutil.which("shellcheck")
    if checker is None:
        pytest.skip("shellcheck isn't installed")
    scripts = [
        path
        for pattern in ("**/*.sh", "**/*.sbatch")
        for path in sorted((REPOSITORY / "scripts").glob(pattern))
        if not path.is_symlink()
    ]
    assert {RECIPES / "lib.sh", REPOSITORY / "scripts" / "test.sh"} <= {*scripts}
    done = subprocess.run(
        [checker, "-x", *map(str, scripts), str(REPOSITORY / ".ci" / "run")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_no_step_is_copied():
    """The experiments' folders hold a configuration and links."""
    for experiment in EXPERIMENTS:
        own = [
            path.name
            for path in (REPOSITORY / "scripts" / experiment).iterdir()
            if not path.is_symlink() and path.is_file()
        ]
        assert {*own} <= {"config.sh", "checksums.txt"}


def variable(experiment: str, name: str) -> str:
    """A value of a configuration."""
    command = 'source "$0"; printf "%s" "${!1}"'
    config = REPOSITORY / "scripts" / experiment / "config.sh"
    return subprocess.run(
        ["bash", "-euc", command, str(config), name],
        env={
            **os.environ,
            "RECIPES": str(RECIPES),
            "ROOT": str(REPOSITORY),
            "MINI": "",
            "WORK": "",
        },
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def rows(experiment: str) -> List[List[str]]:
    """Rows of the data table: split, name, languages, kind, where."""
    lines = variable(experiment, "DATA").splitlines()
    return [line.split() for line in lines if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("experiment", ["wmt22_en_de", "wmt16_en_ro"])
def test_sets_for_testing_and_their_sums_are_those_of_sacrebleu(experiment):
    sums, members = {}, {}
    for known in DATASETS.values():
        sums.update(dict(zip(known.data, known.md5 or ())))
        for files in known.langpairs.values():
            if isinstance(files, list) and files[0].endswith(".sgm"):
                members.setdefault(known.data[0], []).append(files[:2])
    found = {}
    for split, _, _, kind, where in rows(experiment):
        if split != "train":
            address, _, inside = where.partition("#")
            found[address] = sums[address]
            if kind == "sgm":
                start, sides, end = re.fullmatch(r"(.*)\{(.*)\}(.*)", inside).groups()
                assert [f"{start}{side}{end}" for side in sides.split(",")] in members[address]
    stated = (REPOSITORY / "scripts" / experiment / "checksums.txt").read_text()
    assert {*re.findall(r"^md5:(\S+) (\S+)$", stated, re.MULTILINE)} == {
        (md5, address) for address, md5 in found.items()
    }


def test_the_multilingual_data_are_of_every_pair_and_scored_as_sacrebleu_does():
    table = rows("multilingual")
    languages = variable("multilingual", "LANGUAGES").split()
    pairs = {f"{a}-{b}" for at, a in enumerate(languages) for b in languages[at + 1 :]}
    for family, number in (("ccmatrix", 45), ("opus100", 8), ("tatoeba", 28)):
        found = [row for row in table if row[1].startswith(family)]
        assert len(found) == number and {row[2] for row in found} <= pairs
    assert len(pairs) == 45 and len(variable("multilingual", "DIRECTIONS").split()) == 90
    known = spbleu.SPM_MODELS[variable("multilingual", "SPBLEU")]["url"]
    assert variable("multilingual", "SPBLEU_FILE") == known


#: what mtdata knows, printed by one process: its index takes ten seconds to make
ASK = """
import json, sys
from mtdata.entry import DatasetId
from mtdata.index import INDEX
from mtdata.recipe import RECIPES

urls = {}
for name in sys.argv[1:]:
    parsed = DatasetId.parse(name)
    urls[name] = INDEX[parsed].url if parsed in INDEX else None
print(json.dumps([[str(name) for name in RECIPES["wmt22-deen"].train], urls]))
"""


def test_mtdata_knows_the_recipe_and_its_sets():
    """WMT22's recipe as mtdata has it, without a network, is what config.sh downloads."""
    if MTDATA_PYTHON is None:
        pytest.skip("no mtdata: bash scripts/recipes/mtdata.sh makes its environment")
    configured = {
        experiment: [where for _, _, _, kind, where in rows(experiment) if kind == "mtdata"]
        for experiment in ("wmt22_en_de", "multilingual")
    }
    names = [name for some in configured.values() for name in some]
    env = {**os.environ, "MTDATA_RECIPES": str(RECIPES), "MTDATA": str(MTDATA_CACHE)}
    done = subprocess.run(
        [MTDATA_PYTHON, "-c", ASK, *names], capture_output=True, text=True, check=True, env=env
    )
    recipe, urls = json.loads(done.stdout.splitlines()[-1])
    assert configured["wmt22_en_de"] == recipe and len(recipe) == 13
    assert len(configured["multilingual"]) == 45 + 8 + 28
    assert [name for name, url in urls.items() if not url] == []
    assert urls["ParaCrawl-paracrawl-9-eng-deu"].endswith("/release9/en-de/en-de.txt.gz")


@pytest.mark.skipif(not DATA.is_dir(), reason="no FFN_TEST_DATA")
def test_miniature_mirrors_are_the_same_each_time(tmp_path):
    from recipes.bench import files, program

    for name in ("one", "other"):
        program("mini_mirror.py", "wmt16_en_ro", "--output", tmp_path / name, "--data", DATA)
    assert files(tmp_path / "one") == files(tmp_path / "other")
