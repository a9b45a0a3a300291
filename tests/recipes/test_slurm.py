"""The SLURM template with a stand-in for SLURM: what it starts, and what it does at its end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from recipes.bench import RECIPES

#: `srun` runs its command once, as on one machine, in a group of its own as SLURM does
SRUN = '#!/bin/bash\necho "srun $1" >> "$CALLS"\nshift\nexec "$@"\n'
SCONTROL = """#!/bin/bash
echo "scontrol $*" >> "$CALLS"
if [ "$2" = hostnames ]; then printf 'node7\\nnode8\\n'; fi
"""
#: stands for 05_train.sh
STEP = """trap 'echo stopped >> "$CALLS"; exit 143' TERM
echo "step $*" >> "$CALLS"
for ((turn = 0; turn < ${TURNS:-0}; turn++)); do sleep 0.05; done
exit "${STATUS:-0}"
"""


class Job:
    """A submitted job in a checkout of its own."""

    def __init__(self, folder: Path):
        self.folder, self.calls = folder, folder / "calls"
        step = folder / "scripts" / "wmt16_en_ro" / "05_train.sh"
        step.parent.mkdir(parents=True)
        step.write_text(STEP)
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            (folder / "bin").mkdir(exist_ok=True)
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)

    def start(self, *arguments: str, **more: str) -> subprocess.Popen:
        env = {
            **os.environ,
            **{"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "CALLS": str(self.calls)},
            **{"SLURM_JOB_ID": "123456", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_NNODES": "2"},
            **{"SLURM_NODEID": "1", **more},
        }
        return subprocess.Popen(
            ["bash", str(RECIPES / "slurm.sbatch"), *arguments],
            cwd=self.folder,
            env=env,
            stderr=subprocess.PIPE,
            text=True,
        )

    def lines(self) -> list:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def job(tmp_path) -> Job:
    return Job(tmp_path)


def test_every_machine_trains_with_its_rank_at_one_address(job):
    process = job.start("wmt16_en_ro", "--models", "baseline,one_wide")
    assert process.wait(timeout=60) == 0
    assert job.lines() == [
        "scontrol show hostnames node[7-8]",
        "srun --kill-on-bad-exit=1",
        # a port that no other job has
        "step --nodes 2 --node-rank 1 --rendezvous node7:23456 --models baseline,one_wide",
    ]


def test_before_its_time_is_over_it_stops_and_goes_back_into_the_queue(job):
    process = job.start("wmt16_en_ro", TURNS="1200")
    end = time.monotonic() + 60
    while not any(line.startswith("step") for line in job.lines()):
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)  # to the batch script alone, as --signal=B: says
    assert process.wait(timeout=60) == 0
    assert job.lines()[-2:] == ["stopped", "scontrol requeue 123456"]
    header = (RECIPES / "slurm.sbatch").read_text()
    assert "#SBATCH --requeue\n" in header and "#SBATCH --signal=B:USR1@" in header


def test_a_training_that_fails_fails_the_job_and_is_not_requeued(job):
    process = job.start("wmt16_en_ro", STATUS="3")
    assert process.wait(timeout=60) == 3
    assert not any("requeue" in line for line in job.lines())


def test_an_unknown_experiment_is_one_line(job):
    process = job.start("wmt99")
    assert process.wait(timeout=60) == 1
    assert process.stderr.read() == (
        "no scripts/wmt99/05_train.sh here; submit from the checkout\n"
    )
