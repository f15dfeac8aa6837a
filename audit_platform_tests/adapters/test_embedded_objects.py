"""The embedded objects on their files: what an outsider sees, faults, what others began."""

from __future__ import annotations

import contextlib
import errno
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import orjson
import pytest

from audit_platform.adapters.embedded.files import FsyncSite, RealFiles, read_whole, write_file
from audit_platform.adapters.embedded.objects import EmbeddedObjects
from audit_platform.errors import (
    ObjectExists,
    ObjectLocked,
    ObjectNotFound,
    Recoverable,
    StoreUnavailable,
)
from audit_platform.ports import ObjectVersion
from audit_platform_tests.clocks import START_MS, ManualClock
from audit_platform_tests.powercut import PowerCut, PowerCutFiles

ROOT: Final = Path("/srv/audit/cold")


def open_store(files: PowerCutFiles) -> EmbeddedObjects:
    """One process's store."""
    return EmbeddedObjects(ROOT, files, ManualClock())


def hidden(files: PowerCutFiles, folder: str) -> list[str]:
    """File names in one of the store's own folders."""
    return [p for p in files.paths() if p.startswith(f"{ROOT}/{folder}/")]


def test_an_outsider_finds_the_first_version_as_a_plain_file(tmp_path: Path) -> None:
    store = EmbeddedObjects(tmp_path, RealFiles(), ManualClock())
    store.put("cold/v1/a.parquet", b"first", retain_until_ms=0, if_absent=True)
    newer = store.put("cold/v1/a.parquet", b"newer", retain_until_ms=0, if_absent=False)
    store.delete("cold/v1/a.parquet")
    plain = [p for p in tmp_path.rglob("*") if p.is_file() and ".meta" not in p.parts]
    assert (tmp_path / "cold/v1/a.parquet").read_bytes() == b"first"
    assert (tmp_path / ".versions/cold/v1/a.parquet@2").read_bytes() == b"newer"
    assert {p.name for p in plain} == {"a.parquet", "a.parquet@2", ".lock"}
    assert store.get("cold/v1/a.parquet", newer.version_id) == b"newer"


def test_nothing_is_left_behind_by_a_put() -> None:
    files = PowerCutFiles()
    store = open_store(files)
    store.put("a/b", b"x", retain_until_ms=0, if_absent=True)
    with pytest.raises(ObjectExists):
        store.put("a/b", b"y", retain_until_ms=0, if_absent=True)
    assert hidden(files, ".tmp") == []


def ends_of(work: Callable[[EmbeddedObjects], object]) -> Iterator[PowerCutFiles]:
    """The files as a process left them that died in `work`, for each operation of it."""
    for steps in itertools.count(1):
        files = PowerCutFiles()
        store = open_store(files)
        store.put("a/old", b"old", retain_until_ms=0, if_absent=True)
        files.stop_at = files.operations + steps
        try:
            work(store)
        except PowerCut:
            files.end_process()
            yield files
        else:
            return


def put_new(store: EmbeddedObjects) -> ObjectVersion:
    """A first version of a/new."""
    return store.put("a/new", b"body", retain_until_ms=0, if_absent=True)


def test_what_a_dead_process_began_is_ended_or_cleared_by_the_next() -> None:
    ended = cleared = 0
    for files in ends_of(put_new):
        store = open_store(files)
        assert hidden(files, ".tmp") == []
        oldest = store.oldest("a/new")
        ended += oldest is not None
        cleared += oldest is None
        oldest = oldest or put_new(store)
        assert store.get("a/new", oldest.version_id) == b"body"
    assert ended >= 4
    assert cleared >= 4


def by_put(store: EmbeddedObjects, version_id: str) -> None:
    """Learn of a/new by losing to it."""
    with pytest.raises(ObjectExists):
        put_new(store)


def by_list(store: EmbeddedObjects, version_id: str) -> None:
    """Learn of a/new from a list."""
    assert version_id in [v.version_id for v in store.versions("a/")]


