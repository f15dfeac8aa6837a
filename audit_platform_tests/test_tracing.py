"""The tracer itself: a disk that forgets, text of strace that is known, and a real HTTP server."""

from __future__ import annotations

import hashlib
import http.client
import sys
from pathlib import Path

import pytest

from audit_platform_tests.cutdisk import Fsync, Said
from audit_platform_tests.straceparse import Follower
from audit_platform_tests.stracetext import NotUnderstoodError
from audit_platform_tests.tracing import Trace, assert_answer_after_fsync, record, running

# ------------------------------------------------------------------------------- whole programs


def _run(tmp_path: Path, code: str) -> Trace:
    """Run Python code whose variable `d` is the folder that is followed."""
    root = tmp_path / "disk"
    root.mkdir(exist_ok=True)
    head = (
        f"import os, threading; d = {str(root)!r}\n"
        "def fsync_dir(p):\n f = os.open(p, os.O_RDONLY); os.fsync(f); os.close(f)\n"
        "def mark(m): os.write(1, m)\n"
    )
    return record([sys.executable, "-c", head + code], root, log=tmp_path / "strace.log")


def _left_at(trace: Trace, mark: bytes) -> dict[str, bytes]:
    """What a power cut leaves when the program has just said `mark`."""
    at = next(number for number, data in trace.said(1) if data == mark)
    return next(disk.files() for number, disk in trace.cuts() if number == at)


def test_only_fsynced_bytes_under_fsynced_names_survive(tmp_path: Path) -> None:
    trace = _run(
        tmp_path,
        "f = os.open(d + '/a', os.O_RDWR | os.O_CREAT)\n"
        "os.write(f, b'one'); mark(b'1')\n"
        "os.fsync(f); mark(b'2')\n"
        "fsync_dir(d); mark(b'3')\n"
        "os.pwrite(f, b'TWO', 2); mark(b'4')\n"
        "os.fdatasync(f); mark(b'5')\n"
        "os.ftruncate(f, 1); os.rename(d + '/a', d + '/b'); mark(b'6')\n"
        "fsync_dir(d); mark(b'7')\n"
        "os.unlink(d + '/b'); mark(b'8')\n"
        "fsync_dir(d); mark(b'9')\n",
    )
    assert [_left_at(trace, b"%d" % n) for n in range(1, 10)] == [
        {},
        {},
        {"a": b"one"},
        {"a": b"one"},
        {"a": b"onTWO"},
        {"a": b"onTWO"},
        {"b": b"onTWO"},
        {"b": b"onTWO"},
        {},
    ]


def test_replay_writes_what_a_cut_leaves_and_can_leave_fsyncs_out(tmp_path: Path) -> None:
    trace = _run(
        tmp_path,
        "os.mkdir(d + '/sub'); fsync_dir(d)\n"
        "f = os.open(d + '/sub/a', os.O_RDWR | os.O_CREAT); fsync_dir(d + '/sub')\n"
        "os.write(f, b'one'); os.fsync(f)\n",
    )
    last = len(trace.operations) - 1
    trace.replay(last, tmp_path / "whole")
    assert (tmp_path / "whole/sub/a").read_bytes() == b"one"
    trace.replay(last, tmp_path / "no-bytes", omit=lambda f: f.path == "sub/a")
    assert (tmp_path / "no-bytes/sub/a").read_bytes() == b""
    trace.replay(last, tmp_path / "no-names", omit=lambda f: f.is_folder)
    assert list((tmp_path / "no-names").iterdir()) == []
    trace.replay(0, tmp_path / "nothing")
    assert list((tmp_path / "nothing").iterdir()) == []
    assert [f.path for f in trace.fsyncs()] == ["", "sub", "sub/a"]


