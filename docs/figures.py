"""What the executed pages share: a picture printed as inline SVG."""

from __future__ import annotations

import io
import re

from matplotlib.axes import Axes


def svg(ax: Axes, alt: str) -> str:
    """The figure of an axes as one inline image with its text alternative."""
    buffer = io.StringIO()
    ax.figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = re.sub(r"^.*?(?=<svg)", "", buffer.getvalue(), flags=re.DOTALL)
    return f'<div class="figure" role="img" aria-label="{alt}">{text}</div>'
