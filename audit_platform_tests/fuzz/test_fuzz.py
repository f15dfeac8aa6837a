"""Any bytes, and good bytes changed in any way, are judged without breaking anything.

`make fuzz` runs the same targets with many more examples.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import audit_platform
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


#: Names of functions that take bytes or text from outside.
PARSERS = re.compile(
    r"from_(?:bytes|json|line|table)|_?parse_?\w*|_parsed|decode\w*|record_entries|assemble"
    r"|check_event\w*|link_of|check_part|decompressed"
)

#: What such names mean elsewhere: settings are parsed when a program starts, by a person's hand;
#: members of what a target parses whole.
NOT_FOREIGN = {
    "settings.parse": "a person's own settings; test_settings.py",
    "spans.from_json": "a member of a manifest",
    "links.from_json": "a member of a manifest and of a dead letter",
    "deadletter.from_line": "a line of `record_entries`",
    "lines.parse": "the body of `parse_stored`",
    "manifest._parse": "the body of `Manifest.from_bytes`",
    "keys._parse_wrapping": "in the target of the list of keys",
    "hot_aliases._parsed": "in its own target",
    "template.parsed": "a name by one regular expression, as in the target of names",
}


def _parsers() -> set[str]:
    """`module.function` of every parser in the layers that meet foreign bytes."""
    root = Path(audit_platform.__file__).parent
    found = set()
    for layer in ("record", "adapters", "operations", "services"):
        for file in (root / layer).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(node, ast.FunctionDef) and PARSERS.fullmatch(node.name):
                    found.add(f"{file.stem}.{node.name}")
    return found


def test_every_parser_of_the_code_has_a_target() -> None:
    covered = {name.rpartition(".")[2] for t in TARGETS.values() for name in t.parsers}
    found = _parsers()
    assert len(found) > 30
    missing = {p for p in found if p.split(".")[1] not in covered} - NOT_FOREIGN.keys()
    assert missing == set()


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
