"""The life of an index: HOT for 30 days, WARM (merged, smaller) to 90, then deleted.

What is due follows from the index's age and one note in it, so nothing has to be kept elsewhere and
a step that failed is due again the next time. Its failure stands in the index too, as a note, until
the step is done. An index is deleted only when its day is sealed, has no open incident, and holds
nothing that the record lacks: read from the bytes.
Belongs here: states, steps, what stands against one. Does not: how an index is merged (adapters),
when (`defs/hot_life.py`). Source: the mission (HOT 0-30 d, WARM 30-90 d); failures 17 and 30.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from audit_platform.errors import AuditPlatformError, HotUnavailable
from audit_platform.operations.hot_check import HOT_DAYS, INDEX_DAYS, check_hot
from audit_platform.operations.incidents import incidents
from audit_platform.operations.manifests import valid_of_day
from audit_platform.ports import HotIndex, IndexName, Platform
from audit_platform.record import layout
from audit_platform.record.manifest import SEALED

_STATE: Final = "state"
_ERROR: Final = "error"

#: A note is short: reasons are cut to this.
MAX_REASON: Final = 500


class State(StrEnum):
    """Where an index is in its life."""

    HOT = "hot"
    WARM = "warm"
    DELETED = "deleted"


class LifeStep(StrEnum):
    """What brings it on. `none`: nothing is due."""

    NONE = ""
    MERGE = "merge"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Life:
    """One index: its state, the step that is due, and why that failed when it was last tried."""

    index: IndexName
    state: State
    due: LifeStep
    error: str = ""


def lives(platform: Platform) -> list[Life]:
    """Every index that is read, by tenant and day. Raises `HotUnavailable`."""
    return [_life(platform, i) for i in platform.hot.indexes() if i.is_read]


def _life(platform: Platform, found: HotIndex) -> Life:
    index = IndexName(found.tenant_id, found.day, found.generation)
    today = layout.day_of(platform.clock.now_ms())
    if found.day >= layout.next_day(today, -HOT_DAYS):
        return Life(index, State.HOT, LifeStep.NONE)
    try:
        notes = platform.hot.notes(*index)
    except HotUnavailable as e:
        notes = {_ERROR: e.reason[:MAX_REASON]}
    state = State(notes.get(_STATE, State.HOT))
    if found.day < layout.next_day(today, -INDEX_DAYS):
        due = LifeStep.DELETE
    else:
        due = LifeStep.MERGE if state is State.HOT else LifeStep.NONE
    return Life(index, state, due, notes.get(_ERROR, ""))


def bring_on(platform: Platform, life: Life) -> Life:
    """Try the step that is due; how the index stands then. A failure is its `error`, not raised."""
    try:
        if life.due is LifeStep.MERGE:
            platform.hot.compact(*life.index)
            platform.hot.note(*life.index, {_STATE: State.WARM, _ERROR: ""})
            return Life(life.index, State.WARM, LifeStep.NONE)
        if life.due is LifeStep.DELETE:
            return _delete(platform, life)
    except AuditPlatformError as e:
        error = f"{life.due}: {e.reason}"[:MAX_REASON]
        with suppress(HotUnavailable):  # an index that cannot be noted in says so at every look
            platform.hot.note(*life.index, {_ERROR: error})
        return replace(life, error=error)
    return life


def _delete(platform: Platform, life: Life) -> Life:
    tenant_id, day, generation = life.index
    against = next(_against(platform, life.index), "")
    if against:
        error = f"{life.due}: {against}"[:MAX_REASON]
        with suppress(HotUnavailable):
            platform.hot.note(*life.index, {_ERROR: error})
        return replace(life, error=error)
    for other in platform.hot.indexes(tenant_id):
        if other.day == day and other.generation != generation:
            platform.hot.delete_index(tenant_id, day, other.generation)
    platform.hot.delete_index(tenant_id, day, generation)
    return Life(life.index, State.DELETED, LifeStep.NONE)


def _against(platform: Platform, index: IndexName) -> Iterator[str]:
    """What stands against deleting an index; the cheap questions first."""
    tenant_id, day, _ = index
    manifest = valid_of_day(platform, tenant_id, day)
    if manifest is None or manifest.status != SEALED:
        yield "the day is not sealed"
    if any(found.is_open for found in incidents(platform, tenant_id, day)):
        yield "an incident of the day is open"
    checked = check_hot(platform, tenant_id, day)
    if not checked.passed:
        first = f": {checked.problems[0]}" if checked.problems else ""
        yield f"{checked.lacking} events are lacking, {checked.foreign} are foreign{first}"