def test_every_way_to_write_a_file_is_followed(tmp_path: Path) -> None:
    # `record` compares what was followed with the real files; this would fail there.
    trace = _run(
        tmp_path,
        "f = os.open(d + '/a', os.O_RDWR | os.O_CREAT | os.O_APPEND)\n"
        "os.write(f, b'abc'); os.writev(f, [b'd', b'ef']); g = os.dup(f); os.close(f)\n"
        "os.write(g, b'ghi'); os.pwritev(g, [b'x', b'y'], 1)\n"
        "with open(d + '/b', 'wb') as b: b.write(b'0' * 100000); b.seek(10); b.write(b'1')\n"
        "with open(d + '/b', 'r+b') as b: b.truncate(50000)\n"
        "h = os.open(d + '/c', os.O_RDWR | os.O_CREAT); os.posix_fallocate(h, 0, 9)\n"
        "os.lseek(h, 4, 0); os.write(h, b'mid')\n"
        "os.link(d + '/c', d + '/c2'); os.replace(d + '/c', d + '/b')\n"
        "def other():\n k = os.open(d + '/t', os.O_WRONLY | os.O_CREAT | os.O_TRUNC)\n"
        " os.write(k, b'thread'); os.fsync(k); os.close(k)\n"
        "t = threading.Thread(target=other); t.start(); t.join()\n"
        "if os.fork() == 0:\n os.write(g, b'child'); os._exit(0)\n"
        "os.wait(); os.write(g, b'parent')\n"
        "where = os.open(d, os.O_RDONLY); os.mkdir('m', dir_fd=where)\n"
        "os.rename('t', 'm/t', src_dir_fd=where, dst_dir_fd=where)\n"
        "os.mkdir(d + '/gone'); os.rmdir(d + '/gone')\n",
    )
    assert len(trace.fsyncs()) == 1


def test_what_was_there_before_the_program_is_durable(tmp_path: Path) -> None:
    (tmp_path / "disk" / "sub").mkdir(parents=True)
    (tmp_path / "disk" / "sub" / "old").write_bytes(b"before")
    trace = _run(
        tmp_path, "f = os.open(d + '/sub/old', os.O_RDWR); os.write(f, b'after'); mark(b'1')"
    )
    assert _left_at(trace, b"1") == {"sub/old": b"before"}


@pytest.mark.parametrize(
    "code",
    [
        "os.sync()",
        "os.chdir('/')",
        "os.symlink('x', d + '/link')",
        "f = os.open(d + '/a', os.O_RDWR | os.O_CREAT); os.sendfile(f, 0, None, 0)",
    ],
)
def test_a_call_that_is_not_followed_fails(tmp_path: Path, code: str) -> None:
    with pytest.raises(NotUnderstoodError):
        _run(tmp_path, code)


def test_bytes_that_no_call_wrote_fail(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="was not followed: a"):
        _run(
            tmp_path,
            "import mmap\n"
            "f = os.open(d + '/a', os.O_RDWR | os.O_CREAT); os.write(f, bytes(4096))\n"
            "mmap.mmap(f, 4096)[:3] = b'map'\n",
        )


def test_a_program_that_fails_fails_the_test(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="exit 7"):
        _run(tmp_path, "raise SystemExit(7)")


def test_a_missing_strace_fails_and_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.fail.Exception, match="apt-get install strace"):
        _run(tmp_path, "pass")


# ------------------------------------------------------------------------------------ known text


def _hex(text: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in text.encode())


def test_an_fsync_keeps_only_what_was_written_before_it_was_called(tmp_path: Path) -> None:
    follower = Follower(tmp_path)
    path = _hex(str(tmp_path / "a"))
    fd, folder = f"3<{path}>", f"4<{_hex(str(tmp_path))}>"
    lines = [
        f'7 openat(AT_FDCWD<{_hex("/")}>, "{path}", O_RDWR|O_CREAT|O_CLOEXEC, 0644) = {fd}',
        f'7 openat(AT_FDCWD<{_hex("/")}>, "{_hex(str(tmp_path))}", O_RDONLY) = {folder}',
        f"7 fsync({folder}) = 0",
        f'7 pwrite64({fd}, "{_hex("one")}", 3, 0) = 3',
        f"7 fdatasync({fd} <unfinished ...>",
        f'8 pwrite64({fd}, "{_hex("two")}", 3, 3) = 3',
        "7 <... fdatasync resumed>) = 0",
        f'8 write(5<TCP:[127.0.0.1:1->127.0.0.1:2]>, "{_hex("said")}", 4 <unfinished ...>',
        "8 <... write resumed>) = 4",
        f"7 fsync({fd}) = -1 EIO (Input/output error)",
        "7 clone3({flags=CLONE_VM|CLONE_FILES|CLONE_THREAD} => {parent_tid=[8]}, 88) = 8",
        "8 +++ exited with 0 +++",
    ]
    trace = Trace(tmp_path, follower.follow(lines))
    *_, (_, disk) = trace.cuts()
    assert disk.files() == {"a": b"one"}
    assert trace.operations[-1] == Said(5, "TCP:[127.0.0.1:1->127.0.0.1:2]", b"said")
    assert sum(isinstance(o, Fsync) for o in trace.operations) == 2


