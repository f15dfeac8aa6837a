"""The small stack as everyday tests get it: every server answers, within the memory stated."""

from __future__ import annotations

from audit_platform.stack import children, registry, state, supervision
from audit_platform_tests.servers import run_place, stack_settings

#: Issue "The same path on the real servers": what the small stack may take.
MAX_BYTES = 2 << 30

KINDS = registry.SIZES["small"]


def test_every_server_of_the_small_stack_answers_within_two_gigabytes() -> None:
    found = stack_settings(*KINDS)
    assert found.keys() >= {
        "AUDIT_KAFKA",
        "AUDIT_S3",
        "AUDIT_S3_ACCESS_KEY",
        "AUDIT_S3_SECRET_KEY",
        "AUDIT_OPENSEARCH",
        "AUDIT_DATABASE",
        "AUDIT_REDIS",
        "AUDIT_OIDC_ISSUER",
    }
    assert found["AUDIT_PROFILE"] == "stack"
    place, owner = run_place()
    servers = registry.servers("small")
    statuses = supervision.status(place.home, servers, place)
    assert {(s.name, s.state) for s in statuses} == {(name, "up") for name in servers}
    assert 100 << 20 < sum(s.memory_bytes for s in statuses) < MAX_BYTES
    # It is nobody's but this run's, and ends with it.
    shape = state.read_shape(place.home)
    assert shape is not None
    assert shape.owner == owner
    assert children.alive(owner)
    assert place.base_port not in {registry.DEFAULT_BASE_PORT, 22_000}


def test_servers_that_are_up_are_given_at_once_and_only_the_named() -> None:
    found = stack_settings("redis", "versitygw")
    assert {name for name in found if name.startswith(("AUDIT_REDIS", "AUDIT_S3"))}
    assert not {name for name in found if name.startswith(("AUDIT_KAFKA", "AUDIT_DATABASE"))}
    place, _ = run_place()
    redis = state.read_running(place.home, "redis")
    assert stack_settings("redis")["AUDIT_REDIS"] == found["AUDIT_REDIS"]
    assert state.read_running(place.home, "redis") == redis
