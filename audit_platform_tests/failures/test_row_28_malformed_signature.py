"""Row 28: a manifest's signature is wrong: that day of that tenant is unverified, no other is.

Recovery (sealing the day anew from what proves its leaves) is another operation's; until then
nothing is built on the manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_platform.errors import AuditPlatformError
from audit_platform.operations.judgement import MANIFEST_SIGNED, judge_day
from audit_platform.operations.manifests import read_history, sealed_days
from audit_platform.record import layout
from audit_platform.record.manifest import Manifest
from audit_platform.record.report import Step
from audit_platform_tests import attackers
from audit_platform_tests.failures.receipts import Receipts
from audit_platform_tests.world import DAY, World, open_world

NEXT = layout.next_day(DAY)
THIRD = layout.next_day(DAY, 2)
TENANTS = ("north", "south")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def receipts(world: World) -> Receipts:
    """Three days of two tenants, sealed; what their sender was promised."""
    made = Receipts()
    edges = [world.edge(tenant) for tenant in TENANTS]
    for day in (DAY, NEXT, THIRD):
        for edge in edges:
            now = world.clock.now_ms()
            lines = [*([edge.start(now)] if day == DAY else []), *edge.heartbeats(2, 4, now)]
            world.ingest(edge.tenant_id, lines)
            made.took(lines)
        world.archive()
        world.close(day)
        for tenant in TENANTS:
            world.seal(tenant, day)
    return made


def with_value(manifest: Manifest, value: str) -> bytes:
    """The manifest's file with another text where its signature stands."""
    body = orjson.loads(manifest.raw)
    body["signature"]["value"] = value
    return orjson.dumps(body, option=orjson.OPT_SORT_KEYS)


#: The manifest with a bad signature, in each way that one can be bad.
BAD: dict[str, Callable[[Manifest], bytes]] = {
    "a changed bit": lambda m: with_value(m, f"{int(m.signature[0], 16) ^ 1:x}{m.signature[1:]}"),
    "not hexadecimal": lambda m: with_value(m, "x" * 128),
    "cut off": lambda m: with_value(m, m.signature[:64]),
    "empty": lambda m: with_value(m, ""),
    "by a stranger": lambda m: attackers.sign(m, Ed25519PrivateKey.generate()).raw,
}


@pytest.mark.parametrize("how", BAD)
def test_row_28_one_day_of_one_tenant_is_unverified_and_the_others_verify(
    how: str, world: World, receipts: Receipts, tmp_path: Path
) -> None:
    manifest = read_history(world.platform, "north").counting[NEXT]
    path = world.objects_folder / layout.manifest_key("north", manifest.number)
    path.write_bytes(BAD[how](manifest))

    # Signal: no answer about the day is green, and the signature is named.
    judged = judge_day(world.platform, "north", NEXT)
    assert not any(a.passed for a in judged.answers)
    signed = next(a for a in judged.answers if a.name == MANIFEST_SIGNED)
    assert {e.step for e in signed.found} & {Step.FORM, Step.SIGNATURE}
    assert {e.day for e in signed.found} <= {"", NEXT}

    # Scope: one day of one tenant.
    for tenant in TENANTS:
        for day in (DAY, NEXT, THIRD):
            if (tenant, day) != ("north", NEXT):
                answers = judge_day(world.platform, tenant, day).answers
                assert [(a.name, a.found, a.problems) for a in answers if not a.passed] == []
    assert sealed_days(world.platform, "north") == {DAY, THIRD}

    # Nothing is lost: every receipt is still sealed, by a checker that looks at rows alone.
    assert receipts.check(world.objects_folder, tmp_path)["clean"]

    # And nothing is built on it.
    world.close(layout.next_day(THIRD))
    with pytest.raises(AuditPlatformError):
        world.seal("north", layout.next_day(THIRD))
    assert world.seal("south", layout.next_day(THIRD)).manifest_number == 4
