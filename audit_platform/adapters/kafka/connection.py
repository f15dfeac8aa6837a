"""How every client of Kafka is set up, and what becomes of the errors that it meets.

Belongs here: addresses and secrets, time limits common to all clients, health, errors in our own
words. Does not: reading, writing, groups.
Source: librdkafka 2.16 `CONFIGURATION.md`; `README.md` beside this file.

librdkafka tries for ever and says why only to `error_cb`: a wrong secret shows nowhere else. So
every client here has one, and it feeds `Health`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException

from audit_platform.errors import LogUnavailable

_log: Final = logging.getLogger(__name__)

#: A broker that hangs is given up after this; the default (60 s) silences a client for a minute.
SOCKET_TIMEOUT_MS: Final = 5_000

#: How long one question may take: a leader election after a broker's death is over by then.
ASK_SECONDS: Final = 5.0

#: How long an error that does not stop everything is still shown after it was seen last.
_SHOWN_SECONDS: Final = 10.0

#: The same error is written to the log once in so many seconds; all are counted.
_LOGGED_SECONDS: Final = 30.0

#: What does not pass by waiting: settings or the server behind the address are wrong.
_WRONG: Final = frozenset(
    {
        KafkaError._AUTHENTICATION,  # noqa: SLF001 - the library's own name for it
        KafkaError._BAD_MSG,  # noqa: SLF001 - the same
        KafkaError._SSL,  # noqa: SLF001 - the same
        KafkaError._UNSUPPORTED_FEATURE,  # noqa: SLF001 - the same
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)

#: And this means that nothing can be reached now.
_DOWN: Final = frozenset({KafkaError._ALL_BROKERS_DOWN})  # noqa: SLF001 - the library's own name

#: Words of the library for a mistaken protocol, which has no code of its own; and for TLS that
#: fails, whose code is now `_SSL` and now that of any lost connection.
_MISTAKEN_PROTOCOL: Final = (
    "PLAINTEXT broker listener?",
    "incorrect security.protocol",
    "certificate verify failed",
    "wrong version number",
)


@dataclass(frozen=True, slots=True)
class KafkaServers:
    """Where Kafka is and who we are to it: AUDIT_KAFKA, _USER, _PASSWORD, AUDIT_CA_FILE."""

    addresses: str
    user: str = ""
    password: str = field(default="", repr=False)
    ca_file: Path | None = None

    def config(self, watch: Watch) -> dict[str, Any]:
        """What all clients are made with."""
        config: dict[str, Any] = {
            "bootstrap.servers": self.addresses,
            "client.id": "audit-platform",
            "error_cb": watch.on_error,
            "socket.timeout.ms": SOCKET_TIMEOUT_MS,
            "socket.connection.setup.timeout.ms": 3_000,
            "socket.keepalive.enable": True,
            # A broker that comes back is found within a second, not ten.
            "reconnect.backoff.ms": 250,
            "reconnect.backoff.max.ms": 1_000,
            "allow.auto.create.topics": False,
            # What it would print comes by `error_cb` as well.
            "log_level": 0,
            "log.connection.close": False,
        }
        tls = self.ca_file is not None
        if self.user:
            config |= {
                "sasl.mechanism": "SCRAM-SHA-512",
                "sasl.username": self.user,
                "sasl.password": self.password,
                "security.protocol": "SASL_SSL" if tls else "SASL_PLAINTEXT",
            }
        elif tls:
            config["security.protocol"] = "SSL"
        if tls:
            config["ssl.ca.location"] = str(self.ca_file)
        return config


@dataclass(frozen=True, slots=True)
class Health:
    """`trouble` is "" while all is well; `errors` counts what was met, by the library's names."""

    trouble: str
    errors: Mapping[str, int]


