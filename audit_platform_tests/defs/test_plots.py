"""The plot: well-formed, to scale, and readable without eyes."""

import base64
import xml.etree.ElementTree as ET
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from audit_platform.defs.plots import hours_markdown, hours_svg

COUNTS = st.lists(st.integers(0, 10**9), min_size=24, max_size=24)
RECT = "{http://www.w3.org/2000/svg}rect"


def heights(counts: Sequence[int]) -> list[int]:
    """Height of each bar."""
    root = ET.fromstring(hours_svg(counts))  # noqa: S314 - our own picture
    return [int(r.attrib["height"]) for r in root.iter(RECT)]


@given(COUNTS)
def test_every_hour_has_a_bar_and_only_empty_hours_have_none_to_see(counts: list[int]) -> None:
    drawn = heights(counts)
    assert len(drawn) == 24
    assert [h > 0 for h in drawn] == [c > 0 for c in counts]
    assert max(drawn) == (80 if any(counts) else 0)


@given(COUNTS)
def test_more_events_are_never_drawn_lower(counts: list[int]) -> None:
    order = sorted(range(24), key=lambda i: counts[i])
    drawn = heights(counts)
    ordered = [drawn[i] for i in order]
    assert ordered == sorted(ordered)


def test_the_markdown_is_an_image_that_carries_its_numbers_as_text() -> None:
    counts = [0] * 23 + [7]
    text = hours_markdown(counts)
    assert text.startswith("![events per hour of the UTC day: 0 0 0")
    assert " 0 7](data:image/svg+xml;base64," in text
    assert base64.b64decode(text.split("base64,")[1][:-1]).decode() == hours_svg(counts)
