"""Whether a server, its template and its indexes are ones that we can work with.

Belongs here: what is refused at start, with one line. Does not: the mapping (`template.py`).
Source: issue 5 (bad input). At start a server that does not answer is no reason not to start:
nothing else hangs on HOT. Then the first call that reaches it asks.
"""

from __future__ import annotations

import json
from typing import Any, Final

from audit_platform.adapters.certificates import WANTED, disbelief
from audit_platform.adapters.opensearch.server import Refused, Server
from audit_platform.adapters.opensearch.template import FORM, MAJOR, MAPPING, NOTES, Names
from audit_platform.errors import HotUnavailable, SettingInvalid

_MISSING: Final = 404


class Checked:
    """The check of one server: done once, at the start or at the first call that reaches it."""

    def __init__(self, server: Server, names: Names) -> None:
        self._server = server
        self._names = names
        self._is_done = False

    def at_start(self) -> None:
        """Check now. Raises `SettingInvalid`, `HotUnavailable`."""
        self._check_version()
        self._check_indexes()
        self._check_template()
        self._is_done = True

    def once(self) -> None:
        """Check if it was not possible before. Raises `HotUnavailable` for either reason."""
        if self._is_done:
            return
        try:
            self.at_start()
        except SettingInvalid as e:
            raise self._server.unavailable(str(e)) from e

    def _check_version(self) -> None:
        wanted = f"OpenSearch {MAJOR}.x"
        try:
            said = self._server.ask("GET", "/")
        except Refused as e:
            raise SettingInvalid("AUDIT_OPENSEARCH", f"{self._server.name}: {e}", wanted) from e
        except HotUnavailable as e:
            if why := disbelief(e):
                found = f"{self._server.name}: {why}"
                raise SettingInvalid("AUDIT_OPENSEARCH", found, WANTED) from e
            raise
        version = said.get("version") if isinstance(said, dict) else None
        version = version if isinstance(version, dict) else {}
        found = f"{version.get('distribution', 'something else')} {version.get('number', '')}"
        if not found.startswith(f"opensearch {MAJOR}."):
            raise SettingInvalid("AUDIT_OPENSEARCH", f"{self._server.name}: {found}", wanted)

    def _check_indexes(self) -> None:
        found = self._server.ask("GET", f"/{self._names.pattern(None)}/_mapping")
        for index, said in sorted(found.items()):
            if self._names.parsed(index) is None or _bare(said["mappings"]) != MAPPING:
                raise SettingInvalid(
                    "AUDIT_OPENSEARCH_PREFIX",
                    f"{self._names.prefix}: index {index} has a foreign mapping",
                    f"a prefix whose indexes have the mapping {FORM} (take another prefix, or"
                    " delete the index and run rebuild-hot for its day)",
                )

    def _check_template(self) -> None:
        name = self._names.template
        wanted = self._names.template_body()
        try:
            (found,) = self._server.ask("GET", f"/_index_template/{name}")["index_templates"]
        except Refused as e:
            if e.status != _MISSING:
                raise
            self._server.ask("PUT", f"/_index_template/{name}", wanted)
            return
        if _plain(found["index_template"]) != _plain(wanted):
            raise SettingInvalid(
                "AUDIT_OPENSEARCH_PREFIX",
                f"{self._names.prefix}: template {name} is another",
                f"a prefix whose template is {FORM} (take another prefix, or delete the template)",
            )


def _bare(mappings: dict[str, Any]) -> dict[str, Any]:
    """A mapping without the notes of its index."""
    meta = mappings.get("_meta")
    if not isinstance(meta, dict):
        return mappings
    return mappings | {"_meta": {k: v for k, v in meta.items() if k != NOTES}}


def _plain(template: dict[str, Any]) -> Any:
    """What a template says, where the server writes every value of a setting as text."""
    inside = template.get("template", {})
    said = {
        "patterns": template.get("index_patterns"),
        "mappings": inside.get("mappings"),
        "settings": _texts(inside.get("settings", {})),
    }
    return json.loads(json.dumps(said))


def _texts(settings: Any, name: str = "") -> dict[str, str]:
    if isinstance(settings, dict):
        found: dict[str, str] = {}
        for key, value in settings.items():
            found |= _texts(value, f"{name}.{key}" if name else key)
        return found
    if isinstance(settings, list):
        return {name: ",".join(str(one) for one in settings)}
    return {name: str(settings)}
