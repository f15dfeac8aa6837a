"""What the platform of the demo stands on: folders of its home (embedded), or real servers (stack).

The story is the same on both; here is what must be done otherwise. Belongs here: bringing it up and
down, where the record is read while it grows, taking one tier away, deleting HOT. Does not: the
story (`story.py`), what a proof says, the servers themselves (`stack/`).
Source: issue "The same path on the real servers": the same story with the same proofs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from audit_platform.adapters.directory import DirectorySource
from audit_platform.demo.home import DemoHome, DemoStopped
from audit_platform.operations.copy_record import copy_record
from audit_platform.ports import Objects
from audit_platform.settings import Settings
from audit_platform.stack import registry, state, supervision
from audit_platform.stack.dagster_storage import dagster_environment
from audit_platform.stack.model import HOST, PORT_SPAN, Place, Tell
from audit_platform.wiring import open_objects, open_platform, open_stack_log

#: How often the store is listed for the table: often enough for the eye, and seldom for a store.
LIST_SECONDS: Final = 2.0

#: How long Dagster waits for an answer of its code server. Its own 60 s are over on two cores that
#: do much else, and it takes a run that it could not start in that time for failed.
CODE_SECONDS: Final = 180

_PATIENT: Final = {"DAGSTER_GRPC_TIMEOUT_SECONDS": str(CODE_SECONDS)}

#: Where root's servers live whose home others may not enter: some servers refuse to be root.
_FOR_ROOT: Final = Path("/var/lib/audit-platform/demo")

_SIZE: Final = "small"


class RecordSource(Protocol):
    """The record as it grows."""

    def keys(self, prefix: str) -> Iterator[str]:
        """Keys in order."""
        ...

    def open(self, key: str, version_id: str) -> AbstractContextManager[BinaryIO]:
        """A reader over the oldest version of a key; "" stands for its version id."""
        ...


class Ground(Protocol):
    """One of the two. `up` comes first, `down` last; `tell` shows a person a line."""

    profile: str
    #: How many of each service that shares its work.
    instances: int
    #: Least seconds between two looks at the record.
    look_seconds: float
    #: How many times as long as in the embedded profile a step may take.
    patience: float

    def up(self, tell: Tell) -> None:
        """Have it answer. Raises `StackError`; `KeyboardInterrupt` when a person ends it."""
        ...

    def down(self, tell: Tell) -> None:
        """Nothing of it runs on return."""
        ...

    def forget(self) -> None:
        """Remove its data."""
        ...

    def settings(self) -> dict[str, str]:
        """`AUDIT_` settings by which the platform uses it; once it is up."""
        ...

    def environment(self) -> dict[str, str]:
        """What else the platform's processes need in their environment."""
        ...

    def prepare(self, settings: Settings) -> None:
        """Make what a service finds made."""
        ...

    def source(self) -> RecordSource:
        """Where the record is read while it grows."""
        ...

    def hand_over(self, tell: Tell) -> None:
        """Have the record in `home.objects` as an outsider is handed it."""
        ...

    def without(self, tier: str) -> AbstractContextManager[dict[str, str]]:
        """Meanwhile `hot` or `objects` is away; gives what an asker needs in its environment."""
        ...

    def away(self, tier: str) -> str:
        """In words, how `without` takes a tier away."""
        ...

    def delete_hot(self, settings: Settings, tenant_id: str, day: str) -> str:
        """Delete a day's indexes behind the platform's back; says what is gone, "" for nothing."""
        ...


