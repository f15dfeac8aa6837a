"""Debian packages that a server needs: looked for, told, installed only when that is allowed.

Belongs here: asking and calling apt. Does not: programs that are fetched into the user's cache
(each server's own module).
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from audit_platform.errors import StackError
from audit_platform.stack.model import Tell

#: Debian's own way to say that no package may start its service now.
_POLICY: Final = Path("/usr/sbin/policy-rc.d")

#: An install of the small servers takes 20 s; a slow mirror ten times that.
_INSTALL_SECONDS: Final = 900

#: Two commands at once: the second waits for the first.
_one_at_a_time: Final = threading.Lock()
_updated = threading.Event()


def installing_allowed() -> bool:
    """Whether a person (or the CI) has said that this machine's packages may be changed."""
    return os.environ.get("CI") == "true" or os.environ.get("AUDIT_INSTALL") == "1"


def missing(packages: Sequence[str]) -> list[str]:
    """Those that are not installed. On a machine without dpkg: all."""
    if not packages:
        return []
    try:
        done = subprocess.run(  # noqa: S603 - our own list of names
            ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", *packages],  # noqa: S607 - Debian's program, wherever it is
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return list(packages)
    installed = {
        line.split()[0] for line in done.stdout.splitlines() if line.endswith(" installed")
    }
    return [name for name in packages if name not in installed]


def require(server: str, packages: Sequence[str], tell: Tell) -> None:
    """Have the packages, installing them when that is allowed; they start no service.

    Raises `StackError` naming the server that is skipped and the command that would help.
    """
    with _one_at_a_time:
        lacking = missing(packages)
        if not lacking:
            return
        install = ["apt-get", "install", "--yes", "--no-install-recommends", *lacking]
        if os.geteuid() != 0:
            install = ["sudo", "-n", *install]
        if not installing_allowed():
            raise StackError(
                f"{server} is skipped: this machine lacks {' '.join(lacking)}",
                remedy=f"{' '.join(install)}; or again with AUDIT_INSTALL=1",
            )
        tell(f"{server}: {' '.join(install)}")
        with _no_service_starts():
            if not _updated.is_set():
                prefix = install[: install.index("apt-get")]
                _run(server, [*prefix, "apt-get", "update", "-qq"])
                _updated.set()
            _run(server, install)
        lacking = missing(packages)
        if lacking:
            raise StackError(
                f"{server} is skipped: {' '.join(lacking)} did not get installed",
                remedy=" ".join(install),
            )


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """Only root can say so; without root, sudo's apt starts what it starts."""
    if os.geteuid() != 0 or _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink(missing_ok=True)


def _run(server: str, command: list[str]) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - apt with our own list of names
            command,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_INSTALL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise StackError(f"{server} is skipped: {e}", remedy=" ".join(command)) from e
    if done.returncode != 0:
        raise StackError(
            f"{server} is skipped: {' '.join(command)} failed: {done.stderr.strip()[-500:]}",
            remedy="put right what it says, and `up` again",
        )
