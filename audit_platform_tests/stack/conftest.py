"""A place for a stack of tiny servers, and the proof that nothing of it is left."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit_platform.stack import children, supervision
from audit_platform.stack.model import Place
from audit_platform_tests.servers import free_base


def processes_of(home: Path) -> list[str]:
    """Command lines of every process that says it belongs to a stack in that folder."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        marks = [part for part in environment if part.startswith(children.MARK.encode() + b"=")]
        if any(str(home) in mark.decode() for mark in marks) and line:
            found.append(line)
    return found


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """An empty place with free ports; put down after the test, whatever was left."""
    with free_base() as base:
        home = Path(tempfile.mkdtemp(prefix="audit-tiny-"))
        home.chmod(0o755)
        made = Place(home=home / "stack", cache=home / "cache", base_port=base, size="small")
        try:
            yield made
        finally:
            supervision.down(made.home, tell=lambda _: None)
            left = processes_of(home)
            shutil.rmtree(home, ignore_errors=True)
            assert left == []
