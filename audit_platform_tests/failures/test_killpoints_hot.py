"""Death of the indexer and of a rebuild at their step boundaries, by SIGKILL: the set is the same.

`test_killpoints.py` has the other points, and the test that none is left out.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit_platform.killpoints import Killpoint
from audit_platform.ports import NewRecord
from audit_platform.record.event import stored_line
from audit_platform.record.layout import EVENTS_TOPIC, day_start_ms
from audit_platform_tests.failures.installation import DAY, TENANT, Installation, installation
from audit_platform_tests.world import Edge

INDEXER = [Killpoint.INDEXED]
REBUILD = [Killpoint.HOT_WRITE_MOVED, Killpoint.HOT_FILLED, Killpoint.HOT_READ_MOVED]

KILLED = -signal.SIGKILL


def _put_in_the_log(made: Installation) -> int:
    """Two bodies of events, as ingest stores them; how many they are."""
    edge = Edge(TENANT)
    start = day_start_ms(DAY)
    events = [edge.start(start), *edge.heartbeats(4, 10, start)]
    lines = [stored_line(e, f"{DAY}T12:00:00.000Z".encode()) + b"\n" for e in events]
    with made.platform() as opened:
        for some in (lines[:20], lines[20:]):
            headers = {"v": "1", "tenant": TENANT, "count": str(len(some))}
            opened.log.append(EVENTS_TOPIC, [NewRecord(0, b"".join(some), headers)])
    return len(events)


def _read(made: Installation) -> list[bytes]:
    """Hashes of the one index that is read; it is the one that is written too."""
    with made.platform() as opened:
        (index,) = [i for i in opened.hot.indexes(TENANT) if i.is_read]
        return [bytes(h) for h in opened.hot.hashes(TENANT, DAY, index.generation)]


@pytest.mark.parametrize("point", INDEXER)
def test_the_indexer_dies_and_the_next_indexes_each_event_once(
    point: Killpoint, tmp_path: Path
) -> None:
    with installation(tmp_path) as made:
        count = _put_in_the_log(made)
        made.start("search-indexer", kill_at=f"{point}:1")
        assert made.died("search-indexer") == KILLED
        with made.platform() as opened:
            member = opened.log.join("search-indexer", EVENTS_TOPIC, "a test that looks")
            assert member.committed(0) is None
            member.leave()
        made.start("search-indexer")
        made.wait_for_the_index()
        made.stop("search-indexer")
        assert len(set(_read(made))) == len(_read(made)) == count


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of an installation whose HOT was built from the log; nothing runs."""
    folder = tmp_path_factory.mktemp("filled") / "installation"
    with installation(folder) as made:
        _put_in_the_log(made)
        made.cli("rebuild-hot", TENANT, DAY)
        yield folder


@pytest.mark.parametrize("point", REBUILD)
def test_a_rebuild_dies_and_the_next_one_ends_with_one_index_and_the_same_set(
    point: Killpoint, filled: Path, tmp_path: Path
) -> None:
    made = Installation.of(Path(shutil.copytree(filled, tmp_path / "installation")))
    before = _read(made)
    assert len(before) == 41
    made.cli("rebuild-hot", TENANT, DAY, expect=[KILLED], AUDIT_KILL_AT=point.value)
    assert _read(made) == before
    (result,) = json.loads(made.cli("rebuild-hot", TENANT, "--all", "--json"))
    assert (result["documents"], result["lacking"], result["foreign"]) == (41, 0, 0)
    assert _read(made) == before
    with made.platform() as opened:
        (index,) = opened.hot.indexes()
        assert index.is_write
