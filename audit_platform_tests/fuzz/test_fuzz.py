"""Any bytes, and good bytes changed in any way, are judged without breaking anything.

`make fuzz` runs the same targets with many more examples.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_platform_tests.fuzz.targets import Target, targets

TARGETS = {t.name: t for t in targets()}

#: Pieces that parsers are known to stumble over.
PIECES = (
    b"\x00",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b'"',
    b"\\u",
    b"\\ud800",
    b"{",
    b"}",
    b"[" * 300,
    b'{"a":' * 300,
    b"1e999",
    b"-0",
    b"9" * 400,
    b"1.0",
    b"null",
    b"\n",
    b"\r\n",
    b",",
    b"\xf0\x9f\x98\x80",
    b"\x7f" * 9,
    b"\x00" * 70,
)


@st.composite
def changed(draw: st.DrawFn, samples: list[bytes]) -> bytes:
    """A good sample with up to four changes."""
    data = draw(st.sampled_from(samples))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from([0, 1, 2, 4, 8, 32, 1000])))
        piece = draw(
            st.one_of(
                st.just(b""),
                st.binary(min_size=1, max_size=8),
                st.sampled_from(PIECES),
                st.just(data[start:end] * 2),
            )
        )
        data = data[:start] + piece + data[end:]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_the_samples_of_a_target_are_judged(name: str) -> None:
    target: Target = TARGETS[name]
    samples = target.samples()
    assert samples
    assert all(samples)
    for sample in samples:
        target.judge(sample)


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.data())
def test_a_changed_sample_is_judged(name: str, data: st.DataObject) -> None:
    target = TARGETS[name]
    changed_sample = data.draw(changed(target.samples()))
    assert isinstance(changed_sample, bytes)
    target.judge(changed_sample)


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_judged(name: str, data: bytes) -> None:
    assert TARGETS[name] is not None
    TARGETS[name].judge(data)
