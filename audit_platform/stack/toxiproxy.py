"""The fault proxy between services and servers, as a server of the stack, and how it is told.

Belongs here: having and starting toxiproxy, cutting and healing. Does not: which server has which
listener (`model.PROXIED`).
Source: toxiproxy 2.5.0, its HTTP API.

A cut is silent, as a lost line is: connections stay, nothing comes through either way. A new
connection is taken by the proxy and then hears nothing. What was sent meanwhile arrives after the
healing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import urllib3

from audit_platform.errors import StackError
from audit_platform.stack.golang import GoProgram
from audit_platform.stack.model import HOST, PROXIED, Place, Program, Server, Tell

#: Go's checksum database has the same hash.
GO: Final = GoProgram(
    name="toxiproxy",
    module="github.com/Shopify/toxiproxy/v2",
    version="v2.5.0",
    sum="h1:i4LPT+qrSlKNtQf5QliVjdP08GyAH8+BUIc9gT0eahc=",
    package="./cmd/server",
)

#: It answers in a millisecond or does not run.
_ASK_SECONDS: Final = 2.0

#: Both ways of a connection, in its words.
_STREAMS: Final = ("upstream", "downstream")


@dataclass(frozen=True, slots=True)
class Toxiproxy:
    """See `model.Server`."""

    name: str = "toxiproxy"
    needs: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()

    def fetch(self, cache: Path, tell: Tell) -> None:
        """See `model.Server`."""
        GO.fetch(cache, tell)

    def prepare(self, place: Place) -> None:
        """See `model.Server`. Every listener stands in its file: a restart heals all cuts."""
        folder = place.folder(self.name)
        folder.mkdir(parents=True, exist_ok=True)
        listeners = [
            {
                "name": name,
                "listen": place.front(name),
                "upstream": f"{HOST}:{place.door_port(name)}",
                "enabled": True,
            }
            for name in PROXIED
        ]
        (folder / "proxies.json").write_text(json.dumps(listeners, indent=1) + "\n")

    def program(self, place: Place) -> Program:
        """See `model.Server`."""
        return Program(
            argv=(
                str(GO.path(place.cache)),
                *("-host", HOST, "-port", str(place.port(self.name))),
                *("-config", str(place.folder(self.name) / "proxies.json")),
            ),
            environment={"LOG_LEVEL": "warn"},
        )

    def missing(self, place: Place) -> str:
        """See `model.Server`."""
        try:
            there = FaultProxy(place).names()
        except StackError as e:
            return e.reason
        lacking = [name for name in PROXIED if name not in there]
        return f"no listener for {' '.join(lacking)}" if lacking else ""

    def settle(self, place: Place) -> None:
        """See `model.Server`. Nothing is left to do."""

    def settings(self, place: Place) -> dict[str, str]:  # noqa: ARG002 - the form's argument
        """See `model.Server`. Services do not know of it: servers' settings name its listeners."""
        return {}


class FaultProxy:
    """Its HTTP API, for faults. Every method raises `StackError` when it does not answer."""

    def __init__(self, place: Place) -> None:
        if not place.is_proxied:
            raise StackError(
                f"the stack in {place.home} has no fault proxy",
                remedy="audit-platform stack up --faults, in another --home",
            )
        self._base = f"http://{place.address('toxiproxy')}"
        self._pool = urllib3.PoolManager(retries=False, timeout=_ASK_SECONDS)

    def names(self) -> list[str]:
        """Servers that it stands before."""
        return sorted(self._call("GET", "/proxies"))

    def cuts(self) -> list[str]:
        """Servers that are cut off from services now."""
        found = self._call("GET", "/proxies")
        return sorted(name for name, proxy in found.items() if proxy["toxics"])

    def cut(self, server: str) -> None:
        """Let nothing through between services and that server; one that is cut stays so."""
        _check(server)
        there = {toxic["name"] for toxic in self._call("GET", f"/proxies/{server}/toxics")}
        for stream in _STREAMS:
            if f"cut-{stream}" not in there:
                self._call(
                    "POST",
                    f"/proxies/{server}/toxics",
                    {
                        "name": f"cut-{stream}",
                        "type": "timeout",
                        "stream": stream,
                        "attributes": {"timeout": 0},
                    },
                )

    def heal(self, server: str) -> None:
        """Let everything through again; nothing happens to one that is not cut."""
        _check(server)
        for toxic in self._call("GET", f"/proxies/{server}/toxics"):
            self._call("DELETE", f"/proxies/{server}/toxics/{toxic['name']}")

    def heal_all(self) -> None:
        """Heal every cut."""
        self._call("POST", "/reset")

    def _call(self, method: str, path: str, body: object = None) -> Any:
        try:
            answer = self._pool.request(
                method, self._base + path, body=None if body is None else json.dumps(body)
            )
        except urllib3.exceptions.HTTPError as e:
            raise StackError(
                f"the fault proxy does not answer: {type(e).__name__}",
                remedy="audit-platform stack status; stack start toxiproxy",
            ) from e
        if answer.status >= 300:  # noqa: PLR2004 - every class of success is below
            raise StackError(
                f"the fault proxy refuses {method} {path}: {answer.data.decode(errors='replace')}"
            )
        return json.loads(answer.data) if answer.data else None


def _check(server: str) -> None:
    if server not in PROXIED:
        raise StackError(
            f"the fault proxy does not stand before {server}",
            remedy=f"it stands before {' '.join(PROXIED)}",
        )


def servers(size: str) -> Sequence[Server]:
    """The one fault proxy of a full stack."""
    del size
    return (Toxiproxy(),)
