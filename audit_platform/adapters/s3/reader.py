"""A seekable reader over one version: ranges of bytes, fetched ahead and kept for a while.

Belongs here: which range to ask for. Does not: how it is asked, errors (`objects.py`).

A Parquet reader takes the footer, then a few column chunks; a hash or a copy takes everything in
order. So the end of the object comes with the opening (which must ask for the size anyway, and a
small object is then whole), a jump fetches little, and going on fetches ever more.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Final

#: What the opening brings: the footer of any Parquet file of ours, a whole record or manifest.
TAIL_BYTES: Final = 256 << 10

#: The least that one request fetches, and the most that is fetched ahead of a reader who goes on.
LEAST_BYTES: Final = 256 << 10
MOST_AHEAD_BYTES: Final = 8 << 20

#: What is kept: the last ranges, up to this in all. Chunks of one row group lie side by side.
KEPT_BYTES: Final = 24 << 20


class RangeReader(io.RawIOBase):
    """`BinaryIO` over `size` bytes; `fetch(start, end)` gives exactly those. For one thread.

    `tail` is what is known of the end. `read` gives all that was asked for, up to the end.
    """

    def __init__(self, size: int, tail: bytes, fetch: Callable[[int, int], bytes]) -> None:
        super().__init__()
        self._size = size
        self._fetch = fetch
        self._at = 0
        #: (start, bytes), the latest first; the tail stays.
        self._kept: list[tuple[int, bytes]] = []
        self._tail = (size - len(tail), tail)
        self._next = 0
        self._ahead = LEAST_BYTES

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """The position."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; asks nobody. `ValueError` for a position before the start."""
        self._open()
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"no position {base + offset}")
        self._at = base + offset
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        """That many bytes, or all up to the end."""
        self._open()
        wanted = self._size if size is None or size < 0 else size
        end = min(self._size, self._at + wanted)
        if end <= self._at:
            return b""
        pieces = []
        while self._at < end:
            piece = self._some(end)
            pieces.append(piece)
            self._at += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def readall(self) -> bytes:
        """All up to the end."""
        return self.read()

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override] # typeshed's Buffer is not in 3.11
        """As `read`."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Let go of what is kept. Idempotent."""
        self._kept = []
        super().close()

    def _open(self) -> None:
        if self.closed:
            raise ValueError("the reader is closed")

    def _some(self, end: int) -> bytes:
        """The bytes from here on that one range has, at least one, none beyond `end`."""
        for start, data in (self._tail, *self._kept):
            if start <= self._at < start + len(data):
                return data[self._at - start : end - start]
        goes_on = self._at == self._next
        self._ahead = min(self._ahead * 2, MOST_AHEAD_BYTES) if goes_on else LEAST_BYTES
        # What the tail has is not fetched again.
        stop = min(max(end, self._at + self._ahead), max(self._tail[0], self._at + 1))
        data = self._fetch(self._at, stop)
        self._next = stop
        self._keep(self._at, data)
        return data[: end - self._at]

    def _keep(self, start: int, data: bytes) -> None:
        if len(data) > KEPT_BYTES:
            return
        self._kept.insert(0, (start, data))
        while sum(len(kept) for _, kept in self._kept) > KEPT_BYTES:
            self._kept.pop()
