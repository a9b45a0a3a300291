"""The recipes' programs and steps as commands, and an HTTP server that misbehaves on demand."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, Optional, Sequence

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPES = REPOSITORY / "scripts" / "recipes"
DATA = Path(os.environ.get("FFN_TEST_DATA", REPOSITORY.parent / "shared" / "data"))

#: the environment of scripts/recipes/mtdata.sh, None if it isn't there, and a place for its index
MTDATA_VENV = Path(os.environ.get("FAIRSEQ_FFN_MTDATA_VENV", REPOSITORY / ".venv-mtdata"))
MTDATA_PYTHON: Optional[str] = os.environ.get("FAIRSEQ_FFN_MTDATA_PYTHON") or str(
    MTDATA_VENV / "bin" / "python"
)
if not Path(MTDATA_PYTHON).exists():
    MTDATA_PYTHON = None
MTDATA_CACHE = MTDATA_VENV / "cache"

EXPERIMENTS = ("wmt22_en_de", "wmt16_en_ro", "multilingual", "decoder_only")
STEPS = (
    *("01_download", "02_clean", "03_vocabulary", "04_binarise", "05_train", "06_average"),
    *("07_generate", "08_score", "09_latency", "10_report"),
)


@dataclass
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str

    def error_line(self) -> str:
        """The one line that a program failed with."""
        assert self.status == 1, self.err
        assert "Traceback" not in self.err, self.err
        lines = [line for line in self.err.splitlines() if re.match(r"[\w ]+: error: ", line)]
        assert len(lines) == 1, self.err
        return lines[0]


def environment(more: Mapping[str, str] = {}) -> Dict[str, str]:  # noqa: B006
    """Of a user who has their own set-up."""
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "RECIPES_PYTHON": sys.executable,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        **more,
    }


def program(name: str, *arguments: object, fails: bool = False, **more) -> Done:
    """Run one of the recipes' programs."""
    command = [sys.executable, str(RECIPES / name), *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=environment(), **more
    )
    assert fails or done.returncode == 0, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def step_command(experiment: str, step: str, *options: object) -> List[str]:
    """A step of an experiment."""
    return ["bash", str(REPOSITORY / "scripts" / experiment / f"{step}.sh"), *map(str, options)]


def step(
    experiment: str,
    name: str,
    *options: object,
    fails: bool = False,
    env: Mapping[str, str] = {},  # noqa: B006
    **more,
) -> Done:
    """Run a step."""
    done = subprocess.run(
        step_command(experiment, name, *options),
        capture_output=True,
        text=True,
        timeout=280,
        env=environment(env),
        **more,
    )
    assert fails or done.returncode == 0, f"{experiment} {name}\n{done.stdout}\n{done.stderr}"
    return Done(done.returncode, done.stdout, done.stderr)


def kill_when(command: Sequence[str], ready, env: Mapping[str, str] = {}) -> int:  # noqa: B006
    """Start a command in a group of its own, and kill -9 the group as soon as ``ready()``."""
    process = subprocess.Popen(
        command,
        env=environment(env),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + 250
    try:
        while not ready():
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < end
            time.sleep(0.005)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return process.returncode


def files(folder: Path) -> Dict[str, bytes]:
    """All files below a folder by their names."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write_gz(path: Path, text: str) -> None:
    """A compressed text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


@dataclass
class Server:
    """A server of one folder.

    Args:
        folder: what it serves.
        url: its address.
        cut: close the connection after so many bytes of the body, by path, once each.
        ranges: whether it knows Range.
        requests: (path, Range header) of what was asked for.
    """

    folder: Path
    url: str = ""
    cut: Dict[str, int] = field(default_factory=dict)
    ranges: bool = True
    requests: List[tuple] = field(default_factory=list)

    def asked(self, path: str) -> List[Optional[str]]:
        """The Range headers with which a file was asked for."""
        return [header for name, header in self.requests if name == path]


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server on this machine."""
    server = Server(folder)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            header = self.headers.get("Range")
            server.requests.append((self.path, header))
            path = server.folder / self.path.lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            data = path.read_bytes()
            tag = f'"{hash(data)}"'
            start = 0
            if header and server.ranges and self.headers.get("If-Range", tag) == tag:
                start = int(re.fullmatch(r"bytes=(\d+)-", header).group(1))
                if start >= len(data):
                    self.send_error(416)
                    return
            body = data[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", tag)
            self.end_headers()
            self.wfile.write(body[: server.cut.pop(self.path, len(body))])
            self.close_connection = True

        def log_message(self, *args: object) -> None:
            """Nobody reads it."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        server.url = f"http://127.0.0.1:{listener.server_address[1]}"
        thread = threading.Thread(target=listener.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown()
            thread.join()
