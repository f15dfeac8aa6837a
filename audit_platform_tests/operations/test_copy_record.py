"""An outsider's copy: each key's oldest version, whole, and nothing that was there is replaced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from audit_platform.adapters.directory import DirectorySource
from audit_platform.adapters.embedded.files import RealFiles
from audit_platform.adapters.embedded.objects import EmbeddedObjects
from audit_platform.cli import main
from audit_platform.operations.copy_record import copy_record
from audit_platform.ports import Objects
from audit_platform_tests.clocks import ManualClock

KEYS = (
    "cold/v1/tenant=a/manifests/1.json",
    "incidents/v1/i.json",
    "landing/v1/ranges/g0/p0/o1.json",
    "quarantine/v1/tenant=a/x.parquet",
)


@pytest.fixture
def store(tmp_path: Path) -> Objects:
    made = EmbeddedObjects(tmp_path / "home" / "objects", RealFiles(), ManualClock())
    for key in KEYS:
        put(made, key, key.encode())
    return made


def put(store: Objects, key: str, body: bytes) -> None:
    store.put(key, body, retain_until_ms=0, if_absent=False)


def held(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_every_key_is_a_file_with_its_oldest_body(store: Objects, tmp_path: Path) -> None:
    put(store, KEYS[0], b"laid over it later")
    store.delete(KEYS[1])
    store.delete(KEYS[2], store.versions(KEYS[2]).__next__().version_id)
    put(store, KEYS[2], b"the oldest that is left")
    told: list[str] = []
    done = copy_record(store, tmp_path / "copy", tell=told.append)
    wanted = {key: key.encode() for key in KEYS} | {KEYS[2]: b"the oldest that is left"}
    assert held(tmp_path / "copy") == wanted
    assert tuple(told) == tuple(sorted(KEYS))
    assert (done.keys, done.copied) == (4, 4)
    assert done.copied_bytes == sum(map(len, wanted.values()))
    assert list(DirectorySource(tmp_path / "copy").keys("cold/")) == [KEYS[0]]


def test_said_again_it_adds_only_what_is_new(store: Objects, tmp_path: Path) -> None:
    copy_record(store, tmp_path / "copy")
    put(store, "cold/v1/tenant=a/manifests/2.json", b"new")
    again = copy_record(store, tmp_path / "copy")
    assert (again.keys, again.copied, again.copied_bytes) == (5, 1, 3)
    assert len(held(tmp_path / "copy")) == 5


def test_a_file_that_was_there_with_other_bytes_is_named_and_left(
    store: Objects, tmp_path: Path
) -> None:
    copy_record(store, tmp_path / "copy")
    (tmp_path / "copy" / KEYS[3]).write_bytes(b"changed by the auditor")
    again = copy_record(store, tmp_path / "copy")
    assert (again.other, again.copied) == ([KEYS[3]], 0)
    assert held(tmp_path / "copy")[KEYS[3]] == b"changed by the auditor"


def test_a_body_that_is_damaged_in_the_store_is_copied_as_it_is_and_named(
    store: Objects, tmp_path: Path
) -> None:
    _damage(tmp_path, KEYS[0])
    done = copy_record(store, tmp_path / "copy")
    assert done.damaged == [KEYS[0]]
    assert held(tmp_path / "copy")[KEYS[0]] == b"another body"


def _damage(folder: Path, key: str) -> None:
    file = folder / "home" / "objects" / key
    file.chmod(0o600)
    file.write_bytes(b"another body")


def _store_copy(tmp_path: Path) -> Result:
    environment = {"AUDIT_HOME": str(tmp_path / "home")}
    arguments = ["store", "copy", str(tmp_path / "copy"), "--json"]
    return CliRunner().invoke(main, arguments, env=environment, prog_name="audit-platform")


@pytest.mark.usefixtures("store")
def test_the_command_copies_from_the_store_of_its_settings(tmp_path: Path) -> None:
    result = _store_copy(tmp_path)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["keys"], told["copied"], told["damaged"], told["otherwise"]) == (4, 4, 0, 0)
    assert held(tmp_path / "copy").keys() == set(KEYS)


@pytest.mark.usefixtures("store")
def test_the_command_ends_with_one_and_names_what_is_damaged(tmp_path: Path) -> None:
    _damage(tmp_path, KEYS[0])
    result = _store_copy(tmp_path)
    assert result.exit_code == 1
    assert json.loads(result.stdout.splitlines()[0])["damaged"] == 1
    assert KEYS[0] in result.output