@pytest.mark.parametrize(
    "line",
    [
        "no number in front",
        "7 nonsense",
        '7 pwrite64(3</x>, "\\x61"..., 3, 0) = 3',
        "7 write(3) = nothing",
    ],
)
def test_text_that_is_not_understood_fails(tmp_path: Path, line: str) -> None:
    root = _hex(str(tmp_path / "a"))
    opened = f'7 openat(AT_FDCWD<{_hex("/")}>, "{root}", O_RDWR|O_CREAT, 0644) = 3<{root}>'
    with pytest.raises(NotUnderstoodError):
        Follower(tmp_path).follow([opened, line.replace("/x", root)])


# ------------------------------------------------------------------------------------ HTTP server


def _served(tmp_path: Path, when: str) -> tuple[Trace, dict[bytes, list[bytes]]]:
    """(trace of a server that was sent three bodies, what each answer acknowledges)."""
    root = tmp_path / "disk"
    root.mkdir()
    bodies = [b'{"eventId":"%d"}\n' % n + b"x" * 1000 * n for n in range(3)]
    child = "audit_platform_tests.answering_child"
    command = [sys.executable, "-m", child, str(root / "kept"), when]
    with running(command, root, log=tmp_path / "strace.log") as run:
        assert run.process.stdout is not None
        port = int(run.process.stdout.readline())
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for body in bodies:
            connection.request("POST", "/", body)
            answer = connection.getresponse()
            assert answer.status == 202
            assert answer.read() == hashlib.sha256(body).hexdigest().encode()
        connection.close()
        run.terminate()
    names = [hashlib.sha256(body).hexdigest().encode() for body in bodies]
    return run.trace, {name: [body] for name, body in zip(names, bodies, strict=True)}


def test_a_server_that_answers_after_its_fsync_passes(tmp_path: Path) -> None:
    trace, acknowledged = _served(tmp_path, "good")
    assert assert_answer_after_fsync(trace, acknowledged) == 3
    with pytest.raises(AssertionError, match="was sent"):
        assert_answer_after_fsync(trace, acknowledged, omit=lambda f: f.path == "kept")
    with pytest.raises(AssertionError, match="was sent"):
        assert_answer_after_fsync(trace, acknowledged, omit=lambda f: f.is_folder)
    some = dict(list(acknowledged.items())[:2])
    with pytest.raises(AssertionError, match="answers 0 known batches"):
        assert_answer_after_fsync(trace, some)
    with pytest.raises(AssertionError, match="without its 202"):
        assert_answer_after_fsync(trace, {**acknowledged, b"never sent": [b""]})
    with pytest.raises(AssertionError, match="nothing to look for"):
        assert_answer_after_fsync(trace, dict.fromkeys(acknowledged, ()))
    with pytest.raises(AssertionError, match="nothing was proved"):
        assert_answer_after_fsync(Trace(trace.root, []), {})


def test_a_server_that_answers_before_its_fsync_fails(tmp_path: Path) -> None:
    trace, acknowledged = _served(tmp_path, "early")
    with pytest.raises(AssertionError, match="was sent"):
        assert_answer_after_fsync(trace, acknowledged)