def by_oldest(store: EmbeddedObjects, version_id: str) -> None:
    """Learn of a/new by its key."""
    oldest = store.oldest("a/new")
    assert oldest is not None
    assert oldest.version_id == version_id


def by_head(store: EmbeddedObjects, version_id: str) -> None:
    """Learn of a/new by its version id."""
    assert store.head("a/new", version_id).version_id == version_id


def by_get(store: EmbeddedObjects, version_id: str) -> None:
    """Read a/new."""
    assert store.get("a/new", version_id) == b"body"


@pytest.mark.parametrize("learn", [by_put, by_list, by_oldest, by_head, by_get])
def test_a_version_of_a_dead_process_survives_the_power_once_somebody_knows_of_it(
    learn: Callable[[EmbeddedObjects, str], None],
) -> None:
    claim = ROOT / ".meta/a/new@1.json"
    unfinished = 0
    for steps in range(1, 20):
        files = PowerCutFiles()
        reader, writer = open_store(files), open_store(files)
        files.stop_at = files.operations + steps
        with contextlib.suppress(PowerCut):
            put_new(writer)
        files.end_process()
        if files.stat(claim) is None:
            continue
        unfinished += files.stat(ROOT / "a/new") is None
        version_id = orjson.loads(read_whole(files, claim))["versionId"]
        learn(reader, version_id)
        files.cut()
        assert open_store(files).get("a/new", version_id) == b"body"
    assert unfinished >= 2


class SpyingFiles(PowerCutFiles):
    """Calls back just after an fsync."""

    def __init__(self) -> None:
        super().__init__()
        self.after: dict[FsyncSite, Callable[[], object]] = {}

    def fsync(self, handle: int, site: FsyncSite) -> None:
        """See `Files.fsync`."""
        super().fsync(handle, site)
        self.after.pop(site, lambda: None)()


def test_nobody_clears_away_what_a_living_process_is_putting() -> None:
    files = SpyingFiles()
    for site in (FsyncSite.OBJECT_BODY, FsyncSite.OBJECT_RECORD):
        files.after[site] = lambda: open_store(files)
    version = put_new(store := open_store(files))
    assert files.after == {}
    assert store.get("a/new", version.version_id) == b"body"


def test_a_file_that_comes_into_the_place_during_a_put_is_not_written_over() -> None:
    files = SpyingFiles()
    store = open_store(files)
    place = ROOT / "a/new"
    files.after[FsyncSite.OBJECT_RECORD] = lambda: write_file(files, place, b"evidence?", None)
    with pytest.raises(StoreUnavailable, match="move it away"):
        put_new(store)
    assert read_whole(files, place) == b"evidence?"
    files.rename(place, ROOT / "moved")
    (version,) = store.versions("a/")
    assert store.get("a/new", version.version_id) == b"body"


def test_records_are_changed_one_at_a_time() -> None:
    files = SpyingFiles()
    store = open_store(files)
    version = put_new(store)
    held = []

    def try_the_lock() -> None:
        handle = files.open(ROOT / ".lock")
        held.append(not files.lock(handle, wait=False))
        files.close(handle)

    for change in (
        lambda: store.extend("a/new", version.version_id, START_MS),
        lambda: store.set_legal_hold("a/new", version.version_id, hold=False),
        lambda: store.delete("a/new", version.version_id),
    ):
        files.after[FsyncSite.OBJECT_CHANGE] = try_the_lock
        change()
    assert held == [True] * 3


def test_a_removal_that_was_cut_short_is_ended_by_the_next_try() -> None:
    def remove(store: EmbeddedObjects) -> None:
        version = store.oldest("a/old")
        assert version is not None
        store.delete("a/old", version.version_id)

    half = 0
    for files in ends_of(remove):
        store = open_store(files)
        version_id = next(
            orjson.loads(read_whole(files, Path(p)))["versionId"] for p in hidden(files, ".meta")
        )
        half += store.oldest("a/old") is None and files.stat(ROOT / "a/old") is not None
        with contextlib.suppress(ObjectNotFound):
            store.delete("a/old", version_id)
        assert files.stat(ROOT / "a/old") is None
        assert store.oldest("a/old") is None
    assert half >= 1


