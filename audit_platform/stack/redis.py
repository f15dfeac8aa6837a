"""Redis of the stack: one server from Debian that fsyncs every write.

Belongs here: how it is started, asked and stopped. Does not: what is kept in it
(`adapters/redis/`). Source: the mission's failure 22; redis.conf of Redis 7.0.
"""

from __future__ import annotations

import secrets
import shutil
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from audit_platform.errors import StackError
from audit_platform.stack import authority
from audit_platform.stack.model import HOST, Place, Program, Server, Tell

_ANSWER_SECONDS: Final = 2.0

#: Rate limits of all tenants are a few kB; noeviction: a limit is never forgotten for room.
_CONFIG: Final = """\
bind {host}
{ports}
protected-mode yes
daemonize no
dir "{data}"
appendonly yes
appendfsync always
save ""
maxmemory 64mb
maxmemory-policy noeviction
requirepass {password}
"""


def servers(size: str) -> tuple[Server, ...]:
    """One server; the same in both sizes."""
    del size
    return (Redis(),)


@dataclass(frozen=True, slots=True)
class Redis:
    """See `model.Server`."""

    name: str = "redis"
    needs: tuple[str, ...] = ()
    packages: tuple[str, ...] = ("redis-server",)

    def fetch(self, cache: Path, tell: Tell) -> None:
        """See `model.Server`. It comes from Debian, so nothing is fetched."""
        del cache, tell
        _binary()

    def prepare(self, place: Place) -> None:
        """See `model.Server`."""
        data = place.folder(self.name) / "data"
        data.mkdir(parents=True, exist_ok=True)
        password = _password_file(place)
        if not password.exists():
            password.touch(0o600)
            password.write_text(secrets.token_hex(16))
        config = _config_file(place)
        config.touch(0o600)
        config.write_text(
            _CONFIG.format(
                host=HOST, ports=self._ports(place), data=data, password=password.read_text()
            )
        )

    def _ports(self, place: Place) -> str:
        """The lines that say where it listens, and as whom with TLS."""
        port = place.port(self.name)
        if not place.tls:
            return f"port {port}"
        authority.prepare(place, self.name)
        files = authority.certificate_of(place, self.name)
        return (
            f'port 0\ntls-port {port}\ntls-cert-file "{files.certificate}"\n'
            f'tls-key-file "{files.key}"\ntls-auth-clients no'
        )

    def program(self, place: Place) -> Program:
        """See `model.Server`."""
        return Program((_binary(), str(_config_file(place))))

    def missing(self, place: Place) -> str:
        """See `model.Server`. While its file is loaded, or cannot be written, it is not ready."""
        question = f"AUTH {_password_file(place).read_text()}\r\nPING\r\n".encode()
        try:
            with _connected(place) as link:
                link.settimeout(_ANSWER_SECONDS)
                link.sendall(question)
                answer = b""
                while answer.count(b"\r\n") < 2:  # noqa: PLR2004 - one answer for each command
                    piece = link.recv(1024)
                    if not piece:
                        break
                    answer += piece
        except OSError as e:
            return f"no answer: {e}"
        return "" if answer == b"+OK\r\n+PONG\r\n" else f"it answers {answer[:100]!a}"

    def settle(self, place: Place) -> None:
        """See `model.Server`."""

    def settings(self, place: Place) -> dict[str, str]:
        """See `model.Server`."""
        password = _password_file(place).read_text()
        scheme = "rediss" if place.tls else "redis"
        return {"AUDIT_REDIS": f"{scheme}://:{password}@{place.front('redis')}/0"}


def _connected(place: Place) -> socket.socket:
    link = socket.create_connection((HOST, place.port("redis")), _ANSWER_SECONDS)
    if place.ca_file is None:
        return link
    # What fails closes the socket underneath as well.
    return ssl.create_default_context(cafile=place.ca_file).wrap_socket(link, server_hostname=HOST)


def _binary() -> str:
    found = shutil.which("redis-server")
    if found is None:
        raise StackError("there is no redis-server", remedy="apt-get install redis-server")
    return found


def _password_file(place: Place) -> Path:
    return place.folder("redis") / "password"


def _config_file(place: Place) -> Path:
    return place.folder("redis") / "redis.conf"
