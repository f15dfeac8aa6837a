"""What a user sees of a failure: an investigator's questions to query-api.

Belongs here: one who may ask, a search, and what its answer says of itself. Does not: any test.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import urllib3

from audit_platform.ports import Role
from audit_platform.record.event import format_time_ms
from audit_platform.record.layout import day_end_ms, day_start_ms
from audit_platform_tests.failures.installation import DAY, TENANT, Installation

#: Settings of a query-api whose answers are looked at for what they say, not for how soon: it
#: shares two cores with all servers, and a server that is gone takes its own time limits to fail.
PATIENT: Final = {"AUDIT_QUERY_SECONDS": "90"}

ANSWER_SECONDS: Final = 120.0

#: What an answer says when HOT is gone.
DEGRADED: Final = "HOT degraded, using COLD (slower)"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; `body` is JSON."""

    status: int
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def tier(self) -> str:
        """Where it was answered from."""
        return str(self.body["tier"])

    @property
    def missing(self) -> list[str]:
        """What it says that it lacks."""
        return [str(said) for said in self.body["completeness"]["missing"]]

    @property
    def is_degraded(self) -> bool:
        """Whether it says that HOT is gone."""
        return any(said.startswith(DEGRADED) for said in self.missing)


@dataclass(frozen=True, slots=True)
class Investigator:
    """Somebody who may search all of the tenant's events."""

    url: str
    secret: str

    @classmethod
    def at(cls, made: Installation) -> Investigator:
        """With a key of their own, at the installation's query-api."""
        with made.platform() as opened:
            _, secret = opened.metadata.add_api_key(
                TENANT, Role.INVESTIGATOR, opened.clock.now_ms()
            )
        return cls(f"http://127.0.0.1:{made.ports['query-api']}", secret)

    def search(self, *, tier: str = "auto", limit: int = 10) -> Answer:
        """The first events of the day."""
        answer = urllib3.request(
            "GET",
            f"{self.url}/v1/tenants/{TENANT}/events",
            fields={
                "from": format_time_ms(day_start_ms(DAY)),
                "to": format_time_ms(day_end_ms(DAY)),
                "tier": tier,
                "limit": str(limit),
            },
            headers={"authorization": f"Bearer {self.secret}"},
            timeout=ANSWER_SECONDS,
            retries=False,
        )
        return Answer(answer.status, dict(answer.headers.items()), answer.json())
