"""`audit-platform stack`: real servers on this machine, for demonstrations and tests.

Here: arguments and words. What is done stands in `audit_platform/stack/`, which is loaded only when
a command runs.
"""

from __future__ import annotations

import logging
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audit_platform.commands._shared import json_option, show_rows
from audit_platform.commands._stack_database import backup_database, restore_database
from audit_platform.errors import StackError

if TYPE_CHECKING:
    from audit_platform.stack.model import Place

# Loaded by the functions that use it: `--help` must answer within a second.
# ruff: noqa: PLC0415 - see the line above

_MEBIBYTE = 1 << 20

_home = click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".audit/stack"),
    show_default=True,
    help="Its folder: data, logs, process files.",
)
_name = click.argument("name")


@click.group(
    epilog="""\b
Example: audit-platform stack up              the small stack: what everyday tests need
  audit-platform stack status
  eval "$(audit-platform stack env)"          this shell's services use it
  audit-platform stack down                   servers end, data stay
  audit-platform stack up --size full --home ~/full --base-port 22000
  audit-platform stack kill kafka-2 --home ~/full
  audit-platform stack cut services kafka-1 --home ~/full

docs/stack.md tells more."""
)
def command() -> None:
    """Real servers on this machine: Kafka, object stores, OpenSearch, PostgreSQL, ...

    The small stack has one of each; the full one has clusters, alerts, and a proxy for faults
    (which `up --faults` gives a small one).
    Everything listens on loopback only. Programs are fetched once, pinned and checked; Debian's
    packages are installed only with CI=true or AUDIT_INSTALL=1, otherwise the command is told.
    """
    # What a client library says of a server that is not there yet, the server's health tells.
    logging.getLogger("audit_platform").addHandler(logging.NullHandler())


command.add_command(backup_database)
command.add_command(restore_database)


@command.command(epilog="Example: audit-platform stack up --only kafka --only versitygw")
@click.option(
    "--size",
    type=click.Choice(["small", "full"]),
    help="What a new stack is made of; one that is there keeps its own.  [default: small]",
)
@click.option(
    "--faults",
    is_flag=True,
    help="Put the fault proxy between services and the servers of a new small stack, for `cut`.",
)
@click.option(
    "--tls",
    is_flag=True,
    help="Have the servers of a new small stack speak TLS with services, by its own authority.",
)
@click.option(
    "--only", "only", multiple=True, metavar="NAME", help="This server (and what it needs). Repeat."
)
@_home
@click.option(
    "--base-port",
    type=click.IntRange(1024, 32_668),
    help="The first of 100 ports of a new stack.  [default: 21000]",
)
@click.option(
    "--volume",
    "bounded",
    multiple=True,
    metavar="NAME=MIB",
    help="Put this server's folder on a volume of that size, in memory, so that it can be filled; "
    "gone after `down`. Needs root. Repeat.",
)
def up(
    *,
    size: str | None,
    faults: bool,
    tls: bool,
    only: tuple[str, ...],
    home: Path,
    base_port: int | None,
    bounded: tuple[str, ...],
) -> None:
    """Have the servers answer.

    What runs already is left alone, so that `up` can be repeated. Ctrl-C ends what it has started.
    """
    from audit_platform.stack import registry, supervision

    place = _place(home, size, base_port, faults=faults, tls=tls)
    every = registry.servers_at(place)
    chosen = registry.choose(every, only, place.size)
    volumes = dict(map(_volume, bounded))
    if unknown := volumes.keys() - {server.name for server in chosen}:
        raise click.BadParameter(f"--volume: no server {' '.join(sorted(unknown))} is started")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    supervision.up(place, chosen, tell=click.echo, bounded=volumes)
    click.echo(f'up: {len(chosen)} servers. eval "$(audit-platform stack env --home {home})"')


@command.command(epilog="Example: audit-platform stack fetch --size full")
@click.option("--size", type=click.Choice(["small", "full"]), default="small", show_default=True)
def fetch(*, size: str) -> None:
    """Have every program in the cache, and start none.

    `up` does the same for what it starts. The first time takes minutes: some are built from source.
    What cannot be had is named at the end.
    """
    from audit_platform.stack import registry, supervision

    every = list(registry.servers(size).values())
    supervision.fetch(every, registry.default_cache(), tell=click.echo)
    click.echo(f"the programs of {len(every)} servers are there")


