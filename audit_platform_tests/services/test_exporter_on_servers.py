"""The exporter's questions to real servers, and one that is frozen among them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest

from audit_platform.adapters.opensearch.state import ClusterProbe
from audit_platform.adapters.redis.ask import asker
from audit_platform.errors import HotUnavailable, Recoverable
from audit_platform.ports import NewRecord, Platform, Probes
from audit_platform.record.layout import EVENTS_TOPIC, INDEXER_GROUP
from audit_platform.services.exporter import Exporter, metrics_of
from audit_platform.services.exporter_checks import tell_hot, try_lock
from audit_platform.services.exporter_lag import GroupLag
from audit_platform.services.exporter_probe import Probe
from audit_platform.settings import Settings
from audit_platform.telemetry import Telemetry
from audit_platform.wiring import open_platform, open_probes, open_stack_log
from audit_platform_tests.adapters.opensearch_servers import ask
from audit_platform_tests.failures.on_servers import servers_of_a_test
from audit_platform_tests.own_stack import own_stack
from audit_platform_tests.ports import free_port
from audit_platform_tests.services.test_exporter import lag, shown

#: Kafka tells who holds what within a second or two; on a busy machine longer.
ROUNDS = 3000


@dataclass
class Installed:
    """One installation on the run's servers, with its questions."""

    settings: Settings
    platform: Platform
    probes: Probes

    def telemetry(self) -> Telemetry:
        return Telemetry(metrics_of(self.probes))


@pytest.fixture(scope="module")
def installed() -> Iterator[Installed]:
    with servers_of_a_test() as names:
        settings = Settings.from_environment(names)
        with closing(open_stack_log(settings)) as log:
            log.make_topics(2)
        with closing(open_platform(settings)) as platform, closing(open_probes(settings)) as probes:
            yield Installed(settings, platform, probes)


def test_on_kafka_the_lag_is_right_without_any_member_and_after_the_members_died(
    installed: Installed,
) -> None:
    log = installed.platform.log
    before = log.now_ms()
    headers = [{"count": str(count)} for count in (1, 20, 300)]
    log.append(EVENTS_TOPIC, [NewRecord(0, b"x" * 1000, h) for h in headers])
    told = installed.telemetry()
    looking = GroupLag(installed.platform, told)
    looking.tell()
    for group in ("archive-writer", INDEXER_GROUP):
        records, events, seconds = lag(told, group)
        assert (records, events) == (3, 321)
        assert 0 <= seconds <= (log.now_ms() - before) / 1000 + 1
    member = log.join(INDEXER_GROUP, EVENTS_TOPIC, "one")
    tick = threading.Event()
    for _ in range(ROUNDS):
        if member.assignment() == frozenset({0, 1}):
            break
        tick.wait(0.02)
    member.commit(0, 1)
    member.leave()
    looking.tell()
    assert lag(told, INDEXER_GROUP)[:2] == [2, 320]
    log.append(EVENTS_TOPIC, [NewRecord(0, b"y", {"count": "5"})])
    looking.tell()
    assert lag(told, INDEXER_GROUP)[:2] == [3, 325]
    assert lag(told, "archive-writer")[:2] == [4, 326]


def test_opensearch_tells_its_colour_nodes_disks_and_blocks(installed: Installed) -> None:
    assert installed.probes.hot is not None
    told = installed.telemetry()
    tell_hot(installed.probes.hot, told)
    status = shown(told, "opensearch_cluster_status")
    assert [name for (name,), value in status.items() if value] in (["green"], ["yellow"])
    assert shown(told, "opensearch_cluster_nodes") == {(): 1}
    (free,) = shown(told, "opensearch_disk_free_ratio").values()
    assert 0 < free < 1
    url, index = installed.settings.opensearch, f"{installed.settings.opensearch_prefix}.blocked"
    ask("PUT", f"/{index}", url=url)
    before = installed.probes.hot().blocked
    ask("PUT", f"/{index}/_settings", {"index.blocks.read_only_allow_delete": True}, url=url)
    assert installed.probes.hot().blocked > before
    ask("DELETE", f"/{index}", url=url)


def test_an_opensearch_that_is_not_there_is_unreachable_and_the_next_node_is_asked(
    installed: Installed,
) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    with closing(ClusterProbe(nobody, None)) as alone, pytest.raises(HotUnavailable):
        alone.state()
    with closing(ClusterProbe(f"{nobody},{installed.settings.opensearch}", None)) as two:
        assert two.state().nodes == 1


def test_kafka_takes_the_probes_record_and_the_others_are_there(installed: Installed) -> None:
    assert installed.probes.log_write is not None
    assert installed.probes.log_write() == ""
    assert list(installed.probes.others) == ["redis"]
    installed.probes.others["redis"]()


def test_a_lock_on_a_real_store_holds(installed: Installed) -> None:
    told = installed.telemetry()
    try_lock(installed.platform, told)
    try_lock(installed.platform, told)
    assert shown(told, "audit_object_lock_broken") == {(): 0}


def test_a_frozen_server_fails_its_own_probe_and_holds_up_no_other(installed: Installed) -> None:
    told = installed.telemetry()
    with own_stack("redis") as stack:
        redis = asker(stack.settings().redis, None)
        redis()
        stack.freeze("redis")
        with pytest.raises(Recoverable):
            redis()
        asked = threading.Semaphore(0)
        found = [Probe("redis", 0.01, 0.5, redis), Probe("well", 0.01, 60, asked.release)]
        exporter = Exporter(found, told)
        exporter.start()
        tick = threading.Event()
        for _ in range(ROUNDS):
            exporter.look()
            if shown(told, "audit_probe_ok").get(("redis",)) == 0:
                break
            tick.wait(0.01)
        for _ in range(20):
            assert asked.acquire(timeout=60)
        stack.thaw("redis")
        for _ in range(ROUNDS):
            if shown(told, "audit_probe_ok")["redis",] == 1:
                break
            tick.wait(0.01)
        exporter.end()
    assert shown(told, "audit_probe_errors_total")["redis",] >= 1
    assert shown(told, "audit_probe_ok") == {("redis",): 1, ("well",): 1}
