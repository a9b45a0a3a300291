"""Small files under the real names, for --mini: what a mirror of the real servers would hold.

    python mini_mirror.py wmt22_en_de --output mirror [--data DIR]
    python -m http.server --directory mirror 8000 &
    bash scripts/wmt22_en_de/run.sh --mini --mirror http://localhost:8000

A recipe with --mini and neither --mirror nor --raw-dir makes this itself. DIR holds WMT's test
sets, NTREX, FLORES-200 and Multi30K, as plain files of one sentence a line; not all of them may be
shipped with this project. Without them wmt22_en_de takes the shipped Tatoeba corpus.
"""

from __future__ import annotations

import argparse
import gzip
import html
import io
import itertools
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Dict, List, Sequence

from tools import UserError, first, read_lines, run_program, whole_folder

REPOSITORY = Path(__file__).resolve().parents[2]
TATOEBA = REPOSITORY / "data-bin" / "tatoeba_en_de" / "raw"
OPUS = "object.pouta.csc.fi"
Sides = Sequence[List[str]]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", choices=tuple(EXPERIMENTS))
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("FFN_TEST_DATA", REPOSITORY.parent / "shared" / "data")),
        metavar="DIR",
        help="default: $FFN_TEST_DATA",
    )
    parser.add_argument("--lines", type=int, metavar="N", help="of a training set at most")
    return parser.parse_args()


def main() -> None:
    """Write the files of one experiment."""
    args = parse()
    with whole_folder(args.output) as folder:
        EXPERIMENTS[args.experiment](Mirror(folder), args.data, args.lines)


class Mirror:
    """A folder of <host>/<path>; the same text gives the same bytes."""

    def __init__(self, folder: Path):
        self.folder = folder

    def write(self, name: str, data: bytes) -> None:
        """A file as it is, packed if its name says so."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)

    def tar(self, name: str, members: Dict[str, bytes]) -> None:
        """A packed tar archive."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for member, data in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(buffer.getvalue(), mtime=0))

    def zip(self, name: str, members: Dict[str, bytes]) -> None:
        """A zip archive."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, data in members.items():
                archive.writestr(zipfile.ZipInfo(member), data, zipfile.ZIP_DEFLATED)


def sides(stem: Path, languages: Sequence[str]) -> List[List[str]]:
    """The lines of every language."""
    found = []
    for language in languages:
        paths = [stem.with_name(f"{stem.name}.{language}{ending}") for ending in ("", ".gz")]
        path = first(path for path in paths if path.is_file())
        if path is None:
            raise UserError(f"{paths[0]}: not there, nor .gz; name the folder with --data")
        found.append(list(read_lines(path)))
    return found


def text(lines: List[str]) -> bytes:
    """One sentence a line."""
    return "".join(f"{line}\n" for line in lines).encode()


def tsv(*columns: List[str]) -> bytes:
    """Sides beside each other."""
    return "".join("\t".join(row) + "\n" for row in zip(*columns)).encode()


def sgm(lines: List[str], kind: str) -> bytes:
    """As WMT's test sets until 2020."""
    body = "".join(
        f'<seg id="{number}">{html.escape(line, quote=False)}</seg>\n'
        for number, line in enumerate(lines, 1)
    )
    return f'<{kind} setid="mini"><doc docid="1">\n{body}</doc></{kind}>\n'.encode()


def tmx(one: str, ones: List[str], other: str, others: List[str]) -> bytes:
    """A translation memory."""
    units = "".join(
        f'<tu><tuv xml:lang="{one}"><seg>{html.escape(left)}</seg></tuv>'
        f'<tuv xml:lang="{other}"><seg>{html.escape(right)}</seg></tuv></tu>\n'
        for left, right in zip(ones, others)
    )
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<tmx version="1.4"><header/><body>\n'
    return f"{head}{units}</body></tmx>\n".encode()


