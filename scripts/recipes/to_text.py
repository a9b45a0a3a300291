"""Text out of downloaded files, in the form that the next steps read.

    python to_text.py --folder raw --kind sgm --split valid --languages en-ro --output DIR WHERE

Training text becomes pairs, a tab between them, in parts of so many lines:
OUTPUT/<source>-<target>/00000.tsv.gz. From a text in more than two languages come all pairs. A set
for validation or testing becomes one plain file per language: OUTPUT.<language>. WHERE is an
address, with members and braces (see sources.py).
"""

from __future__ import annotations

import argparse
import contextlib
import html
import itertools
import logging
import re
import tarfile
import zipfile
from pathlib import Path
from typing import BinaryIO, Iterator, List, Sequence

from sources import Place, local_path, places
from tools import (
    DAMAGED,
    UserError,
    languages_of,
    open_stream,
    read_json,
    run_program,
    stream_lines,
    whole,
    whole_folder,
    write_json,
)

logger = logging.getLogger("to_text")

_SEGMENT = re.compile(r"<seg[^>]*>(.*?)</seg>", re.IGNORECASE)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("where", metavar="WHERE", help="address")
    parser.add_argument(
        "--folder", type=Path, required=True, metavar="DIR", help="of the downloaded files"
    )
    parser.add_argument(
        "--kind",
        choices=("text", "sgm"),
        default="text",
        help="one sentence a line, or WMT's sgm files (default: text)",
    )
    parser.add_argument("--split", choices=("train", "valid", "test"), required=True)
    parser.add_argument("--languages", type=languages_of, required=True, metavar="A-B")
    parser.add_argument("--output", type=Path, required=True, metavar="PATH")
    parser.add_argument(
        "--part-lines", type=int, default=5_000_000, metavar="N", help="lines of a part of training"
    )
    return parser.parse_args()


def main() -> None:
    """Write one set."""
    args = parse()
    origin = [args.where, args.kind, args.languages, args.part_lines]
    if args.split == "train" and is_done(args.output, origin):
        return
    found = places(args.where, len(args.languages))
    sides = [read_place(args.folder, place, args.kind) for place in found]
    names = [" # ".join(filter(None, (place.url, place.member))) for place in found]
    rows = columns(sides[0], names[0], len(args.languages)) if len(sides) == 1 else None
    if rows is None:
        rows = aligned(sides, names)
    if args.split == "train":
        write_parts(args.output, args.languages, rows, args.part_lines, origin)
    else:
        write_set(args.output, args.languages, rows)


def read_place(folder: Path, place: Place, kind: str) -> Iterator[str]:
    """Lines of one text.

    Raises:
        UserError: it isn't there, or it is damaged.
    """
    path = local_path(folder, place.url)
    if not path.is_file():
        raise UserError(f"{path}: not there; run 01_download again")
    name = str(path) if place.member is None else f"{path} # {place.member}"
    with open_place(path, place.member) as source:
        lines = stream_lines(source, name)
        if kind == "sgm":
            # a segment is a line in WMT's files
            for line in lines:
                segment = _SEGMENT.search(line)
                if segment:
                    yield html.unescape(segment.group(1)).strip()
        else:
            yield from lines


@contextlib.contextmanager
def open_place(path: Path, member: str | None) -> Iterator[BinaryIO]:
    """A file, or a member of an archive; nothing is unpacked to disk."""
    if member is None:
        with open_stream(path) as source:
            yield source
        return
    cure = f"delete {path} and run 01_download again"
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive, archive.open(member) as source:
                yield source  # type: ignore[misc]
            return
        # as a stream: a list of all members would need the whole archive read twice
        with tarfile.open(path, "r|*") as archive:
            for entry in archive:
                if entry.name.removeprefix("./") == member and entry.isfile():
                    yield archive.extractfile(entry)  # type: ignore[misc]
                    return
        raise KeyError(member)
    except KeyError as error:
        raise UserError(f"{path}: has no member {member}; it is another file, or newer") from error
    except (tarfile.TarError, zipfile.BadZipFile, *DAMAGED) as error:
        raise UserError(f"{path}: damaged archive ({error}); {cure}") from error


def columns(lines: Iterator[str], name: str, count: int) -> Iterator[List[str]]:
    """Rows of a file with tabs; further columns, such as scores, are left out."""
    for number, line in enumerate(lines, 1):
        row = line.split("\t")
        if len(row) < count:
            raise UserError(f"{name}, line {number}: {len(row)} columns instead of {count}")
        yield row[:count]


def aligned(sides: Sequence[Iterator[str]], names: Sequence[str]) -> Iterator[List[str]]:
    """Rows of several files, line by line.

    Raises:
        UserError: they have different numbers of lines.
    """
    number = 0
    for number, row in enumerate(itertools.zip_longest(*sides), 1):  # noqa: B007
        if None in row:
            short = row.index(None)
            other = next(index for index, text in enumerate(row) if text is not None)
            longer = number + sum(1 for _ in sides[other])
            raise UserError(
                f"{names[short]} has {number - 1} lines, but {names[other]} has {longer}; line N "
                "of one must translate line N of the other: is one of them cut?"
            )
        yield [text.replace("\t", " ") for text in row]


def is_done(output: Path, origin: object) -> bool:
    """Whether a set is there, and comes from the same place in the same way."""
    record = output / "lines.json"
    return record.is_file() and read_json(record)["origin"] == origin


def write_parts(
    output: Path,
    languages: Sequence[str],
    rows: Iterator[List[str]],
    part_lines: int,
    origin: object,
) -> None:
    """Training text: a folder of parts for every pair of languages, and ``lines.json``."""
    pairs = list(itertools.combinations(range(len(languages)), 2))
    lines = 0
    with whole_folder(output) as folder:
        for part in itertools.count():
            block = list(itertools.islice(rows, 1))
            if not block:
                break
            with contextlib.ExitStack() as stack:
                files = [
                    stack.enter_context(
                        whole(
                            folder / f"{languages[one]}-{languages[other]}" / f"{part:05d}.tsv.gz"
                        )
                    )
                    for one, other in pairs
                ]
                for row in itertools.chain(block, itertools.islice(rows, part_lines - 1)):
                    lines += 1
                    for file, (one, other) in zip(files, pairs):
                        file.write(f"{row[one]}\t{row[other]}\n")
        if lines == 0:
            raise UserError(f"{output}: its source holds no line")
        write_json(folder / "lines.json", {"lines": lines, "origin": origin})
    logger.info(f"{output}: {lines:,} lines")


def write_set(output: Path, languages: Sequence[str], rows: Iterator[List[str]]) -> None:
    """A set for validation or testing: a plain file per language."""
    lines = 0
    with contextlib.ExitStack() as stack:
        files = [
            stack.enter_context(whole(output.with_name(f"{output.name}.{language}")))
            for language in languages
        ]
        for lines, row in enumerate(rows, 1):  # noqa: B007
            for index, (file, text) in enumerate(zip(files, row)):
                if not text.strip():
                    raise UserError(f"{output}.{languages[index]}, line {lines}: empty")
                file.write(text + "\n")
        if lines == 0:
            raise UserError(f"{output}: its source holds no line")
    logger.info(f"{output}: {lines:,} lines")


if __name__ == "__main__":
    run_program("to_text", main)
