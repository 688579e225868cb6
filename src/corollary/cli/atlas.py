"""``corollary atlas``: which methods there are, and where."""

from __future__ import annotations

from typing import Annotated

import typer


def atlas(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[WORDS]", help="Words that a method's row must hold; all when left out."),
    ] = None,
    room: Annotated[
        str | None, typer.Option(metavar="ROOM", help="Only one room: core, linalg, optim, linear, factor, ...")
    ] = None,
) -> int:
    """Find methods by name, room, certificate or source.

    Example: corollary atlas duality gap
    """
    from corollary.cli import show
    from corollary.core.atlas import entries, find, suggest
    from corollary.core.errors import InputError

    rooms = sorted({entry.room for entry in entries()})
    if room is not None and room not in rooms:
        raise InputError(f"--room: found {room!r}, expected one of {', '.join(rooms)}")
    found = find(words or [], room)
    if not found:
        near = suggest(words or [])
        print(
            f"No method holds {' and '.join(map(repr, words or []))}." + (f" Near: {', '.join(near)}." if near else "")
        )
        return 0
    show.atlas(found)
    return 0
