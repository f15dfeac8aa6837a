"""Consumer groups of the embedded log: who reads which partition, and how far they got.

Belongs here: leases, balanced assignment, committed offsets. Does not: reading the log.
Source: `ports.GroupMember`; `README.md` beside this file.

Three files per group in the topic's folder `groups/`: `<group>.lock` is flocked around every
change; `<group>.leases` says who is there and owns what until when; `<group>.offsets` holds the
committed offsets. Leases are replaced without fsync: they end with the boot they were given in
anyway. Times are `time.monotonic()`, which on Linux all processes of a boot share.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import orjson

from audit_platform.adapters.embedded.files import Files, FsyncSite, mkdirs, read_whole, write_file
from audit_platform.errors import LogUnavailable, NotAssigned

#: How long a member that does not call keeps its partitions: short enough that a killed consumer is
#: replaced well inside the freshness that people see, long enough for one slow store call.
LEASE_SECONDS: Final = 10.0
#: A lease is written again when this much of it is used, so that polling costs no writes.
_RENEW_SECONDS: Final = LEASE_SECONDS / 4

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """What tells this boot from others; "" where the system does not say."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def committed_offsets(files: Files, topic_folder: Path, group: str) -> dict[int, int]:
    """What a group has committed of a topic, by partition. Raises `OSError`."""
    found = _small_object(files, topic_folder / "groups" / f"{group}.offsets")
    return {int(p): offset for p, offset in found.items() if isinstance(offset, int)}


def _small_object(files: Files, path: Path) -> dict[str, Any]:
    """A small JSON object; empty when missing or (leases after a power cut) unfinished."""
    if files.stat(path) is None:
        return {}
    try:
        value = orjson.loads(read_whole(files, path))
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


class EmbeddedGroupMember:
    """`ports.GroupMember` on files. One thread at a time.

    A member is a name *and* an instance: who joins again under its name (after a crash) takes over
    the name's lease, and the old instance, should it still run, holds nothing any more.
    """

    def __init__(
        self,
        files: Files,
        topic_folder: Path,
        group: str,
        member: str,
        *,
        partitions: int,
        monotonic: Callable[[], float],
        boot: str,
    ) -> None:
        if not _NAME.fullmatch(group) or not member:
            raise ValueError(f"not a group and member: {group!r}, {member!r}")
        self._files = files
        self._folder = topic_folder / "groups"
        self._member = member
        self._instance = uuid.uuid4().hex
        self._partitions = partitions
        self._monotonic = monotonic
        self._boot = boot
        self._leases = self._folder / f"{group}.leases"
        self._offsets = self._folder / f"{group}.offsets"
        self._lock = self._folder / f"{group}.lock"
        self._draft = self._folder / f"{group}.draft"
        with self._disk():
            mkdirs(files, self._folder, FsyncSite.GROUP_FOLDER, below=topic_folder)
        with self._exclusive():
            # The new instance inherits what the name holds.
            leases = self._read_leases()
            leases[member] = {
                "instance": self._instance,
                "until": self._monotonic() + LEASE_SECONDS,
                "partitions": leases.get(member, {}).get("partitions", []),
            }
            self._write_leases(leases)

    def assignment(self) -> frozenset[int]:
        """See `ports.GroupMember.assignment`.

        Balanced: nobody has two more than another. A partition moves only when its owner, asking
        here, is told that it has too many, or when the owner's lease has passed.
        """
        with self._exclusive():
            leases = self._read_leases()
            mine = leases.get(self._member)
            if mine is not None and mine["instance"] != self._instance:
                return frozenset()  # a newer instance of our name is there
            now = self._monotonic()
            until = now + LEASE_SECONDS
            before = [] if mine is None else mine["partitions"]
            held = sorted(before)[: self._quota(leases)]
            taken = {p for lease in leases.values() for p in lease["partitions"]}
            free = [p for p in range(self._partitions) if p not in taken]
            held += free[: max(self._quota(leases) - len(held), 0)]
            if mine is None or held != before or mine["until"] < until - _RENEW_SECONDS:
                leases[self._member] = {
                    "instance": self._instance,
                    "until": until,
                    "partitions": held,
                }
                self._write_leases(leases)
            return frozenset(held)

    def commit(self, partition: int, offset: int) -> None:
        """See `ports.GroupMember.commit`."""
        with self._exclusive():
            mine = self._read_leases().get(self._member)
            if (
                mine is None
                or mine["instance"] != self._instance
                or partition not in mine["partitions"]
            ):
                raise NotAssigned(
                    f"partition {partition} is not held by {self._member}",
                    remedy="drop what was read of it; another member goes on",
                )
            offsets = self._read(self._offsets)
            offsets[str(partition)] = offset
            write_file(self._files, self._draft, orjson.dumps(offsets), FsyncSite.GROUP_OFFSETS)
            self._files.rename(self._draft, self._offsets)
            self._files.fsync_dir(self._folder, FsyncSite.GROUP_OFFSETS_NAME)

    def committed(self, partition: int) -> int | None:
        """See `ports.GroupMember.committed`."""
        with self._disk():
            found = self._read(self._offsets).get(str(partition))
        return found if isinstance(found, int) else None

    def leave(self) -> None:
        """See `ports.GroupMember.leave`."""
        with self._exclusive():
            leases = self._read_leases()
            mine = leases.get(self._member)
            if mine is not None and mine["instance"] == self._instance:
                del leases[self._member]
                self._write_leases(leases)

    def _quota(self, leases: dict[str, Any]) -> int:
        """How many partitions are ours: the same for all, one more for those who hold most."""
        members = {name: len(lease["partitions"]) for name, lease in leases.items()}
        members.setdefault(self._member, 0)
        each, left = divmod(self._partitions, len(members))
        ranked = sorted(members, key=lambda name: (-members[name], name))
        return each + (ranked.index(self._member) < left)

    def _read_leases(self) -> dict[str, Any]:
        """Live leases by member; those of another boot or past their time are gone."""
        state = self._read(self._leases)
        if state.get("boot") != self._boot:
            return {}
        now = self._monotonic()
        return {m: lease for m, lease in state["members"].items() if lease["until"] > now}

    def _write_leases(self, leases: dict[str, Any]) -> None:
        state = {"boot": self._boot, "members": leases}
        write_file(self._files, self._draft, orjson.dumps(state), None)
        self._files.rename(self._draft, self._leases)

    def _read(self, path: Path) -> dict[str, Any]:
        return _small_object(self._files, path)

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self._disk():
            handle = self._files.open(self._lock, create=True)
            try:
                self._files.lock(handle)
                yield
            finally:
                self._files.close(handle)

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise LogUnavailable(
                f"group of {self._folder.parent.name}: {e}", remedy="try again"
            ) from e
