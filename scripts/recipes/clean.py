"""Clean training text: normalise, drop bad pairs, drop duplicates, shuffle into shards.

    python clean.py --text text --output clean --shards 8 --workers 4

First every part of the text is read by itself: pairs are normalised and checked, and those that
stay go into buckets by their hash. Then every bucket is read by itself: two equal pairs are in one
bucket, so a set of the hashes of one bucket finds all duplicates, whatever the size of the text.
Memory depends on --bucket-lines and the number of workers alone. Both halves go on where they were
interrupted, and the result is the same for any number of workers.

A pair goes by the first rule that it breaks:
  empty      a side without text
  long       a side of more than --max-words words, or --max-bytes bytes (for languages without
             spaces)
  ratio      one side is more than --max-ratio times as long as the other, in bytes; 10 bytes are
             added to both, since short sentences differ more
  test       a side is a line of a validation or test set
  language   py3langid takes a side of 30 or more characters for another language (--language-id)
  duplicate  it was there before
"""

from __future__ import annotations

import argparse
import concurrent.futures
import ctypes
import functools
import gzip
import logging
import os
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Callable, Dict, FrozenSet, Iterable, Iterator, List, NamedTuple, Optional, Tuple

from normalise import normalise
from tools import (
    COMPRESSION,
    UserError,
    explain,
    fingerprint,
    languages_of,
    read_json,
    read_lines,
    read_pairs,
    run_program,
    whole,
    whole_folder,
    write_json,
)

logger = logging.getLogger("clean")

RULES = ("empty", "long", "ratio", "test", "language", "duplicate")
#: bytes of text that wait to be written, all buckets of one part together
WAITING = 32 << 20
#: characters below which no language is recognised with certainty
SURE = 30


class Settings(NamedTuple):
    """The rules."""

    max_words: int
    max_bytes: int
    max_ratio: float
    language_id: bool
    bucket_lines: int
    shards: int


class Part(NamedTuple):
    """A part of the text of one pair of languages.

    Args:
        pair: such as ``en-de``.
        source: the file.
        target: folder for its buckets.
        buckets: how many there are for this pair.
    """

    pair: str
    source: Path
    target: Path
    buckets: int


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, required=True, metavar="DIR", help="of 01_download")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--shards", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument("--max-words", type=int, default=250, metavar="N", help="default: 250")
    parser.add_argument("--max-bytes", type=int, default=3000, metavar="N", help="default: 3000")
    parser.add_argument("--max-ratio", type=float, default=3.0, metavar="R", help="default: 3")
    parser.add_argument("--language-id", action="store_true", help="needs py3langid")
    parser.add_argument(
        "--bucket-lines",
        type=int,
        default=1_000_000,
        metavar="N",
        help="pairs of a bucket, about; a million take 150 MB (default: 1,000,000)",
    )
    return parser.parse_args()


def main() -> None:
    """Both halves, then the table of what each rule removed."""
    args = parse()
    settings = Settings(
        args.max_words,
        args.max_bytes,
        args.max_ratio,
        args.language_id,
        args.bucket_lines,
        args.shards,
    )
    work = args.output.with_name(args.output.name + ".work")
    begin(work, settings)
    parts, buckets = parts_of(args.text, work, settings)
    check = Check(args.text, settings)
    run = functools.partial(run_all, workers=args.workers)
    run(functools.partial(clean_part, check), parts, "part")
    shards = [
        (pair, shard, count) for pair, count in buckets.items() for shard in range(args.shards)
    ]
    by_pair = {pair: [part.target for part in parts if part.pair == pair] for pair in buckets}
    run(functools.partial(join_shard, work, by_pair, args.shards), shards, "shard")
    counts = count(work, parts, shards)
    write_json(work / "clean" / "counts.json", counts)
    shutil.rmtree(args.output, ignore_errors=True)
    os.replace(work / "clean", args.output)
    shutil.rmtree(work)
    print("\n".join(table(counts)))


