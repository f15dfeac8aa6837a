"""Any port, with faults by plan: the n-th call fails before its effect, after it, or in its midst.

A port is wrapped by its own name, so a method that a port gains is wrapped too. What a call hands
out is wrapped as well where it still belongs to the port: a group member's calls are calls of the
log, a listing can end early, a reader can fail when it is closed.
Belongs here: counting, failing, waiting. Does not: which faults to try and what must hold then (the
tests of failures do), the death of a process (`killpoints.py`).
Source: design section 10 (`faulty` is an adapter); the promises are those of `ports.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from enum import StrEnum
from typing import Any, BinaryIO, Final, TypeVar, cast

from audit_platform.errors import Recoverable
from audit_platform.ports import Clock

_Port = TypeVar("_Port")

#: How wrong a clock is for the one reading that its plan names.
CLOCK_ERROR_MS: Final = 3_600_000

#: Not calls of a port: nothing is asked of the system behind it.
_NOT_COUNTED: Final = frozenset({"close"})


class Fault(StrEnum):
    """What happens to a call. After each but `DELAY` the port's own `…Unavailable` is raised.

    A clock cannot fail: `BEFORE` is one reading an hour behind, `AFTER` one an hour ahead.
    """

    BEFORE = "before"
    AFTER = "after"
    PARTIAL = "partial"
    DELAY = "delay"


class Faults:
    """The plan for one port, and what came of it. Safe from several threads.

    `plan` maps numbers of calls, from 1, to faults. `wait` is called where a call is delayed.
    """

    def __init__(
        self,
        plan: Mapping[int, Fault] | None = None,
        *,
        wait: Callable[[], None] = lambda: None,
    ) -> None:
        self._plan = dict(plan or {})
        self._wait = wait
        self._counting = threading.Lock()
        #: The name of each call so far: call n is `calls[n - 1]`.
        self.calls: list[str] = []
        #: (number, name, fault) of each fault that did happen.
        self.happened: list[tuple[int, str, Fault]] = []

    def of_next_call(self, name: str) -> Fault | None:
        """Count a call and return its fault; a delayed call has waited on return."""
        with self._counting:
            self.calls.append(name)
            number = len(self.calls)
            fault = self._plan.get(number)
            if fault is not None:
                self.happened.append((number, name, fault))
        if fault is Fault.DELAY:
            self._wait()
            return None
        return fault


def faulty(port: _Port, error: type[Recoverable], faults: Faults) -> _Port:
    """The port with faults; `error` is what its methods raise when nothing is promised."""
    return cast("_Port", _FaultyPort(port, error, faults))


class _FaultyPort:
    """Every public method counts, and fails as planned."""

    def __init__(self, port: object, error: type[Recoverable], faults: Faults) -> None:
        self._port = port
        self._error = error
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._port, name)
        if not callable(found) or name.startswith("_") or name in _NOT_COUNTED:
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            fault = self._faults.of_next_call(name)
            if fault is Fault.BEFORE:
                raise self._fault(name, fault)
            if name == "append" and fault is Fault.PARTIAL:
                topic, records = args
                found(topic, records[: len(records) // 2])
                raise self._fault(name, fault)
            result = found(*args, **kwargs)
            if name == "join":
                member = _FaultyPort(result, self._error, self._faults)
                return self._ended(member, name, fault)
            if name == "open":
                return self._reader(result, name, fault)
            if isinstance(result, Iterator):
                return self._listing(result, name, fault)
            return self._ended(result, name, fault)

        return call

    def _ended(self, result: object, name: str, fault: Fault | None) -> object:
        """The result, unless the call's effect is there and nobody is to hear of it."""
        if fault is Fault.PARTIAL:
            raise ValueError(f"{name} has no parts: plan before or after")
        if fault is not None:
            raise self._fault(name, fault)
        return result

    def _listing(self, result: Iterator[Any], name: str, fault: Fault | None) -> Iterator[Any]:
        """The listing; PARTIAL: its first entry, AFTER: all of it, and then the error."""
        for number, entry in enumerate(result):
            if fault is Fault.PARTIAL and number == 1:
                break
            yield entry
        if fault is not None:
            raise self._fault(name, fault)

    @contextmanager
    def _reader(
        self, result: AbstractContextManager[BinaryIO], name: str, fault: Fault | None
    ) -> Iterator[BinaryIO]:
        """The reader; whoever has read to the end is told that it was not the end."""
        with result as opened:
            yield opened
        self._ended(None, name, fault)

    def _fault(self, name: str, fault: Fault) -> Recoverable:
        number = len(self._faults.calls)
        return self._error(f"a planned fault: {name}, call {number}, {fault}")


class FaultyClock:
    """`ports.Clock` that is an hour wrong whenever its plan says so."""

    def __init__(self, clock: Clock, faults: Faults) -> None:
        self._clock = clock
        self._faults = faults

    def now_ms(self) -> int:
        """See `ports.Clock`."""
        fault = self._faults.of_next_call("now_ms")
        error = {Fault.BEFORE: -CLOCK_ERROR_MS, Fault.AFTER: CLOCK_ERROR_MS}.get(
            fault or Fault.DELAY, 0
        )
        return self._clock.now_ms() + error