def put_many(store: EmbeddedObjects) -> None:
    """Twenty objects come, are locked and go."""
    for i in range(20):
        made = store.put(f"a/{i}", b"body", retain_until_ms=0, if_absent=True)
        store.extend(made.key, made.version_id, START_MS)
        store.delete(made.key, made.version_id)


@pytest.mark.parametrize("number", range(1, 40))
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_failing_call_is_unavailable_and_loses_nothing(number: int, code: int) -> None:
    files = PowerCutFiles()
    store = open_store(files)
    kept = store.put("a/kept", b"kept", retain_until_ms=START_MS + 1, if_absent=True)
    files.fail_at, files.fail_errno = files.operations + number, code
    with pytest.raises(StoreUnavailable) as caught:
        put_many(store)
    assert isinstance(caught.value, Recoverable)
    assert caught.value.remedy
    assert hidden(files, ".tmp") == []
    # Read before putting again: what is there is whole, what is not can be put.
    for i in range(20):
        there = store.oldest(f"a/{i}")
        if there is not None:
            assert store.get(there.key, there.version_id) == b"body"
    for i in range(20, 23):
        made = store.put(f"a/{i}", b"body", retain_until_ms=0, if_absent=True)
        assert store.get(made.key, made.version_id) == b"body"
    assert store.get("a/kept", kept.version_id) == b"kept"
    assert open_store(files).head("a/kept", kept.version_id) == kept


def test_a_file_that_the_store_has_no_record_of_is_not_written_over() -> None:
    files = PowerCutFiles()
    store = open_store(files)
    store.put("a/b", b"x", retain_until_ms=0, if_absent=True)
    write_file(files, ROOT / "a/foreign", b"evidence?", None)
    with pytest.raises(StoreUnavailable, match="move it away"):
        store.put("a/foreign", b"ours", retain_until_ms=0, if_absent=True)
    assert store.oldest("a/foreign") is None
    with files.reader(ROOT / "a/foreign") as reader:
        assert reader.read() == b"evidence?"


def test_a_key_is_not_both_an_object_and_a_folder() -> None:
    store = open_store(PowerCutFiles())
    store.put("a/b", b"x", retain_until_ms=0, if_absent=True)
    with pytest.raises(ValueError, match="a/b/c would lie under"):
        store.put("a/b/c", b"y", retain_until_ms=0, if_absent=True)
    with pytest.raises(ValueError, match="folder of other objects"):
        store.put("a", b"y", retain_until_ms=0, if_absent=True)
    assert [v.key for v in store.versions("")] == ["a/b"]


def test_a_record_that_is_garbled_says_so_and_touches_no_other() -> None:
    files = PowerCutFiles()
    store = open_store(files)
    for key in ("a/b", "a/c"):
        store.put(key, b"x", retain_until_ms=0, if_absent=True)
    path = ROOT / ".meta/a/b@1.json"
    for garbage in (b"", b"[]", b"{}", b"\xff"):
        write_file(files, path, garbage, None)
        with pytest.raises(StoreUnavailable, match=r"b@1\.json.*restore"):
            store.oldest("a/b")
        assert store.oldest("a/c") is not None


def test_a_body_that_was_taken_away_is_not_found() -> None:
    files = PowerCutFiles()
    store = open_store(files)
    version = store.put("a/b", b"x", retain_until_ms=0, if_absent=True)
    files.unlink(ROOT / "a/b")
    with pytest.raises(ObjectNotFound):
        store.get("a/b", version.version_id)


def test_a_lock_holds_against_the_wall_clock_port() -> None:
    clock = ManualClock()
    store = EmbeddedObjects(ROOT, PowerCutFiles(), clock)
    version = store.put("a", b"x", retain_until_ms=clock.ms + 2, if_absent=True)
    for _ in range(2):
        with pytest.raises(ObjectLocked) as caught:
            store.delete("a", version.version_id)
        assert str(version.retain_until_ms) in caught.value.reason
        clock.advance(1)
    store.delete("a", version.version_id)
