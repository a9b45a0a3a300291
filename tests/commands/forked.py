"""Console commands without the seconds that importing PyTorch and fairseq takes.

One process for each test process has imported both, but nothing of this plugin and no command of
fairseq, and has multiplied nothing. For every command it forks a child, which becomes what the
console script is: it has its own folder, arguments, standard streams and root logger, calls the
same entry point, and ends as any interpreter does (``sys.excepthook``, ``atexit``, threads).

Differences to a fresh interpreter: what importing PyTorch and fairseq says isn't said again, and
what they read of the environment at import is the test process's. A command with an environment
of its own is run as a fresh process therefore, see :meth:`commands.lab.Lab.run`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

#: console command -> module and function, as in the two packages' setup.py
ENTRY_POINTS = {
    **{
        f"fairseq-{name}": (f"fairseq_cli.{name}", "cli_main")
        for name in ("generate", "interactive", "preprocess", "score", "train", "validate")
    },
    "fairseq-ffn": ("fairseq_ffn.cli.main", "main"),
}
#: sets the root logger up before it imports fairseq
LOGS_FIRST = ("fairseq-train",)
#: what the children need not import again
IMPORTED = (
    "torch",
    "fairseq",
    "fairseq.checkpoint_utils",
    "fairseq.criterions",
    "fairseq.models.nat",
    "fairseq.sequence_generator",
    "fairseq.tasks.translation",
    "fairseq.trainer",
    "sacrebleu",
    "sentencepiece",
)


class Forks:
    """Starts console commands by forking.

    Args:
        environment: of all of them.
        scripts: folder of the console scripts, for ``sys.argv[0]``.
    """

    def __init__(self, environment: Mapping[str, str], scripts: Path):
        self._scripts = scripts
        self._socket, theirs = socket.socketpair()
        self._server = subprocess.Popen(
            [sys.executable, "-P", __file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=dict(environment),
        )
        theirs.close()

    def run(
        self, command: str, arguments: Sequence[str], cwd: Path, stdin: str, timeout: float
    ) -> Tuple[int, str, str]:
        """Exit status (negative: a signal), standard output and standard error.

        Raises:
            TimeoutError: it was killed after ``timeout`` seconds.
        """
        request = {"argv": [str(self._scripts / command), *arguments], "cwd": str(cwd)}
        with tempfile.TemporaryFile() as into, tempfile.TemporaryFile() as out:
            with tempfile.TemporaryFile() as err:
                into.write(stdin.encode())
                into.seek(0)
                streams = [stream.fileno() for stream in (into, out, err)]
                body = json.dumps({**request, "command": command}).encode()
                head = len(body).to_bytes(8, "big")
                socket.send_fds(self._socket, [head], streams)
                self._socket.sendall(body)
                self._socket.settimeout(None)
                child = int.from_bytes(_receive(self._socket, 8), "big")
                self._socket.settimeout(timeout)
                try:
                    status = int.from_bytes(_receive(self._socket, 8), "big", signed=True)
                except TimeoutError:
                    os.kill(child, signal.SIGKILL)
                    self._socket.settimeout(None)
                    _receive(self._socket, 8)
                    raise
                texts = []
                for stream in (out, err):
                    stream.seek(0)
                    texts.append(stream.read().decode().replace("\r\n", "\n"))
        return status, texts[0], texts[1]

    def close(self) -> None:
        """End the server."""
        self._socket.close()
        self._server.wait(timeout=30)


def _receive(connection: socket.socket, count: int) -> bytes:
    """Exactly ``count`` bytes.

    Raises:
        EOFError: the other side has gone.
    """
    received = b""
    while len(received) < count:
        part = connection.recv(count - len(received))
        if not part:
            raise EOFError("the other side has gone")
        received += part
    return received


def serve(connection: socket.socket) -> Optional[Dict[str, Any]]:
    """Fork for every request; gives the request in the child, None once the tests are over."""
    while True:
        head, streams, _, _ = socket.recv_fds(connection, 8, 3)
        if not head:
            return None
        head += _receive(connection, 8 - len(head)) if len(head) < 8 else b""
        request = json.loads(_receive(connection, int.from_bytes(head, "big")))
        child = os.fork()
        if child == 0:
            connection.close()
            return {**request, "streams": streams}
        for stream in streams:
            os.close(stream)
        connection.sendall(child.to_bytes(8, "big"))
        _, status = os.waitpid(child, 0)
        connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(8, "big", signed=True))


def become(request: Dict[str, Any]) -> None:
    """Take over a command's folder, arguments, standard streams and root logger."""
    import logging

    for number, stream in enumerate(request["streams"]):
        os.dup2(stream, number)
        os.close(stream)
    # no with: they stay open for good
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    for handler in logging.root.handlers:  # one of fairseq's tasks makes it at import
        handler.setStream(sys.stderr)
    if request["command"] in LOGS_FIRST:
        logging.root.handlers.clear()
        logging.root.setLevel(logging.WARNING)
    os.chdir(request["cwd"])
    sys.argv = request["argv"]
    sys.path[0:0] = [str(Path(sys.argv[0]).parent)]


def call(command: str) -> Any:
    """The entry point of a console command; gives what the script would exit with."""
    import importlib

    module, function = ENTRY_POINTS[command]
    return getattr(importlib.import_module(module), function)()


def _import_all(names: Sequence[str]) -> List[Any]:
    import importlib

    return [importlib.import_module(name) for name in names]


if __name__ == "__main__":
    _import_all(IMPORTED)
    with socket.socket(fileno=int(sys.argv[1])) as _connection:
        _request = serve(_connection)
    if _request is not None:
        become(_request)
        sys.exit(call(_request["command"]))
