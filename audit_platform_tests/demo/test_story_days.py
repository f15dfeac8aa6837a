"""The demo's folder: which day is played, what a next run goes on from, what its clock shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.adapters.clock import ScaledClock, parse_clock
from audit_platform.demo.home import (
    LAST_SECONDS,
    DaysUsedUp,
    DemoHome,
    DemoStopped,
    State,
    choose_day,
    clock_text,
    resting_clock_text,
)
from audit_platform.errors import SettingInvalid
from audit_platform.record.layout import MS_PER_DAY, closing_key, day_end_ms, day_start_ms

TODAY = "2026-03-31"
FIRST = "2026-03-01"
TENANTS = ["north", "south"]


@pytest.fixture(name="home")
def _home(tmp_path: Path) -> DemoHome:
    home = DemoHome(tmp_path / "demo")
    home.root.mkdir()
    return home


def _close(home: DemoHome, day: str) -> None:
    path = home.objects / closing_key(day)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"{}")


def test_a_first_run_plays_the_day_thirty_days_ago(home: DemoHome) -> None:
    assert home.begin(TODAY, TENANTS) == State(FIRST, FIRST, TENANTS)


def test_a_next_run_plays_the_day_after_the_last_closed_one_with_the_same_tenants(
    home: DemoHome,
) -> None:
    home.begin(TODAY, TENANTS)
    _close(home, FIRST)
    _close(home, "2026-03-02")
    again = home.begin("2026-04-05", ["north"])
    assert (again.first_day, again.day, again.tenants) == (FIRST, "2026-03-03", TENANTS)


def test_a_day_that_was_begun_and_not_closed_is_played_on(home: DemoHome) -> None:
    state = home.begin(TODAY, TENANTS)
    state.wall_ms = day_start_ms(FIRST) + 5_000_000
    home.store(state)
    assert home.begin(TODAY, TENANTS) == state


def test_when_every_day_up_to_yesterday_is_used_it_says_how_to_start_afresh(home: DemoHome) -> None:
    home.begin(TODAY, TENANTS)
    _close(home, "2026-03-29")
    assert home.begin(TODAY, TENANTS).day == "2026-03-30"
    _close(home, "2026-03-30")
    with pytest.raises(DaysUsedUp, match="FRESH=1"):
        home.begin(TODAY, TENANTS)


@given(st.dates(), st.integers(0, 60), st.integers(0, 60))
def test_a_day_that_is_chosen_is_never_closed_and_never_in_the_future(
    first: object, closed: int, today: int
) -> None:
    first_day = str(first)
    days = [str(first)]
    try:
        for _ in range(max(closed, today)):
            days.append(choose_day(first_day, days[-1], "9999-12-31"))
    except (OverflowError, DaysUsedUp):
        return
    try:
        day = choose_day(first_day, days[closed], days[today])
    except DaysUsedUp:
        assert today <= closed + 1
    else:
        assert days[closed] < day < days[today]


@pytest.mark.parametrize(
    "damage", [b"", b"{}", b"[1]", b'{"first_day":"x","day":"y","tenants":[]}', b"being forgotten"]
)
def test_a_damaged_state_is_named_with_its_remedy(home: DemoHome, damage: bytes) -> None:
    home.begin(TODAY, TENANTS)
    home.state_file.write_bytes(damage)
    with pytest.raises(SettingInvalid, match="FRESH=1"):
        home.begin(TODAY, TENANTS)


def test_a_state_of_another_version_is_not_guessed_at(home: DemoHome) -> None:
    home.store(State(FIRST, FIRST, TENANTS, version=2))
    with pytest.raises(SettingInvalid, match="version 2"):
        home.load()


def test_starting_afresh_leaves_nothing_and_needs_no_good_state(home: DemoHome) -> None:
    with home.locked():
        home.begin(TODAY, TENANTS)
        _close(home, FIRST)
        home.state_file.write_bytes(b"torn")
        home.forget()
        assert [p.name for p in home.root.iterdir()] == ["demo.lock"]
        assert home.begin(TODAY, TENANTS).day == FIRST


def test_a_folder_of_something_else_is_never_emptied(home: DemoHome) -> None:
    letter = home.root / "letter.txt"
    letter.write_text("dear reader")
    with pytest.raises(SettingInvalid, match="a demo's folder"):
        home.forget()
    assert letter.exists()


def test_a_second_demo_in_the_same_folder_is_kept_out_and_let_in_afterwards(home: DemoHome) -> None:
    with (
        home.locked(),
        pytest.raises(DemoStopped, match="another demo"),
        DemoHome(home.root).locked(),
    ):
        raise AssertionError
    with home.locked():
        pass


# --------------------------------------------------------------------------------------- clock


def _clock(text: str) -> ScaledClock:
    clock = parse_clock(text)
    assert isinstance(clock, ScaledClock)
    return clock


def test_the_clock_plays_the_day_in_the_asked_time_and_then_runs_as_any_other() -> None:
    clock = _clock(clock_text(State(FIRST, FIRST, TENANTS), 60, 1000))
    last = int(LAST_SECONDS * 1000)
    assert clock.wall_start_ms == day_start_ms(FIRST)
    assert clock.wall_until_ms == day_end_ms(FIRST) - last
    assert clock.rate * 60_000 == pytest.approx(MS_PER_DAY - last)


@given(st.integers(0, 3 * MS_PER_DAY))
def test_the_clock_goes_on_inside_the_day_wherever_the_run_before_stopped(seen: int) -> None:
    wall = day_start_ms(FIRST) - MS_PER_DAY + seen
    clock = _clock(clock_text(State(FIRST, FIRST, TENANTS, wall), 60, 1000))
    assert day_start_ms(FIRST) <= clock.wall_start_ms <= clock.wall_until_ms
    if day_start_ms(FIRST) <= wall <= clock.wall_until_ms:
        assert clock.wall_start_ms == wall


def test_between_two_runs_the_clock_goes_on_from_where_it_stopped_at_the_real_rate() -> None:
    clock = _clock(resting_clock_text(State(FIRST, FIRST, TENANTS, 77_000), 1000))
    assert (clock.wall_start_ms, clock.real_start_ms, clock.rate) == (77_000, 1000, 1)
