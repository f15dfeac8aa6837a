"""What the demo asks of the sealed day, as people would ask it, and proves by the answers.

5 a device's timeline from HOT and from COLD, each with the other tier away: the same set of hashes.
6 HOT of a day deleted and made again from COLD: the same set. 7 a refused event is found with its
very bytes. 8 who looked at what: each of these reads is itself on record.
Belongs here: asking, and comparing answers. Does not: answering (`operations/query/`, query-api).
Source: issue "One machine, whole", "Done when"; design section 8.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import orjson
import pyarrow.parquet as pq
import urllib3

from audit_platform.demo.ground import Ground
from audit_platform.demo.home import DemoHome, DemoStopped
from audit_platform.demo.proofs import CLI, Proof, Run, answer_of
from audit_platform.demo.setup import auditor_file, investigator_file
from audit_platform.record import layout
from audit_platform.record.manifest import Manifest
from audit_platform.record.times import format_time_ms
from audit_platform.settings import Settings

#: Rows that one question may bring.
LIMIT: Final = 1000

#: A read is on record before it is answered, and is found when it has been indexed or archived.
FOUND_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.5
_ASK_SECONDS: Final = 30.0
_OK: Final = 200


@dataclass(frozen=True, slots=True)
class Scene:
    """Whose day is asked about. `tick` lets a moment pass."""

    home: DemoHome
    ground: Ground
    settings: Settings
    url: str
    tenant_id: str
    manifest: Manifest
    run: Run
    tick: Callable[[], None]

    @property
    def window(self) -> dict[str, str]:
        """The day as parameters of a question."""
        start = layout.day_start_ms(self.manifest.day)
        return {
            "from": format_time_ms(start),
            "to": format_time_ms(layout.day_end_ms(self.manifest.day)),
        }


def ask_all(scene: Scene) -> list[Proof]:
    """All questions, the later ones also when an earlier proof failed."""
    asked_from = time.monotonic()
    proofs = [_tiers(scene), _rebuilt(scene), _refused(scene)]
    return [*proofs, _reads(scene, asked_from)]


def search_by_investigator(home: DemoHome, url: str, tenant_id: str) -> int | None:
    """Events that a tenant's investigator finds now, a page at most; None while nobody answers."""
    headers = _authorization(investigator_file(home, tenant_id))
    where = f"{url}/v1/tenants/{tenant_id}/events?limit=100"
    try:
        answer = urllib3.request("GET", where, headers=headers, timeout=_ASK_SECONDS, retries=False)
        return len(orjson.loads(answer.data)["rows"]) if answer.status == _OK else None
    except (urllib3.exceptions.HTTPError, orjson.JSONDecodeError):
        return None


# -------------------------------------------------------------------------------------- 5: tiers


def _tiers(scene: Scene) -> Proof:
    device, sealed = _device_of(scene)
    found: dict[str, set[str]] = {}
    said = []
    for tier, other in (("hot", "objects"), ("cold", "hot")):
        with scene.ground.without(other) as more:
            command = (
                *("env", *(f"{name}={value}" for name, value in more.items()), *CLI),
                *("timeline", scene.tenant_id, device),
                *("--from", scene.window["from"], "--to", scene.window["to"]),
                *("--tier", tier, "--limit", str(LIMIT), "--json"),
            )
            code, output = scene.run(f"timeline-{tier}", command)
        answer = answer_of(f"timeline-{tier}", code, output)
        found[tier] = {row["eventHash"] for row in answer["rows"]}
        said.append(f"{len(found[tier])} from {tier.upper()} with {scene.ground.away(other)}")
    held = found["hot"] == found["cold"] == sealed and bool(sealed)
    return Proof(
        "a device's timeline is the same from HOT and from COLD",
        held,
        f"{device}: {', '.join(said)}; {len(sealed)} sealed; equal sets of hashes: {held}",
    )


