"""Small pictures for metadata, as Markdown that Dagster's UI shows (images as data URIs).

Belongs here: drawing. Does not: counting (`operations/hours.py`). SVG, because it is text, sharp at
every size, and needs no library.
"""

import base64
from collections.abc import Sequence
from typing import Final

_BAR: Final = 14
_GAP: Final = 4
_HEIGHT: Final = 80
_HEAD: Final = 18
_FOOT: Final = 16


def hours_svg(counts: Sequence[int]) -> str:
    """A bar for each hour, the largest as high as the picture; hours 0, 6, 12, 18 are marked."""
    most = max(counts, default=0)
    width = len(counts) * (_BAR + _GAP) + _GAP
    base = _HEAD + _HEIGHT
    shapes = []
    for hour, count in enumerate(counts):
        left = _GAP + hour * (_BAR + _GAP)
        # Any event at all shows: a quiet hour must not look like an empty one.
        height = max(1, round(_HEIGHT * count / most)) if count else 0
        shapes.append(
            f'<rect x="{left}" y="{base - height}" width="{_BAR}" height="{height}"'
            f' fill="#4f6bed"><title>{hour:02}:00 {count}</title></rect>'
        )
        if hour % 6 == 0:
            shapes.append(f'<text x="{left}" y="{base + 12}">{hour:02}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{base + _FOOT}"'
        ' font-family="sans-serif" font-size="10" fill="#888">'
        f'<text x="{_GAP}" y="11">most in an hour: {most}</text>'
        f'<line x1="0" x2="{width}" y1="{base}" y2="{base}" stroke="#888"/>{"".join(shapes)}</svg>'
    )


def hours_markdown(counts: Sequence[int]) -> str:
    """The picture as a Markdown image; the numbers are its text for who cannot see it."""
    data = base64.b64encode(hours_svg(counts).encode()).decode()
    numbers = " ".join(str(n) for n in counts)
    return f"![events per hour of the UTC day: {numbers}](data:image/svg+xml;base64,{data})"