@command.command(epilog="Example: audit-platform stack status --json")
@_home
@json_option
def status(*, home: Path, as_json: bool) -> None:
    """Every server: whether it can work, its process, port and memory."""
    from audit_platform.stack import registry, supervision

    place = _there(home)
    found = supervision.status(home.absolute(), registry.servers_at(place), place)
    cuts = _cuts(place)
    rows: list[dict[str, object]] = [
        {
            "server": s.name,
            "state": s.state,
            "pid": s.pid or "",
            "port": s.port or "",
            "mib": round(s.memory_bytes / _MEBIBYTE),
            "cut": "cut" if s.name in cuts else "",
            "detail": s.detail,
        }
        for s in found
    ]
    show_rows(rows, as_json=as_json, none="no server was asked for")
    if not as_json:
        total = sum(s.memory_bytes for s in found)
        click.echo(f"{place.size} stack, {total / _MEBIBYTE:.0f} MiB in all")


@command.command(epilog="Example: audit-platform stack logs kafka-1 -n 50")
@_name
@_home
@click.option("-n", "count", type=click.IntRange(1, 100_000), default=20, show_default=True)
def logs(*, name: str, home: Path, count: int) -> None:
    """The last lines of a server's log."""
    from audit_platform.stack import state, supervision

    supervision.known(home.absolute(), name)
    # A line of a server's log has rarely more than 300 bytes.
    text = state.tail(home.absolute(), name, limit=count * 300)
    click.echo("\n".join(text.splitlines()[-count:]))


@command.command(epilog="Example: audit-platform stack down")
@_home
def down(*, home: Path) -> None:
    """End every server. Data and logs stay; no process, mount or port is left."""
    from audit_platform.stack import supervision

    supervision.down(home.absolute(), tell=click.echo)


@command.command(epilog="Example: audit-platform stack wipe")
@_home
def wipe(*, home: Path) -> None:
    """End every server and delete its data and logs. Programs stay in the cache."""
    from audit_platform.stack import supervision

    supervision.wipe(home.absolute(), tell=click.echo)


@command.command(epilog="Example: audit-platform stack env > stack.sh && source stack.sh")
@_home
def env(*, home: Path) -> None:
    """The settings by which services use the servers of this stack, for a shell's `eval`."""
    from audit_platform.stack import registry, state

    place = _there(home)
    shape = state.read_shape(place.home)
    assert shape is not None
    every = registry.servers_at(place)
    chosen = [server for name, server in every.items() if name in shape.servers]
    for name, value in registry.settings(place, chosen).items():
        click.echo(f"export {name}={shlex.quote(value)}")


@command.command(epilog="Example: audit-platform stack rotate --authority")
@click.option(
    "--authority",
    "of_authority",
    is_flag=True,
    help="Make a new authority instead. The one before is believed until the next.",
)
@_home
def rotate(*, of_authority: bool, home: Path) -> None:
    """New certificates for the servers of a stack with TLS, one server after another.

    Each is restarted with its new one. A new authority takes three steps: `rotate --authority`,
    restart your services (they read the file at start), `rotate`.
    """
    from audit_platform.stack import authority, registry, supervision

    place = _there(home)
    if of_authority:
        authority.renew_authority(place)
        click.echo("a new authority: restart services, then `audit-platform stack rotate`")
        return
    renewed = supervision.rotate(place, registry.servers_at(place), tell=click.echo)
    click.echo(f"new certificates: {' '.join(renewed)}")


# ------------------------------------------------------------------------------------------ faults


def _fault(verb: str, help_text: str) -> None:
    """A command that does one thing to one server."""

    @command.command(verb, help=help_text, epilog=f"Example: audit-platform stack {verb} kafka-2")
    @_name
    @_home
    def act(*, name: str, home: Path) -> None:
        from audit_platform.stack import supervision

        acts: dict[str, Callable[[Path, str], None]] = {
            "kill": supervision.kill,
            "freeze": supervision.freeze,
            "thaw": supervision.thaw,
        }
        acts[verb](home.absolute(), name)


