"""What the recipes' programs share: one-line errors, text read as a stream, files written whole.

Pure standard library, and nothing of fairseq_ffn: importing that takes seconds, a step runs several
of these programs, and one of them runs in mtdata's own environment.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import io
import json
import logging
import os
import shutil
import signal
import sys
import zlib
from pathlib import Path
from typing import BinaryIO, Callable, Iterator, List, Optional, TextIO

#: intermediate files are read once or twice; more costs more time than it saves in reading
COMPRESSION = 1
#: errors of a compressed stream that ends early or holds something else
DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)

#: errors of a disk, quota or file that has no room
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(Exception):
    """Something the user can mend; its text is one line that says what, where and how."""


def run_program(name: str, main: Callable[[], None]) -> None:
    """Run a program; what its user can mend is one line and exit status 1."""
    logging.basicConfig(level=logging.INFO, format=f"[{name}] %(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        main()
    except UserError as error:
        sys.exit(f"{name}: error: {printable(str(error))}")
    except BrokenPipeError:
        sys.exit(1)  # the reader of our output failed, and says why
    except OSError as error:
        if error.filename is None and error.errno not in FULL:
            raise
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(f"{name}: error: {printable(where + explain(error))}")
    except KeyboardInterrupt:
        sys.exit(f"{name}: interrupted; the same command goes on from here")


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def explain(error: OSError) -> str:
    """An operating system's error in words, with its cure if we know one."""
    text = error.strerror or str(error)
    if error.errno in FULL:
        return f"{text}; make room, then run the same command again: it goes on from here"
    return text


def printable(text: str) -> str:
    """One line without control characters, which a server's answer or a name may hold."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def open_stream(path: Path) -> BinaryIO:
    """A file to read, unpacked if its name ends in ``.gz``."""
    return gzip.open(path, "rb") if path.name.endswith(".gz") else open(path, "rb")


def stream_lines(source: BinaryIO, name: str) -> Iterator[str]:
    """Lines of a text; only a line feed ends one.

    Args:
        source: the stream.
        name: what to call it in errors.

    Raises:
        UserError: naming the line of text that isn't UTF-8, or where a compressed file is damaged.
    """
    number = 0
    try:
        for number, line in enumerate(source, 1):  # noqa: B007  (for the errors)
            yield line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{name}, line {number}: not UTF-8 ({error.reason})") from error
    except DAMAGED as error:
        raise UserError(
            f"{name}: damaged compressed file after line {number} ({error}); delete it and run "
            "01_download again"
        ) from error


def read_lines(path: Path) -> Iterator[str]:
    """Lines of a file, plain or ``.gz``."""
    with open_stream(path) as source:
        yield from stream_lines(source, str(path))


def read_pairs(path: Path) -> Iterator[List[str]]:
    """Pairs of a file of ours, a tab between source and target."""
    for number, line in enumerate(read_lines(path), 1):
        sides = line.split("\t")
        if len(sides) != 2:
            raise UserError(f"{path}, line {number}: {len(sides)} columns instead of 2")
        yield sides


@contextlib.contextmanager
def whole(path: Path) -> Iterator[TextIO]:
    """A text file to write, ``.gz`` or plain: whole under its name or not there at all.

    The same text gives the same bytes: no name and no date in the header of gzip.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as raw:
            packed: BinaryIO = raw
            if path.name.endswith(".gz"):
                packed = gzip.GzipFile("", "wb", COMPRESSION, raw, mtime=0)
            text = io.TextIOWrapper(packed, encoding="utf-8", newline="\n", write_through=True)
            yield text
            text.flush()
            if packed is not raw:
                packed.close()
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: {explain(error)}") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill: whole under its name or not there at all; takes the place of an old one."""
    temporary = path.with_name(path.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(path, ignore_errors=True)
    os.replace(temporary, path)


def write_json(path: Path, record: object) -> None:
    """Write a record, whole or not at all."""
    with whole(path) as file:
        file.write(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict:
    """A record of ours."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); delete it and run its step again") from error


def checksum(path: Path, kind: str = "sha256") -> str:
    """Checksum of a file."""
    digest = hashlib.new(kind, usedforsecurity=False)
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(*texts: str, seed: str = "") -> int:
    """64 bits of a text's hash, the same in every process and on every machine."""
    data = "\t".join(texts).encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, key=seed.encode()).digest(), "big")


def languages_of(text: str) -> List[str]:
    """``en-de`` or ``cs-de-en-fr`` as a list."""
    return text.split("-")


def first(items: Iterator[str]) -> Optional[str]:
    """The first of them, or None."""
    return next(items, None)
