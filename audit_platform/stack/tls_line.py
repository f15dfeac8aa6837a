"""The lines that speak TLS for servers that cannot; only a stack with TLS has them.

There is one before each node of OpenSearch, whose security plugin is not to be had. Belongs
here: which lines there are, and that they answer. Does not: passing bytes on (`relay.py`).
"""

from __future__ import annotations

import socket
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from audit_platform.stack import authority
from audit_platform.stack.model import HOST, TLS_LINES, Place, Program, Server, Tell

_ANSWER_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class TlsLine:
    """See `model.Server`. The line before the server `before`."""

    before: str
    needs: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """See `model.Server`."""
        return TLS_LINES[self.before]

    def fetch(self, cache: Path, tell: Tell) -> None:
        """See `model.Server`. It is a program of ours."""

    def prepare(self, place: Place) -> None:
        """See `model.Server`."""
        authority.prepare(place, self.name)

    def program(self, place: Place) -> Program:
        """See `model.Server`."""
        files = authority.certificate_of(place, self.name)
        return Program(
            (
                *(sys.executable, "-m", "audit_platform.stack.relay"),
                *("--port", str(place.port(self.name))),
                *("--target-port", str(place.port(self.before))),
                *("--certificate", str(files.certificate), "--key", str(files.key)),
            )
        )

    def missing(self, place: Place) -> str:
        """See `model.Server`. Whether the server behind answers is that one's own question."""
        context = ssl.create_default_context(cafile=place.authority)
        try:
            with (
                socket.create_connection((HOST, place.port(self.name)), _ANSWER_SECONDS) as link,
                context.wrap_socket(link, server_hostname=HOST),
            ):
                return ""
        except OSError as e:
            return f"no answer: {e}"

    def settle(self, place: Place) -> None:
        """See `model.Server`."""

    def settings(self, place: Place) -> dict[str, str]:  # noqa: ARG002 - the form's argument
        """See `model.Server`. The server behind it names it."""
        return {}


def servers(size: str) -> tuple[Server, ...]:
    """A line before each server that needs one."""
    del size
    return tuple(TlsLine(before) for before in TLS_LINES)
