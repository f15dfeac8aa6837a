"""A receiver of alerts: keeps each notification of Alertmanager as one JSON line.

Belongs here: the receiver as a server of the full stack, and reading what it has kept. Does not:
its program (`webhook_receiver.py`), sending (`alertmanager.py`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import urllib3

from audit_platform.stack import webhook_receiver
from audit_platform.stack.model import HOST, Place, Program, Server, Tell

_ASK_SECONDS: Final = 1.5


@dataclass(frozen=True, slots=True)
class WebhookReceiver:
    """See `model.Server`."""

    name: str = "webhook"
    needs: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()

    def fetch(self, cache: Path, tell: Tell) -> None:
        """See `model.Server`. It is our own."""

    def prepare(self, place: Place) -> None:
        """See `model.Server`."""
        place.folder(self.name).mkdir(parents=True, exist_ok=True)

    def program(self, place: Place) -> Program:
        """See `model.Server`."""
        return Program(
            argv=(
                *(sys.executable, webhook_receiver.__file__),
                *(HOST, str(place.port(self.name)), str(notifications_file(place))),
                str(place.home),  # where its bounded volumes are
            )
        )

    def missing(self, place: Place) -> str:
        """See `model.Server`."""
        return not_answering(f"http://{place.address(self.name)}/")

    def settle(self, place: Place) -> None:
        """See `model.Server`. Nothing is left to do."""

    def settings(self, place: Place) -> dict[str, str]:  # noqa: ARG002 - the form's argument
        """See `model.Server`. Services do not know of it."""
        return {}


def not_answering(url: str) -> str:
    """Nothing when a GET is answered with 200, else what happened."""
    try:
        answer = urllib3.request("GET", url, retries=False, timeout=_ASK_SECONDS)
    except urllib3.exceptions.HTTPError as e:
        return f"{url}: {type(e).__name__}"
    return "" if answer.status == 200 else f"{url}: {answer.status}"  # noqa: PLR2004 - HTTP's own number


def notifications_file(place: Place) -> Path:
    """Where notifications are kept, one JSON line each, oldest first."""
    return place.folder("webhook") / "notifications.jsonl"


def notifications(place: Place) -> list[dict[str, Any]]:
    """Every notification that has come: Alertmanager's message (`status`, `alerts`, ...)."""
    try:
        text = notifications_file(place).read_text()
    except FileNotFoundError:
        return []
    # The last line may be half written.
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def servers(size: str) -> Sequence[Server]:
    """The one receiver of a full stack."""
    return (WebhookReceiver(),) if size == "full" else ()
