"""deploy/compose.yaml has the shape of the project's own full stack: servers, ports, settings."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from audit_platform.stack import kafka_files, opensearch_programs, registry, toxiproxy, versitygw
from audit_platform.stack.model import HOST, PORTS, PROXIED, Place

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
LASTING = {name: s for name, s in SERVICES.items() if "audit.once" not in s.get("labels", {})}

ADDRESS = re.compile(rf"{re.escape(HOST)}:\d+")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """The port that `audit-platform stack up --size full` takes when nobody says another."""
    return Place(tmp_path, registry.default_cache(), registry.DEFAULT_BASE_PORT, "full")


def published(service: dict[str, Any]) -> list[str]:
    ports: list[str] = service.get("ports", [])
    return ports


def test_it_has_the_servers_of_the_full_stack_and_no_other() -> None:
    assert set(LASTING) == set(registry.servers("full"))
    assert set(SERVICES) - set(LASTING) == {"folders", "kafka-user", "buckets"}


@pytest.mark.parametrize("name", sorted(LASTING))
def test_each_server_is_at_its_port_on_loopback(name: str, place: Place) -> None:
    first, *more = published(SERVICES[name])
    assert first.startswith(f"{HOST}:{place.port(name)}:")
    assert all(port.startswith(f"{HOST}:") for port in more)


def test_what_runs_once_is_not_reached_from_outside() -> None:
    for name in set(SERVICES) - set(LASTING):
        assert published(SERVICES[name]) == []


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_each_image_is_pinned_and_named_without_a_registry(name: str) -> None:
    image, _, version = SERVICES[name]["image"].partition(":")
    assert re.search(r"\d+\.\d+|RELEASE\.\d{4}", version), version
    assert "." not in image.split("/")[0]


def test_the_versions_are_those_that_the_tests_run_on() -> None:
    def version(name: str) -> str:
        return str(SERVICES[name]["image"].partition(":")[2])

    assert version("kafka-1") == kafka_files.VERSION
    assert version("opensearch-1") == opensearch_programs.VERSION
    assert version("versitygw") == versitygw.GO.version
    assert f"{toxiproxy.GO.module}/cmd/server@{toxiproxy.GO.version}" in str(SERVICES["toxiproxy"])
    assert version("postgres").startswith("15.")
    assert version("redis").startswith("7.0.")
    for kind in ("kafka", "kafka-controller", "minio", "opensearch"):
        images = {s["image"] for n, s in SERVICES.items() if n.rpartition("-")[0] == kind}
        assert len(images) == 1, kind


def test_services_are_told_the_same_settings(place: Place) -> None:
    every = registry.servers("full")
    every["redis"].prepare(place)  # draws its password
    every["oidc"].prepare(place)  # and the secrets of its clients
    place.folder("postgres").mkdir()  # where the role's is drawn
    ours = registry.settings(place, list(every.values()))
    theirs: dict[str, str] = COMPOSE["x-settings"]
    assert theirs.keys() == ours.keys()
    for name, value in ours.items():
        assert ADDRESS.findall(theirs[name]) == ADDRESS.findall(value), name
        assert theirs[name].partition("://")[0] == value.partition("://")[0] or "://" not in value


def test_the_fault_proxy_stands_before_the_same_servers(place: Place) -> None:
    listeners = json.loads((DEPLOY / "stack" / "compose" / "proxies.json").read_text())
    assert [entry["name"] for entry in listeners] == list(PROXIED)
    for entry in listeners:
        name = entry["name"]
        assert entry["listen"] == f"0.0.0.0:{place.front_port(name)}"
        host, port = entry["upstream"].split(":")
        assert host == name
        assert published(SERVICES[name])[0].endswith(f":{port}")
    first, last = place.front_port(PROXIED[0]), place.front_port(PROXIED[-1])
    assert f"{HOST}:{first}-{last}:{first}-{last}" in published(SERVICES["toxiproxy"])


def test_each_broker_tells_services_the_fault_proxys_address(place: Place) -> None:
    for number in (1, 2, 3):
        told = SERVICES[f"kafka-{number}"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
        assert told.startswith(f"CLIENTS://{place.front(f'kafka-{number}')},")


def test_every_file_that_it_names_is_there() -> None:
    files = [c["file"] for c in COMPOSE["configs"].values() if "file" in c]
    mounts = [
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if volume.startswith(".")
    ]
    assert len(files) + len(mounts) > 4
    for name in (*files, *mounts):
        assert (DEPLOY / name).exists(), name
    for name in files:
        json.loads((DEPLOY / name).read_text())


def test_every_server_of_the_stack_has_a_port() -> None:
    assert all(name in PORTS for name in registry.servers("full"))
