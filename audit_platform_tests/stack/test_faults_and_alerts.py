"""The full stack's own tools on real servers: the fault proxy, and a rule's way to the receiver."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import urllib3

from audit_platform.errors import StackError
from audit_platform.stack import prometheus, registry, supervision, webhook
from audit_platform.stack.alertmanager import Alertmanager
from audit_platform.stack.model import HOST, PORT_SPAN, PORTS, PROXIED, Place, Server
from audit_platform.stack.prometheus import Prometheus
from audit_platform.stack.toxiproxy import FaultProxy, Toxiproxy
from audit_platform.stack.webhook import WebhookReceiver
from audit_platform_tests.stack.tiny import Tiny, ask

PATIENCE = 60.0

RULES = """
groups:
  - name: test
    rules:
      - alert: ServiceDown
        expr: up{job="answering"} == 0
        annotations: {summary: it does not answer}
"""


def full(place: Place, *servers: Server) -> Place:
    """Those servers of a full stack alone."""
    place = replace(place, size="full", cache=registry.default_cache())
    supervision.up(place, servers, tell=lambda _: None, seconds=PATIENCE)
    return place


def until(so: Callable[[], bool]) -> None:
    tick = threading.Event()
    for _ in range(int(PATIENCE / 0.05)):
        if so():
            return
        tick.wait(0.05)
    pytest.fail("it did not come in time")


def test_a_cut_lets_nothing_through_between_services_and_one_server(place: Place) -> None:
    redis = Tiny("redis", PORTS["redis"])
    oidc = Tiny("oidc", PORTS["oidc"])
    place = full(place, Toxiproxy(), redis, oidc)
    proxy = FaultProxy(place)
    assert ask(place.front_port("redis")) == "redis"
    assert proxy.cuts() == []
    proxy.cut("redis")
    proxy.cut("redis")
    assert proxy.cuts() == ["redis"]
    assert ask(place.front_port("redis")) == ""
    assert ask(place.port("redis")) == "redis"
    assert ask(place.front_port("oidc")) == "oidc"
    proxy.heal("redis")
    proxy.heal("redis")
    assert ask(place.front_port("redis")) == "redis"
    proxy.cut("redis")
    proxy.cut("oidc")
    proxy.heal_all()
    assert proxy.cuts() == []
    assert ask(place.front_port("oidc")) == "oidc"
    with pytest.raises(StackError, match="does not stand before mainframe"):
        proxy.cut("mainframe")
    supervision.kill(place.home, "toxiproxy")
    with pytest.raises(StackError, match="the fault proxy does not answer"):
        proxy.heal_all()


def test_a_stack_without_a_fault_proxy_says_so(place: Place) -> None:
    with pytest.raises(StackError, match="has no fault proxy"):
        FaultProxy(place)


def test_the_receiver_gets_firing_and_resolved_of_a_rule(place: Place) -> None:
    place = full(place, WebhookReceiver(), Alertmanager(), Prometheus())
    rules = prometheus.own_rules(place) / "test.yml"
    rules.write_text(RULES)
    nobody = place.address("redis")
    prometheus.watch_services(place, {"answering": [nobody]})
    prometheus.reload_rules(place)

    def seen(status: str) -> bool:
        return any(
            alert["labels"]["alertname"] == "ServiceDown" and alert["status"] == status
            for message in webhook.notifications(place)
            for alert in message["alerts"]
        )

    until(lambda: seen("firing"))
    assert not seen("resolved")
    # Alertmanager tells metrics of its own: now there is one who answers.
    prometheus.watch_services(place, {"answering": [place.address("alertmanager")]})
    until(lambda: seen("resolved"))
    rules.write_text("groups: [{}]")
    with pytest.raises(StackError, match="prometheus refuses the rules"):
        prometheus.reload_rules(place)


@pytest.mark.parametrize(
    ("body", "status"), [(b"[]", 400), (b"{", 400), (b"[" * 100_000, 400), (b"{}", 200)]
)
def test_the_receiver_keeps_messages_and_refuses_what_is_none(
    place: Place, body: bytes, status: int
) -> None:
    place = full(place, WebhookReceiver())
    url = f"http://{place.address('webhook')}/"
    answer = urllib3.request("POST", url, body=body, retries=False, timeout=PATIENCE)
    assert answer.status == status
    assert len(webhook.notifications(place)) == (status == 200)


def test_every_port_of_a_stack_is_in_its_span_and_nobody_elses() -> None:
    offsets = list(PORTS.values())
    assert len(offsets) == len(set(offsets))
    last = PORTS["first-proxy"] + len(PROXIED) - 1
    assert max(*offsets, last) < PORT_SPAN
    assert all(offset <= PORTS["first-proxy"] for offset in offsets)


def test_a_full_stacks_services_are_sent_to_the_fault_proxy_alone(tmp_path: Path) -> None:
    place = Place(tmp_path, registry.default_cache(), 20_000, "full")
    every = registry.servers("full")
    every["redis"].prepare(place)  # draws its password
    every["oidc"].prepare(place)  # and the secrets of its clients
    place.folder("postgres").mkdir()  # where the role's is drawn
    found = registry.settings(place, list(every.values()))
    fronts = {place.front(name) for name in PROXIED}
    direct = {place.address(name) for name in PROXIED}
    addressed = {name for name, value in found.items() if HOST in value}
    assert addressed == {
        "AUDIT_KAFKA",
        "AUDIT_S3",
        "AUDIT_S3_SECOND",
        "AUDIT_OPENSEARCH",
        "AUDIT_DATABASE",
        "AUDIT_REDIS",
        "AUDIT_OIDC_ISSUER",
    }
    for name in addressed:
        assert any(front in found[name] for front in fronts), found[name]
        assert not any(address in found[name] for address in direct), found[name]


def test_the_fault_proxy_stands_before_every_server_that_services_use() -> None:
    behind = set(PROXIED)
    own = {"toxiproxy", "webhook", "alertmanager", "prometheus"}
    # Controllers are spoken to by brokers only.
    used = {n for n in registry.servers("full") if not n.startswith("kafka-controller")} - own
    assert used == behind


def test_the_full_stack_has_the_clusters_that_the_failures_need() -> None:
    kinds: dict[str, int] = {}
    for name in registry.servers("full"):
        kind = name.rstrip("0123456789").rstrip("-")
        kinds[kind] = kinds.get(kind, 0) + 1
    assert kinds == {
        "kafka-controller": 3,
        "kafka": 3,
        "minio": 6,
        "versitygw": 1,
        "opensearch": 3,
        "postgres": 1,
        "postgres-standby": 1,
        "redis": 1,
        "oidc": 1,
        "toxiproxy": 1,
        "webhook": 1,
        "alertmanager": 1,
        "prometheus": 1,
    }


def test_a_name_of_a_kind_chooses_all_of_it_and_what_it_needs() -> None:
    every = {
        s.name: s
        for s in (
            Tiny("toxiproxy", 0),
            Tiny("kafka-controller-1", 0),
            Tiny("kafka-1", 0, needs=("kafka-controller-1",)),
            Tiny("kafka-2", 0, needs=("kafka-controller-1",)),
            Tiny("redis", 0),
        )
    }

    def names(*only: str) -> list[str]:
        return [s.name for s in registry.choose(every, only, "full")]

    assert names() == list(every)
    assert names("kafka") == ["toxiproxy", "kafka-controller-1", "kafka-1", "kafka-2"]
    assert names("kafka-2") == ["toxiproxy", "kafka-controller-1", "kafka-2"]
    with pytest.raises(StackError, match="no server mainframe"):
        names("mainframe")


def test_settings_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    class Other(Tiny):
        def settings(self, place: Place) -> dict[str, str]:
            return {name: value + "1" for name, value in super().settings(place).items()}

    place = Place(tmp_path, tmp_path, 20_000, "small")
    assert registry.settings(place, [Tiny("one", 0)]) == {
        "AUDIT_PROFILE": "stack",
        "AUDIT_ONE": "127.0.0.1:20000",
    }
    with pytest.raises(StackError, match="two servers of the stack name AUDIT_ONE"):
        registry.settings(place, [Tiny("one", 0), Other("one", 0)])
