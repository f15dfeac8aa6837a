"""The demo's relay passes bytes on, and a cut line is a cut line until it is healed."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from audit_platform_tests.failures.installation import wait_for
from audit_platform_tests.ports import free_port


@pytest.fixture(name="echo")
def _echo() -> Iterator[int]:
    """The port of a server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    while piece := connection.recv(4096):
                        connection.sendall(piece)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


@contextmanager
def _relay(target: int) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    port = free_port()
    command = [sys.executable, "-m", "audit_platform.stack.relay", "--port", str(port)]
    with subprocess.Popen([*command, "--target-port", str(target)]) as relay:
        try:
            wait_for("the relay to listen", lambda: _listens(port))
            yield port, relay
        finally:
            relay.terminate()
        assert relay.wait(10) == 0


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            return True
    except ConnectionRefusedError:
        return False


def _ask(port: int, said: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(said)
        connection.shutdown(socket.SHUT_WR)
        heard = b""
        while piece := connection.recv(4096):
            heard += piece
        return heard


def _has_ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_what_goes_in_comes_out_until_the_line_is_cut_and_again_when_it_is_healed(
    echo: int,
) -> None:
    large = bytes(range(256)) * 2000
    with _relay(echo) as (port, relay):
        assert _ask(port, large) == large
        with socket.create_connection(("127.0.0.1", port), timeout=5) as held:
            held.sendall(b"x")
            assert held.recv(1) == b"x"
            relay.send_signal(signal.SIGUSR1)
            assert _has_ended(held)
        wait_for("nobody to listen", lambda: not _listens(port))
        relay.send_signal(signal.SIGUSR2)
        wait_for("it to listen again", lambda: _listens(port))
        assert _ask(port, b"again") == b"again"


def test_a_line_to_nobody_ends_at_once() -> None:
    with (
        _relay(free_port()) as (port, _),
        socket.create_connection(("127.0.0.1", port), timeout=5) as connection,
    ):
        assert _has_ended(connection)