def begin(work: Path, settings: Settings) -> None:
    """The folder for what is half done; what was made by other rules goes."""
    record = work / "settings.json"
    if not record.is_file() or read_json(record) != settings._asdict():
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        write_json(record, settings._asdict())


def parts_of(text: Path, work: Path, settings: Settings) -> Tuple[List[Part], Dict[str, int]]:
    """All parts, and the number of buckets of each pair of languages: a multiple of the shards."""
    lines: Counter = Counter()
    found: List[Tuple[str, Path]] = []
    for record in sorted(text.glob("train/*/lines.json")):
        for folder in sorted(path for path in record.parent.iterdir() if path.is_dir()):
            lines[folder.name] += read_json(record)["lines"]
            found += [(folder.name, path) for path in sorted(folder.glob("*.tsv.gz"))]
    if not found:
        raise UserError(f"{text}/train: no text; run 01_download first")
    of_shard = settings.bucket_lines * settings.shards
    buckets = {pair: settings.shards * -(-number // of_shard) for pair, number in lines.items()}
    parts = []
    for pair, path in found:
        name = f"{path.parent.parent.name}.{path.name.partition('.')[0]}"
        parts.append(Part(pair, path, work / "parts" / pair / name, buckets[pair]))
    return parts, buckets


class Check:
    """What is wrong with a pair, if anything.

    Args:
        text: folder with the sets for validation and testing.
        settings: the rules.
    """

    def __init__(self, text: Path, settings: Settings):
        self.settings = settings
        self.held_out: FrozenSet[int] = frozenset(
            fingerprint(language, normalise(line, language))
            for split in ("valid", "test")
            for path in sorted((text / split).glob("*.*"))
            for language in [path.name.rpartition(".")[2]]
            for line in read_lines(path)
        )
        self._identify: Optional[Callable[[str], str]] = None

    def rule(self, pair: List[str], languages: List[str]) -> Optional[str]:
        """The first rule that a normalised pair breaks."""
        settings = self.settings
        one, other = pair
        if not one or not other:
            return "empty"
        lengths = [len(one.encode()), len(other.encode())]
        if max(lengths) > settings.max_bytes:
            return "long"
        if max(one.count(" "), other.count(" ")) >= settings.max_words:
            return "long"
        if max(lengths) + 10 > settings.max_ratio * (min(lengths) + 10):
            return "ratio"
        if self.held_out and any(
            fingerprint(language, side) in self.held_out for language, side in zip(languages, pair)
        ):
            return "test"
        if settings.language_id and any(
            len(side) >= SURE and self.identify(side) != language
            for language, side in zip(languages, pair)
        ):
            return "language"
        return None

    def identify(self, text: str) -> str:
        """The language of a text."""
        if self._identify is None:
            try:
                import py3langid
            except ImportError as error:
                raise UserError(
                    "--language-id needs py3langid: pip install -r requirements/language_id.txt"
                ) from error
            self._identify = lambda text: py3langid.classify(text)[0]
        return self._identify(text)


def clean_part(check: Check, part: Part) -> None:
    """One part of the text into buckets."""
    if part.target.is_dir():
        return
    languages = languages_of(part.pair)
    counts: Counter = Counter()
    limit = WAITING // part.buckets
    with whole_folder(part.target) as folder:
        waiting: List[List[str]] = [[] for _ in range(part.buckets)]
        sizes = [0] * part.buckets
        for raw in read_pairs(part.source):
            counts["read"] += 1
            pair = [normalise(side, language) for side, language in zip(raw, languages)]
            broken = check.rule(pair, languages)
            if broken is not None:
                counts[broken] += 1
                continue
            bucket = fingerprint(*pair) % part.buckets
            line = f"{pair[0]}\t{pair[1]}\n"
            waiting[bucket].append(line)
            sizes[bucket] += len(line)
            if sizes[bucket] > limit:
                append(folder, bucket, waiting[bucket])
                waiting[bucket], sizes[bucket] = [], 0
        for bucket, lines in enumerate(waiting):
            if lines:
                append(folder, bucket, lines)
        write_json(folder / "counts.json", counts)


def bucket_path(folder: Path, bucket: int) -> Path:
    """The file of one bucket of a part."""
    return folder / f"{bucket:05d}.tsv.gz"


def append(folder: Path, bucket: int, lines: List[str]) -> None:
    """Add to a bucket; so there can be more buckets than a process may have open files."""
    path = bucket_path(folder, bucket)
    try:
        with open(path, "ab") as file:
            file.write(gzip.compress("".join(lines).encode(), COMPRESSION, mtime=0))
    except OSError as error:
        raise UserError(f"{path}: {explain(error)}") from error


def join_shard(
    work: Path, folders: Dict[str, List[Path]], shards: int, job: Tuple[str, int, int]
) -> None:
    """One shard: some of the buckets, without duplicates."""
    pair, shard, buckets = job
    target = work / "clean" / pair / f"{shard:04d}.tsv.gz"
    if target.is_file() and shard_record(work, pair, shard).is_file():
        return
    counts: Counter = Counter()
    with whole(target) as file:
        for bucket in range(shard, buckets, shards):
            for one, other in unique(bucket, folders[pair], counts):
                file.write(f"{one}\t{other}\n")
    write_json(shard_record(work, pair, shard), counts)


def shard_record(work: Path, pair: str, shard: int) -> Path:
    """Where the counts of a shard lie."""
    return work / "shards" / pair / f"{shard:04d}.json"


def unique(bucket: int, folders: Iterable[Path], counts: Counter) -> Iterator[List[str]]:
    """The different pairs of one bucket."""
    seen = set()
    for folder in folders:
        path = bucket_path(folder, bucket)
        if not path.is_file():
            continue
        for pair in read_pairs(path):
            mark = fingerprint(*pair)
            if mark in seen:
                counts["duplicate"] += 1
                continue
            seen.add(mark)
            counts["kept"] += 1
            yield pair


def run_all(job: Callable, items: List, kind: str, workers: int) -> None:
    """Do all jobs, some at a time; the first error stops the rest."""
    if workers == 1 or len(items) < 2:
        for number, item in enumerate(items, 1):
            job(item)
            logger.info(f"{kind} {number} of {len(items)}")
        return
    with concurrent.futures.ProcessPoolExecutor(workers, initializer=end_with_parent) as pool:
        waiting = [pool.submit(job, item) for item in items]
        try:
            for number, done in enumerate(concurrent.futures.as_completed(waiting), 1):
                done.result()
                logger.info(f"{kind} {number} of {len(items)}")
        except concurrent.futures.process.BrokenProcessPool as error:
            raise UserError(
                "a worker was killed, of want of memory perhaps; give fewer --workers"
            ) from error
        finally:
            for one in waiting:
                one.cancel()


def end_with_parent() -> None:
    """Let Linux kill a worker when its parent dies, even of kill -9."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG


def count(work: Path, parts: List[Part], shards: List[Tuple[str, int, int]]) -> Dict[str, Dict]:
    """What each rule removed, by pair of languages."""
    counts: Dict[str, Counter] = {}
    records = [(part.pair, part.target / "counts.json") for part in parts]
    records += [(pair, shard_record(work, pair, shard)) for pair, shard, _ in shards]
    for pair, path in records:
        counts.setdefault(pair, Counter()).update(read_json(path))
    return {
        pair: {name: numbers[name] for name in ("read", *RULES, "kept")}
        for pair, numbers in sorted(counts.items())
    }


def table(counts: Dict[str, Dict[str, int]]) -> List[str]:
    """Lines of an aligned table."""
    names = ("read", *RULES, "kept")
    rows = [("pair", *names)]
    rows += [(pair, *(f"{found[name]:,}" for name in names)) for pair, found in counts.items()]
    if len(counts) > 1:
        sums = (sum(found[name] for found in counts.values()) for name in names)
        rows.append(("all", *(f"{number:,}" for number in sums)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(names) + 1)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]


if __name__ == "__main__":
    run_program("clean", main)
