"""The stack's Kafka: its jars are those that were checked, its nodes know each other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from audit_platform.errors import StackError
from audit_platform.stack import kafka_files, registry
from audit_platform.stack.kafka import servers
from audit_platform.stack.model import PORTS, Place
from audit_platform_tests.servers import stack_settings


@pytest.fixture
def fetched() -> Path:
    """The folder of jars, as a stack uses it."""
    stack_settings("kafka")
    return kafka_files.jars(registry.default_cache())


def test_the_jars_are_those_of_the_committed_list(fetched: Path) -> None:
    kafka_files.check_jars(fetched)
    assert len(list(fetched.iterdir())) > 90


@pytest.mark.parametrize("change", ["other bytes", "missing", "one more"])
def test_a_jar_that_is_not_as_listed_is_refused_by_its_name(
    fetched: Path, tmp_path: Path, change: str
) -> None:
    for jar in fetched.iterdir():
        (tmp_path / jar.name).symlink_to(jar)
    victim = tmp_path / f"kafka_2.13-{kafka_files.VERSION}.jar"
    if change == "one more":
        victim = tmp_path / "another.jar"
    else:
        victim.unlink()
    if change != "missing":
        victim.write_bytes(b"not what was checked")
    with pytest.raises(StackError, match=re.escape(victim.name)) as caught:
        kafka_files.check_jars(tmp_path)
    assert "do not use it" in caught.value.remedy


def test_what_is_fetched_again_is_there_already(fetched: Path) -> None:
    said: list[str] = []
    kafka_files.fetch(fetched.parent, said.append)
    assert said == []


def test_a_full_kafka_has_three_controllers_and_three_brokers_with_ports_of_their_own(
    tmp_path: Path,
) -> None:
    place = Place(tmp_path, tmp_path, 20_000, "full")
    nodes = servers("full")
    assert [n.name for n in nodes] == [
        *(f"kafka-controller-{n}" for n in (1, 2, 3)),
        *(f"kafka-{n}" for n in (1, 2, 3)),
    ]
    assert {n.name for n in nodes} <= PORTS.keys()
    (named,) = [found for n in nodes if (found := n.settings(place))]
    fronts = ",".join(place.front(f"kafka-{n}") for n in (1, 2, 3))
    assert named["AUDIT_KAFKA"] == fronts
    secret = named["AUDIT_KAFKA_PASSWORD"]
    assert len(secret) == 32
    assert servers("full")[3].settings(place)["AUDIT_KAFKA_PASSWORD"] == secret
    assert (tmp_path / "kafka-password").stat().st_mode & 0o777 == 0o600
    assert secret not in " ".join(nodes[0].program(place).argv)


def test_a_small_kafka_asks_for_no_secret(tmp_path: Path) -> None:
    place = Place(tmp_path, tmp_path, 20_000, "small")
    (node,) = servers("small")
    assert node.needs == ()
    assert node.settings(place) == {"AUDIT_KAFKA": "127.0.0.1:20000"}
