"""A small HTTP server that keeps bodies in a file: uvicorn as the services use it.

Started under strace by `test_tracing.py`: `python -m … FILE (good|early)`. It prints its port.
`good` answers 202 after the fsync returned, `early` before it is called. Not here: what must hold.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

Message = dict[str, Any]


class Keeper:
    """Writes each body behind the last one; answers with the body's SHA-256."""

    def __init__(self, path: str, *, early: bool) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT)
        folder = os.open(os.path.dirname(path), os.O_RDONLY)  # noqa: PTH120 - beside os.open
        os.fsync(folder)
        os.close(folder)
        self._end = 0
        self._early = early

    def _keep(self, body: bytes) -> None:
        os.pwrite(self._fd, body, self._end)
        self._end += len(body)
        os.fdatasync(self._fd)

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """One request."""
        assert scope["type"] == "http"
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if not self._early:
            await asyncio.to_thread(self._keep, body)
        name = hashlib.sha256(body).hexdigest().encode()
        await send({"type": "http.response.start", "status": 202, "headers": []})
        await send({"type": "http.response.body", "body": name})
        if self._early:
            await asyncio.to_thread(self._keep, body)


def main(path: str, when: str) -> None:
    """Serve on a free port until SIGTERM."""
    listener = socket.create_server(("127.0.0.1", 0))
    os.write(1, b"%d\n" % listener.getsockname()[1])
    config = uvicorn.Config(
        Keeper(path, early=when == "early"),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        log_level="error",
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
