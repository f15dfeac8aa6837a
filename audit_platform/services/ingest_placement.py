"""Which log bodies go to: two topics as the log has them now, while the open generation means them.

When the log has another topic id or partition count than the open log generation names, nothing is
acknowledged until an operator opens the next one: devices would change their partition unnoticed,
and what is in the log would lie outside every generation.
Belongs here: that comparison, and how old it may be. Does not: reading generations
(`ingest_archived.py`), appending (`ingest_keeping.py`). Source: design section 4 and 5.

Both sides are known late: topics for `FRESH_SECONDS` here (a log's client may remember them for
longer), generations for `LOOK_SECONDS` of `ingest_archived.py`. What slips through is safe: the
next generation starts at the first offset of whatever topic or partition is new, so its records are
archived; if its topic was deleted, the edge's question about its records says so, and it comes
again. It may stand in another partition than the device's next events, but the order by sequence
number is not touched by that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from audit_platform.errors import AuditPlatformError, GenerationMismatch
from audit_platform.operations.generations import check_topic
from audit_platform.ports import Log, TopicInfo
from audit_platform.record.layout import DLQ_TOPIC, EVENTS_TOPIC
from audit_platform.record.ranges import Generation
from audit_platform.services.ingest_problems import Problem

#: How long the topics are believed to be as they were: a body should not ask the log each time.
FRESH_SECONDS: Final = 1.0

#: What a client should wait before it sends again while the log takes nothing.
RETRY_AFTER_SECONDS: Final = 1

#: The same while an operator has to open a log generation.
GENERATION_RETRY_AFTER_SECONDS: Final = 15

#: Topic of events, topic of dead letters.
Topics = tuple[TopicInfo, TopicInfo]


class Placement:
    """The topics, looked at again from time to time. May be called from several threads.

    `generation` gives the open log generation, as far as it is known: None for not at all, and then
    the log is believed as it is (the first generation starts at the log's first record).
    """

    def __init__(
        self,
        log: Log,
        generation: Callable[[], Generation | None] = lambda: None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._generation = generation
        self._monotonic = monotonic
        self._topics: Topics | None = None
        self._judged: Generation | None = None
        self._seen = 0.0

    def topics(self) -> Topics:
        """The topics to append to now. Raises `Problem`: `log_unavailable`, `log_generation`."""
        now = self._monotonic()
        known, generation = self._topics, self._generation()
        is_fresh = now - self._seen < FRESH_SECONDS and generation is self._judged
        if known is not None and is_fresh:
            return known
        try:
            if generation is not None:
                for topic in (EVENTS_TOPIC, DLQ_TOPIC):
                    check_topic(self._log, generation, topic)
            found = (self._log.describe(EVENTS_TOPIC), self._log.describe(DLQ_TOPIC))
        except GenerationMismatch as e:
            self._topics = None
            raise Problem(
                "log_generation",
                f"nothing is acknowledged: {e.reason}",
                remedy="keep the events; an operator must run `audit-platform generation open`",
                retry_after_seconds=GENERATION_RETRY_AFTER_SECONDS,
            ) from e
        except AuditPlatformError as e:
            self._topics = None
            raise log_unavailable(e) from e
        self._topics, self._judged, self._seen = found, generation, now
        return found


def log_unavailable(error: AuditPlatformError) -> Problem:
    """The answer while the log takes nothing."""
    return Problem(
        "log_unavailable",
        f"nothing is acknowledged: {error.reason}",
        remedy="send the same body again later",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )
