"""Download files: resumed where they broke off, verified, whole under their name or not at all.

    python fetch.py --folder raw URL ...

A file goes to FOLDER/<host>/<path>. It is looked for in --raw-dir first (by <host>/<path> or by its
name), then fetched from --mirror (MIRROR/<host>/<path>) if one is given, else from its own address.

Checksums: --known names a file of sums that the publishers state; its lines are `md5:SUM URL` or
`sha256:SUM URL`. For other files the sum of the first download is written to
FOLDER/checksums.sha256, and every later copy has to have it (trust on first use).
"""

from __future__ import annotations

import argparse
import http.client
import logging
import os
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Dict, Optional, Tuple

from sources import local_path, places
from tools import UserError, checksum, explain, run_program, whole

logger = logging.getLogger("fetch")

#: attempts that bring nothing new, in a row
ATTEMPTS = 5
BLOCK = 1 << 20
AGENT = "fairseq_ffn-recipes"
#: a connection that may work the next time
BROKEN = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("urls", nargs="+", metavar="URL", help="#member and {a,b} are understood")
    parser.add_argument("--folder", type=Path, required=True, metavar="DIR", help="where they go")
    parser.add_argument("--known", type=Path, metavar="FILE", help="sums that publishers state")
    parser.add_argument("--raw-dir", type=Path, metavar="DIR", help="files that are at hand")
    parser.add_argument("--mirror", metavar="URL", help="another base address")
    parser.add_argument(
        "--pause", type=float, default=2.0, metavar="S", help="seconds before a second attempt"
    )
    return parser.parse_args()


def main() -> None:
    """Fetch every file once."""
    args = parse()
    urls = []
    for where in args.urls:
        alternatives = where.partition("{")[2].partition("}")[0].count(",") + 1
        urls += [place.url for place in places(where, alternatives)]
    sums = Sums(args.folder / "checksums.sha256", args.known)
    for url in dict.fromkeys(urls):
        path = local_path(args.folder, url)
        if "://" not in url:
            continue  # of this checkout
        if path.is_file():
            sums.check(url, path, f"delete {path} and run the same command again")
            logger.info(f"{path.name} is there")
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        at_hand = args.raw_dir and find(args.raw_dir, url)
        if args.raw_dir and at_hand is None:
            logger.info(f"{path.name}: not in {args.raw_dir}, so it is downloaded")
        if at_hand is not None:
            part = path.with_name(path.name + ".part")
            try:
                shutil.copyfile(at_hand, part)
            except OSError as error:
                part.unlink(missing_ok=True)
                raise UserError(f"{path}: {explain(error)}") from error
            cure = f"{at_hand} is another file or damaged; put the right one there"
        else:
            address = url
            if args.mirror:
                address = args.mirror.rstrip("/") + "/" + url.partition("://")[2]
            part = download(address, path, args.pause)
            cure = "it was deleted; run the same command to download it anew"
        try:
            sums.check(url, part, cure)
        except UserError:
            part.unlink()
            raise
        os.replace(part, path)
        logger.info(f"{path.name}: {path.stat().st_size:,} bytes")


def find(folder: Path, url: str) -> Optional[Path]:
    """A file that is at hand, by its whole path or by its name."""
    path = local_path(folder, url)
    return next((one for one in (path, folder / path.name) if one.is_file()), None)


class Sums:
    """Checksums: what publishers state, and what the first download had.

    Args:
        first_use: file of ours, as sha256sum writes it.
        known: file of published sums, or None.
    """

    def __init__(self, first_use: Path, known: Optional[Path]):
        self.first_use = first_use
        self.known: Dict[str, Tuple[str, str]] = {}
        if known is not None and known.is_file():
            for line in known.read_text(encoding="utf-8").splitlines():
                if line.strip() and not line.startswith("#"):
                    sum_, url = line.split()
                    kind, _, digest = sum_.partition(":")
                    self.known[url] = (kind, digest)
        self.seen: Dict[str, str] = {}
        if first_use.is_file():
            for line in first_use.read_text(encoding="utf-8").splitlines():
                digest, _, name = line.partition("  ")
                self.seen[name] = digest

    def check(self, url: str, path: Path, cure: str) -> None:
        """Compare a file with the sum of its address; the first time, write its sum down.

        Raises:
            UserError: the sums differ.
        """
        kind, wanted = self.known.get(url, ("sha256", None))
        name = str(local_path(Path(), url))
        origin = "its publisher's"
        if wanted is None:
            wanted = self.seen.get(name)
            origin = (
                f"that of the first download ({self.first_use}; delete its line there if that one "
                "was damaged)"
            )
        found = checksum(path, kind)
        if wanted is None:
            self.seen[name] = found
            with whole(self.first_use) as file:
                file.writelines(f"{digest}  {one}\n" for one, digest in sorted(self.seen.items()))
            logger.info(f"{Path(name).name}: first download, {kind} {found} written down")
        elif found != wanted:
            raise UserError(f"{url}: {kind} {found} isn't {origin}, {wanted}; {cure}")


def download(address: str, path: Path, pause: float) -> Path:
    """Fetch to ``NAME.part``, going on from what is there.

    Raises:
        UserError: the server refuses, or the connection breaks again and again.
    """
    part = path.with_name(path.name + ".part")
    failures = 0
    while True:
        have = part.stat().st_size if part.is_file() else 0
        try:
            if _fetch(address, part, have):
                return part
            error: object = "the connection ended early"
        except urllib.error.HTTPError as failure:
            if failure.code == 416 and have:  # what is there is longer than the file
                part.unlink()
                error = failure
            elif failure.code < 500 and failure.code not in (408, 429):
                raise UserError(
                    f"{address}: the server says {failure.code} {failure.reason}; the file may "
                    "have moved: give another base address with --mirror, or put it into a folder "
                    "and name that with --raw-dir"
                ) from failure
            else:
                error = f"{failure.code} {failure.reason}"
        except BROKEN as failure:
            error = getattr(failure, "reason", failure)
        except OSError as failure:
            raise UserError(f"{part}: {explain(failure)}") from failure
        grown = (part.stat().st_size if part.is_file() else 0) > have
        failures = 1 if grown else failures + 1
        if failures >= ATTEMPTS:
            raise UserError(
                f"{address}: {error}, {ATTEMPTS} times without progress; run the same command "
                "later: it goes on from here"
            )
        logger.info(f"{path.name}: {error}; going on in {pause:g} s")
        time.sleep(pause)


def _fetch(address: str, part: Path, have: int) -> bool:
    """One request; True once the file is whole."""
    state = part.with_name(part.name + ".etag")
    request = urllib.request.Request(address, headers={"User-Agent": AGENT})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if state.is_file():  # of another version of the file the server sends the whole
            request.add_header("If-Range", state.read_text())
    with urllib.request.urlopen(request, timeout=60) as answer:
        tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        if tag and not tag.startswith("W/"):
            state.write_text(tag)
        resumed = answer.status == 206
        length = answer.headers.get("Content-Length")
        expected = None if length is None else int(length) + (have if resumed else 0)
        if resumed:
            logger.info(f"{part.stem}: going on after {have:,} bytes")
        with open(part, "ab" if resumed else "wb") as file:
            while block := answer.read(BLOCK):
                file.write(block)
            size = file.tell()
    if expected is not None and size < expected:
        return False
    state.unlink(missing_ok=True)
    return True


if __name__ == "__main__":
    run_program("fetch", main)