_fault("kill", "End a server as a power cut would: SIGKILL. `start` brings it back.")
_fault("freeze", "Stop a server in its tracks: its port takes connections, nobody answers.")
_fault("thaw", "Let a frozen server go on.")


@command.command(epilog="Example: audit-platform stack start kafka-2")
@_name
@_home
def start(*, name: str, home: Path) -> None:
    """Start a server that does not run, and wait until it answers."""
    from audit_platform.stack import registry, supervision

    place = _there(home)
    supervision.known(place.home, name)
    supervision.up(place, [registry.servers_at(place)[name]], tell=click.echo)


@command.command(epilog="Example: audit-platform stack cut services kafka-2")
@click.argument("a", metavar="services")
@click.argument("b", metavar="SERVER")
@_home
def cut(*, a: str, b: str, home: Path) -> None:
    """Cut the line between services and a server, in a stack with a fault proxy.

    The cut is silent: connections stay and nothing comes through. Servers still reach each other.
    """
    server = _far_end(a, b)
    _proxy(home).cut(server)


@command.command(epilog="Example: audit-platform stack heal services kafka-2")
@click.argument("a", metavar="[services]", required=False)
@click.argument("b", metavar="[SERVER]", required=False)
@_home
def heal(*, a: str | None, b: str | None, home: Path) -> None:
    """Heal one cut, or without a name all of them."""
    if a is None:
        _proxy(home).heal_all()
        return
    server = _far_end(a, b or "")
    _proxy(home).heal(server)


@command.command(epilog="Example: audit-platform stack fill minio-3")
@_name
@_home
def fill(*, name: str, home: Path) -> None:
    """Leave no free byte on a server's volume (`up --volume NAME=MIB`)."""
    from audit_platform.stack import supervision, volumes

    supervision.known(home.absolute(), name)
    volumes.fill(home.absolute() / name)


@command.command(epilog="Example: audit-platform stack empty minio-3")
@_name
@_home
def empty(*, name: str, home: Path) -> None:
    """Give a filled volume its free space back."""
    from audit_platform.stack import supervision, volumes

    shape = supervision.known(home.absolute(), name)
    volumes.empty(home.absolute() / name, shape.volumes.get(name, 0))


# ------------------------------------------------------------------------------------------- parts


def _place(
    home: Path,
    size: str | None = None,
    base_port: int | None = None,
    *,
    faults: bool = False,
    tls: bool = False,
) -> Place:
    """Where the stack is or will be: what is there counts, unless something else is asked for."""
    from audit_platform.stack import registry, state
    from audit_platform.stack.model import Place

    shape = state.read_shape(home.absolute())
    if shape is None:
        shape = state.Shape(size="small", base_port=registry.DEFAULT_BASE_PORT)
    return Place(
        home=home.absolute(),
        cache=registry.default_cache(),
        base_port=base_port or shape.base_port,
        size=size or shape.size,
        faults=faults or shape.faults,
        tls=tls or shape.tls,
    )


def _there(home: Path) -> Place:
    """Where the stack is. Raises `StackError` when none is there."""
    from audit_platform.stack import state

    if state.read_shape(home.absolute()) is None:
        raise StackError(f"no stack in {home}", remedy="audit-platform stack up, or --home")
    return _place(home)


def _volume(text: str) -> tuple[str, int]:
    name, _, size = text.partition("=")
    if not name or not size.isdecimal() or int(size) < 1:
        raise click.BadParameter(f"--volume {text}: wanted NAME=MIB, as minio-1=256")
    return name, int(size)


def _proxy(home: Path) -> Any:
    from audit_platform.stack.toxiproxy import FaultProxy

    return FaultProxy(_there(home))


def _cuts(place: Place) -> list[str]:
    """Servers that are cut off; none where the proxy does not answer."""
    from audit_platform.stack.toxiproxy import FaultProxy

    try:
        return FaultProxy(place).cuts()
    except StackError:
        return []


def _far_end(a: str, b: str) -> str:
    ends = {a, b} - {"services"}
    if len(ends) != 1 or a == b:
        raise click.UsageError(
            "wanted `services` and a server: the fault proxy stands between those"
        )
    return ends.pop()
