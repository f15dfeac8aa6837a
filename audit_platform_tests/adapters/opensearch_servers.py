"""The run's OpenSearch for tests, each below a prefix of its own.

Belongs here: prefixes, and asking the server past the adapter. Does not: any test.
"""

from __future__ import annotations

import http.client
import json
import secrets
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlsplit

from audit_platform_tests.servers import stack_settings

#: Longer than anything that a test asks for.
_SECONDS = 30.0


def urls() -> str:
    """AUDIT_OPENSEARCH of the run's small stack."""
    return stack_settings("opensearch-1")["AUDIT_OPENSEARCH"]


def fresh_prefix() -> str:
    """A prefix that no other test has."""
    return f"t{secrets.token_hex(6)}"


def ask(
    method: str,
    path: str,
    body: Any = None,
    *,
    url: str | None = None,
    ca_file: str | None = None,
) -> Any:
    """Ask the server itself; its JSON. Fails on any status of 400 or more, except for DELETE."""
    parts = urlsplit((url or urls()).split(",")[0])
    address = (parts.hostname or "", parts.port)
    connection = http.client.HTTPConnection(*address, timeout=_SECONDS)
    if ca_file:
        tls = ssl.create_default_context(cafile=ca_file)
        connection = http.client.HTTPSConnection(*address, timeout=_SECONDS, context=tls)
    with closing(connection):
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"content-type": "application/json"})
        answer = connection.getresponse()
        said = answer.read()
    if answer.status >= 400 and method != "DELETE":
        raise AssertionError(f"{method} {path}: {answer.status} {said[:300]!r}")
    return json.loads(said) if said else {}


@contextmanager
def wiped(prefix: str, *, url: str | None = None, ca_file: str | None = None) -> Iterator[str]:
    """A prefix; its indexes and template go at the end."""
    try:
        yield prefix
    finally:
        known = {"url": url, "ca_file": ca_file}
        for index in ask("GET", f"/{prefix}.*/_settings", **known):
            ask("DELETE", f"/{index}", **known)
        ask("DELETE", f"/_index_template/{prefix}.events-v1", **known)
