"""The spool's bytes: known answers by other code, and every change of them is seen."""

from __future__ import annotations

import contextlib
import struct
import zlib
from pathlib import Path
from typing import Final

import orjson
import pytest
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.adapters.embedded.files import RealFiles
from audit_platform.adapters.embedded.keys import FileKeys
from audit_platform.adapters.embedded.segments import FRAME_HEADER_BYTES, HEADER_BYTES
from audit_platform.adapters.spool import frames
from audit_platform.adapters.spool.spool import FileSpool
from audit_platform.errors import SpoolUnavailable
from audit_platform.ports import Entry, NewEntry, SpoolLimits
from audit_platform_tests.adapters.spool.bench import (
    ASIDE,
    KEYS,
    SMALL,
    SPOOL,
    entry,
    open_spool,
    read_all,
)
from audit_platform_tests.clocks import START_MS, ManualClock
from audit_platform_tests.powercut import PowerCutFiles

ENTRIES: Final = [
    NewEntry("pump-1", "low", 2, b"first\nsecond"),
    NewEntry("monitor-2", "critical", 1, b"\x00\xff"),
]


def test_an_encrypted_frame_is_what_the_format_says(tmp_path: Path) -> None:
    """Opened with nothing but struct, zlib, zstandard, orjson and AESGCM."""
    keys = FileKeys(tmp_path / "keys")
    limits = SpoolLimits(1 << 20, 72, {})
    spool = FileSpool.open(tmp_path / "spool", RealFiles(), ManualClock(), limits, keys)
    spool.append([entry(b"a frame before")])
    spool.append(ENTRIES)
    spool.close()
    data = (tmp_path / "spool" / f"{0:020d}.seg").read_bytes()

    magic, version, _, base, segment_id, crc = struct.unpack_from(">8sHHQ16sI", data)
    assert (magic, version, base) == (b"AUDITSEG", 1, 0)
    assert crc == zlib.crc32(data[:36])

    at, bodies = 40, []
    while at < len(data):
        head = data[at : at + 36]
        mark, tag, first, count, size, raw_size, body_crc, head_crc = struct.unpack(
            ">4s4sQIIIII", head
        )
        body = data[at + 36 : at + 36 + size]
        assert (mark, tag) == (b"\xf5FRM", segment_id[:4])
        assert (body_crc, head_crc) == (zlib.crc32(body), zlib.crc32(head[:32]))
        bodies.append((head, first, count, raw_size, body))
        at += 36 + size
    (_, _, count, _, opening), (_, _, _, _, one), (head, first, n, raw_size, two) = bodies

    assert count == 0
    plain = zstandard.ZstdDecompressor().decompress(opening)
    assert plain[:2] == b"\x01\x01"  # version 1, AES-256-GCM
    secret = keys.open_data_key(plain[2:])

    assert (int.from_bytes(one[:4], "big"), int.from_bytes(two[:4], "big")) == (1, 2)
    nonce = bytes(8) + two[:4]
    authenticated = segment_id + base.to_bytes(8, "big") + head[:28]
    packed = AESGCM(secret).decrypt(nonce, two[4:], authenticated)
    raw = zstandard.ZstdDecompressor().decompress(packed)
    assert (first, n, len(raw)) == (1, 2, raw_size)
    appended_ms, table_size = struct.unpack_from(">qI", raw)
    assert appended_ms == START_MS
    assert orjson.loads(raw[12 : 12 + table_size]) == [
        ["pump-1", "monitor-2"],
        ["low", "critical"],
        [2, 1],
        [12, 2],
    ]
    assert raw[12 + table_size :] == b"first\nsecond\x00\xff"


names: Final = st.text(st.characters(max_codepoint=127), max_size=20)


