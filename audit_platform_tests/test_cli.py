"""The command line: help that is quick, every command's example, errors in words, a day's way."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from audit_platform.cli import main
from audit_platform.settings import settings_page
from audit_platform_tests.clocks import START_MS
from audit_platform_tests.world import DAY, open_world

#: Anything that takes a noticeable time to import, and that `--help` does not need.
SLOW = ("alembic", "cryptography", "dagster", "duckdb", "numpy", "pyarrow", "rich", "sqlalchemy")
PUBLIC_KEY = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"


def run(*args: str, home: Path, **environment: str) -> Result:
    """One command in this process, with its data in `home`."""
    environment = {"AUDIT_HOME": str(home), **environment}
    return CliRunner().invoke(main, list(args), env=environment, prog_name="audit-platform")


def done(*args: str, home: Path, **environment: str) -> Any:
    """The JSON of a command that must succeed."""
    result = run(*args, "--json", home=home, **environment)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def _commands(
    group: click.Group, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))


COMMANDS = dict(_commands(main))


# ------------------------------------------------------------------------------------------ help


def test_the_commands_are_those_of_the_design() -> None:
    assert [path[0] for path in COMMANDS if len(path) == 1] == [
        "apikey",
        "archive-writer",
        "break-glass",
        "close-day",
        "dagster-gate",
        "device",
        "edge",
        "edge-gateway",
        "edge-key",
        "event",
        "exporter",
        "find",
        "fsck",
        "generation",
        "ingest-gateway",
        "keys",
        "locations",
        "log",
        "query-api",
        "rebuild-hot",
        "reconcile",
        "seal",
        "search-indexer",
        "settings",
        "stack",
        "store",
        "tenant",
        "timeline",
        "verify",
    ]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_teaches_by_an_example_of_itself(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    result = CliRunner().invoke(main, [*path, "--help"], prog_name="audit-platform")
    assert result.exit_code == 0
    assert command.help
    assert command.epilog is not None
    _, _, example = command.epilog.partition("Example: ")
    assert f"audit-platform {path[0]}" in example
    assert " ".join(example.split()) in " ".join(result.output.split())
    words = example.partition("audit-platform ")[2].split()
    assert tuple(words[: len(path)]) == path
    found = COMMANDS[path if not isinstance(command, click.Group) else tuple(words[:2])]
    assert len(words) > len(path) or not any(isinstance(p, click.Argument) for p in found.params)


@pytest.mark.parametrize("args", [["--help"], ["keys", "new", "--help"], ["fsck", "--help"]])
def test_help_imports_nothing_slow(args: list[str]) -> None:
    code = (
        "import sys, time\n"
        "from audit_platform.cli import main\n"
        f"main({args!r}, standalone_mode=False)\n"
        f"slow = [m for m in {SLOW!r} if m in sys.modules]\n"
        "print('SLOW', slow, time.process_time())\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    help_text, _, tail = out.stdout.rpartition("SLOW ")
    assert "Usage:" in help_text
    imported, _, seconds = tail.rpartition(" ")
    assert imported == "[]"
    assert float(seconds) <= 1.0


def test_the_program_is_installed_under_its_name_and_says_its_version() -> None:
    program = Path(sys.executable).parent / "audit-platform"
    by_name = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    module = [sys.executable, "-m", "audit_platform.cli", "--version"]
    by_module = subprocess.run(module, capture_output=True, text=True, check=True)
    assert by_name.stdout.startswith("audit-platform, version ")
    assert by_name.stdout.split()[-1] == by_module.stdout.split()[-1]


# ---------------------------------------------------------------------------------------- errors


def test_an_error_is_two_lines_on_stderr_and_an_exit_code(tmp_path: Path) -> None:
    result = run("apikey", "add", "north", home=tmp_path)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "error: there is no tenant north",
        "remedy: audit-platform tenant add north",
    ]


def test_a_wrong_setting_ends_any_command_with_exit_code_2(tmp_path: Path) -> None:
    for args in (["tenant", "list"], ["settings"], ["ingest-gateway"], ["seal", "north", DAY]):
        result = run(*args, home=tmp_path, AUDIT_PARTITIONS="many")
        assert result.exit_code == 2
        assert "AUDIT_PARTITIONS is 'many'" in result.stderr
        assert "remedy: wanted: a whole number" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["tenant", "add", "North"], "wanted 1 to 63"),
        (["apikey", "add", "north", "--role", "king"], "'king'"),
        (["edge-key", "add", "north", "zz" * 32], "64 hex digits"),
        (["edge-key", "add", "north", PUBLIC_KEY[:-2]], "64 hex digits"),
        (["edge-key", "add", "north", " " + PUBLIC_KEY[1:]], "64 hex digits"),
        (["keys", "new", "other"], "'other'"),
        (["tenant", "policy", "north", "--unknown-devices", "drop"], "'drop'"),
        (["tenant", "policy", "north"], "--unknown-devices"),
        (["device", "enrol", "north", "pump 1"], "'pump 1'"),
        (["device", "enrol", "north"], "--from"),
        (["close-day", "yesterday"], "YYYY-MM-DD"),
        (["seal", "north", "2026-02-30"], "YYYY-MM-DD"),
        (["verify", "north", "20260301"], "YYYY-MM-DD"),
        (["nothing"], "No such command"),
        (["_shared"], "No such command"),
    ],
)
def test_a_wrong_argument_is_named_and_changes_nothing(
    tmp_path: Path, args: list[str], words: str
) -> None:
    result = run(*args, home=tmp_path)
    assert result.exit_code == 2
    assert words in result.stderr
    assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------------------- tenants, keys, settings


def test_tenants_are_added_once_and_listed(tmp_path: Path) -> None:
    clock = f"scaled:{START_MS}:{time.time_ns() // 1_000_000}:0.000001"
    assert run("tenant", "list", home=tmp_path).stdout.startswith("no tenant yet")
    first = done("tenant", "add", "north", home=tmp_path, AUDIT_CLOCK=clock)
    assert first == {
        "tenantId": "north",
        "created": "2026-03-01T00:00:00.000Z",
        "suspended": False,
        "unknownDevices": "accept",
    }
    assert done("tenant", "add", "north", home=tmp_path) == first
    assert done("tenant", "list", home=tmp_path) == [first]
    assert run("tenant", "list", home=tmp_path).stdout.splitlines() == [
        "tenantId  created                   suspended  unknownDevices",
        "north     2026-03-01T00:00:00.000Z  no         accept",
    ]
    # The log, whose partitions are still to be chosen, is not made by this.
    assert not (tmp_path / "log").exists()


def test_a_credential_is_shown_once_listed_without_its_secret_and_revoked(tmp_path: Path) -> None:
    done("tenant", "add", "north", home=tmp_path)
    made = done("apikey", "add", "north", "--role", "operator", home=tmp_path)
    assert made["secret"].startswith(f"ak_{made['keyId']}_")
    assert made["role"] == "operator"
    (listed,) = done("apikey", "list", home=tmp_path)
    assert listed == {name: made[name] for name in made if name != "secret"}
    assert listed["revoked"] == ""
    assert run("apikey", "revoke", made["keyId"], home=tmp_path).exit_code == 0
    assert done("apikey", "list", home=tmp_path)[0]["revoked"].endswith("Z")
    unknown = run("apikey", "revoke", "0123456789abcdef", home=tmp_path)
    assert unknown.exit_code == 1
    assert "remedy: " in unknown.stderr


def test_a_tenant_is_suspended_goes_on_and_chooses_its_policy(tmp_path: Path) -> None:
    assert run("tenant", "suspend", "north", home=tmp_path).exit_code == 1
    done("tenant", "add", "north", home=tmp_path)
    assert done("tenant", "suspend", "north", home=tmp_path)["suspended"] is True
    strict = ("tenant", "policy", "north", "--unknown-devices", "dead_letter")
    assert done(*strict, home=tmp_path)["unknownDevices"] == "dead_letter"
    (listed,) = done("tenant", "list", home=tmp_path)
    assert (listed["suspended"], listed["unknownDevices"]) == (True, "dead_letter")
    assert done("tenant", "resume", "north", home=tmp_path)["suspended"] is False


def test_devices_are_enrolled_from_a_file_retired_and_listed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    unknown = run("device", "enrol", "north", "pump-1", home=home)
    assert "remedy: audit-platform tenant add north" in unknown.stderr
    done("tenant", "add", "north", home=home)
    assert run("device", "list", "north", home=home).stdout.startswith("no device of north yet")
    names = tmp_path / "names.txt"
    names.write_text("pump-2\n\n  pump-3  \npump-1\n")
    told = done("device", "enrol", "north", "pump-1", "--from", str(names), home=home)
    assert told == {"tenantId": "north", "named": 3, "enrolled": 3}
    text = CliRunner().invoke(
        main,
        ["device", "enrol", "north", "--from", "-", "--json"],
        input="bed-1\npump-1\n",
        env={"AUDIT_HOME": str(home)},
    )
    assert json.loads(text.stdout) == {"tenantId": "north", "named": 2, "enrolled": 1}
    assert done("device", "retire", "north", "pump-2", home=home)["retired"].endswith("Z")
    assert run("device", "retire", "north", "pump-9", home=home).exit_code == 1
    listed = done("device", "list", "north", home=home)
    assert [(d["deviceId"], bool(d["retired"])) for d in listed] == [
        ("bed-1", False),
        ("pump-1", False),
        ("pump-2", True),
        ("pump-3", False),
    ]


def test_an_edge_key_is_registered_and_listed(tmp_path: Path) -> None:
    done("tenant", "add", "north", home=tmp_path)
    added = done("edge-key", "add", "north", PUBLIC_KEY, home=tmp_path)
    assert added["publicKey"] == PUBLIC_KEY
    assert done("edge-key", "list", "north", home=tmp_path) == [
        {"keyId": added["keyId"], "publicKey": PUBLIC_KEY}
    ]


def test_keys_go_from_new_by_rotation_to_revoked(tmp_path: Path) -> None:
    assert run("keys", "rotate", "manifest", home=tmp_path).exit_code == 1
    assert run("keys", "list", home=tmp_path).stdout.startswith("no key yet")
    first = done("keys", "new", "manifest", home=tmp_path)
    again = run("keys", "new", "manifest", home=tmp_path)
    assert again.exit_code == 1
    assert "remedy: audit-platform keys rotate manifest" in again.stderr
    second = done("keys", "rotate", "manifest", home=tmp_path)
    assert second["keyId"] != first["keyId"]
    listed = done("keys", "list", home=tmp_path)
    assert [(k["keyId"], k["active"], k["revoked"]) for k in listed] == [
        (first["keyId"], False, ""),
        (second["keyId"], True, ""),
    ]
    assert done("keys", "check", home=tmp_path) == [
        {"keyId": second["keyId"], "purpose": "manifest", "signs": True}
    ]
    old = run("keys", "revoke", first["keyId"], home=tmp_path)
    assert (old.exit_code, old.stderr) == (0, "")
    active = run("keys", "revoke", second["keyId"], "--json", home=tmp_path)
    assert json.loads(active.stdout)["active"] is False
    assert "nothing signs manifest now: audit-platform keys rotate manifest" in active.stderr
    assert run("keys", "revoke", "0123456789abcdef", home=tmp_path).exit_code == 1
    assert "PRIVATE" not in run("keys", "list", home=tmp_path).output


def test_a_key_without_its_private_value_does_not_pass_the_check(tmp_path: Path) -> None:
    assert "no key is active" in run("keys", "check", home=tmp_path).stderr
    key = done("keys", "new", "manifest", home=tmp_path)
    (tmp_path / "keys" / "private" / f"{key['keyId']}.pem").unlink()
    lost = run("keys", "check", home=tmp_path)
    assert lost.exit_code == 1
    assert "is missing" in lost.stderr
    assert "remedy: " in lost.stderr


def test_settings_are_shown_as_they_hold(tmp_path: Path) -> None:
    shown = done("settings", home=tmp_path, AUDIT_PARTITIONS="8")
    assert shown["AUDIT_PARTITIONS"] == "8"
    assert shown["AUDIT_HOME"] == str(tmp_path)
    text = run("settings", home=tmp_path, AUDIT_PARTITIONS="8").stdout
    assert "AUDIT_PARTITIONS" in text
    assert run("settings", "--markdown", home=tmp_path).stdout == settings_page()
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------- a day's way


def test_a_day_is_closed_sealed_verified_and_reconciled(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        edge = world.edge("north")
        start = edge.start(world.clock.now_ms())
        world.ingest("north", [start, *edge.heartbeats(3, 5, world.clock.now_ms())])
        world.archive()
    early = run("close-day", DAY, home=tmp_path, AUDIT_CLOCK=_clock_at(START_MS))
    assert early.exit_code == 1
    assert "remedy: " in early.stderr

    over = {"AUDIT_CLOCK": _clock_at(START_MS + 86_400_000 + 600_000)}
    not_closed = run("seal", "north", DAY, home=tmp_path, **over)
    assert not_closed.exit_code == 1
    closing = done("close-day", DAY, home=tmp_path, **over)
    assert closing["day"] == DAY
    assert len(closing["ends"]) == 4  # two topics of two partitions
    assert "audit.events.v1/0" in run("close-day", DAY, home=tmp_path, **over).stdout

    nothing = run("verify", "north", DAY, home=tmp_path, **over)
    assert nothing.exit_code == 2

    sealed = done("seal", "north", DAY, home=tmp_path, **over)
    assert (sealed["rows"], sealed["number"], sealed["adopted"]) == (16, 1, False)
    assert not any(sealed["verdicts"].values())  # nothing but plainly ok
    again = run("seal", "north", DAY, home=tmp_path, **over)
    assert again.exit_code == 0
    assert sealed["root"] in again.stdout
    assert sealed["revision"] == 1

    report = done("verify", "north", DAY, home=tmp_path, **over)
    assert (report["exitCode"], report["rows"]) == (0, 16)
    assert "verdict: clean" in run("verify", "north", DAY, home=tmp_path, **over).stdout

    counted = done("reconcile", home=tmp_path, **over)
    assert (counted["events"], counted["archived"], counted["unaccounted"]) == (16, 16, 0)
    assert counted["ok"] is True
    assert "unaccounted" in run("reconcile", home=tmp_path, **over).stdout
    scraped = run("reconcile", "--metrics", home=tmp_path, **over).stdout
    assert "\naudit_unaccounted_events 0.0\n" in scraped
    assert "\naudit_lost_events 0.0\n" in scraped

    checked = done("fsck", str(tmp_path / "objects"), home=tmp_path, **over)
    assert checked["rows"] == 16

    _flip_a_bit(next((tmp_path / "objects" / "cold").rglob("part-*.parquet")))
    assert run("verify", "north", DAY, home=tmp_path, **over).exit_code == 1
    _remove(tmp_path / "objects" / "landing")
    broken = run("reconcile", home=tmp_path, **over)
    assert broken.exit_code == 1
    assert "FINDING" in broken.stdout


def _clock_at(ms: int) -> str:
    """A clock that has just been set, and hardly runs."""
    return f"scaled:{ms}:{time.time_ns() // 1_000_000}:0.000001"


def _flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _remove(folder: Path) -> None:
    """Take all landing objects away, their range records not."""
    for path in folder.rglob("*.parquet"):
        path.unlink()


def test_verify_without_a_store_could_not_check(tmp_path: Path) -> None:
    (tmp_path / "objects").write_bytes(b"a file where the folder should be")
    result = run("verify", "north", DAY, home=tmp_path)
    assert result.exit_code == 2
    assert "error: " in result.stderr


def test_a_service_command_gives_the_service_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from audit_platform.services import archive_writer, ingest_gateway  # noqa: PLC0415 - only here

    seen: list[tuple[str, int]] = []
    monkeypatch.setattr(ingest_gateway, "run", lambda s: seen.append(("in", s.ingest_port)))
    monkeypatch.setattr(archive_writer, "run", lambda s: seen.append(("out", s.archive_port)))
    assert run("ingest-gateway", home=tmp_path, AUDIT_INGEST_PORT="9001").exit_code == 0
    assert run("archive-writer", home=tmp_path, AUDIT_ARCHIVE_PORT="9002").exit_code == 0
    assert seen == [("in", 9001), ("out", 9002)]
