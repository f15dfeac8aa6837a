"""How a body's events are counted against its tenant's budget."""

from __future__ import annotations

from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.adapters.embedded.limits import LocalLimits
from audit_platform.services.ingest_body import MAX_BODY
from audit_platform.services.ingest_limits import events_in
from audit_platform.settings import Settings
from audit_platform.wiring import open_platform
from audit_platform_tests.services.ingest_world import body_of, event, open_world


@given(st.lists(st.binary(min_size=1, max_size=20).map(lambda b: b.replace(b"\n", b"x"))))
def test_events_are_counted_by_line_with_or_without_a_last_line_feed(lines: list[bytes]) -> None:
    for body in (b"\n".join(lines), b"".join(line + b"\n" for line in lines)):
        packed = zstandard.compress(body)
        assert events_in(body, compressed=False) == max(1, len(lines))
        assert events_in(packed, compressed=True) == max(1, len(lines))


def test_a_body_that_is_no_good_costs_one_event_or_what_could_be_read(tmp_path: Path) -> None:
    assert events_in(b"no zstd", compressed=True) == 1
    whole = zstandard.compress(b"a\n" * 100_000)
    assert 1 <= events_in(whole[: len(whole) // 2], compressed=True) <= 100_000
    bomb = zstandard.compress(b"\n" * (4 * MAX_BODY))
    assert events_in(bomb, compressed=True) <= 2 * MAX_BODY


@pytest.mark.parametrize("compressed", [False, True])
def test_who_sends_too_much_gets_429_with_a_wait_and_nothing_is_kept(
    tmp_path: Path, *, compressed: bool
) -> None:
    now = [1000.0]
    limits = LocalLimits(1.0, monotonic=lambda: now[0])
    with open_world(tmp_path / "home", limits=limits) as world:
        post = world.post_zstd if compressed else world.post
        assert post(body_of(*(event(n) for n in range(8)))).status == 202
        answer = post(body_of(*(event(n) for n in range(8, 12))))
        assert (answer.status, answer.problem()) == (429, "rate_limited")
        assert answer.headers["retry-after"] == "2"
        assert len(world.stored()) == 8
        now[0] += 2
        assert post(body_of(*(event(n) for n in range(8, 12)))).status == 202


def test_without_a_rate_there_is_no_limit_and_with_one_each_gateway_has_its_own(
    tmp_path: Path,
) -> None:
    for rate, kind in (("0", type(None)), ("5", LocalLimits)):
        given_settings = Settings.from_environment(
            {"AUDIT_HOME": str(tmp_path / rate), "AUDIT_INGEST_EVENTS_PER_SECOND": rate}
        )
        platform = open_platform(given_settings)
        assert isinstance(platform.limits, kind)
        platform.close()