@given(
    st.lists(
        st.builds(NewEntry, names, names, st.integers(0, (1 << 32) - 1), st.binary(max_size=50)),
        min_size=1,
        max_size=9,
    ),
    st.integers(-(1 << 40), 1 << 50),
    st.integers(0, 1 << 60),
)
def test_entries_come_back_and_take_no_more_than_is_reckoned(
    new: list[NewEntry], appended_ms: int, first: int
) -> None:
    columns = frames.columns_of(new)
    raw = frames.encode_entries(appended_ms, columns)
    assert len(raw) <= columns.bytes + 12
    expected = [Entry(first + i, appended_ms, *one) for i, one in enumerate(new)]
    assert frames.decode_entries(raw, first, len(new)) == expected


@given(st.binary(max_size=80), st.integers(0, 4))
def test_any_bytes_are_entries_or_none(raw: bytes, count: int) -> None:
    found = frames.decode_entries(raw, 0, count)
    assert found is None or len(found) == count


@given(st.data())
def test_a_changed_table_is_entries_of_the_same_bytes_or_none(data: st.DataObject) -> None:
    raw = bytearray(frames.encode_entries(START_MS, frames.columns_of(ENTRIES)))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    found = frames.decode_entries(bytes(raw), 0, 2)
    if found is not None:
        assert sum(len(e.data) for e in found) == sum(len(e.data) for e in ENTRIES)
        assert {type(e.device_id) for e in found} == {str}
        assert {type(e.count) for e in found} == {int}


@given(st.binary(max_size=60))
def test_any_bytes_are_an_opening_or_refused(raw: bytes) -> None:
    try:
        wrapped = frames.decode_opening(raw)
    except ValueError:
        return
    assert frames.encode_opening(wrapped) == raw


def _filled(files: PowerCutFiles) -> list[str]:
    """Three segments, two frames each; their names."""
    spool = open_spool(files, SpoolLimits(1 << 20, 72, {}, segment_bytes=400))
    for i in range(6):
        spool.append([entry(bytes(range(i, i + 150)))])
    spool.close()
    names = sorted(n for n in files.listdir(SPOOL) if n.endswith(".seg"))
    assert [int(n[:20]) for n in names] == [0, 2, 4]
    return names


def _bytes_of(files: PowerCutFiles, name: str) -> bytes:
    return files.reader(SPOOL / name).read()


def _write(files: PowerCutFiles, name: str, data: bytes) -> None:
    handle = files.open(SPOOL / name)
    files.truncate(handle, 0)
    files.pwrite(handle, data, 0)
    files.close(handle)


def _frames(data: bytes) -> list[bytes]:
    """Header, opening and frames of a segment, as they lie."""
    found, at = [data[:HEADER_BYTES]], HEADER_BYTES
    while at < len(data):
        size = int.from_bytes(data[at + 20 : at + 24], "big")
        found.append(data[at : at + FRAME_HEADER_BYTES + size])
        at += FRAME_HEADER_BYTES + size
    return found


def _with_crcs(frame: bytes, segment: bytes) -> bytes:
    """A frame made to look like one of this segment, as somebody would who knows the format."""
    head = frame[:4] + segment[20:24] + frame[8:28] + zlib.crc32(frame[36:]).to_bytes(4, "big")
    return head + zlib.crc32(head).to_bytes(4, "big") + frame[36:]


@pytest.mark.parametrize("index_is_there", [True, False])
@pytest.mark.parametrize("place", range(0, 400, 7))
def test_any_changed_byte_is_seen_and_costs_its_frame_only(
    place: int, *, index_is_there: bool
) -> None:
    files = PowerCutFiles()
    name = _filled(files)[1]
    stored = _bytes_of(files, name)
    if place >= len(stored):
        place %= len(stored)
    files.flip(SPOOL / name, place, 4)
    if not index_is_there:
        files.unlink(SPOOL / "index")
    spool = open_spool(files)
    there = [e.position for e in read_all(spool)]
    (report,) = spool.status().set_aside
    assert report.file == name
    assert sorted({*range(6)} - {*there}) == list(range(report.first, report.next))
    assert {0, 1, 4, 5} <= {*there}
    first_frame = sum(map(len, _frames(stored)[:2]))
    if place >= first_frame:
        assert len(there) == 5
    assert files.reader(ASIDE / name).read() == _bytes_of_changed(stored, place)


