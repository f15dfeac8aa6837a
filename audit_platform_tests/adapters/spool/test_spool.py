"""The spool's promises one by one: bounds, dropping, releasing, keys, one process at a time."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

import pytest

from audit_platform.adapters.embedded.files import RealFiles
from audit_platform.adapters.embedded.keys import FileKeys
from audit_platform.adapters.spool.frames import MAX_ENTRY_BYTES
from audit_platform.adapters.spool.spool import FileSpool
from audit_platform.errors import KeysUnavailable, SettingInvalid, SpoolFull, SpoolUnavailable
from audit_platform.ports import DataKey, Dropped, NewEntry, SpoolLimits
from audit_platform_tests.adapters.spool.bench import (
    POLICY,
    SPOOL,
    entry,
    open_spool,
    read_all,
)
from audit_platform_tests.clocks import START_MS, ManualClock
from audit_platform_tests.powercut import PowerCutFiles

HOUR_MS: Final = 3_600_000
#: A segment a frame, room for about ten.
TIGHT: Final = SpoolLimits(4500, 72.0, POLICY, segment_bytes=100)


def body(i: int) -> bytes:
    """Bytes that do not compress."""
    return bytes(range(i % 50, i % 50 + 200))


def fill(spool: FileSpool, event_class: str) -> int:
    """Append until it refuses; how many it took."""
    for i in range(100):
        try:
            spool.append([entry(body(i), event_class)])
        except SpoolFull:
            return i
    raise AssertionError("it takes everything")


# ------------------------------------------------------------------------------- append and read


def test_entries_come_back_in_order_with_all_they_were_given() -> None:
    clock = ManualClock()
    spool = open_spool(PowerCutFiles(), clock=clock)
    new = [NewEntry("pump/1", "low", 3, b""), NewEntry("monitor", "critical", 1, b"x" * 5000)]
    assert spool.append(new) == ([0, 1], [])
    clock.advance(5)
    assert spool.append([entry(b"later")])[0] == [2]
    found = read_all(spool)
    assert [tuple(e) for e in found] == [
        (0, START_MS, "pump/1", "low", 3, b""),
        (1, START_MS, "monitor", "critical", 1, b"x" * 5000),
        (2, START_MS + 5, "pump-1", "low", 1, b"later"),
    ]
    assert spool.bounds() == (0, 3)
    assert spool.read(3, 100) == []
    assert [e.position for e in spool.read(1, 1)] == [1]


def test_an_append_of_nothing_does_nothing() -> None:
    files = PowerCutFiles()
    spool = open_spool(files)
    before = files.operations
    assert spool.append([]) == ([], [])
    assert files.operations == before


@pytest.mark.parametrize(
    "bad",
    [
        NewEntry("pump-1", "low", 1, bytes(MAX_ENTRY_BYTES + 1)),
        NewEntry("p" * 257, "low", 1, b""),
        NewEntry("pump-ä", "low", 1, b""),
        NewEntry("pump-1", "low", -1, b""),
        NewEntry("pump-1", "low", 1 << 32, b""),
    ],
)
def test_an_entry_that_can_not_be_kept_is_refused_with_all_of_its_call(bad: NewEntry) -> None:
    spool = open_spool(PowerCutFiles())
    with pytest.raises(ValueError, match=r"over|count"):
        spool.append([entry(b"good"), bad])
    assert spool.bounds() == (0, 0)


def test_a_large_append_is_split_into_frames_and_shares_one_fsync() -> None:
    limits = SpoolLimits(1 << 30, 72.0, POLICY)
    spool = open_spool(PowerCutFiles(), limits)
    new = [entry(b"%d" % i) for i in range(9000)]
    new[7] = entry(bytes(MAX_ENTRY_BYTES))
    new[8] = new[9] = new[7]
    positions, _ = spool.append(new)
    assert positions == list(range(9000))
    assert [e.data for e in read_all(spool, 5 << 20)] == [e.data for e in new]
    status = spool.status()
    assert (status.commits, status.committed_entries) == (1, 9000)


def test_threads_append_and_read_at_once_and_nothing_is_mixed_up(tmp_path: Path) -> None:
    limits = SpoolLimits(1 << 30, 72.0, POLICY, segment_bytes=4000)
    keys = FileKeys(tmp_path / "keys")
    spool = FileSpool.open(tmp_path / "spool", RealFiles(), ManualClock(), limits, keys)
    told: dict[int, bytes] = {}
    seen: dict[int, bytes] = {}

    def write(name: int) -> None:
        for i in range(40):
            data = [b"%d %d %d" % (name, i, j) for j in range(3)]
            positions, _ = spool.append([entry(d) for d in data])
            told.update(zip(positions, data, strict=True))

    def follow() -> None:
        position = 0
        while position < 4 * 40 * 3:
            for one in spool.read(position, 1000):
                assert one.position == position
                seen[position] = one.data
                position += 1

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    threads.append(threading.Thread(target=follow))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == told
    assert spool.status().set_aside == ()
    spool.close()


# ------------------------------------------------------------------------------------------ full


def test_a_full_spool_of_what_may_not_be_dropped_refuses_until_something_is_released() -> None:
    spool = open_spool(PowerCutFiles(), TIGHT)
    kept = fill(spool, "critical")
    assert kept > 5
    with pytest.raises(SpoolFull) as caught:
        spool.append([entry(body(1), "critical")])
    assert "AUDIT_EDGE_SPOOL_BYTES" in caught.value.remedy
    assert spool.status().bytes <= TIGHT.max_bytes
    with pytest.raises(SpoolFull):
        spool.append([entry(body(1), "low")])
    assert [e.position for e in read_all(spool)] == list(range(kept))
    spool.release([(0, 1)])
    assert spool.append([entry(body(1), "critical")])[0] == [kept]


def test_a_class_that_no_policy_names_is_never_dropped() -> None:
    spool = open_spool(PowerCutFiles(), TIGHT)
    assert fill(spool, "unheard of") > 5


def test_a_full_spool_drops_the_oldest_that_may_go_and_says_what_was_not_released() -> None:
    spool = open_spool(PowerCutFiles(), TIGHT)
    spool.append([entry(body(0), "critical")])
    spool.append([entry(body(1)), entry(b"with it")])
    spool.release([(1, 2)])
    dropped: list[Dropped] = []
    while not dropped:
        _, dropped = spool.append([entry(body(3))])
    # Not position 0, which may not go, and not position 1, which was released.
    assert [(d.first, [e.position for e in d.entries]) for d in dropped] == [(1, [2])]
    assert dropped[0].entries[0].data == b"with it"
    assert [e.position for e in read_all(spool)][:2] == [0, 3]
    assert spool.status().bytes <= TIGHT.max_bytes


def test_what_is_dropped_is_there_again_after_a_restart_until_its_loss_is_declared() -> None:
    files = PowerCutFiles()
    spool = open_spool(files, TIGHT)
    dropped: list[Dropped] = []
    while not dropped:
        _, dropped = spool.append([entry(body(3))])
    assert [e.position for e in dropped[0].entries] == [0]
    assert spool.bounds()[0] == 1
    spool.close()
    spool = open_spool(files, TIGHT)
    assert spool.bounds()[0] == 0
    _, again = spool.append([entry(body(3))])
    assert again[0] == dropped[0]
    spool.declared(again)
    spool.close()
    spool = open_spool(files, TIGHT)
    assert spool.bounds()[0] >= 1
    assert 0 not in [e.position for e in read_all(spool)]


def test_a_dropped_segment_that_was_released_needs_no_word() -> None:
    spool = open_spool(PowerCutFiles(), TIGHT)
    for i in range(4):
        spool.append([entry(body(i))])
        spool.release([(i, i + 1)])  # the uplink keeps up
    for i in range(30):
        assert spool.append([entry(body(i))])[1] == []
        spool.release([(0, 4 + i)])


def test_entries_over_their_age_are_dropped_a_segment_at_a_time() -> None:
    clock = ManualClock()
    spool = open_spool(PowerCutFiles(), clock=clock)
    for _ in range(3):
        spool.append([entry(b"old"), entry(b"too")])
        clock.advance(10 * HOUR_MS)  # by an eighth of 72 hours a segment ends
    assert spool.status().segments == 3
    clock.advance(71 * HOUR_MS)
    gone = [spool.append([entry(b"new")])[1] for _ in range(4)]
    assert [[e.position for d in dropped for e in d.entries] for dropped in gone] == [
        [0, 1],
        [2, 3],
        [4, 5],
        [],
    ]


def test_entries_over_their_age_that_may_not_go_refuse_new_ones() -> None:
    clock = ManualClock()
    spool = open_spool(PowerCutFiles(), clock=clock)
    spool.append([entry(b"old", "critical")])
    clock.advance(72 * HOUR_MS)
    spool.append([entry(b"in time", "critical")])
    clock.advance(1)
    with pytest.raises(SpoolFull, match="72"):
        spool.append([entry(b"late")])
    assert spool.status().hours == pytest.approx(72, abs=0.01)
    spool.release([(0, 1)])
    spool.append([entry(b"late")])


# --------------------------------------------------------------------------------------- release


def test_released_segments_are_deleted_and_positions_go_on_after_a_restart() -> None:
    files = PowerCutFiles()
    spool = open_spool(files, TIGHT)
    for i in range(5):
        spool.append([entry(body(i)), entry(b"second")])
    spool.release([(0, 3), (5, 6)])
    assert spool.bounds() == (2, 10)
    assert spool.released() == [(2, 3), (5, 6)]
    spool.release([(3, 5), (6, 10)])
    status = spool.status()
    assert (status.bytes, status.entries, status.segments) == (0, 0, 0)
    assert (status.oldest_ms, status.hours) == (0, 0.0)
    assert spool.bounds() == (10, 10)
    assert [n for n in files.listdir(SPOOL) if n.endswith(".seg")] == []
    spool.close()
    files.cut()
    spool = open_spool(files, TIGHT)
    assert spool.append([entry(b"next")])[0] == [10]


def test_a_release_of_positions_to_come_does_not_release_them() -> None:
    spool = open_spool(PowerCutFiles())
    spool.append([entry(b"a")])
    spool.release([(0, 100), (-5, 0), (7, 3)])
    spool.append([entry(b"b")])
    assert [e.data for e in read_all(spool)] == [b"b"]
    assert spool.released() == []


def test_the_index_does_not_grow_with_what_is_gone() -> None:
    files = PowerCutFiles()
    limits = SpoolLimits(1 << 20, 72.0, POLICY, segment_bytes=100)
    spool = open_spool(files, limits)
    largest = 0
    for i in range(2500):
        spool.append([entry(b"x")])
        spool.release([(i - 1, i)])
        stat = files.stat(SPOOL / "index")
        assert stat is not None
        largest = max(largest, stat.size)
    stat = files.stat(SPOOL / "index")
    assert stat is not None
    assert stat.size < largest < 400_000
    assert [e.position for e in read_all(spool)] == [2499]


# ------------------------------------------------------------------------------------------ keys


def test_without_keys_it_warns_and_the_status_says_so(caplog: pytest.LogCaptureFixture) -> None:
    files = PowerCutFiles()
    limits = SpoolLimits(1 << 20, 72.0, POLICY)
    with caplog.at_level(logging.WARNING):
        spool = FileSpool.open(SPOOL, files, ManualClock(), limits, None)
    assert "NOT encrypted" in caplog.text
    spool.append([entry(b"in the clear")])
    assert not spool.status().encrypted
    assert b"in the clear" in files.reader(SPOOL / f"{0:020d}.seg").read()
    spool.close()
    # With keys it reads on, and says until then that not all of it is encrypted.
    spool = open_spool(files)
    assert not spool.status().encrypted
    spool.append([entry(b"sealed")])
    assert [e.data for e in read_all(spool)] == [b"in the clear", b"sealed"]
    spool.release([(0, 1)])
    assert spool.status().encrypted


@pytest.mark.parametrize("index_is_there", [True, False])
def test_an_encrypted_spool_without_keys_is_an_error_of_settings(*, index_is_there: bool) -> None:
    files = PowerCutFiles()
    spool = open_spool(files)
    spool.append([entry(b"sealed")])
    spool.close()
    if not index_is_there:
        files.unlink(SPOOL / "index")
    limits = SpoolLimits(1 << 20, 72.0, POLICY)
    with pytest.raises(SettingInvalid, match="keys"):
        FileSpool.open(SPOOL, files, ManualClock(), limits, None)
    assert [e.data for e in read_all(open_spool(files))] == [b"sealed"]


class _NoKeys(FileKeys):
    """A key store that does not answer."""

    def new_data_key(self) -> DataKey:
        raise KeysUnavailable("does not answer")

    def open_data_key(self, wrapped: bytes) -> bytes:  # noqa: ARG002 - the port's
        raise KeysUnavailable("does not answer")


def test_a_key_store_that_does_not_answer_is_an_error_that_may_pass() -> None:
    files = PowerCutFiles()
    spool = open_spool(files, keys=_NoKeys(Path("/keys"), files))
    with pytest.raises(SpoolUnavailable, match="does not answer"):
        spool.append([entry(b"a")])
    spool.close()
    spool = open_spool(files)
    spool.append([entry(b"sealed")])
    spool.close()
    files.unlink(SPOOL / "index")
    with pytest.raises(SpoolUnavailable, match="does not answer"):
        open_spool(files, keys=_NoKeys(Path("/keys"), files))
    spool = open_spool(files)  # and nothing was set aside for it
    assert [e.data for e in read_all(spool)] == [b"sealed"]


# ------------------------------------------------------------------------------------- processes


def test_a_second_opener_is_refused_until_the_first_closes(tmp_path: Path) -> None:
    files = RealFiles()
    keys = FileKeys(tmp_path / "keys")
    first = open_spool(files, keys=keys, folder=tmp_path / "spool")
    first.append([entry(b"a")])
    with pytest.raises(SettingInvalid) as caught:
        open_spool(files, keys=keys, folder=tmp_path / "spool")
    assert caught.value.setting == "AUDIT_EDGE_HOME"
    assert str(tmp_path) in str(caught.value)
    first.append([entry(b"b")])  # which did not disturb it
    first.close()
    first.close()
    second = open_spool(files, keys=keys, folder=tmp_path / "spool")
    assert [e.data for e in read_all(second)] == [b"a", b"b"]
    for use in (
        lambda: first.append([entry(b"c")]),
        lambda: first.read(0, 1),
        lambda: first.release([(0, 1)]),
    ):
        with pytest.raises(SpoolUnavailable, match="closed"):
            use()
    second.close()


def test_another_process_is_refused_until_ours_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; "
        "from audit_platform.adapters.embedded.files import RealFiles; "
        "from audit_platform.adapters.embedded.keys import FileKeys; "
        "from audit_platform_tests.adapters.spool.bench import entry, open_spool; "
        f"home = Path({str(tmp_path)!r}); "
        "spool = open_spool(RealFiles(), keys=FileKeys(home / 'keys'), folder=home / 'spool'); "
        "spool.append([entry(b'promised')]); print('open', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stdout.readline() == b"open\n"
    keys = FileKeys(tmp_path / "keys")
    with pytest.raises(SettingInvalid):
        open_spool(RealFiles(), keys=keys, folder=tmp_path / "spool")
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    child.stdin.close()
    child.stdout.close()
    spool = open_spool(RealFiles(), keys=keys, folder=tmp_path / "spool")
    assert [e.data for e in read_all(spool)] == [b"promised"]
    assert spool.append([entry(b"next")])[0] == [1]
    names = [p.name for p in (tmp_path / "spool").glob("*.seg")]
    assert len(names) == 2  # a reopened segment is never appended to
    spool.close()
