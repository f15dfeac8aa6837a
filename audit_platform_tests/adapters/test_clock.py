"""The clocks: what `AUDIT_CLOCK` stands for, and that processes agree on a scaled time."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.adapters.clock import LAST_MS, ScaledClock, SystemClock, parse_clock
from audit_platform.ports import Clock
from audit_platform_tests.clocks import START_MS, ManualClock


def _real_ms() -> int:
    return time.time_ns() // 1_000_000


def test_the_system_clock_is_the_machines_wall_clock() -> None:
    before = _real_ms()
    now = parse_clock("system").now_ms()
    assert before <= now <= _real_ms()


def test_a_scaled_clock_runs_at_its_rate_from_its_start() -> None:
    real = _real_ms() - 10_000
    low = START_MS + (_real_ms() - real) * 360
    now = ScaledClock(START_MS, real, 360).now_ms()
    assert low <= now <= START_MS + (_real_ms() - real) * 360
    assert now >= START_MS + 3_600_000


def test_a_scaled_clock_goes_on_at_the_real_rate_once_it_is_as_far_as_it_was_to_hurry() -> None:
    real = _real_ms() - 10_000  # two seconds at 1000, eight at 1
    low = START_MS + 2_000_000 + _real_ms() - real - 2000
    now = ScaledClock(START_MS, real, 1000, START_MS + 2_000_000).now_ms()
    assert low <= now <= START_MS + 2_000_000 + _real_ms() - real - 2000
    before = ScaledClock(START_MS, real, 1000, START_MS + 3_600_000_000).now_ms()
    assert before >= START_MS + 10_000_000


def test_two_processes_with_the_same_numbers_agree() -> None:
    text = f"scaled:{START_MS}:{_real_ms()}:2.5"
    assert parse_clock(text) == parse_clock(text)


def test_a_scaled_clock_stays_inside_the_years_that_the_record_can_write() -> None:
    assert ScaledClock(LAST_MS, 0, 86_400).now_ms() == LAST_MS
    assert ScaledClock(0, LAST_MS, 86_400).now_ms() == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "System",
        "scaled",
        "scaled:1:2",
        "scaled:1:2:3:4:5",
        "scaled:9:2:3:8",
        "scaled:1:2:3:4.5",
        f"scaled:1:2:3:{LAST_MS + 1}",
        "scaled:a:2:3",
        "scaled:1.5:2:3",
        "scaled:-1:2:3",
        "scaled:1:2:0",
        "scaled:1:2:-3",
        "scaled:1:2:nan",
        "scaled:1:2:inf",
        "scaled:1:2:86401",
        f"scaled:{LAST_MS + 1}:2:3",
        f"scaled:1:{LAST_MS + 1}:3",
    ],
)
def test_any_other_text_is_refused_with_what_is_wanted(text: str) -> None:
    with pytest.raises(ValueError, match=r"scaled|milliseconds|rate"):
        parse_clock(text)


@given(
    st.integers(0, LAST_MS),
    st.integers(0, LAST_MS),
    st.floats(min_value=0, max_value=86_400, exclude_min=True),
    st.integers(0, LAST_MS),
)
def test_every_valid_text_gives_the_clock_it_names(
    wall: int, real: int, rate: float, more: int
) -> None:
    until = min(wall + more, LAST_MS)
    text = f"scaled:{wall}:{real}:{rate!r}"
    assert parse_clock(text) == ScaledClock(wall, real, rate)
    assert parse_clock(f"{text}:{until}") == ScaledClock(wall, real, rate, until)


def test_all_clocks_keep_the_port() -> None:
    clocks: list[Clock] = [SystemClock(), ScaledClock(0, 0, 1), ManualClock()]
    assert all(isinstance(c.now_ms(), int) for c in clocks)


def test_a_clock_set_by_hand_moves_only_when_moved() -> None:
    clock = ManualClock()
    assert clock.now_ms() == clock.now_ms() == START_MS
    clock.advance(5)
    assert clock.now_ms() == START_MS + 5
