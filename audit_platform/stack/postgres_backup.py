"""PostgreSQL lost: base backups of the stack's, and its state at any later moment out of them.

A backup and the archived log after it give back every state since. Belongs here: taking backups,
letting old ones go, putting a data folder in place that recovers when it is started. Does not: the
server itself and its archiving (`postgres.py`), when (`deploy/runbooks/metadata-stores.md`).
Source: PostgreSQL 15's manual, chapter 26.3 (continuous archiving and point-in-time recovery).
"""

from __future__ import annotations

import re
import shlex
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from audit_platform.errors import StackError
from audit_platform.stack import children, state
from audit_platform.stack.model import HOST, Place
from audit_platform.stack.postgres import _binary, _give_away, _run, _secret

#: A backup's name is when it was whole: every state from then on can be had from it.
_NAME: Final = "%Y%m%dT%H%M%S.%fZ"

#: Backups that are kept, each with the archived log since. With one a day: three days back.
KEPT: Final = 3

#: Copying some hundred megabytes of metadata; a larger database gets its hour.
_COPY_SECONDS: Final = 3600

_FIRST_SEGMENT: Final = re.compile(
    r"^START WAL LOCATION: \S+ \(file ([0-9A-F]{24})\)$", re.MULTILINE
)


def take_backup(place: Place) -> Path:
    """A base backup of the running primary, whole or not at all; the oldest beyond `KEPT` go.

    Raises `StackError`; then the backups are as before.
    """
    if place.size != "full":
        raise StackError(
            "the small stack archives no log: a backup would be all there is",
            remedy="use a full one: audit-platform stack up --size full",
        )
    folder = _backups(place)
    draft = folder / "draft"
    shutil.rmtree(draft, ignore_errors=True)
    primary = f"host={HOST} port={place.port('postgres')} user=postgres passfile={_passfile(place)}"
    _run(
        [
            _binary("pg_basebackup"),
            "--checkpoint=fast",
            "--wal-method=stream",
            f"--pgdata={draft}",
            f"--dbname={primary}",
        ],
        seconds=_COPY_SECONDS,
    )
    whole = folder / datetime.now(UTC).strftime(_NAME)
    draft.rename(whole)
    _let_go(place)
    return whole


def backups(place: Place) -> list[datetime]:
    """When each backup was whole, in order."""
    found = []
    for path in _backups(place).iterdir():
        try:
            found.append(datetime.strptime(path.name, _NAME).replace(tzinfo=UTC))
        except ValueError:
            continue  # the draft of one that never was whole
    return sorted(found)


def restore(place: Place, until: datetime | None = None) -> datetime:
    """Have the primary, when it is started next, come up as it was at `until` (None: at the end).

    Returns when the backup was whole that it begins with. What is in place of the data now is kept
    beside it (`data.lost-…`), also the standby's: it copies the primary anew. Nothing is changed
    when this raises `StackError`: a server runs, or no backup is old enough.
    """
    for name in ("postgres", "postgres-standby"):
        running = state.read_running(place.home, name)
        if running is not None and children.alive(running.who):
            raise StackError(
                f"{name} runs", remedy="end it first: audit-platform stack down, or stack kill"
            )
    whole = [at for at in backups(place) if until is None or at <= until]
    if not whole:
        first = next(iter(backups(place)), None)
        raise StackError(
            "there is no backup" if first is None else f"the first backup is of {first:{_NAME}}",
            remedy="a later moment, or rebuild_metadata: deploy/runbooks/metadata.md",
        )
    data = place.folder("postgres") / "data"
    draft = data.with_name("data.new")
    shutil.rmtree(draft, ignore_errors=True)
    _run(["/bin/cp", "-a", str(_backups(place) / whole[-1].strftime(_NAME)), str(draft)],
         seconds=_COPY_SECONDS)  # fmt: skip
    _write(draft / "recovery.signal", "")
    settings = draft / "postgresql.auto.conf"
    _write(settings, settings.read_text() + _recovery(place, until))
    aside = f"data.lost-{datetime.now(UTC).strftime(_NAME)}"
    for lost in (data, place.folder("postgres-standby") / "data"):
        if lost.is_dir():
            lost.rename(lost.with_name(aside))
    draft.rename(data)
    return whole[-1]


def _recovery(place: Place, until: datetime | None) -> str:
    """All that says how to recover: what an older recovery left in the file counts no more."""
    archive = shlex.quote(str(place.folder("postgres") / "archive"))
    target = "" if until is None else until.astimezone(UTC).isoformat()
    settings = {
        "restore_command": f"cp {archive}/%f %p",
        "recovery_target_timeline": "latest",
        "recovery_target_time": target,
        "recovery_target_action": "promote",
    }
    quoted = {name: value.replace("'", "''") for name, value in settings.items()}
    return "".join(f"{name} = '{value}'\n" for name, value in quoted.items())


def _let_go(place: Place) -> None:
    """Forget all but the newest backups, and the log that only older ones would need."""
    folder = _backups(place)
    for at in backups(place)[:-KEPT]:
        shutil.rmtree(folder / at.strftime(_NAME))
    label = folder / backups(place)[0].strftime(_NAME) / "backup_label"
    first = _FIRST_SEGMENT.search(label.read_text())
    if first is None:
        raise StackError(f"{label} names no segment of the log", remedy="take another backup")
    archive = place.folder("postgres") / "archive"
    _run([_binary("pg_archivecleanup"), str(archive), first[1]], seconds=_COPY_SECONDS)


def _backups(place: Place) -> Path:
    folder = place.folder("postgres") / "backups"
    folder.mkdir(parents=True, exist_ok=True)
    _give_away(folder)
    return folder


def _passfile(place: Place) -> Path:
    path = place.folder("postgres") / "passfile"
    path.touch(0o600)
    _write(path, f"*:*:*:postgres:{_secret(place, 'password').read_text()}\n")
    path.chmod(0o600)
    return path


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    _give_away(path)
