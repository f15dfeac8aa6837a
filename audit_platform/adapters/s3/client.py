"""One client of an S3 store, and what its errors mean to us.

Belongs here: how the client is made (time limits, pool, checksums), which answers mean "not stored,
keep and retry", which calls are tried again. Does not: any promise of the port (`objects.py`).
Source: the errors table in `README.md`.

A client is safe in several threads: one for each `S3Objects`, one `S3Objects` for each process.
"""

from __future__ import annotations

import functools
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ReadTimeoutError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError as Urllib3Error

from audit_platform.adapters.certificates import WANTED, disbelief
from audit_platform.errors import ObjectNotFound, SettingInvalid, StoreUnavailable

_Result = TypeVar("_Result")

#: A store that says nothing for so long is taken for gone; a write to it is in doubt.
READ_SECONDS: Final = 10.0

#: A host that does not take a connection in this time is taken for gone.
CONNECT_SECONDS: Final = 3.0

#: More threads of one process than this do not ask the store at once.
POOL: Final = 32

#: A read or a lengthening is tried so often when the store says that it is busy or hangs up.
TRIES: Final = 3

#: The wait before the second try is up to this, before the third up to twice this.
WAIT_SECONDS: Final = 0.2

#: Answers that may be other in a moment. 507 (full) is not: it would only be asked again in vain.
_BUSY: Final = frozenset({429, 500, 502, 503, 504})

#: What "there is no such version" may be: 405 is a delete marker, 400 an id of a foreign form.
_ABSENT: Final = frozenset(
    {"NoSuchKey", "NoSuchVersion", "404", "MethodNotAllowed", "405", "InvalidVersionId"}
)
_BAD_REQUEST: Final = 400
_NOT_FOUND: Final = 404
_PRECONDITION_FAILED: Final = 412
_FORBIDDEN: Final = 403
_CONFLICT: Final = 409

_REMEDY: Final = "keep the data and try again; look at the store if it goes on"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a store is and who we are there. `ca_file` is the authority of its certificate."""

    url: str
    bucket: str
    access_key: str
    secret_key: str
    ca_file: Path | None = None

    @property
    def host(self) -> str:
        """host:port, for words: never with a secret."""
        return urlsplit(self.url).netloc.rpartition("@")[2]


def make_client(
    endpoint: Endpoint, *, read_seconds: float = READ_SECONDS, signed: bool = True
) -> Any:
    """A boto3 client: path style, no retries of its own, no checksum that we did not ask for.

    With `signed` False it is nobody, who must not be let in.
    """
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=read_seconds,
        max_pool_connections=POOL,
        retries={"total_max_attempts": 1},
        s3={"addressing_style": "path"},
        # We send SHA-256 and look at it ourselves: a broken body must stay readable.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # Only what is set here counts: no proxy of the environment.
        proxies={},
        tcp_keepalive=True,
        signature_version="s3v4" if signed else UNSIGNED,
    )
    with _making:  # a client is safe in several threads, the making of one is not
        return _session().client(
            "s3",
            endpoint_url=endpoint.url,
            verify=None if endpoint.ca_file is None else str(endpoint.ca_file),
            aws_access_key_id=endpoint.access_key,
            aws_secret_access_key=endpoint.secret_key,
            region_name="us-east-1",
            config=config,
        )


_making: Final = threading.Lock()


@functools.cache
def _session() -> Any:
    """It has read the description of S3: 0.2 s, once in a process."""
    return boto3.session.Session()


def status_of(error: ClientError) -> int:
    """The HTTP status of an error answer; 0 where it has none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(error: ClientError) -> str:
    """S3's word for an error."""
    return str(error.response.get("Error", {}).get("Code", ""))


def is_absent(error: ClientError) -> bool:
    """Whether an answer to a question about one version means that there is none."""
    if code_of(error) in _ABSENT or status_of(error) == _NOT_FOUND:
        return code_of(error) != "NoSuchBucket"
    text = str(error.response.get("Error", {}).get("Message", "")).lower()
    return status_of(error) == _BAD_REQUEST and "version" in text


def is_refused(error: ClientError) -> bool:
    """Whether the store refused to change a version: lock or permission, told apart by reading."""
    if status_of(error) == _FORBIDDEN:
        return True
    return status_of(error) == _BAD_REQUEST and code_of(error) in {
        "InvalidRequest",
        "ObjectLocked",
    }


def is_taken(error: ClientError) -> bool:
    """Whether a put-if-absent found the key taken, or is being overtaken by another."""
    return status_of(error) in {_PRECONDITION_FAILED, _CONFLICT}


@contextmanager
def asking(doing: str, host: str) -> Iterator[None]:
    """Turn every failure into `StoreUnavailable` or, about one version, `ObjectNotFound`."""
    try:
        yield
    except ClientError as e:
        if is_absent(e):
            raise ObjectNotFound(f"{doing}: not there", remedy="list the key's versions") from e
        said = f"{status_of(e)} {code_of(e)}"
        raise StoreUnavailable(f"{doing}: {host} says {said}", remedy=_remedy_for(e)) from e
    except (BotoCoreError, HTTPClientError, ResponseParserError, Urllib3Error, OSError) as e:
        raise StoreUnavailable(f"{doing}: {host}: {_words(e)}", remedy=_REMEDY) from e


