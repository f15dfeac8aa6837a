"""Rows of a day that were brought together, kept on this machine until the day is sealed.

Reading landing is nearly all that sealing reads. A sealer that dies leaves its sorted-by-device
rows behind; the next one of the same inputs on this machine goes on with them, and reads nothing of
landing again. They prove themselves: each file is held against the digest that was written down
when all were whole, and each row rebuilds the event that its hash names. On another machine, or
when anything differs, the work begins anew.
Belongs here: the folder, who may use it, whether it is whole. Does not: the rows (`gather.py`).
Source: issue "killed at 80 % and finish in a new run that re-reads < 30 % of the bytes".
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import orjson

from audit_platform.operations import gather
from audit_platform.operations.plan import Plan
from audit_platform.ports import Objects, Platform
from audit_platform.record.manifest import NamedObject

#: A day that nobody went on with for so long is sealed elsewhere, or waits for a person.
STALE_SECONDS: Final = 2 * 86_400

_FOLDER: Final = "seal"
_WHOLE: Final = "whole.json"
_NAME_DIGITS: Final = 32


@contextmanager
def work_folder(platform: Platform, plan: Plan) -> Iterator[Path]:
    """A folder for this plan's rows; gone when the work is done, kept when it is not.

    While another sealer has it, or the platform has no place for work: one that is always gone.
    """
    if platform.work is None:
        with tempfile.TemporaryDirectory(prefix="audit-seal-") as folder:
            yield Path(folder)
        return
    above = platform.work / _FOLDER
    above.mkdir(parents=True, exist_ok=True, mode=0o700)
    _clear(above)
    place = above / _name_of(plan)
    with _lock_of(place).open("wb") as lock:
        if not _is_ours(lock):
            with tempfile.TemporaryDirectory(prefix="audit-seal-") as folder:
                yield Path(folder)
            return
        place.mkdir(exist_ok=True, mode=0o700)
        yield place
        shutil.rmtree(place)
        _lock_of(place).unlink(missing_ok=True)


def brought_together(
    objects: Objects, plan: Plan, sources: gather.Sources, folder: Path, seen: gather.Gathered
) -> tuple[list[Path], bool]:
    """Files of rows by device, and whether an earlier sealer had made them.

    Raises `SealRefused`, `StoreUnavailable`.
    """
    whole = _adopted(folder, plan, seen)
    if whole is not None:
        return whole, True
    (folder / _WHOLE).unlink(missing_ok=True)
    paths = gather.spilled(objects, sources, folder, seen)
    said = {
        "plan": _name_of(plan),
        "rows": seen.rows,
        "undecodable": [[o.key, o.version_id, o.sha256, o.size, o.rows] for o in seen.undecodable],
        "files": [[path.name, _digest_of(path)] for path in paths],
    }
    draft = folder / f"{_WHOLE}.new"
    draft.write_bytes(orjson.dumps(said))
    draft.rename(folder / _WHOLE)
    return paths, False


def _adopted(folder: Path, plan: Plan, seen: gather.Gathered) -> list[Path] | None:
    """What an earlier sealer left whole; None for anything else."""
    try:
        said = orjson.loads((folder / _WHOLE).read_bytes())
        if said["plan"] != _name_of(plan):
            return None
        paths = [folder / name for name, _ in said["files"]]
        if any(
            _digest_of(p) != digest for p, (_, digest) in zip(paths, said["files"], strict=True)
        ):
            return None
        undecodable = [NamedObject(*o) for o in said["undecodable"]]
        rows = int(said["rows"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    seen.rows += rows
    seen.undecodable += undecodable
    return paths


def _name_of(plan: Plan) -> str:
    """The same for the same inputs only."""
    inputs = plan.inputs
    said = [
        inputs.tenant_id,
        inputs.day,
        plan.standing.sha256 if plan.standing else "",
        [
            [
                *(o.topic, o.generation, o.partition, o.from_offset, o.end_offset),
                *(sorted(o.doubled), o.object.key, o.object.version_id, o.object.sha256),
            ]
            for o in inputs.landing
        ],
    ]
    return hashlib.sha256(orjson.dumps(said)).hexdigest()[:_NAME_DIGITS]


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _lock_of(place: Path) -> Path:
    return place.with_suffix(".lock")


def _is_ours(lock: IO[bytes]) -> bool:
    """Linux lets go of it when the process ends, however it ends."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _clear(above: Path) -> None:
    """Away with what nobody went on with."""
    for place in above.iterdir():
        if not place.is_dir() or time.time() - place.stat().st_mtime < STALE_SECONDS:
            continue
        with _lock_of(place).open("wb") as lock:
            if _is_ours(lock):
                shutil.rmtree(place, ignore_errors=True)
                _lock_of(place).unlink(missing_ok=True)
