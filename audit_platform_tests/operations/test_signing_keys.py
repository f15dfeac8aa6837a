"""Rotation, revocation, backup and loss of the key that signs days, on a whole installation."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from audit_platform.adapters.directory import DirectorySource
from audit_platform.adapters.embedded.keys import FileKeys
from audit_platform.errors import KeyUnknown
from audit_platform.operations.manifests import read_history
from audit_platform.operations.verify import trusted_keys
from audit_platform.record import fsck, layout
from audit_platform.record.report import Report, Step
from audit_platform_tests.world import Edge, World, open_world

RUNBOOK = Path(__file__).parents[2] / "deploy" / "runbooks" / "signing-key.md"
TENANT = "north"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path / "home") as opened:
        yield opened


def archived_day(world: World, edge: Edge) -> str:
    """Today's events of an edge, archived and closed; the clock then stands in the next day."""
    now = world.clock.now_ms()
    start = [] if edge.chain_id else [edge.start(now)]
    world.ingest(TENANT, [*start, *edge.heartbeats(2, 3, now)])
    world.archive()
    world.close(layout.day_of(now))
    return layout.day_of(now)


def sealed_day(world: World, edge: Edge) -> str:
    day = archived_day(world, edge)
    world.seal(TENANT, day)
    return day


def checked_copy(world: World) -> Report:
    """What an outsider's fsck says, with the public list as it lies beside the record."""
    return fsck.check(DirectorySource(world.objects_folder), trusted_keys(world.platform))


def signers(world: World) -> list[str]:
    return [m.key_id for _, m in sorted(read_history(world.platform, TENANT).counting.items())]


def active_key(world: World) -> str:
    listed = world.platform.keys.public_keys()
    (active,) = (k.key_id for k in listed if k.active and k.purpose == "manifest")
    return active


def test_days_signed_before_a_rotation_verify_beside_those_signed_after_it(world: World) -> None:
    edge = world.edge(TENANT)
    first = sealed_day(world, edge)
    old = active_key(world)
    new = world.platform.keys.new("manifest", world.clock.now_ms()).key_id
    second = sealed_day(world, edge)
    assert signers(world) == [old, new]
    assert old != new
    assert [world.verify(TENANT, day).exit_code for day in (first, second)] == [0, 0]
    assert checked_copy(world).exit_code == 0


def test_a_day_signed_after_revocation_is_a_finding_and_those_before_stay_good(
    world: World, tmp_path: Path
) -> None:
    edge = world.edge(TENANT)
    first = sealed_day(world, edge)
    stolen = tmp_path / "stolen"
    shutil.copytree(world.folder / "keys", stolen)
    key = active_key(world)
    world.clock.advance(1)  # what was sealed at the moment of revocation does not count
    world.platform.keys.revoke(key, world.clock.now_ms())
    second = archived_day(world, edge)
    with pytest.raises(KeyUnknown):
        world.seal(TENANT, second)
    thief = replace(world, platform=replace(world.platform, keys=FileKeys(stolen)))
    thief.seal(TENANT, second)
    assert signers(world) == [key, key]
    assert world.verify(TENANT, first).exit_code == 0
    # 2: of the day itself nothing can be verified; 1: the copy has a finding.
    for report, code in ((world.verify(TENANT, second), 2), (checked_copy(world), 1)):
        assert report.exit_code == code
        assert {(e.step, e.day) for e in report.findings if e.step is Step.SIGNATURE} == {
            (Step.SIGNATURE, second)
        }
        assert any("after it was revoked" in e.message for e in report.findings)


def test_a_revocation_stands_in_the_public_list_that_auditors_are_given(world: World) -> None:
    key = active_key(world)
    world.clock.advance(1234)
    world.platform.keys.revoke(key, world.clock.now_ms())
    listed = json.loads((world.folder / "keys" / "keys.json").read_text())["keys"]
    assert [(k["keyId"], k["revokedMs"], k["active"]) for k in listed] == [
        (key, world.clock.now_ms(), False)
    ]
    assert [k.revoked_ms for k in trusted_keys(world.platform)] == [world.clock.now_ms()]


# --------------------------------------------------------------------------------------- runbook