def _device_of(scene: Scene) -> tuple[str, set[str]]:
    """A device with many events, but not more than one question brings; its sealed hashes."""
    counts: dict[str, int] = {}
    for chain in scene.manifest.chains:
        counts[chain.device_id] = counts.get(chain.device_id, 0) + chain.count
    few = {device: n for device, n in counts.items() if n <= LIMIT}
    device = max(few, key=lambda d: (few[d], d))
    hashes: set[str] = set()
    for part in scene.manifest.parts:
        file = pq.ParquetFile(scene.home.objects / part.object.key)
        for row in file.read(columns=["device_id", "event_hash"]).to_pylist():
            if row["device_id"] == device:
                hashes.add(row["event_hash"].hex())
    return device, hashes


# ------------------------------------------------------------------------------------ 6: rebuild


def _rebuilt(scene: Scene) -> Proof:
    tenant, day = scene.tenant_id, scene.manifest.day
    gone = scene.ground.delete_hot(scene.settings, tenant, day)
    command = (*CLI, "rebuild-hot", tenant, day, "--json")
    code, output = scene.run("rebuild-hot", command)
    (result,) = orjson.loads(output)
    held = code == 0 and bool(gone) and result["documents"] == scene.manifest.rows
    held &= not result["problems"]
    return Proof(
        "HOT, deleted, is made again from COLD",
        held,
        f"{gone} deleted; {result['documents']} events again, {result['fromCold']} of "
        f"them from COLD; {scene.manifest.rows} sealed; set proved before it was read",
    )


# ------------------------------------------------------------------------------------ 7: refused


def _refused(scene: Scene) -> Proof:
    listed = _get(scene, f"quarantine?{_query(scene.window | {'limit': '100'})}")
    if not listed["rows"]:
        return Proof("a refused event is found with its bytes", held=False, said="none was found")
    row = listed["rows"][0]
    entry = _get(scene, f"quarantine/{quote(row['entryId'])}")["entry"]
    data = base64.b64decode(entry["bytesBase64"])
    links = {q.entry_id: q.link for q in scene.manifest.links}
    link = links.get(row["entryId"])
    # Canonical bytes: their SHA-256 is the eventHash that the signed manifest lists.
    held = link is not None and hashlib.sha256(data).hexdigest() == link.event_hash
    return Proof(
        "a refused event is found with its bytes",
        held,
        f"{len(listed['rows'])} refused; the first: {row['slug']} at {row['field']}, {len(data)} "
        f"bytes whose SHA-256 the signed manifest lists: {held}",
    )


# -------------------------------------------------------------------------------------- 8: reads


def _reads(scene: Scene, asked_from: float) -> Proof:
    """The two questions about refused events went through query-api, with a key."""
    until = asked_from + FOUND_SECONDS
    while True:
        listed = _get(scene, f"reads?{_query({'limit': '100'})}", as_auditor=True)
        routes = [row["route"] for row in listed["rows"] if row["role"] == "investigator"]
        held = any(r.endswith("/quarantine/{entry}") for r in routes)
        if held or time.monotonic() > until:
            break
        scene.tick()
        time.sleep(_LOOK_SECONDS)
    return Proof(
        "who looked at what is on record",
        held,
        f"{len(listed['rows'])} reads of {scene.tenant_id}: "
        + ", ".join(sorted({f"{row['role']} {row['route']}" for row in listed["rows"]})),
    )


# ---------------------------------------------------------------------------------------- asking


def _query(parameters: Mapping[str, str]) -> str:
    return "&".join(f"{name}={quote(value)}" for name, value in parameters.items())


def _authorization(file: Path) -> dict[str, str]:
    return {"Authorization": f"Bearer {file.read_text('ascii').strip()}"}


def _get(scene: Scene, path: str, *, as_auditor: bool = False) -> dict[str, Any]:
    file = (auditor_file if as_auditor else investigator_file)(scene.home, scene.tenant_id)
    headers = _authorization(file)
    url = f"{scene.url}/v1/tenants/{scene.tenant_id}/{path}"
    try:
        answer = urllib3.request(
            "GET", url, headers=headers, timeout=_ASK_SECONDS, retries=urllib3.Retry(5, redirect=0)
        )
        found: dict[str, Any] = orjson.loads(answer.data)
    except (urllib3.exceptions.HTTPError, orjson.JSONDecodeError) as e:
        raise DemoStopped(f"query-api did not answer {path}: {e}", remedy="read its log") from e
    if answer.status != _OK:
        raise DemoStopped(f"query-api: {answer.status} {found}", remedy="read query-api.log")
    return found
