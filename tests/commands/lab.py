"""Real command lines on a small corpus; what several tests use is made once."""

from __future__ import annotations

import fcntl
import functools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Sequence

import torch

import fairseq_ffn
from commands.forked import ENTRY_POINTS, Forks
from fairseq_ffn.checkpoints import load_checkpoint

REPOSITORY = Path(__file__).resolve().parents[2]
#: the package that this Python imports: in the usual set-up the editable install
INSTALLED = Path(fairseq_ffn.__file__).parent
BIN = Path(sys.executable).parent


def words(text: str) -> List[str]:
    """A command line's words."""
    return text.split()


SIZES = words(
    "--encoder-embed-dim 32 --decoder-embed-dim 32 --encoder-ffn-embed-dim 64 "
    "--decoder-ffn-embed-dim 64 --encoder-attention-heads 2 --decoder-attention-heads 2 "
    "--encoder-layers 2 --decoder-layers 2 --share-all-embeddings"
)
#: what the tiny architectures choose by themselves
PRE_NORM = words("--encoder-normalize-before --decoder-normalize-before")
#: fairseq's main branch drops the last batch if its size isn't a multiple of this (default: 8)
ALL_SENTENCES = words("--required-batch-size-multiple 1")
TRAINING = words(
    "--optimizer adam --lr 0.01 --lr-scheduler inverse_sqrt --warmup-updates 10 --clip-norm 1 "
    "--criterion label_smoothed_cross_entropy --label-smoothing 0.1 --num-workers 0 --seed 3 "
    "--batch-size 44 --log-format simple --log-interval 1"
)
TRAINING += ALL_SENTENCES
#: the thread that reads ahead can abort a process that ends soon after its first update
TRAINING += words("--data-buffer-size 0")
#: an epoch is 46 updates: the run ends in the third, and saves in the middle of each
UPDATES = 120
SAVE_EVERY = 20
LONG_TRAINING = words(f"--max-update {UPDATES} --save-interval-updates {SAVE_EVERY} --dropout 0.05")
SENTENCES = {"train": 46 * 44, "valid": 30, "test": 30}


@dataclass
class Result:
    """What a command printed, and its exit status."""

    command: str
    status: int
    out: str
    err: str

    def error_line(self) -> str:
        """The one line that it failed with.

        Raises:
            AssertionError: it succeeded, or said anything else than one error line.
        """
        assert self.status not in (0, None), f"{self.command} succeeded\n{self.out}"
        assert "Traceback" not in self.out + self.err, self.out + self.err
        lines = [line for line in self.err.splitlines() if re.match(r"[\w -]+: error: ", line)]
        assert len(lines) == 1, f"{len(lines)} error lines\n{self.err}"
        assert lines[0] == self.err.splitlines()[-1] and lines[0].startswith(self.command)
        return lines[0]


