"""Another OS process that does what a test tells it, and can be frozen and thawed.

Belongs here: starting it, asking it, stopping it by signal. Does not: any test, any port.
Nothing here sleeps: a frozen process is waited for by `waitpid`, an answer by its pipe.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

#: Real seconds for one answer, on a machine that does much else.
PATIENCE_SECONDS: Final = 120.0


class ActorError(Exception):
    """What the actor's call raised: `name` is the class, for errors do not all pickle."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name


@dataclass(frozen=True, slots=True)
class SharedSeconds:
    """A monotonic clock that several processes read and one test moves. Picklable."""

    path: Path

    def __call__(self) -> float:
        """Seconds."""
        return float(self.path.read_text())

    def advance(self, seconds: float) -> None:
        """Move it on, at one instant for all."""
        now = self() if self.path.exists() else 1000.0
        draft = self.path.with_suffix(".draft")
        draft.write_text(str(now + seconds))
        draft.replace(self.path)


class Actor:
    """One process over what `opener` opens in it. Its calls are functions of that, picklable."""

    def __init__(self, opener: Callable[[], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_act, args=(theirs, opener))
        self._process.start()
        theirs.close()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def ask(self, call: Callable[..., Any], *args: object) -> Any:
        """`call(opened, *args)` over there. Raises `ActorError` with what it raised."""
        self.tell(call, *args)
        return self.answer()

    def tell(self, call: Callable[..., Any], *args: object) -> None:
        """As `ask`, without waiting: it may freeze on its way."""
        self._pipe.send((call, args))

    def answer(self) -> Any:
        """The answer to what was told."""
        assert self._pipe.poll(PATIENCE_SECONDS), "the actor does not answer"
        error, result = self._pipe.recv()
        if error:
            raise ActorError(error, result)
        return result

    def freeze(self) -> None:
        """Stop the process where it stands; it has stopped on return."""
        os.kill(self.pid, signal.SIGSTOP)
        self.wait_frozen()

    def wait_frozen(self) -> None:
        """Wait until it has stopped (it may stop itself)."""
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), "the actor has ended instead"

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it, frozen or not."""
        self._pipe.close()
        os.kill(self.pid, signal.SIGCONT)
        self._process.join(PATIENCE_SECONDS)
        assert self._process.exitcode == 0


@contextmanager
def actor(opener: Callable[[], Any]) -> Iterator[Actor]:
    """An actor, ended at the end."""
    made = Actor(opener)
    try:
        yield made
    finally:
        made.close()


def freeze_myself() -> None:
    """Called in an actor: it stops here until it is thawed."""
    os.kill(os.getpid(), signal.SIGSTOP)


def _act(pipe: Connection, opener: Callable[[], Any]) -> None:
    opened = opener()
    while True:
        try:
            call, args = pipe.recv()
        except EOFError:
            break
        try:
            answer = ("", call(opened, *args))
        except Exception as e:  # noqa: BLE001 - whatever it is, the test that asked must hear of it
            answer = (type(e).__name__, str(e))
        pipe.send(answer)
    close = getattr(opened, "close", None)
    if close is not None:
        close()
