"""One self-contained HTML page: sections, tables and inline SVG pictures in the reader's light or dark mode."""

from __future__ import annotations

import functools
import html
import importlib.resources
import io
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from corollary.core.certificate import Certificate
from corollary.core.draw import ACCENT, BOUND, INK, MUTED

_counter = itertools.count()


class Raw(str):
    """Text that is HTML already; any other text is escaped."""


class Section(NamedTuple):
    """A heading, a body of HTML and an optional line of explanation above it."""

    title: str
    body: str
    note: str = ""


def page(title: str, subtitle: str, sections: Iterable[Section], footer: str = "") -> str:
    """The whole page as text; nothing in it points outside."""
    parts = [f"<header><h1>{escape(title)}</h1><p>{escape(subtitle)}</p></header>"]
    for section in sections:
        note = f'<p class="note">{escape(section.note)}</p>' if section.note else ""
        heading = f"<h2>{escape(section.title)}</h2>" if section.title else ""
        parts.append(f"<section>{heading}{note}{section.body}</section>")
    parts.append(f"<footer>{escape(footer)}</footer>" if footer else "")
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<title>{escape(title)}</title><style>{_style()}</style></head>\n'
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


@functools.cache
def _style() -> str:
    return importlib.resources.files("corollary.report").joinpath("style.css").read_text(encoding="utf-8")


def tiles(items: Iterable[tuple[str, str, str]]) -> str:
    """Numbers in boxes: label, value, range."""
    boxes = [
        f'<div class="tile"><div class="label">{escape(label)}</div><div class="value">{escape(value)}</div>'
        f'<div class="range">{escape(span)}</div></div>'
        for label, value, span in items
    ]
    return f'<div class="tiles">{"".join(boxes)}</div>'


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], numeric: Iterable[int] = ()) -> str:
    """A table; the columns in `numeric` are set flush right."""
    right = dict.fromkeys(numeric, ' class="number"')
    head = "".join(f"<th{right.get(i, '')}>{escape(h)}</th>" for i, h in enumerate(header))
    body = "".join(
        "<tr>" + "".join(f"<td{right.get(i, '')}>{escape(cell)}</td>" for i, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def badge(holds: bool | None) -> Raw:
    """Whether a certificate holds; None for an estimate, which claims no bound."""
    if holds is None:
        return Raw('<span class="badge neutral">estimate</span>')
    return Raw('<span class="badge">holds</span>' if holds else '<span class="badge bad">does not hold</span>')


def claims(certificates: Mapping[str, Certificate]) -> str:
    """Every certificate in a sentence."""
    parts = []
    for name, certificate in certificates.items():
        verdict = None if certificate.bound is None else bool(np.all(certificate.holds))
        style = {None: " neutral", True: "", False: " bad"}[verdict]
        parts.append(
            f'<div class="claim{style}"><b>{escape(name.replace("_", " "))}</b>{badge(verdict)}'
            f"<p>{escape(certificate.explain())}</p></div>"
        )
    return "".join(parts) or "<p>This model issues no certificate.</p>"


def figure(ax: Any, caption: str) -> str:
    """A picture as inline SVG in the page's own colours, with its caption."""
    return f"<figure>{svg(ax)}<figcaption>{escape(caption)}</figcaption></figure>"


def figures(*parts: str) -> str:
    """Pictures side by side where the page is wide enough."""
    return f'<div class="figures">{"".join(p for p in parts if p)}</div>'


def svg(ax: Any) -> str:
    """The axes' figure as an SVG element whose colours are the page's variables and whose ids are its own."""
    import matplotlib

    number = next(_counter)
    buffer = io.StringIO()
    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": f"corollary-{number}",
        "font.family": "sans-serif",
        "font.size": 10,
    }
    empty = dict.fromkeys(["Date", "Creator", "Format", "Type"])
    with matplotlib.rc_context(cast(Any, style)):
        _ink(ax.figure)
        ax.figure.savefig(buffer, format="svg", transparent=True, metadata=empty)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>g{number}-", text)
    text = re.sub(r"font(-family)?: [^;\"]*?(?=;|\")", _font, text)
    for color, variable in ((INK, "ink"), (ACCENT, "accent"), (BOUND, "bound"), (MUTED, "muted"), ("#b0b0b0", "muted")):
        text = text.replace(color, f"var(--{variable})")
    return text


def escape(text: Any) -> str:
    """Text made safe for HTML, unless it is `Raw`."""
    return text if isinstance(text, Raw) else html.escape(str(text))


def _ink(figure: Any) -> None:
    """Black becomes the ink colour, which follows the page's mode."""
    for text in figure.findobj(match=_black):
        text.set_color(INK)
    for axes in figure.axes:
        for spine in axes.spines.values():
            spine.set_edgecolor(INK)
        axes.tick_params(which="both", colors=INK)


def _black(artist: Any) -> bool:
    color = artist.get_color() if hasattr(artist, "get_color") else None
    return isinstance(color, str) and color in ("black", "k", "#000000")


def _font(match: re.Match[str]) -> str:
    size = re.search(r"([\d.]+)px", match[0])
    return f"font-size: {size[1]}px" if size else "font-weight: inherit"