class Folders:
    """The embedded profile: everything lies in folders of the home."""

    profile = "embedded"
    instances = 1
    look_seconds = 0.0
    patience = 1.0

    def __init__(self, home: DemoHome) -> None:
        self._home = home

    def up(self, tell: Tell) -> None:
        """See `Ground`."""

    def down(self, tell: Tell) -> None:
        """See `Ground`."""

    def forget(self) -> None:
        """See `Ground`. The home forgets its folders itself."""

    def settings(self) -> dict[str, str]:
        """See `Ground`."""
        return {}

    def environment(self) -> dict[str, str]:
        """See `Ground`."""
        return dict(_PATIENT)

    def prepare(self, settings: Settings) -> None:
        """See `Ground`. The embedded adapters make their own."""

    def source(self) -> RecordSource:
        """See `Ground`."""
        return DirectorySource(self._home.objects)

    def hand_over(self, tell: Tell) -> None:
        """See `Ground`. The store's folder is such a record."""

    @contextmanager
    def without(self, tier: str) -> Iterator[dict[str, str]]:
        """See `Ground`. A home of hard links, without one of its folders."""
        copy = self._home.auditor / f"without-{tier}"
        shutil.rmtree(copy, ignore_errors=True)
        for name in ("log", "objects", "hot", "keys"):
            if name != tier and (self._home.root / name).exists():
                shutil.copytree(self._home.root / name, copy / name, copy_function=os.link)
        for file in self._home.root.glob("metadata.db*"):
            shutil.copyfile(file, copy / file.name)
        yield {"AUDIT_HOME": str(copy)}
        shutil.rmtree(copy)

    def away(self, tier: str) -> str:
        """See `Ground`."""
        return f"{tier}/ away"

    def delete_hot(self, settings: Settings, tenant_id: str, day: str) -> str:
        """See `Ground`."""
        gone = sorted(settings.hot_folder.glob(f"hot.{tenant_id}.{day.replace('-', '')}.*"))
        for file in gone:
            file.unlink()
        return f"{len(gone)} files" if gone else ""


class Servers:
    """The stack profile: the small stack, which is the demo's own and ends with it.

    With `keep` it goes on; `base_port` is the first port of a new one, 0: the first that is free.
    """

    profile = "stack"
    instances = 2
    look_seconds = LIST_SECONDS
    patience = 2.0

    def __init__(
        self, home: DemoHome, stop: threading.Event, *, base_port: int = 0, keep: bool = False
    ) -> None:
        self._home = home
        self._stop = stop
        self._base_port = base_port
        self._keep = keep
        self.folder = _folder_of(home)
        self._servers = registry.servers(_SIZE)

    def _place(self) -> Place:
        shape = state.read_shape(self.folder)
        self._base_port = shape.base_port if shape else self._base_port or _free_base()
        return Place(self.folder, registry.default_cache(), self._base_port, _SIZE)

    def up(self, tell: Tell) -> None:
        """See `Ground`."""
        place = self._place()
        tell(f"servers start on ports from {place.base_port} on: {' '.join(self._servers)}")
        self._have(list(self._servers), tell)

    def _have(self, names: list[str], tell: Tell) -> None:
        """Have these servers answer, unless a person ends it meanwhile."""
        with _interruptible(self._stop):
            supervision.up(self._place(), [self._servers[name] for name in names], tell=tell)

    def down(self, tell: Tell) -> None:
        """See `Ground`."""
        if not self._keep:
            supervision.down(self.folder, tell=tell)
            return
        tell(f"servers stay up; audit-platform stack down --home {self.folder} ends them")

    def forget(self) -> None:
        """See `Ground`."""
        supervision.wipe(self.folder, tell=lambda _: None)

    def settings(self) -> dict[str, str]:
        """See `Ground`."""
        return registry.settings(self._place(), list(self._servers.values()))

    def environment(self) -> dict[str, str]:
        """See `Ground`. Dagster keeps its runs on the same PostgreSQL."""
        return dagster_environment(self.settings()) | _PATIENT

    def prepare(self, settings: Settings) -> None:
        """See `Ground`."""
        with closing(open_stack_log(settings)) as log:
            log.make_topics(settings.partitions)

    def check_up(self) -> None:
        """Raises `DemoStopped` where its servers do not run."""
        found = supervision.status(self.folder, {}, None)
        if not found or any(s.state != "up" for s in found):
            raise DemoStopped(
                f"the demo's servers do not run in {self.folder}",
                remedy=f"audit-platform stack up --home {self.folder}",
            )

    def _objects(self) -> AbstractContextManager[Objects]:
        return closing(open_objects(Settings.from_environment(self.settings())))

    def source(self) -> RecordSource:
        """See `Ground`. One connection for the run; the process' end closes it."""
        return StoreSource(open_objects(Settings.from_environment(self.settings())))

    def hand_over(self, tell: Tell) -> None:
        """See `Ground`. Copied anew, so that it is what the store holds now."""
        shutil.rmtree(self._home.objects, ignore_errors=True)
        with self._objects() as objects:
            done = copy_record(objects, self._home.objects)
        tell(f"the record is copied for the auditor: {done.keys} objects")
        if done.damaged:
            tell(f"damaged in the store: {done.damaged[0]}, {len(done.damaged)} in all")

    @contextmanager
    def without(self, tier: str) -> Iterator[dict[str, str]]:
        """See `Ground`. Not brought back after an error: the demo ends then, and all servers.

        OpenSearch is frozen, since two busy cores need minutes to recover its indexes.
        """
        if tier == "hot":
            supervision.freeze(self.folder, _HOT)
            yield {}
            supervision.thaw(self.folder, _HOT)
        else:
            supervision.kill(self.folder, _STORE)
            yield {}
            self._have([_STORE], lambda _: None)

    def away(self, tier: str) -> str:
        """See `Ground`."""
        return f"{_HOT} frozen" if tier == "hot" else f"{_STORE} killed"

    def delete_hot(self, settings: Settings, tenant_id: str, day: str) -> str:
        """See `Ground`."""
        platform = open_platform(settings)
        try:
            gone = [i for i in platform.hot.indexes(tenant_id) if i.day == day]
            for index in gone:
                platform.hot.delete_index(tenant_id, day, index.generation)
        finally:
            platform.close()
        return f"{len(gone)} indexes with {sum(i.documents for i in gone)} events" if gone else ""


