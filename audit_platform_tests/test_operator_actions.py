"""What operators do on the command line is on record before they are told that it is done."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import click
import orjson
import pytest
from click.testing import CliRunner, Result

from audit_platform.cli import main
from audit_platform.record.layout import EVENTS_TOPIC, PLATFORM_TENANT
from audit_platform.record.schemas import registry
from audit_platform_tests.operations.test_own_events import stored
from audit_platform_tests.world import DAY, World, open_world

PUBLIC_KEY = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
READING = {
    "apikey list", "device list", "edge-key list", "generation check", "generation list",
    "keys check", "keys list", "tenant list",
}  # fmt: skip


def run(world: World, *args: str) -> Result:
    environment = {
        "AUDIT_HOME": str(world.folder),
        "AUDIT_CLOCK": f"scaled:{world.clock.now_ms()}:1:0.000001",
    }
    return CliRunner().invoke(main, list(args), env=environment, prog_name="audit-platform")


def done(world: World, *args: str) -> Any:
    result = run(world, *args, "--json")
    assert result.exit_code == 0, result.output
    return orjson.loads(result.stdout)


def actions(world: World) -> list[dict[str, Any]]:
    """Payloads of the operators' actions on record, in the order of their partitions."""
    events = [orjson.loads(line) for line in stored(world.platform.log)]
    return [e["payload"] for e in events if e["eventType"] == "operator_action"]


def test_every_change_is_on_record_with_who_did_it_to_what(tmp_path: Path) -> None:
    with open_world(tmp_path, partitions=1) as world:
        done(world, "tenant", "add", "north")
        done(world, "tenant", "suspend", "north")
        done(world, "tenant", "resume", "north")
        done(world, "tenant", "policy", "north", "--unknown-devices", "dead_letter")
        done(world, "device", "enrol", "north", "pump-2", "pump-1")
        done(world, "device", "retire", "north", "pump-1")
        key = done(world, "apikey", "add", "north", "--role", "auditor")
        assert run(world, "apikey", "revoke", key["keyId"]).exit_code == 0
        edge = done(world, "edge-key", "add", "north", PUBLIC_KEY)
        rotated = done(world, "keys", "rotate", "manifest")
        done(world, "keys", "revoke", rotated["keyId"])
        who = {"actor": f"uid-{os.getuid()}"}
        north = who | {"tenant": "north"}
        names = hashlib.sha256(b"pump-1\npump-2\n").hexdigest()
        assert actions(world) == [
            {"action": "tenant add", **north},
            {"action": "tenant suspend", **north},
            {"action": "tenant resume", **north},
            {"action": "tenant policy", **north, "subject": "dead_letter"},
            {"action": "device enrol", **north, "count": 2, "digest": names},
            {"action": "device retire", **north, "subject": "pump-1"},
            {"action": "apikey add", **north, "subject": key["keyId"], "role": "auditor"},
            {"action": "apikey revoke", **who, "subject": key["keyId"]},
            {"action": "edge-key add", **north, "subject": edge["keyId"]},
            {"action": "keys rotate", **who, "subject": rotated["keyId"]},
            {"action": "keys revoke", **who, "subject": rotated["keyId"]},
        ]
        assert all(key["secret"].encode() not in line for line in stored(world.platform.log))
        world.platform.keys.new("manifest", world.clock.now_ms())
        world.archive()
        world.close()
        assert world.seal(PLATFORM_TENANT).rows == 2 * len(actions(world))
        assert world.verify(PLATFORM_TENANT, DAY).exit_code == 0


def test_what_only_reads_and_what_fails_is_no_action(tmp_path: Path) -> None:
    with open_world(tmp_path, partitions=1) as world:
        for command in READING:
            tenant = ["north"] if command.split()[0] in {"device", "edge-key"} else []
            assert run(world, *command.split(), *tenant).exit_code == 0
        assert run(world, "tenant", "suspend", "nobody").exit_code == 1
        assert run(world, "apikey", "revoke", "0123456789abcdef").exit_code == 1
        assert actions(world) == []


def test_every_command_that_changes_something_is_an_action_of_the_schema() -> None:
    schema = registry().get("operator_action", 1)
    context = click.Context(main)
    found = set()
    for group in ("apikey", "device", "edge-key", "generation", "keys", "tenant"):
        command = main.get_command(context, group)
        assert isinstance(command, click.Group)
        found |= {f"{group} {name}" for name in command.list_commands(context)}
    for name in found - READING:
        assert schema.validator.is_valid({"action": name, "actor": "uid-0"}), name
    assert found > READING


def test_without_a_record_an_operator_is_told_so_and_sees_no_secret(tmp_path: Path) -> None:
    with open_world(tmp_path, partitions=1) as world:
        world.platform.metadata.add_tenant("north", world.clock.now_ms())
        topic = tmp_path / "log" / EVENTS_TOPIC
        aside = topic.rename(tmp_path / "aside")
        topic.write_bytes(b"a file where the topic should be")
        result = run(world, "apikey", "add", "north")
        assert result.exit_code == 1
        assert "apikey add is done, but not on record" in result.stderr
        assert "remedy: run the same command again" in result.stderr
        assert "ak_" not in result.output
        topic.unlink()
        aside.rename(topic)
        assert run(world, "apikey", "add", "north").exit_code == 0
        assert [a["action"] for a in actions(world)] == ["apikey add"]


@pytest.mark.parametrize("command", ["tenant add north", "keys new manifest"])
def test_before_the_log_is_made_nothing_is_recorded_and_no_log_is_made(
    tmp_path: Path, command: str
) -> None:
    result = CliRunner().invoke(main, command.split(), env={"AUDIT_HOME": str(tmp_path)})
    assert result.exit_code == 0
    assert not (tmp_path / "log").exists()
