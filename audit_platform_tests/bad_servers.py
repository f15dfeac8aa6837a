"""A server that says what a test wants, plainly or with TLS: where it should be another.

Belongs here: that. Does not: real servers (`servers.py`), any test.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from audit_platform.stack.model import HOST

#: Longer than any client waits.
_SECONDS = 30.0


@contextmanager
def answering(
    answer: Callable[[bytes], bytes], *, tls: ssl.SSLContext | None = None, agrees: bytes = b""
) -> Iterator[str]:
    """Answers the first bytes of each connection, and closes it. Its host:port.

    With `agrees` the client first asks for TLS in words, which are answered so. With `tls` a client
    that believes the certificate is hung up on.
    """
    with socket.create_server((HOST, 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    link, _ = listener.accept()
                except OSError:
                    return
                with suppress(OSError), link:
                    link.settimeout(_SECONDS)
                    if agrees:
                        link.recv(1 << 16)
                        link.sendall(agrees)
                    if tls is None:
                        link.sendall(answer(link.recv(1 << 16)))
                    else:
                        tls.wrap_socket(link, server_side=True).close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        host, port = listener.getsockname()
        yield f"{host}:{port}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(_SECONDS)