#: The servers that keep the tiers.
_HOT: Final = "opensearch-1"
_STORE: Final = "versitygw"


class StoreSource:
    """A store's record: the oldest version of each key."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._versions: dict[str, str] = {}

    def keys(self, prefix: str) -> Iterator[str]:
        """See `RecordSource`. Raises `StoreUnavailable`."""
        for version in self._objects.versions(prefix):
            if not version.is_delete_marker:
                self._versions.setdefault(version.key, version.version_id)
        return iter(sorted(key for key in self._versions if key.startswith(prefix)))

    def open(self, key: str, version_id: str) -> AbstractContextManager[BinaryIO]:
        """See `RecordSource`. Raises `StoreUnavailable`."""
        return self._objects.open(key, version_id or self._versions[key])


def ground_of(
    profile: str, home: DemoHome, stop: threading.Event, *, base_port: int, keep: bool
) -> Ground:
    """The ground of a profile: `embedded` or `stack`."""
    if profile == Folders.profile:
        return Folders(home)
    return Servers(home, stop, base_port=base_port, keep=keep)


def _folder_of(home: DemoHome) -> Path:
    """Below the demo's home, where servers that step down from root can enter it."""
    own = home.root / "servers"
    open_to_others = all(p.stat().st_mode & 0o001 for p in own.parents if p.exists())
    if os.geteuid() or open_to_others:
        return own
    return _FOR_ROOT / hashlib.sha256(str(home.root).encode()).hexdigest()[:16]


def _free_base() -> int:
    """The first of a stack's ports, all of them free. Raises `DemoStopped` when there are none."""
    for base in range(registry.DEFAULT_BASE_PORT, registry.LAST_BASE_PORT + 1, PORT_SPAN):
        if all(_is_free(base + n) for n in range(PORT_SPAN)):
            return base
    raise DemoStopped(
        f"no {PORT_SPAN} free ports from {registry.DEFAULT_BASE_PORT} on",
        remedy="end what holds them, or choose --base-port",
    )


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((HOST, port))
        except OSError:
            return False
    return True


@contextmanager
def _interruptible(stop: threading.Event) -> Iterator[None]:
    """A signal ends what runs here at once, and is remembered.

    Elsewhere the demo looks at `stop` between two steps; servers that start take a minute.
    """

    def end(_number: int, _frame: object) -> None:
        stop.set()
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, end)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        if stop.is_set():
            raise KeyboardInterrupt
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
