"""Where a text lies: an address, members of an archive, one alternative per language.

``https://host/dir/dev.tgz#dev/set.{en,ro}.sgm`` is two members of one file, and
``https://host/dir/train.{en,de}.gz`` two files: braces hold one alternative per language, in the
order in which the row of the data table names them. Braces may come several times, with the same
number of alternatives. Without braces one file holds all languages, with tabs between them. What
has no host, such as ``data-bin/x/raw/train.{en,de}.gz``, is a file of this checkout.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import List, Optional
from urllib.parse import unquote, urlsplit

from tools import UserError

REPOSITORY = Path(__file__).resolve().parents[2]

_BRACES = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Place:
    """One text: a file, or a member of it.

    Args:
        url: of the file; a path for a file of this checkout.
        member: path in the archive, or None if the file itself is the text.
    """

    url: str
    member: Optional[str]


def places(where: str, languages: int) -> List[Place]:
    """One place per language, or a single one that holds all of them.

    Raises:
        UserError: the braces don't have one alternative per language.
    """
    found = _BRACES.findall(where)
    if not found:
        return [_place(where)]
    for alternatives in found:
        if len(alternatives.split(",")) != languages:
            raise UserError(
                f"{where}: {{{alternatives}}} needs {languages} alternatives, one per language"
            )

    def chosen(index: int) -> str:
        return _BRACES.sub(lambda match: match.group(1).split(",")[index], where)

    return [_place(chosen(index)) for index in range(languages)]


def _place(text: str) -> Place:
    url, _, member = text.partition("#")
    return Place(url, member or None)


def local_path(folder: Path, url: str) -> Path:
    """Where a file of this address lies below a folder: by host and path, as wget -x puts it.

    Raises:
        UserError: the address isn't http or https, or would lead out of the folder.
    """
    if "://" not in url:
        return REPOSITORY / url
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{url}: not an address that starts with http:// or https://")
    relative = PurePosixPath(parts.hostname + unquote(parts.path))
    if ".." in relative.parts or "\0" in str(relative) or not PurePosixPath(parts.path).name:
        raise UserError(f"{url}: not the address of a file")
    return folder / relative
