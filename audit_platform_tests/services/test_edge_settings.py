"""Settings of the edge: what is wrong is named before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_platform.errors import SettingInvalid
from audit_platform.record.envelope import CRITICALITIES
from audit_platform.services.edge_gateway import identity_of
from audit_platform.services.edge_placing import CLASSES
from audit_platform.settings import Settings
from audit_platform.settings_forms import EVENT_CLASSES


def test_an_edge_needs_a_tenant_and_a_hospital() -> None:
    given_settings = {"AUDIT_EDGE_TENANT": "north"}
    with pytest.raises(SettingInvalid, match="AUDIT_EDGE_HOSPITAL"):
        identity_of(Settings.from_environment(given_settings))
    given_settings["AUDIT_EDGE_HOSPITAL"] = "h-1"
    identity = identity_of(Settings.from_environment(given_settings))
    assert (identity.site, identity.device_id) == ("h-1", "edge")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AUDIT_EDGE_FULL", "low:drop"),
        ("AUDIT_EDGE_FULL", "tiny:drop_oldest"),
        ("AUDIT_EDGE_FULL", ""),
        ("AUDIT_EDGE_UPLINK", "ingest:8501"),
        ("AUDIT_EDGE_TENANT", "North"),
        ("AUDIT_EDGE_DEVICE", ""),
        ("AUDIT_EDGE_SPOOL_BYTES", "1"),
        ("AUDIT_EDGE_SPOOL_HOURS", "nan"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingInvalid, match=name):
        Settings.from_environment({name: value})


def test_the_settings_know_the_criticalities_and_give_them_on_to_children() -> None:
    assert frozenset(CRITICALITIES) == EVENT_CLASSES == frozenset(CLASSES)
    settings_found = Settings.from_environment({"AUDIT_EDGE_HOME": "/tmp/e"})  # noqa: S108 - not opened
    assert Settings.from_environment(settings_found.to_environment()) == settings_found
    plain = Settings.from_environment({"AUDIT_HOME": "/tmp/h"})  # noqa: S108 - not opened
    assert plain.edge_folder == Path("/tmp/h/edge")  # noqa: S108 - not opened
    assert plain.edge_secret == Path("/tmp/h/edge/api-key")  # noqa: S108 - not opened
