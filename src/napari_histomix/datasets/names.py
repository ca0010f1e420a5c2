"""One name in other bytes: what a file says of another file, compared with what lies on the disk.

macOS writes accents as letters of their own (NFD), other systems do not (NFC); disks and programs change the case of
letters and of suffixes; tables hold paths of other machines, of Windows or of a browser. A name that a file states is
only ever compared with a listing, and never made into a path.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Generic, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

V = TypeVar("V")

_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")


def composed(text: str) -> str:
    """A name with its accents in one letter each (NFC)."""
    return unicodedata.normalize("NFC", text)


def stated_path(text: str) -> PurePosixPath:
    r"""The path that a file states: ``C:\\a\\b.png``, ``a/b.png``, ``file:///a/b%20c.png``, ``/files/?d=a/b.png``."""
    text = composed(text.strip())
    if _SCHEME.match(text) or "?" in text:
        url = urlsplit(text)
        # Label Studio names a local file in the query.
        text = unquote((parse_qs(url.query).get("d") or [url.path])[0])
    return PurePosixPath(text.replace("\\", "/"))


class Lookup(Generic[V]):
    """Values by name, found by whatever means the same name; a name that could mean two of them finds none."""

    def __init__(self, values: Mapping[str, V]) -> None:
        self._values = {composed(name): value for name, value in values.items()}
        self._folded: dict[str, list[str]] = {}
        for name in self._values:
            self._folded.setdefault(name.casefold(), []).append(name)

    def get(self, text: str) -> V | None:
        """The value of a name, or of the last parts of a path, as long as they mean only one; None for any other."""
        parts = stated_path(text).parts
        if ".." in parts:
            return None
        for name in dict.fromkeys(["/".join(parts[start:]) for start in range(len(parts))] or [""]):
            for candidate in (name, unquote(name)):
                if candidate in self._values:
                    return self._values[candidate]
                if len(same := self._folded.get(candidate.casefold(), [])) == 1:
                    return self._values[same[0]]
        return None


def paired(names: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """The other name that each name means: the same one, else the only one that differs in the case of letters."""
    names, left = list(names), set(others)
    pairs = {name: name for name in names if name in left}
    left -= pairs.keys()
    folded: dict[str, list[str]] = {}
    for name in left:
        folded.setdefault(name.casefold(), []).append(name)
    rest = [name for name in names if name not in pairs]
    alone = {name.casefold() for name in rest}
    if len(alone) == len(rest):
        pairs |= {name: same[0] for name in rest if len(same := folded.get(name.casefold(), [])) == 1}
    return pairs