def repeated(call: Callable[[], _Result]) -> _Result:
    """Call what may be called twice; again when the store is busy or hung up, not when it is slow.

    A store that let us wait for the whole time limit would let us wait again.
    """
    for attempt in range(1, TRIES):
        try:
            return call()
        except ClientError as e:
            if status_of(e) not in _BUSY:
                raise
        except (ReadTimeoutError, ConnectTimeoutError):
            raise
        except (ConnectionClosedError, EndpointConnectionError, Urllib3Error):
            pass
        # Jitter, so that callers who failed together do not come back together.
        time.sleep(random.uniform(0.0, WAIT_SECONDS * attempt))  # noqa: S311 - no secret
    return call()


def check_bucket(client: Any, endpoint: Endpoint) -> None:
    """Refuse a store that could not keep our promises.

    Raises `SettingInvalid` with the setting at fault, `StoreUnavailable` if it does not answer.
    """
    lock = _of_bucket(client.get_object_lock_configuration, endpoint)
    kept = (lock.get("ObjectLockConfiguration") or {}).get("ObjectLockEnabled")
    if kept != "Enabled":
        raise SettingInvalid("AUDIT_S3_BUCKET", endpoint.bucket, _WITH_LOCK)
    versions = _of_bucket(client.get_bucket_versioning, endpoint)
    if versions.get("Status") != "Enabled":
        raise SettingInvalid("AUDIT_S3_BUCKET", endpoint.bucket, _WITH_VERSIONS)


_WITH_LOCK: Final = "a bucket made with object lock: `audit-platform store init` makes one"
_WITH_VERSIONS: Final = "a bucket with versions: `audit-platform store init` makes one"
_A_STORE: Final = "the URL of an S3 store"


def _of_bucket(ask: Callable[..., dict[str, Any]], endpoint: Endpoint) -> dict[str, Any]:
    doing = f"look at the bucket {endpoint.bucket}"
    try:
        answer = repeated(lambda: ask(Bucket=endpoint.bucket))
    except ClientError as e:
        raise _about_bucket(e, endpoint) from e
    except (BotoCoreError, HTTPClientError, ResponseParserError, Urllib3Error, OSError) as e:
        if why := disbelief(e):
            raise SettingInvalid("AUDIT_S3", f"{endpoint.host}: {why}", WANTED) from e
        cause = repr(getattr(e, "kwargs", {}).get("error"))
        if isinstance(e, ResponseParserError) or "BadStatusLine" in cause:  # no S3, or no HTTP
            raise SettingInvalid("AUDIT_S3", endpoint.host, _A_STORE) from e
        raise StoreUnavailable(f"{doing}: {endpoint.host}: {_words(e)}", remedy=_REMEDY) from e
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    if "xml" not in str(headers.get("content-type", "")):
        # A web server that answers 200 to anything gives nothing that we can read.
        raise SettingInvalid("AUDIT_S3", endpoint.host, _A_STORE)
    return answer


def _about_bucket(error: ClientError, endpoint: Endpoint) -> Exception:
    code, status = code_of(error), status_of(error)
    if code in {"InvalidAccessKeyId", "XMinioInvalidAccessKeyId"}:
        return SettingInvalid(
            "AUDIT_S3_ACCESS_KEY", endpoint.access_key, "a key that the store has"
        )
    if code == "SignatureDoesNotMatch":
        wanted = f"the secret of {endpoint.access_key}"
        return SettingInvalid("AUDIT_S3_SECRET_KEY", "another", wanted)
    if code == "NoSuchBucket":
        return SettingInvalid(
            "AUDIT_S3_BUCKET", endpoint.bucket, f"a bucket that is there; {_WITH_LOCK}"
        )
    if code == "ObjectLockConfigurationNotFoundError":
        return SettingInvalid("AUDIT_S3_BUCKET", endpoint.bucket, _WITH_LOCK)
    if status == _FORBIDDEN:
        wanted = f"a key that may read the configuration of the bucket {endpoint.bucket}"
        return SettingInvalid("AUDIT_S3_ACCESS_KEY", endpoint.access_key, wanted)
    if status in _BUSY:
        return StoreUnavailable(f"{endpoint.host} says {status} {code}", remedy=_REMEDY)
    return SettingInvalid("AUDIT_S3", endpoint.host, f"{_A_STORE}; it says {status} {code}")


def _remedy_for(error: ClientError) -> str:
    if status_of(error) == _FORBIDDEN:
        return "look at AUDIT_S3_ACCESS_KEY, its secret, and the bucket's policy"
    if code_of(error) == "NoSuchBucket":
        return "look at AUDIT_S3_BUCKET: the bucket is gone"
    if status_of(error) in _BUSY or status_of(error) >= 500:  # noqa: PLR2004 - HTTP's own border
        return _REMEDY
    return "ask the store what it can do: audit-platform store certify"


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
