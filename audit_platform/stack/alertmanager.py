"""Alertmanager of the full stack: Debian's program, sending every alert to the webhook receiver.

Belongs here: its configuration and health. Does not: rules (`deploy/stack/rules`, which Prometheus
reads), what comes out (`webhook.py`). Source: Alertmanager 0.25.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from audit_platform.stack.model import Place, Program, Server, Tell
from audit_platform.stack.webhook import not_answering


@dataclass(frozen=True, slots=True)
class Alertmanager:
    """See `model.Server`."""

    name: str = "alertmanager"
    needs: tuple[str, ...] = ("webhook",)
    packages: tuple[str, ...] = ("prometheus-alertmanager",)

    def fetch(self, cache: Path, tell: Tell) -> None:
        """See `model.Server`. Debian has it."""

    def prepare(self, place: Place) -> None:
        """See `model.Server`. Nothing is held back: tests wait for firing and for resolved."""
        folder = place.folder(self.name)
        folder.mkdir(parents=True, exist_ok=True)
        configuration = {
            "route": {
                "receiver": "webhook",
                # One notification an alert and its place: none waits for another's group.
                "group_by": ["..."],
                "group_wait": "0s",
                "group_interval": "1s",
                "repeat_interval": "1h",
            },
            "receivers": [
                {
                    "name": "webhook",
                    "webhook_configs": [
                        {"url": f"http://{place.address('webhook')}/", "send_resolved": True}
                    ],
                }
            ],
        }
        # JSON is YAML.
        (folder / "alertmanager.yml").write_text(json.dumps(configuration, indent=1) + "\n")

    def program(self, place: Place) -> Program:
        """See `model.Server`."""
        folder = place.folder(self.name)
        return Program(
            argv=(
                "prometheus-alertmanager",
                f"--config.file={folder / 'alertmanager.yml'}",
                f"--storage.path={folder / 'data'}",
                f"--web.listen-address={place.address(self.name)}",
                "--cluster.listen-address=",  # it is alone
                "--log.level=warn",
            )
        )

    def missing(self, place: Place) -> str:
        """See `model.Server`."""
        return not_answering(f"http://{place.address(self.name)}/-/ready")

    def settle(self, place: Place) -> None:
        """See `model.Server`. Nothing is left to do."""

    def settings(self, place: Place) -> dict[str, str]:  # noqa: ARG002 - the form's argument
        """See `model.Server`. Services do not know of it."""
        return {}


def servers(size: str) -> Sequence[Server]:
    """The one Alertmanager of a full stack."""
    return (Alertmanager(),) if size == "full" else ()
