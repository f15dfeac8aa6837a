"""A Kafka of three controllers and three brokers that a test may break. Not here: any test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from audit_platform.adapters.kafka.connection import KafkaServers
from audit_platform.stack import children, registry, supervision
from audit_platform.stack.model import Place
from audit_platform_tests.servers import free_base

BROKERS = ("kafka-1", "kafka-2", "kafka-3")


@dataclass(frozen=True, slots=True)
class Cluster:
    """Its servers by name. Every method has had its effect on return."""

    place: Place

    @property
    def servers(self) -> KafkaServers:
        """As a service sees it: by the fault proxy, as a SCRAM user."""
        found = registry.servers("full")["kafka-1"].settings(self.place)
        return KafkaServers(
            found["AUDIT_KAFKA"], found["AUDIT_KAFKA_USER"], found["AUDIT_KAFKA_PASSWORD"]
        )

    def kill(self, name: str) -> None:
        """SIGKILL."""
        supervision.kill(self.place.home, name)

    def freeze(self, name: str) -> None:
        """SIGSTOP."""
        supervision.freeze(self.place.home, name)

    def thaw(self, name: str) -> None:
        """SIGCONT."""
        supervision.thaw(self.place.home, name)

    def start(self, *names: str) -> None:
        """Have these (all, if none is named) answer again."""
        start(self.place, names or ("kafka",))


def start(place: Place, names: tuple[str, ...]) -> None:
    """Have these answer. The stack lives as long as this process at most."""
    chosen = registry.choose(registry.servers("full"), names, "full")
    owner = children.identify(os.getpid())
    assert owner is not None
    supervision.up(place, chosen, tell=lambda _line: None, owner=owner)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A cluster that answers; nothing of it is left at the end."""
    home = Path(tempfile.mkdtemp(prefix="audit-kafka-"))
    home.chmod(0o755)
    with free_base() as base:
        place = Place(home, registry.default_cache(), base, "full")
        try:
            start(place, ("kafka",))
            yield Cluster(place)
        finally:
            supervision.wipe(home, tell=lambda _line: None)
            shutil.rmtree(home, ignore_errors=True)
