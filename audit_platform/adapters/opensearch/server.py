"""Asking OpenSearch over HTTP: addresses, time limits, what becomes of faults, giving up a search.

Belongs here: the client, and the sorting of answers into "not now" and "refused". Does not: what
is asked (`hot.py`, `snapshots.py`). Source: opensearch-py 3; OpenSearch's REST reference.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import orjson
from opensearchpy import OpenSearch
from opensearchpy.exceptions import (
    ConnectionError as NotConnected,
)
from opensearchpy.exceptions import (
    ConnectionTimeout,
    OpenSearchException,
    TransportError,
)
from opensearchpy.serializer import Serializer

from audit_platform.errors import HotUnavailable, QueryCancelled

#: A small question to the cluster's state, and a write: what takes longer is not going to pass.
ASK_SECONDS: Final = 10.0
WRITE_SECONDS: Final = 30.0

#: Beyond this nobody waits for a search (`settings_forms.MAX_QUERY_SECONDS` ends it before).
SEARCH_SECONDS: Final = 300.0

#: Between two looks at `is_cancelled`, which must be heard within 100 ms.
LOOK_SECONDS: Final = 0.02

#: A node that failed is left alone for so long; the client's own 60 s would outlive most faults.
DEAD_SECONDS: Final = 5

_REQUEST_TIMEOUT: Final = 408
_TOO_MANY: Final = 429
_SERVER_ERROR: Final = 500


#: It warns of every 404, which is an answer like others here; what is wrong, our errors say.
logging.getLogger("opensearch").setLevel(logging.ERROR)


class Refused(Exception):
    """The server understood and said no (400, 403, 404, 409). For callers in this package."""

    def __init__(self, status: int, kind: str, reason: str) -> None:
        super().__init__(f"{status} {kind}: {reason}")
        self.status = status
        self.kind = kind
        self.reason = reason


class _Json(Serializer):
    """orjson instead of json; bytes pass as they are."""

    mimetype = "application/json"

    def loads(self, s: Any) -> Any:
        return orjson.loads(s)

    def dumps(self, data: Any) -> Any:
        return data if isinstance(data, bytes) else orjson.dumps(data)


class Server:
    """A cluster at one or several addresses. Safe from several threads."""

    def __init__(self, urls: str, ca_file: Path | None) -> None:
        hosts = [url.rstrip("/") for url in urls.split(",")]
        self.name = ",".join(url.rpartition("@")[2] for url in hosts)
        self._client = OpenSearch(
            hosts=hosts,
            serializer=_Json(),
            timeout=ASK_SECONDS,
            # One more try: on another node, or over a new connection for one that had gone stale.
            max_retries=max(1, len(hosts) - 1),
            retry_on_timeout=False,
            dead_timeout=DEAD_SECONDS,
            pool_maxsize=16,
            ca_certs=None if ca_file is None else str(ca_file),
        )

    def close(self) -> None:
        """Close all connections. Idempotent."""
        self._client.close()

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Mapping[str, Any] | None = None,
        *,
        params: Mapping[str, Any] | None = None,
        seconds: float = ASK_SECONDS,
        task: str = "",
    ) -> Any:
        """One request, its JSON. `task` names it among the server's tasks.

        Raises `HotUnavailable`, `Refused`.
        """
        headers = {"X-Opaque-Id": task} if task else {}
        try:
            return self._client.transport.perform_request(
                method,
                path,
                # In `params` it is the client's own limit; `timeout` would be mistaken for it.
                params={**(params or {}), "request_timeout": seconds},
                body=body,
                headers={"content-type": "application/json", **headers},
            )
        except ConnectionTimeout as e:
            raise self.unavailable(f"no answer within {seconds:g} s") from e
        except NotConnected as e:
            raise self.unavailable(str(e.error)) from e
        except TransportError as e:
            raise self._judged(e) from e
        except OpenSearchException as e:  # not JSON, or none at all
            raise self.unavailable(f"not an answer of OpenSearch: {str(e)[:200]}") from e

    def _judged(self, error: TransportError) -> Exception:
        status = error.status_code
        kind, reason = _said(error.info)
        if not isinstance(status, int):
            return self.unavailable(str(error)[:200])
        if status >= _SERVER_ERROR or status in {_TOO_MANY, _REQUEST_TIMEOUT}:
            return self.unavailable(f"{status} {kind}: {reason}")
        return Refused(status, kind, reason)

    def unavailable(self, why: str) -> HotUnavailable:
        """The error that says so of this server."""
        return HotUnavailable(
            f"OpenSearch at {self.name}: {why}",
            remedy="look at its log, its disk (flood stage, blocks) and GET _cluster/health; what"
            " is not indexed now will be",
        )

    def ask_until(
        self, is_cancelled: Callable[[], bool], call: Callable[[str], Any], seconds: float
    ) -> Any:
        """`call(task)` in a thread of its own, given up as soon as `is_cancelled` says so.

        The server is then told to stop too, by somebody else. Raises `QueryCancelled`, and what
        `call` raises; `HotUnavailable` after `seconds`.
        """
        task = uuid.uuid4().hex
        done = threading.Event()
        answers: list[Any] = []
        faults: list[BaseException] = []

        def run() -> None:
            try:
                answers.append(call(task))
            except BaseException as e:  # noqa: BLE001 - raised again where it is waited for
                faults.append(e)
            finally:
                done.set()

        threading.Thread(target=run, daemon=True).start()
        left = int(seconds / LOOK_SECONDS)
        while not done.wait(LOOK_SECONDS):
            left -= 1
            if is_cancelled() or left < 0:
                threading.Thread(target=self._stop, args=(task,), daemon=True).start()
                if left < 0:
                    raise self.unavailable(f"no end within {seconds:g} s")
                raise QueryCancelled("the search was stopped")
        if faults:
            raise faults[0]
        return answers[0]

    def _stop(self, task: str) -> None:
        """Have the server give up what is called so. Untold, its own limit ends it."""
        with suppress(HotUnavailable, Refused, KeyError, TypeError, AttributeError):
            found = self.ask("GET", "/_tasks", params={"actions": "indices:data/read/search"})
            for node, said in found["nodes"].items():
                for number, one in said["tasks"].items():
                    if one.get("headers", {}).get("X-Opaque-Id") == task:
                        self.ask("POST", f"/_tasks/{number}/_cancel", params={"nodes": node})


def _said(info: Any) -> tuple[str, str]:
    """(type, reason) of an answer that is no success; the reason is for people."""
    error = info.get("error") if isinstance(info, dict) else None
    if isinstance(error, dict):
        return str(error.get("type", "")), str(error.get("reason", ""))[:300]
    return "", str(info)[:200]


@contextmanager
def told(server: Server) -> Iterator[None]:
    """An answer of another form than OpenSearch's is a server that cannot be used."""
    try:
        yield
    except Refused as e:
        raise server.unavailable(str(e)) from e
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as e:
        raise server.unavailable(f"an answer of another form than known: {e!r}") from e
