"""Values that are remembered within a bound.

Belongs here: that memory. Does not: what is remembered (`reader.py`). Source: issue "One machine,
whole" (each service within 350 MB).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Kept(Generic[_T]):
    """Values by key, the longest unused dropped first once their weights exceed a limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._weight = 0
        self._lock = threading.Lock()
        self._values: OrderedDict[tuple[str, str], tuple[_T, int]] = OrderedDict()

    def get(self, key: tuple[str, str], make: Callable[[], tuple[_T, int, bool]]) -> _T:
        """The kept value, or a new one: `make` returns (value, weight, whether to keep it)."""
        with self._lock:
            found = self._values.get(key)
            if found is not None:
                self._values.move_to_end(key)
                return found[0]
        value, weight, keep = make()
        if keep and weight <= self._limit:
            with self._lock:
                if key not in self._values:
                    self._values[key] = (value, weight)
                    self._weight += weight
                while self._weight > self._limit:
                    _, (_, dropped) = self._values.popitem(last=False)
                    self._weight -= dropped
        return value
