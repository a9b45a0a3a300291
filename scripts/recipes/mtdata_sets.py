"""Data sets that mtdata knows: their addresses, and their text.

    python mtdata_sets.py urls ID ...                               one address a line
    python mtdata_sets.py text --folder raw --output text/train NAME:en-de:ID ...

mtdata (Gowda et al., 2021) says where a data set lies and reads its format; the files themselves
are fetched by fetch.py, which goes on after a broken connection. Runs in mtdata's own environment
(mtdata.sh), since its requirements clash with those of the rest.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Iterator, List

from sources import local_path
from to_text import is_done, write_parts
from tools import UserError, languages_of, run_program


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    urls = commands.add_parser("urls", help="addresses, one a line")
    urls.add_argument("ids", nargs="+", metavar="ID")
    text = commands.add_parser("text", help="training text, as to_text.py writes it")
    text.add_argument("sets", nargs="+", metavar="NAME:A-B:ID")
    text.add_argument("--folder", type=Path, required=True, metavar="DIR", help="downloaded files")
    text.add_argument("--output", type=Path, required=True, metavar="DIR")
    text.add_argument("--part-lines", type=int, default=5_000_000, metavar="N")
    return parser.parse_args()


def main() -> None:
    """One of the commands."""
    args = parse()
    if args.command == "urls":
        for name in args.ids:
            print("\n".join(urls_of(entry_of(name))))
        return
    for left in args.folder.glob("mtdata-*"):  # by a kill
        shutil.rmtree(left)
    for text in args.sets:
        name, languages, set_id = text.split(":", 2)
        origin = ["mtdata", set_id, languages, args.part_lines]
        if is_done(args.output / name, origin):
            continue
        rows = read_rows(entry_of(set_id), args.folder, languages_of(languages))
        write_parts(args.output / name, languages_of(languages), rows, args.part_lines, origin)


def entry_of(name: str):
    """mtdata's entry.

    Raises:
        UserError: this version of mtdata has none of that name.
    """
    import mtdata
    from mtdata.entry import DatasetId

    logging.getLogger().setLevel(logging.WARNING)  # it tells of every module of its index
    from mtdata.index import INDEX

    try:
        found = DatasetId.parse(name)
    except Exception as error:
        raise UserError(f"{name}: not a name of a data set for mtdata") from error
    if found not in INDEX:
        raise UserError(
            f"{name}: mtdata {mtdata.__version__} knows no such data set; the pinned version is "
            "in requirements/mtdata.txt"
        )
    return INDEX[found]


def urls_of(entry) -> List[str]:
    """The addresses of an entry."""
    return [entry.url] if isinstance(entry.url, str) else list(entry.url)


def read_rows(entry, folder: Path, languages: List[str]) -> Iterator[List[str]]:
    """The pairs of a data set, in the order of ``languages``."""
    from mtdata.cache import Cache
    from mtdata.entry import bcp47
    from mtdata.parser import Parser

    wanted = [bcp47(language).lang for language in languages]
    there = [tag.lang for tag in entry.did.langs]
    if sorted(wanted) != sorted(there):
        raise UserError(f"{entry.did}: its languages are {there}, not {wanted}")
    order = [there.index(language) for language in wanted]
    paths = [local_path(folder, url) for url in urls_of(entry)]
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: not there; run 01_download again")
    number = 0
    # what mtdata unpacks it takes for good, even if the archive is another one by then
    with tempfile.TemporaryDirectory(prefix="mtdata-", dir=folder) as root:
        cache = Cache(Path(root))
        for url, path in zip(urls_of(entry), paths):
            link = cache.get_local_path(
                url, filename=entry.filename, fix_missing=False, entry=entry
            )
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
            cache.get_flag_file(link).touch()
        try:
            parser = Parser(cache.get_entry(entry), ext=entry.in_ext or None, ent=entry)
            for row in parser.read_segs(show_pbar=False):
                number += 1
                if len(row) >= 2:
                    sides = [" ".join(str(text or "").split()) for text in row[:2]]
                    yield [sides[order[0]], sides[order[1]]]
        except Exception as error:  # whatever a damaged file makes of mtdata's parsers
            where = ", ".join(map(str, paths))
            raise UserError(
                f"{entry.did}: mtdata can't read {where} after line {number} "
                f"({type(error).__name__}: {error}); delete it and run 01_download again"
            ) from error


if __name__ == "__main__":
    run_program("mtdata_sets", main)
