"""Running commands: shown, logged, two at a time, with progress, and ended with the script."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence

from fairseq_ffn.errors import UserError, printable

__all__ = ["Job", "UserError", "run", "run_jobs", "sha256"]

logger = logging.getLogger("quickstart")

#: glibc returns each large tensor's memory to the system at once and gets it back page by page, a
#: tenth of the time of training; this keeps it, in huge pages (without effect on other systems)
KEEP_MEMORY = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:"
    "glibc.malloc.trim_threshold=8589934592:glibc.malloc.top_pad=134217728"
)


#: loaded here, since a new process must not load anything before its command begins
_LIBC = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Job:
    """One command whose output goes to a log file.

    Args:
        name: what to call it in progress lines.
        arguments: the command.
        log: file for its output; written under a temporary name when ``final`` is set.
        threads: OpenMP threads it may use.
        final: rename the log to this once the command has ended well.
        append: go on with an existing log (a resumed training).
        after: a job that has to end before this one starts.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[object],
        log: Path,
        threads: int = 1,
        final: Optional[Path] = None,
        append: bool = False,
        after: Optional[Job] = None,
    ):
        self.name, self.log, self.threads, self.final = name, log, threads, final
        self.append, self.after = append, after
        self.arguments = [str(argument) for argument in arguments]
        self.process: Optional[subprocess.Popen] = None
        self.started = 0.0
        self.seconds = 0.0

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.started = time.monotonic()
        environment: Dict[str, str] = {
            **os.environ,
            "OMP_NUM_THREADS": str(self.threads),
            # waiting threads must not spin: with a busy core that is many times slower
            "OMP_WAIT_POLICY": "PASSIVE",
            "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", KEEP_MEMORY),
            # three models at once would fight for a GPU, and the timings are for a CPU
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "ignore",
        }
        command = [str(Path(sys.executable).parent / self.arguments[0]), *self.arguments[1:]]
        with open(self.log, "ab" if self.append else "wb") as output:
            self.process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                preexec_fn=_end_with(os.getpid()),
            )

    def finished(self) -> bool:
        """True once it has ended well.

        Raises:
            UserError: it failed; one line with the last line of its log, and where that lies.
        """
        status = self.process.poll()
        if status is None:
            return False
        self.seconds = time.monotonic() - self.started
        if status != 0:
            how = f"status {status}" if status > 0 else f"ended by signal {-status}"
            raise UserError(
                f"{self.arguments[0]} for {self.name} failed ({how}): {_last_line(self.log)}; "
                f"all of its output: {self.log}"
            )
        if self.final is not None:
            os.replace(self.log, self.final)
        return True

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()


def _end_with(parent: int) -> Optional[Callable[[], None]]:
    """For the new process: let Linux kill it when the script dies, even of ``kill -9``.

    Else it would go on training in a folder that the next start takes for its own.
    """
    if _LIBC is None:
        return None

    def ask() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it died before that
            os._exit(1)

    return ask


def run(arguments: Sequence[object], log: Path, threads: int = 1) -> None:
    """Run one command and wait for it."""
    run_jobs([Job(str(arguments[0]), arguments, log, threads)], workers=1)


def run_jobs(
    jobs: List[Job],
    workers: int,
    progress: Optional[Callable[[List[Job], List[Job]], str]] = None,
    interval: float = 15.0,
    on_finish: Callable[[Job], None] = lambda job: None,
) -> None:
    """Run jobs in the order given, ``workers`` at a time, each as soon as it may start.

    Args:
        jobs: the commands.
        workers: how many at once.
        progress: text for the progress line from (running, finished) jobs.
        interval: seconds between progress lines; on a terminal one line is rewritten each second.
        on_finish: called with each job as it has ended well.

    Raises:
        UserError: a job failed; the others are stopped.
    """
    waiting, running, finished = list(jobs), [], []
    terminal = sys.stderr.isatty()
    shown = time.monotonic()
    try:
        while waiting or running:
            for job in list(waiting):
                if len(running) < workers and (job.after is None or job.after in finished):
                    waiting.remove(job)
                    running.append(job)
                    job.start()
            time.sleep(0.2)
            done = [job for job in running if job.finished()]
            running = [job for job in running if job not in done]
            finished += done
            for job in done:
                on_finish(job)
            pause = 1.0 if terminal else interval
            if progress is not None and time.monotonic() - shown >= pause:
                shown = time.monotonic()
                line = progress(running, finished)
                if terminal:
                    print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
                else:
                    print(line, file=sys.stderr, flush=True)
    finally:
        if terminal and progress is not None:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        for job in running:
            job.stop()


def sha256(path: Path) -> str:
    """Checksum of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _last_line(path: Path) -> str:
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return printable(lines[-1][:300]) if lines else "it wrote nothing"
