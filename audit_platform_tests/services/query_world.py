"""A query-api over a whole small installation, asked in-process; and who may ask it.

Belongs here: the app, keys of every role, asking, what is on record of it. Does not: any test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import httpx
import orjson
from pydantic import BaseModel

from audit_platform.ports import Hot, Log, Metadata, Platform, Role, Tokens
from audit_platform.record.layout import PLATFORM_TENANT
from audit_platform.services.query_api import QueryApi, build_app
from audit_platform.services.query_problems import ProblemDetails
from audit_platform.settings import Settings
from audit_platform_tests.operations.test_own_events import stored
from audit_platform_tests.world import World, open_world

TENANT = "st-anna"
OTHER = "north"

_M = TypeVar("_M", bound=BaseModel)


def problem(answer: httpx.Response) -> str:
    """The slug, of an answer that has the whole form of problem details."""
    assert answer.headers["content-type"] == "application/problem+json"
    found = ProblemDetails.model_validate_json(answer.content)
    assert found.status == answer.status_code
    assert found.title
    assert found.detail
    assert found.remedy
    prefix, _, slug = found.type.rpartition(":")
    assert prefix == "urn:audit-platform:problem"
    return slug


def parsed(model: type[_M], answer: httpx.Response) -> _M:
    """The answer, which must be 200 and exactly of the documented form."""
    assert answer.status_code == 200, answer.text
    return model.model_validate_json(answer.content)


@dataclass
class QueryWorld:
    """One installation and its query-api. Time-outs run on `now`, which the test sets."""

    world: World
    platform: Platform
    now: float = 1000.0
    more: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        own = {
            "AUDIT_HOME": str(self.world.folder),
            "AUDIT_QUERY_COOL_DOWN_SECONDS": "30",
            **self.more,
        }
        settings = Settings.from_environment(own)
        self.app: QueryApi = build_app(self.platform, settings, monotonic=lambda: self.now)
        self.runner = asyncio.Runner()
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://query")

    def key(self, tenant_id: str, role: Role) -> str:
        """A new key of a tenant."""
        metadata = self.world.platform.metadata
        metadata.add_tenant(tenant_id, self.world.clock.now_ms())
        return metadata.add_api_key(tenant_id, role, self.world.clock.now_ms())[1]

    async def asking(self, path: str, secret: str = "", **params: Any) -> httpx.Response:
        """One question, to be awaited beside others. `from_` stands for `from`."""
        headers = {"authorization": f"Bearer {secret}"} if secret else {}
        given = {name.rstrip("_"): value for name, value in params.items()}
        return await self.client.get(path, params=given or None, headers=headers)

    def ask(self, path: str, secret: str = "", **params: Any) -> httpx.Response:
        """One question."""
        return self.runner.run(self.asking(path, secret, **params))

    def post(self, path: str, secret: str = "", body: Any = None) -> httpx.Response:
        """One decision, sent as JSON."""
        headers = {"authorization": f"Bearer {secret}"} if secret else {}
        posting = self.client.post(path, content=orjson.dumps(body), headers=headers)
        return self.runner.run(posting)

    def on_record(self, event_type: str = "record_read") -> list[dict[str, Any]]:
        """Payloads of what this app has put on record, in order."""
        events = [orjson.loads(line) for line in stored(self.world.platform.log)]
        assert {e["tenantId"] for e in events} <= {PLATFORM_TENANT}
        source = self.app.desk.auditor.source.device_id
        own = [e for e in events if (e["deviceId"], e["eventType"]) == (source, event_type)]
        return [e["payload"] for e in sorted(own, key=lambda e: int(e["sequenceNumber"]))]

    def metric(self, name: str) -> float:
        """One series of /metrics; 0 while it has not been counted."""
        lines = self.ask("/metrics").text.splitlines()
        found = [line for line in lines if line.startswith(f"{name} ")]
        assert len(found) <= 1
        return float(found[0].split()[-1]) if found else 0.0

    def close(self) -> None:
        """Stop client, app and loop."""
        self.runner.run(self.client.aclose())
        self.app.close()
        self.runner.close()


@contextmanager
def query_world(
    folder: Path,
    *,
    log: Log | None = None,
    metadata: Metadata | None = None,
    hot: Hot | None = None,
    tokens: Tokens | None = None,
    **settings: str,
) -> Iterator[QueryWorld]:
    """A fresh installation; the ports given stand in for the embedded ones in the app's eyes."""
    with (
        open_world(folder) as world,
        asking(world, log=log, metadata=metadata, hot=hot, tokens=tokens, **settings) as made,
    ):
        yield made


@contextmanager
def asking(
    world: World,
    *,
    log: Log | None = None,
    metadata: Metadata | None = None,
    hot: Hot | None = None,
    tokens: Tokens | None = None,
    **settings: str,
) -> Iterator[QueryWorld]:
    """A query-api over a world."""
    platform = replace(
        world.platform,
        log=log or world.platform.log,
        metadata=metadata or world.platform.metadata,
        hot=hot or world.platform.hot,
        tokens=tokens,
    )
    made = QueryWorld(world, platform, more=settings)
    try:
        yield made
    finally:
        made.close()