def wmt22_en_de(mirror: Mirror, data: Path, lines: int | None) -> None:
    """newstest 2008 to 2012 as training text, 2013 for validation, WMT22's test for testing."""
    languages = ("en", "de")
    news = data / "wmt_newstest_en_de"
    if news.is_dir():
        years = ("news-test2008", "newstest2009", "newstest2010", "newstest2011", "newstest2012")
        train: Sides = [
            list(itertools.chain.from_iterable(parts))
            for parts in zip(*(sides(news / year, languages) for year in years))
        ]
        valid = sides(news / "newstest2013", languages)
        general = [
            list(read_lines(data / "wmt22_en_de" / f"generaltest2022.en-de.{name}"))
            for name in ("src.en", "ref.A.de")
        ]
    else:
        train = [side[:13000] for side in sides(TATOEBA / "train", languages)]
        valid, general = (sides(TATOEBA / split, languages) for split in ("dev", "test"))
    # four sets of different form; the last two have pairs in common
    size = min(lines or len(train[0]), len(train[0]))
    cuts = [0, size // 3, 2 * size // 3, size]
    en, de = ([side[start:end] for start, end in zip(cuts, cuts[1:])] for side in train)
    mirror.write(
        "www.statmt.org/europarl/v10/training/europarl-v10.de-en.tsv.gz", tsv(de[0], en[0])
    )
    mirror.write(
        "s3.amazonaws.com/web-language-models/paracrawl/release9/en-de/en-de.txt.gz",
        tsv(en[1], de[1]),
    )
    mirror.tar(
        "www.statmt.org/wmt13/training-parallel-commoncrawl.tgz",
        {"commoncrawl.de-en.de": text(de[2]), "commoncrawl.de-en.en": text(en[2])},
    )
    mirror.zip(
        "tilde-model.s3-eu-west-1.amazonaws.com/rapid2019.de-en.tmx.zip",
        {"RAPID_2019.de-en.tmx": tmx("de", de[2][:300], "en", en[2][:300])},
    )
    mirror.tar(
        "www.statmt.org/wmt13/dev.tgz",
        {
            "dev/newstest2013-src.en.sgm": sgm(valid[0], "srcset"),
            "dev/newstest2013-ref.de.sgm": sgm(valid[1], "refset"),
        },
    )
    inside = "wmt22-news-systems-1.1/txt"
    mirror.tar(
        "github.com/wmt-conference/wmt22-news-systems/archive/refs/tags/v1.1.tar.gz",
        {
            f"{inside}/sources/generaltest2022.en-de.src.en": text(general[0]),
            f"{inside}/references/generaltest2022.en-de.ref.A.de": text(general[1]),
        },
    )


def wmt16_en_ro(mirror: Mirror, data: Path, lines: int | None) -> None:
    """NTREX and FLORES-200 as training text and for validation, newstest2016 for testing."""
    languages = ("en", "ro")
    ntrex = [side[:lines] for side in sides(data / "ntrex" / "newstest2019", languages)]
    flores = sides(data / "flores200" / "devtest", languages)
    test = sides(data / "wmt16_en_ro" / "newstest2016", languages)
    # one half of the Romanian has the cedillas of old encodings
    cedilla = str.maketrans("ȘșȚț", "ŞşŢţ")
    mirror.tar(
        "data.statmt.org/wmt16/translation-task/training-parallel-ep-v8.tgz",
        {
            "training-parallel-ep-v8/europarl-v8.ro-en.en": text(ntrex[0]),
            "training-parallel-ep-v8/europarl-v8.ro-en.ro": text(
                [line.translate(cedilla) for line in ntrex[1]]
            ),
        },
    )
    mirror.zip(
        f"{OPUS}/OPUS-SETIMES/v2/moses/en-ro.txt.zip",
        {
            "SETIMES.en-ro.en": text(flores[0][:600]),
            "SETIMES.en-ro.ro": text(flores[1][:600]),
        },
    )
    for name, where, (en, ro) in (
        ("dev", "dev/newsdev2016", [side[600:] for side in flores]),
        ("test", "test/newstest2016", test),
    ):
        mirror.tar(
            f"data.statmt.org/wmt16/translation-task/{name}.tgz",
            {
                f"{where}-enro-src.en.sgm": sgm(en, "srcset"),
                f"{where}-enro-ref.ro.sgm": sgm(ro, "refset"),
            },
        )


def multilingual(mirror: Mirror, data: Path, lines: int | None) -> None:
    """Multi30K as training text, FLORES for testing, in four languages.

    The sentencepiece model of spBLEU is one of our own making, of FLORES itself.
    """
    import sentencepiece

    codes = {"cs": "ces", "de": "deu", "en": "eng", "fr": "fra"}
    train = [side[:lines] for side in sides(data / "multi30k" / "train", tuple(codes))]
    valid = sides(data / "multi30k" / "val", tuple(codes))
    flores = sides(data / "flores200" / "devtest", tuple(codes))
    where = "raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw"
    for name, texts in (("train", train), ("val", valid)):
        for language, side in zip(codes, texts):
            mirror.write(f"{where}/{name}.{language}.gz", text(side))
    mirror.tar(
        "dl.fbaipublicfiles.com/flores101/dataset/flores101_dataset.tar.gz",
        {
            f"flores101_dataset/devtest/{code}.devtest": text(side)
            for code, side in zip(codes.values(), flores)
        },
    )
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=itertools.chain.from_iterable(flores),
        model_writer=model,
        vocab_size=4000,
        minloglevel=2,
    )
    mirror.write(
        "dl.fbaipublicfiles.com/fairseq/models/flores/sacrebleu_tokenizer_spm.model",
        model.getvalue(),
    )


EXPERIMENTS = {
    "wmt22_en_de": wmt22_en_de,
    "wmt16_en_ro": wmt16_en_ro,
    "multilingual": multilingual,
}

if __name__ == "__main__":
    run_program("mini_mirror", main)