class Watch:
    """Gathers what the clients of one log meet. Called from their threads.

    `quiet` writes nothing to the log: a probe's caller is told anyway.
    """

    def __init__(self, servers: KafkaServers, *, quiet: bool = False) -> None:
        self._servers = servers
        self._quiet = quiet
        self._guard = threading.Lock()
        self._errors: Counter[str] = Counter()
        self._logged: dict[str, float] = {}
        self._bad: KafkaError | None = None
        self._bad_at = 0.0
        self._good_at = 0.0

    def on_error(self, error: KafkaError) -> None:
        """The `error_cb` of every client."""
        now = time.monotonic()
        name = error.name()
        with self._guard:
            self._errors[name] += 1
            # "All brokers down" comes after each of the reasons, and says less than they do.
            if (
                error.fatal()
                or is_wrong(error)
                or (error.code() in _DOWN and not self._is_bad(now))
            ):
                self._bad, self._bad_at = error, now
            told = now - self._logged.get(name, -_LOGGED_SECONDS) < _LOGGED_SECONDS
            if not told:
                self._logged[name] = now
        if not (told or self._quiet):
            _log.warning("kafka: %s: %s", name, error.str())

    def on_success(self) -> None:
        """Kafka has answered."""
        self._good_at = time.monotonic()

    def health(self) -> Health:
        """How it stands now."""
        now = time.monotonic()
        with self._guard:
            bad = self._bad if self._is_bad(now) else None
            errors = dict(self._errors)
        return Health(
            "" if bad is None else str(unavailable("the log", bad, self._servers)), errors
        )

    def wrong(self) -> KafkaError | None:
        """The last error that will not pass by waiting, while it is shown."""
        bad = self._bad
        return bad if bad is not None and is_wrong(bad) and self._is_bad(time.monotonic()) else None

    def failed(self, doing: str, error: KafkaError) -> LogUnavailable:
        """Why a call failed: the reason that a client's thread heard, if it says more."""
        why = self.wrong() or error
        with self._guard:
            self._errors[error.name()] += 1
            self._bad, self._bad_at = why, time.monotonic()
        return unavailable(doing, why, self._servers)

    def _is_bad(self, now: float) -> bool:
        if self._bad is None:
            return False
        return self._bad_at > self._good_at or now - self._bad_at < _SHOWN_SECONDS


def is_wrong(error: KafkaError) -> bool:
    """Whether waiting does not help."""
    text = error.str()
    return error.code() in _WRONG or any(words in text for words in _MISTAKEN_PROTOCOL)


def unavailable(doing: str, error: KafkaError, servers: KafkaServers) -> LogUnavailable:
    """The error in our words: the setting, what was found, what is wanted, what to do."""
    found = f"{error.name()}: {error.str()}"
    code, text = error.code(), error.str()
    if code in {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED}:  # noqa: SLF001 - the library's own name
        who = servers.user or "nobody"
        return LogUnavailable(
            f"{doing}: Kafka refused AUDIT_KAFKA_USER {who!r}: {found}",
            remedy="wanted: a SCRAM-SHA-512 user and its password; set AUDIT_KAFKA_USER and "
            "AUDIT_KAFKA_PASSWORD to what Kafka has",
        )
    if code == KafkaError._SSL or any(words in text for words in _MISTAKEN_PROTOCOL):  # noqa: SLF001 - the library's own name
        return LogUnavailable(
            f"{doing}: AUDIT_KAFKA {servers.addresses!r} speaks another protocol: {found}",
            remedy="wanted: TLS when AUDIT_CA_FILE is set, a SCRAM user when AUDIT_KAFKA_USER is "
            "set; compare with Kafka's listeners and certificate",
        )
    if is_wrong(error):
        return LogUnavailable(
            f"{doing}: AUDIT_KAFKA {servers.addresses!r} does not answer as Kafka: {found}",
            remedy="wanted: a broker's client listener; correct AUDIT_KAFKA",
        )
    # Kafka hangs up on who does not say who he is, and gives no reason.
    asks = "" if servers.user else ", and whether they ask for an AUDIT_KAFKA_USER"
    return LogUnavailable(
        f"{doing}: AUDIT_KAFKA {servers.addresses!r}: {found}",
        remedy=f"keep the data and try again; if it goes on, look whether the brokers run{asks}",
    )


def error_of(e: KafkaException) -> KafkaError:
    """The error in an exception."""
    found = e.args[0]
    assert isinstance(found, KafkaError), "the library puts nothing else in"
    return found
