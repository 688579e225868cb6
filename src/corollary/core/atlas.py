"""The atlas: every method's id, name, import path, certificates and source, read from ``corollary/atlas.tsv``."""

from __future__ import annotations

import difflib
import functools
import importlib.resources
from collections.abc import Iterable
from typing import NamedTuple


class Entry(NamedTuple):
    """One row of the atlas."""

    id: str
    name: str
    object: str
    certificates: str
    source: str

    @property
    def room(self) -> str:
        """The room that holds it: ``linear`` of ``corollary.linear.Ridge``; another package's or ``labs`` otherwise."""
        head, _, rest = self.object.partition(".")
        return "labs" if self.object.startswith("docs/") else rest.partition(".")[0] if head == "corollary" else head


@functools.cache
def entries() -> tuple[Entry, ...]:
    """Every row, sorted by id; O(rows) once.

    Examples
    --------
    >>> isinstance(entries(), tuple)
    True
    """
    file = importlib.resources.files("corollary").joinpath("atlas.tsv")
    lines = file.read_text(encoding="utf-8").splitlines()[1:] if file.is_file() else []
    return tuple(Entry(*line.split("\t")) for line in lines if line)


def find(words: Iterable[str], room: str | None = None) -> list[Entry]:
    """Rows that hold every one of `words` (any case, anywhere in the row), those with the words in their name first."""
    words = [word.lower() for word in words]
    found = []
    for entry in entries():
        if room in (None, entry.room) and all(word in " ".join(entry).lower() for word in words):
            found.append((-sum(word in f"{entry.id} {entry.name}".lower() for word in words), entry))
    return [entry for _, entry in sorted(found)]


def suggest(words: Iterable[str]) -> list[str]:
    """Words of the atlas's ids and names that are spelt like those that found nothing."""
    known = {part.strip("(),").lower() for entry in entries() for part in (entry.id, *entry.name.split())}
    return [near for word in words for near in difflib.get_close_matches(word.lower(), known, n=3)]