class Lab:
    """Runs commands in a folder, and keeps what has been made there for all test processes."""

    def __init__(self, root: Path):
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    @functools.cached_property
    def forks(self) -> Forks:
        """What commands are forked from."""
        return Forks(environment({}), BIN)

    def close(self) -> None:
        """End what was started."""
        if "forks" in self.__dict__:
            self.forks.close()

    def once(self, name: str, make: Callable[[Path], object]) -> Path:
        """The folder ``name``, which ``make`` fills the first time that any process asks for it."""
        folder, done = self.root / name, self.root / f"{name}.done"
        with open(self.root / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    def run(
        self,
        command: str,
        *arguments: object,
        cwd: Optional[Path] = None,
        env: Mapping[str, str] = {},  # noqa: B006
        stdin: str = "",
        fails: bool = False,
        **more,
    ) -> Result:
        """Run a console command of this Python's environment, elsewhere than in the checkout.

        One with an environment of its own, or with further arguments for ``subprocess.run``, is a
        fresh process. The others are forked from one that has imported PyTorch and fairseq
        (``forked.py``), which saves their imports' seconds; ``FFN_TEST_FRESH=1`` makes them fresh
        processes as well.
        """
        folder = cwd or self.root
        if env or more or command not in ENTRY_POINTS or os.environ.get("FFN_TEST_FRESH"):
            finished = subprocess.run(
                [str(word) for word in (BIN / command, *arguments)],
                cwd=folder,
                env=environment(env),
                input=stdin,
                capture_output=True,
                text=True,
                timeout=300,
                **more,
            )
            result = Result(command, finished.returncode, finished.stdout, finished.stderr)
        else:
            texts = [str(word) for word in arguments]
            result = Result(command, *self.forks.run(command, texts, folder, stdin, timeout=300))
        assert fails or result.status == 0, f"{command} {arguments}\n{result.out}\n{result.err}"
        return result

    def data(self) -> Path:
        """A binarised corpus whose target is a copy of the source."""

        def make(folder: Path) -> None:
            write_corpus(folder)
            self.preprocess(folder)

        return self.once("data", make) / "bin"

    def preprocess(self, folder: Path) -> None:
        """Binarise the corpus in ``folder`` to ``folder/bin``."""
        languages = words("--source-lang xx --target-lang yy --joined-dictionary --workers 1")
        splits = [f"--{split}pref={folder / split}" for split in SENTENCES]
        self.run("fairseq-preprocess", *languages, *splits, "--destdir", folder / "bin")

    def train(self, folder: Path, arch: str, *more: object, user_dir: bool = True) -> Result:
        """Train in ``folder`` to the end."""
        return self.run("fairseq-train", *self.training(folder, arch, *more, user_dir=user_dir))

    def training(
        self, folder: Path, arch: str, *more: object, user_dir: bool = True
    ) -> List[object]:
        """The arguments of a training."""
        plugin = ["--user-dir", INSTALLED] if user_dir else []
        return [
            self.data(),
            *plugin,
            "--arch",
            arch,
            *SIZES,
            *TRAINING,
            "--save-dir",
            folder,
            *more,
        ]

    def trained(self, name: str) -> Path:
        """Checkpoints and log of one of ``MODELS``, trained without interruption."""

        def make(folder: Path) -> None:
            stock = name.startswith("stock")
            result = self.train(folder, *MODELS[name], *LONG_TRAINING, user_dir=not stock)
            (folder / "log").write_text(result.out)

        return self.once(name, make)

    def generate(
        self, checkpoint: Path, *more: object, user_dir: Optional[Path] = INSTALLED, **how
    ):
        """What fairseq-generate prints for the test set."""
        plugin = [] if user_dir is None else ["--user-dir", user_dir]
        arguments = [self.data(), "--path", checkpoint, *plugin, *ALL_SENTENCES, *more]
        return self.run("fairseq-generate", *arguments, "--batch-size", 16, **how)

    def generated(self, name: str, inference: str = "plain") -> str:
        """The output of fairseq-generate, beam 4, for a model of ``trained``.

        On fairseq's own path, whose figures are stock fairseq's to the last digit, unless
        ``inference`` says otherwise.
        """
        overrides = ["--model-overrides", f"{{'inference': '{inference}'}}"]
        if name.startswith("stock"):
            overrides = []

        def make(folder: Path) -> None:
            path = self.trained(name) / "checkpoint_last.pt"
            (folder / "out").write_text(self.generate(path, "--beam", 4, *overrides).out)

        return (self.once(f"generated-{name}-{inference}", make) / "out").read_text()


#: name -> architecture and further flags
MODELS: Dict[str, Sequence[str]] = {
    "baseline": ("transformer_ffn_tiny_baseline",),
    # validation by BLEU leaves numpy arrays in the checkpoint, EMA a second model
    "one_wide": (
        "transformer_ffn_tiny_one_wide",
        *words("--encoder-ffn-embed-dim 512"),  # a copy of it shows in a file's size
        *words("--eval-bleu --best-checkpoint-metric bleu --maximize-best-checkpoint-metric"),
        '--eval-bleu-args={"beam": 1, "max_len_b": 10}',
        *words("--store-ema --ema-decay 0.9"),
    ),
    "stock": ("transformer", *PRE_NORM),
    "baseline_post_norm": ("transformer_ffn",),
    "stock_post_norm": ("transformer",),
    "shared_enc_no_dec_post_norm": (
        "transformer_ffn",
        *words("--encoder-ffn-layout shared --decoder-ffn-layout none"),
    ),
}


def environment(more: Mapping[str, str]) -> Dict[str, str]:
    """The environment for a command; paths in PYTHONPATH come before those of this process."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **more}
    paths = (more.get("PYTHONPATH", ""), os.environ.get("PYTHONPATH", ""))
    env["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return env


def write_corpus(folder: Path, seed: int = 1, vocabulary: int = 16) -> None:
    """``train``, ``valid`` and ``test`` in the languages xx and yy."""
    number = random.Random(seed)
    for split, sentences in SENTENCES.items():
        lines = [
            " ".join(f"w{number.randrange(vocabulary)}" for _ in range(number.randint(3, 9)))
            for _ in range(sentences)
        ]
        for language in ("xx", "yy"):
            (folder / f"{split}.{language}").write_text("".join(f"{line}\n" for line in lines))


def kill_at_update(command: Sequence[object], update: int, cwd: Path) -> List[int]:
    """Run a training and kill -9 it once its log shows ``update``; gives all updates it logged.

    The pipe for the log is so small that the training waits for its reader, and so can't get far
    beyond that update before the signal.
    """
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=cwd,
        env=environment({"PYTHONUNBUFFERED": "1"}),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
    )
    fcntl.fcntl(process.stdout, getattr(fcntl, "F_SETPIPE_SZ", 1031), 4096)
    seen: List[int] = []
    end = time.time() + 200
    try:
        for line in process.stdout:
            found = re.search(rb"\| train_inner \|.* num_updates=(\d+)", line)
            if found:
                seen.append(int(found.group(1)))
            if time.time() > end or (seen and seen[-1] == update):
                break
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read()
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL and seen[-1] == update, seen
    return seen + [int(found) for found in re.findall(rb"num_updates=(\d+)", rest)]


def hypotheses(output: str) -> Dict[int, str]:
    """Best hypothesis by sentence, from fairseq-generate or fairseq-interactive."""
    found = re.findall(r"^H-(\d+)\t\S+\t(.*)$", output, re.MULTILINE)
    return {int(number): text for number, text in found}


def scores(output: str) -> Dict[int, float]:
    """Of the best hypotheses, by sentence."""
    found = re.findall(r"^H-(\d+)\t(\S+)\t", output, re.MULTILINE)
    return {int(number): float(score) for number, score in found}


def result_lines(output: str) -> List[str]:
    """Lines with hypotheses and their scores, in corpus order."""
    return sorted(re.findall(r"^[HDP]-\d+\t.*$", output, re.MULTILINE))


def bleu(output: str) -> str:
    """The BLEU line's figures as fairseq prints them."""
    return re.search(r"BLEU4? = .*", output).group(0).split(" = ", 1)[1]


def weights(path: Path) -> Dict[str, torch.Tensor]:
    """The model in a checkpoint."""
    return load_checkpoint(path)["model"]


def assert_equal(a, b, where: str = "") -> None:
    """Equal to the last bit, in nested containers too."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for number, (one, other) in enumerate(zip(a, b)):
            assert_equal(one, other, f"{where}.{number}")
    else:
        assert a == b, where