def commands_of(section: str) -> str:
    """The shell block of one section of the runbook."""
    text = RUNBOOK.read_text().split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    (block,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return str(block)


def follow(world: World, section: str, tmp_path: Path, **more: str) -> str:
    """Do what a section of the runbook says, as an operator would."""
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("seven words that nobody else would ever choose\n")
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "AUDIT_HOME": str(world.folder),
        "AUDIT_CLOCK": f"scaled:{world.clock.now_ms()}:1:0.000001",
        "BACKUP": str(tmp_path / "backup.tar.enc"),
        "PASSPHRASE_FILE": str(passphrase),
        **more,
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands_of(section)],  # noqa: S607 - bash as the machine has it
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_runbooks_backup_is_encrypted_can_be_tried_and_restores_a_lost_disk(
    world: World, tmp_path: Path
) -> None:
    edge = world.edge(TENANT)
    first = sealed_day(world, edge)
    key = active_key(world)
    follow(world, "Back up", tmp_path)
    backup = tmp_path / "backup.tar.enc"
    assert backup.stat().st_mode & 0o077 == 0
    held = backup.read_bytes()
    assert b"PRIVATE KEY" not in held
    assert key.encode() not in held
    assert key in follow(world, "Try the backup", tmp_path)
    shutil.rmtree(world.folder / "keys")
    assert key in follow(world, "Restore", tmp_path)
    private = world.folder / "keys" / "private" / f"{key}.pem"
    assert private.stat().st_mode & 0o077 == 0
    second = sealed_day(world, edge)
    assert signers(world) == [key, key]
    assert [world.verify(TENANT, day).exit_code for day in (first, second)] == [0, 0]


def test_a_damaged_backup_fails_when_it_is_tried(world: World, tmp_path: Path) -> None:
    follow(world, "Back up", tmp_path)
    backup = tmp_path / "backup.tar.enc"
    whole = backup.read_bytes()
    failed = 0
    for at in (len(whole) // 8, len(whole) // 2, len(whole) - 1):
        backup.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        restored = tmp_path / f"restored-{at}"
        restored.mkdir()
        command = commands_of("Restore").replace("audit-platform keys list", "true")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],  # noqa: S607 - bash as the machine has it
            env={
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "AUDIT_HOME": str(restored),
                "BACKUP": str(backup),
                "PASSPHRASE_FILE": str(tmp_path / "passphrase"),
            },
            capture_output=True,
            check=False,
        )
        same = [
            (restored / "keys" / name).is_file()
            and (restored / "keys" / name).read_bytes()
            == (world.folder / "keys" / name).read_bytes()
            for name in ("keys.json", f"private/{active_key(world)}.pem")
        ]
        assert done.returncode != 0 or all(same)
        failed += done.returncode != 0
    assert failed


def test_a_lost_key_is_followed_by_the_next_and_nothing_is_signed_again(
    world: World, tmp_path: Path
) -> None:
    edge = world.edge(TENANT)
    first = sealed_day(world, edge)
    lost = active_key(world)
    held = [p.read_bytes() for p in sorted(world.objects_folder.rglob("manifests/*"))]
    (world.folder / "keys" / "private" / f"{lost}.pem").unlink()
    second = archived_day(world, edge)
    with pytest.raises(KeyUnknown):
        world.seal(TENANT, second)
    follow(world, "The key is lost and there is no backup", tmp_path)
    world.seal(TENANT, second)
    assert signers(world) == [lost, active_key(world)]
    assert [world.verify(TENANT, day).exit_code for day in (first, second)] == [0, 0]
    after = [p.read_bytes() for p in sorted(world.objects_folder.rglob("manifests/*"))]
    assert held
    assert all(manifest in after for manifest in held)


def test_a_stolen_key_is_revoked_and_days_go_on_with_the_next(world: World, tmp_path: Path) -> None:
    edge = world.edge(TENANT)
    first = sealed_day(world, edge)
    stolen = active_key(world)
    follow(world, "The key may be in wrong hands", tmp_path, KEY_ID=stolen)
    second = sealed_day(world, edge)
    assert signers(world) == [stolen, active_key(world)]
    assert stolen != active_key(world)
    assert [world.verify(TENANT, day).exit_code for day in (first, second)] == [0, 0]
    revoked = [k.key_id for k in world.platform.keys.public_keys() if k.revoked_ms]
    assert revoked == [stolen]
