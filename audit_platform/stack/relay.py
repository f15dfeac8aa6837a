"""A line: a TCP relay on the loopback, as a process. It can be cut, and it can speak TLS.

The demo cuts one between an edge and the ingest-gateway; a stack with TLS has one before a server
that cannot speak it. Belongs here: copying bytes both ways, cutting and healing. Does not: when
(`demo/edges.py`), certificates (`authority.py`), HTTP.
Source: failure 10 (network partition between edge and cluster).

Cut means: the connections that are there end at once, and nobody listens any more, as behind a
router without power. SIGUSR1 cuts, SIGUSR2 heals.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import ssl
import sys
from collections.abc import Sequence
from typing import Final

#: Bytes that are copied at a time.
_PIECE: Final = 64 * 1024


class Relay:
    """Listens on `port` of the loopback and passes everything on to `target_port`.

    With `tls` who connects must speak it; what is passed on is plain.
    """

    def __init__(self, port: int, target_port: int, tls: ssl.SSLContext | None = None) -> None:
        self._port = port
        self._target_port = target_port
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._passing: set[asyncio.Task[None]] = set()

    @property
    def is_cut(self) -> bool:
        """Whether nothing gets through."""
        return self._server is None

    async def cut(self) -> None:
        """End all connections and listen no more. Idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None
        passing = list(self._passing)
        for task in passing:
            task.cancel()
        await asyncio.gather(*passing, return_exceptions=True)

    async def heal(self) -> None:
        """Listen (again). Idempotent. Raises `OSError` when the port is taken."""
        if self._server is None:
            self._server = await asyncio.start_server(
                self._accept, "127.0.0.1", self._port, ssl=self._tls
            )

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._pass_on(reader, writer))
        self._passing.add(task)
        task.add_done_callback(self._passing.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        away = None
        try:
            there, away = await asyncio.open_connection("127.0.0.1", self._target_port)
            await asyncio.gather(_copy(reader, away), _copy(there, writer))
        except OSError:
            pass  # nobody is there: the connection ends, as it would without a relay
        finally:
            for one in (writer, away):
                if one is not None:
                    one.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()  # TLS cannot end one way alone


async def _run(port: int, target_port: int, tls: ssl.SSLContext | None) -> None:
    relay = Relay(port, target_port, tls)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    wanted: asyncio.Queue[bool] = asyncio.Queue()
    loop.add_signal_handler(signal.SIGUSR1, wanted.put_nowait, False)  # noqa: FBT003 - not healed
    loop.add_signal_handler(signal.SIGUSR2, wanted.put_nowait, True)  # noqa: FBT003 - healed
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    await relay.heal()
    end = asyncio.create_task(ended.wait())
    while not end.done():
        ask = asyncio.create_task(wanted.get())
        await asyncio.wait({ask, end}, return_when=asyncio.FIRST_COMPLETED)
        if ask.done():
            await (relay.heal() if ask.result() else relay.cut())
        else:
            ask.cancel()
    await relay.cut()


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: `python -m audit_platform.stack.relay --help`."""
    parser = argparse.ArgumentParser(description="Pass TCP on; SIGUSR1 cuts, SIGUSR2 heals.")
    parser.add_argument("--port", type=int, required=True, help="where it listens (loopback)")
    parser.add_argument("--target-port", type=int, required=True, help="where it passes on to")
    parser.add_argument("--certificate", default="", help="a file: speak TLS, as who it says")
    parser.add_argument("--key", default="", help="the certificate's key, a file")
    given = parser.parse_args(arguments)
    tls = None
    if given.certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(given.certificate, given.key)
    asyncio.run(_run(given.port, given.target_port, tls))
    return 0


if __name__ == "__main__":
    sys.exit(main())
