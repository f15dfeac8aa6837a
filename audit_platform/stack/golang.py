"""Programs of the stack that are built from Go modules: pinned, checked, whole in the cache or not.

Belongs here: fetching one module by version and hash and building one command of it. Does not: any
server. The hash given here is that of the module's zip (`h1:`, as in a go.sum); the build runs
inside the module, so that its own go.sum, which the hash covers, checks every dependency.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from audit_platform.errors import StackError
from audit_platform.stack.model import Tell

#: A build of the largest program took 250 CPU seconds alone; several may share two cores.
BUILD_SECONDS: Final = 3600

#: How much of a failed tool's output is shown: its last words say why.
_SHOWN: Final = 600


@dataclass(frozen=True, slots=True)
class GoProgram:
    """One command of one module. `package` is its folder in the module; `sum` the zip's `h1:`."""

    name: str
    module: str
    version: str
    sum: str
    package: str

    def path(self, cache: Path) -> Path:
        """Where the program is once it was fetched."""
        return cache / f"{self.name}-{self.version}" / self.name

    def fetch(self, cache: Path, tell: Tell) -> None:
        """Build it if it is not there. Of several processes one builds, the others wait for it.

        Raises `StackError`.
        """
        target = self.path(cache)
        if target.exists():
            return
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / f".{self.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if target.exists():
                return
            go = shutil.which("go")
            if go is None:
                raise StackError(
                    f"{self.name} is built from Go, and there is no `go` on the PATH",
                    remedy="install Go 1.25 or newer",
                )
            tell(f"{self.name} {self.version}: fetching the Go module")
            source = self._download(go)
            tell(f"{self.name} {self.version}: building (minutes on a small machine)")
            with tempfile.TemporaryDirectory(prefix=f".{self.name}-", dir=cache) as draft:
                folder = Path(draft) / target.parent.name
                folder.mkdir()
                self._build(go, source, folder / self.name)
                folder.rename(target.parent)
            tell(f"{self.name} {self.version}: ready")

    def _download(self, go: str) -> Path:
        wanted = f"{self.module}@{self.version}"
        done = _run([go, "mod", "download", "-json", wanted], cwd=None)
        try:
            told = json.loads(done.stdout)
        except ValueError:
            told = {}
        if done.returncode or "Dir" not in told:
            why = str(told.get("Error", "")) or done.stderr[-_SHOWN:].strip()
            raise StackError(
                f"{wanted} cannot be fetched: {why}",
                remedy="look at `go env GOPROXY` and at the network, then run the command again",
            )
        if told.get("Sum") != self.sum:
            raise StackError(
                f"{wanted} is not what was pinned: {told.get('Sum')}, wanted {self.sum}",
                remedy="`go clean -modcache` and fetch again; if it stays so, do not trust it",
            )
        return Path(told["Dir"])

    def _build(self, go: str, source: Path, target: Path) -> None:
        flags = ["-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags=-s -w"]
        done = _run([go, "build", *flags, "-o", str(target), self.package], cwd=source)
        if done.returncode:
            raise StackError(
                f"{self.name} {self.version} cannot be built: {done.stderr[-_SHOWN:].strip()}",
                remedy="look at the Go version (`go version`) and the disk, then try again",
            )


def _run(argv: list[str], *, cwd: Path | None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"}
    try:
        return subprocess.run(  # noqa: S603 - a fixed list of arguments, no shell
            argv,
            cwd=cwd,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise StackError(f"{' '.join(argv[:3])}: {e}", remedy="run the command again") from e