def _bytes_of_changed(stored: bytes, place: int) -> bytes:
    return stored[:place] + bytes([stored[place] ^ 4]) + stored[place + 1 :]


@pytest.mark.parametrize("index_is_there", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        "frame of another segment",
        "frames of a segment change places",
        "frame twice",
        "frame taken out",
        "whole segment under another name",
        "key of another segment",
        "count in the header",
        "position in the header",
    ],
)
def test_what_somebody_rearranges_with_good_crcs_is_seen(
    change: str, *, index_is_there: bool
) -> None:
    files = PowerCutFiles()
    names = _filled(files)
    before = open_spool(files)
    good = {e.position: e.data for e in read_all(before)}
    before.close()
    other, name = names[0], names[1]
    foreign = _frames(_bytes_of(files, other))
    header, opening, one, two = _frames(_bytes_of(files, name))
    parts = {
        "frame of another segment": [header, opening, one, _with_crcs(foreign[3], header)],
        "frames of a segment change places": [header, opening, two, one],
        "frame twice": [header, opening, one, one],
        "frame taken out": [header, opening, two],
        "whole segment under another name": foreign,
        "key of another segment": [header, _with_crcs(foreign[1], header), one, two],
        "count in the header": [
            header,
            opening,
            one,
            _with_crcs(two[:16] + (2).to_bytes(4, "big") + two[20:], header),
        ],
        "position in the header": [
            header,
            opening,
            one,
            _with_crcs(two[:8] + (2).to_bytes(8, "big") + two[16:], header),
        ],
    }[change]
    _write(files, name, b"".join(parts))
    if not index_is_there:
        files.unlink(SPOOL / "index")
    spool = open_spool(files)
    found = {e.position: e.data for e in read_all(spool)}
    assert found.items() <= good.items()
    assert {0, 1, 4, 5} <= found.keys()
    assert found.keys() != good.keys()
    (report,) = spool.status().set_aside
    assert report.file == name
    assert {2, 3} - found.keys() <= {*range(report.first, report.next)}


def test_a_frame_number_is_never_used_twice_under_one_key() -> None:
    files = PowerCutFiles()
    numbers: dict[bytes, list[int]] = {}
    for opening in range(3):
        spool = open_spool(files)
        for i in range(5):
            files.fail_at = files.operations + 2 if i == opening else None
            with contextlib.suppress(SpoolUnavailable):
                spool.append([entry(bytes(range(i, i + 60)))])
        spool.close()
    for name in files.listdir(SPOOL):
        if name.endswith(".seg"):
            header, _, *rest = _frames(_bytes_of(files, name))
            numbers.setdefault(header[20:36], []).extend(
                int.from_bytes(frame[36:40], "big") for frame in rest
            )
    assert len(numbers) > 3
    assert all(found == sorted(set(found)) for found in numbers.values())
    wrapped = {
        bytes(_frames(_bytes_of(files, n))[1][36:])
        for n in files.listdir(SPOOL)
        if n.endswith(".seg")
    }
    assert len(wrapped) == len(numbers)  # a key for each segment


def test_no_word_of_an_entry_is_on_the_disk_in_the_clear() -> None:
    files = PowerCutFiles()
    spool = open_spool(files)
    spool.append([NewEntry("ventilator-77", "critical", 1, b"pressure of patient-0815")])
    spool.close()
    text = b"".join(_bytes_of(files, n) for n in files.listdir(SPOOL))
    assert b"critical" in text  # so all of it is here: the index tells the classes
    assert b"patient" not in text
    assert b"ventilator" not in text


def test_a_segment_whose_key_can_not_be_unwrapped_is_set_aside() -> None:
    files = PowerCutFiles()
    names = _filled(files)
    files.unlink(KEYS / "private" / "wrapping.json")
    spool = open_spool(files, SMALL)
    assert read_all(spool) == []
    assert [r.file for r in spool.status().set_aside] == names
    assert [(r.first, r.next) for r in spool.status().set_aside] == [(0, 2), (2, 4), (4, 6)]
    assert "unwrapped" in spool.status().set_aside[0].reason
    assert spool.append([entry(b"goes on")])[0] == [6]
