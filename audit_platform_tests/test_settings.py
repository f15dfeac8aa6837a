"""Settings: defaults, named mistakes, the way to a child and the page that documents them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.errors import SettingInvalid
from audit_platform.settings import SETTINGS, Settings, settings_page

ROOT = Path(__file__).parent.parent


def test_without_any_name_the_defaults_hold() -> None:
    s = Settings.from_environment({"PATH": "/bin"})
    assert s.profile == "embedded"
    assert s.home == Path.cwd() / ".audit"
    assert s.metadata_file == s.home / "metadata.db"
    assert (s.log_folder, s.objects_folder) == (s.home / "log", s.home / "objects")
    assert (s.keys_folder, s.dagster_folder) == (s.home / "keys", s.home / "dagster")
    assert (s.partitions, s.grace_seconds, s.range_seconds) == (2, 600, 60)
    assert s.range_bytes == 64 * 1024 * 1024
    assert (s.ingest_host, s.ingest_port, s.archive_port, s.ui_port) == (
        "127.0.0.1",
        8501,
        8502,
        8503,
    )
    assert (s.clock, s.first_day) == ("system", "2026-01-01")


def test_every_setting_has_one_row_and_one_field() -> None:
    assert {s.field for s in SETTINGS} == {f.name for f in fields(Settings)}
    assert len({s.name for s in SETTINGS}) == len(SETTINGS)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("AUDIT_PROFILE", "cluster"),
        ("AUDIT_HOME", ""),
        ("AUDIT_CLOCK", "fast"),
        ("AUDIT_PARTITIONS", "0"),
        ("AUDIT_PARTITIONS", "4097"),
        ("AUDIT_PARTITIONS", "four"),
        ("AUDIT_GRACE_SECONDS", "-1"),
        ("AUDIT_GRACE_SECONDS", "nan"),
        ("AUDIT_RANGE_SECONDS", "0"),
        ("AUDIT_RANGE_SECONDS", "301"),
        ("AUDIT_RANGE_BYTES", "1.5"),
        ("AUDIT_INGEST_HOST", " "),
        ("AUDIT_INGEST_PORT", "32768"),
        ("AUDIT_INGEST_PORT", "0"),
        ("AUDIT_ARCHIVE_PORT", "http"),
        ("AUDIT_UI_PORT", ""),
        ("AUDIT_FIRST_DAY", "2026-02-30"),
        ("AUDIT_FIRST_DAY", "20260101"),
        ("AUDIT_POLL_SECONDS", "inf"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_found_and_what_is_wanted(
    name: str, text: str
) -> None:
    with pytest.raises(SettingInvalid) as caught:
        Settings.from_environment({name: text})
    assert (caught.value.setting, caught.value.found) == (name, text)
    assert caught.value.wanted == next(s.wanted for s in SETTINGS if s.name == name)
    assert caught.value.exit_code == 2
    assert name in caught.value.reason
    assert caught.value.wanted in caught.value.remedy


def test_a_name_that_nobody_reads_is_refused_and_the_nearest_one_suggested() -> None:
    with pytest.raises(SettingInvalid) as caught:
        Settings.from_environment({"AUDIT_PARTITION": "8"})
    assert caught.value.setting == "AUDIT_PARTITION"
    assert "AUDIT_PARTITIONS" in caught.value.remedy


def test_names_that_other_parts_read_pass() -> None:
    s = Settings.from_environment(
        {"AUDIT_KILL_AT": "fsynced:3", "AUDIT_FREEZE_AT": "fsynced", "AUDIT_INSTALL": "offline"}
    )
    assert s == Settings.from_environment({})


def test_two_servers_cannot_have_one_port() -> None:
    with pytest.raises(SettingInvalid, match="AUDIT_UI_PORT") as caught:
        Settings.from_environment({"AUDIT_UI_PORT": "8501"})
    assert "AUDIT_INGEST_PORT" in caught.value.wanted


@given(
    st.integers(1, 4096),
    st.floats(0, 604_800),
    st.floats(0.01, 300),
    st.permutations([1, 80, 9000, 32767]),
)
def test_a_child_reads_equal_settings(
    partitions: int, grace: float, seconds: float, ports: list[int]
) -> None:
    given_names = {
        "AUDIT_HOME": "some/where",
        "AUDIT_CLOCK": "scaled:1:2:3.5",
        "AUDIT_PARTITIONS": str(partitions),
        "AUDIT_GRACE_SECONDS": repr(grace),
        "AUDIT_RANGE_SECONDS": repr(seconds),
        "AUDIT_INGEST_PORT": str(ports[0]),
        "AUDIT_ARCHIVE_PORT": str(ports[1]),
        "AUDIT_UI_PORT": str(ports[2]),
    }
    s = Settings.from_environment(given_names)
    assert s.home.is_absolute()
    assert Settings.from_environment(s.to_environment()) == s


def test_the_page_lists_every_setting() -> None:
    for setting in SETTINGS:
        assert f"| `{setting.name}` | `{setting.default}` |" in settings_page()


def test_the_documentation_is_the_page() -> None:
    found = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert found == settings_page(), "audit-platform settings --markdown > docs/settings.md"


def test_reading_settings_imports_nothing_heavy() -> None:
    code = (
        "import sys, audit_platform.settings; "
        "print([m for m in ('dagster', 'pyarrow', 'sqlalchemy', 'numpy', 'orjson', 'click') "
        "if m in sys.modules], len(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy, _, count = out.stdout.rpartition(" ")
    assert heavy == "[]"
    assert 0 < int(count) < 150
