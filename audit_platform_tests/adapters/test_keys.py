"""Keys in files beyond their contract: who may read them, damage, several processes, power cuts."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

from audit_platform.adapters.embedded.keys import FileKeys
from audit_platform.errors import (
    AuditPlatformError,
    KeysUnavailable,
    KeyUnknown,
    RecordMalformed,
)
from audit_platform.ports import PublicKey
from audit_platform_tests.cutdisk import Fsync
from audit_platform_tests.tracing import Omit, Trace, record

NOW = 1_772_323_200_000
CHILD = "audit_platform_tests.adapters.keys_child"
#: What the child says in one run.
PROMISES = 7


def _pem(root: Path, key_id: str) -> Path:
    return root / "private" / f"{key_id}.pem"


def test_a_private_value_is_readable_by_its_owner_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = FileKeys(tmp_path)
    path = _pem(tmp_path, keys.new("manifest", NOW).key_id)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----\n")
    keys.sign("manifest", b"day")
    assert caplog.records == []


def test_a_private_value_that_others_can_read_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = FileKeys(tmp_path)
    key_id = keys.new("manifest", NOW).key_id
    _pem(tmp_path, key_id).chmod(0o640)
    with caplog.at_level(logging.WARNING):
        keys.sign("manifest", b"day")
        keys.sign("manifest", b"day")
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "chmod 600" in caplog.text
    assert key_id in caplog.text


def test_the_public_list_holds_no_private_value(tmp_path: Path) -> None:
    keys = FileKeys(tmp_path)
    key = keys.new("manifest", NOW)
    text = (tmp_path / "keys.json").read_text(encoding="ascii")
    assert json.loads(text) == {
        "kind": "keys",
        "version": 1,
        "keys": [
            {
                "keyId": key.key_id,
                "publicKey": key.public_key.hex(),
                "purpose": "manifest",
                "createdMs": NOW,
                "revokedMs": 0,
                "active": True,
            }
        ],
    }
    secret = "".join(_pem(tmp_path, key.key_id).read_text(encoding="ascii").split("\n")[1:2])
    assert len(secret) == 64
    assert secret not in text


def test_a_missing_or_wrong_private_value_signs_nothing(tmp_path: Path) -> None:
    keys = FileKeys(tmp_path)
    first, second = keys.new("manifest", NOW), keys.new("manifest", NOW)
    path = _pem(tmp_path, second.key_id)
    good = path.read_bytes()
    other = _pem(tmp_path, first.key_id).read_bytes()
    for data, words in (
        (b"", "not a private key"),
        (good[:-40], "not a private key"),
        (other, "not the private value"),
    ):
        path.write_bytes(data)
        with pytest.raises(KeyUnknown, match=words):
            keys.sign("manifest", b"day")
    path.unlink()
    with pytest.raises(KeyUnknown, match="missing") as caught:
        keys.sign("manifest", b"day")
    assert "backup" in caught.value.remedy
    path.write_bytes(good)
    assert keys.sign("manifest", b"day")[0] == second.key_id


@pytest.mark.parametrize(
    "change",
    [
        lambda _: b"",
        lambda _: b"[]",
        lambda _: b"null",
        lambda text: text.replace(b'"version": 1', b'"version": 2'),
        lambda text: text.replace(b'"publicKey": "', b'"publicKey": "00'),
        lambda text: text.replace(b'"revokedMs": 0', b'"revokedMs": "x"'),
        lambda text: text.replace(b'"keyId": "', b'"keyId": "0'),
        lambda text: text[:-10],
    ],
)
def test_a_damaged_list_is_refused_and_kept(
    tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    keys = FileKeys(tmp_path)
    keys.new("manifest", NOW)
    path = tmp_path / "keys.json"
    damaged = change(path.read_bytes())
    path.write_bytes(damaged)
    for call in (
        keys.public_keys,
        lambda: keys.sign("manifest", b"day"),
        lambda: keys.new("manifest", NOW),
        lambda: keys.revoke("0123456789abcdef", NOW),
    ):
        with pytest.raises(RecordMalformed) as caught:
            call()
        assert str(path) in caught.value.where
    assert path.read_bytes() == damaged


def test_a_disk_that_refuses_is_an_error_that_may_pass(tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(b"a file where the folder should be")
    with pytest.raises(KeysUnavailable) as caught:
        FileKeys(tmp_path / "keys").new("manifest", NOW)
    assert "AUDIT_HOME" in caught.value.remedy


def test_what_a_dead_process_left_half_done_does_not_matter(tmp_path: Path) -> None:
    keys = FileKeys(tmp_path)
    first = keys.new("manifest", NOW)
    (tmp_path / "keys.json.new").write_bytes(b'{"kind"')
    (tmp_path / "private" / "00.pem").write_bytes(b"no list names me")
    second = keys.new("manifest", NOW)
    assert [k.key_id for k in keys.public_keys()] == [first.key_id, second.key_id]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["keys.json", "keys.lock", "private"]


def test_many_processes_make_keys_at_once_and_lose_none(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; "
        "from audit_platform.adapters.embedded.keys import FileKeys; "
        "sys.stdin.read(); "
        f"keys = FileKeys(Path({str(tmp_path / 'keys')!r})); "
        "print(*(keys.new('manifest', 1).key_id for _ in range(10)))"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(4)
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.close()
    made: list[str] = []
    for child in children:
        assert child.stdout is not None
        made += child.stdout.read().decode().split()
        child.stdout.close()
        assert child.wait() == 0
    listed = FileKeys(tmp_path / "keys").public_keys()
    assert len(made) == 40
    assert sorted(k.key_id for k in listed) == sorted(made)
    assert [k.active for k in listed] == [False] * 39 + [True]


def test_the_wrapping_key_is_readable_by_its_owner_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrapped = FileKeys(tmp_path).new_data_key().wrapped
    path = tmp_path / "private" / "wrapping.json"
    assert path.stat().st_mode & 0o777 == 0o600
    FileKeys(tmp_path).open_data_key(wrapped)
    assert caplog.records == []
    path.chmod(0o644)
    FileKeys(tmp_path).open_data_key(wrapped)
    assert "chmod 600" in caplog.text


def test_a_wrapped_data_key_is_rfc_3394_under_the_key_in_the_file(tmp_path: Path) -> None:
    data_key = FileKeys(tmp_path).new_data_key()
    value = json.loads((tmp_path / "private" / "wrapping.json").read_bytes())
    wrapping = bytes.fromhex(value["key"])
    assert data_key.wrapped[:8] == hashlib.sha256(wrapping).digest()[:8]
    assert data_key.wrapped[8:] == aes_key_wrap(wrapping, data_key.secret)
    # RFC 3394, 4.6: 256 bits of key data with a 256-bit KEK.
    kek = bytes(range(32))
    data = bytes.fromhex("00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F")
    known = "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21"
    value |= {"key": kek.hex(), "keyId": hashlib.sha256(kek).hexdigest()[:16]}
    (tmp_path / "private" / "wrapping.json").write_text(json.dumps(value), encoding="ascii")
    wrapped = hashlib.sha256(kek).digest()[:8] + bytes.fromhex(known)
    assert FileKeys(tmp_path).open_data_key(wrapped) == data


@pytest.mark.parametrize(
    "change",
    [
        lambda _: b"",
        lambda _: b"[]",
        lambda data: data.replace(b'"version":1', b'"version":2'),
        lambda data: data.replace(b'"key":"', b'"key":"00'),
        lambda data: data[: -5 - 2] + bytes([data[-7] ^ 1]) + data[-6:],
    ],
)
def test_a_damaged_wrapping_key_is_refused_and_never_replaced(
    tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    wrapped = FileKeys(tmp_path).new_data_key().wrapped
    path = tmp_path / "private" / "wrapping.json"
    damaged = change(path.read_bytes())
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    with pytest.raises(KeyUnknown, match="wrapping key"):
        FileKeys(tmp_path).open_data_key(wrapped)
    with pytest.raises(KeyUnknown, match="backup"):
        FileKeys(tmp_path).new_data_key()
    assert path.read_bytes() == damaged


def test_many_processes_make_one_wrapping_key(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)
    made: list[bytes] = []

    def make() -> None:
        keys = FileKeys(tmp_path)  # as another process: nothing is shared but the folder
        barrier.wait()
        made.append(keys.new_data_key().wrapped)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({FileKeys(tmp_path).open_data_key(wrapped) for wrapped in made}) == 8


# ------------------------------------------------------------------------------------ power cuts


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """One run of the child."""
    folder = tmp_path_factory.mktemp("traced")
    root = folder / "disk"
    root.mkdir()
    command = [sys.executable, "-m", CHILD, str(root / "home" / "keys")]
    return record(command, root, log=folder / "strace.log")


def _is_revoked(listed: dict[str, PublicKey], key_id: str) -> bool:
    return key_id in listed and listed[key_id].revoked_ms > 0


def _broken(root: Path, promised: list[dict[str, str]]) -> list[str]:
    """Promises that keys found on this disk do not keep; and whether they can be used."""
    keys = FileKeys(root)
    try:
        listed = {k.key_id: k for k in keys.public_keys()}
        broken = [
            str(p) for p in promised if p.get("made", p.get("revoked", "")) not in {*listed, ""}
        ]
        broken += [
            str(p) for p in promised if "revoked" in p and not _is_revoked(listed, p["revoked"])
        ]
        for key in listed.values():
            if key.active and keys.sign(key.purpose, b"again")[0] != key.key_id:
                broken.append(f"{key.key_id} does not sign")
            if not _pem(root, key.key_id).exists():
                broken.append(f"{key.key_id} is listed without its private value")
        keys.new("manifest", NOW)
    except AuditPlatformError as e:
        return [f"cannot be used: {e}"]
    return broken


def _cuts(trace: Trace, folder: Path, omit: Omit | None = None) -> tuple[int, list[str]]:
    promises = [(number, json.loads(line)) for number, line in trace.said(1)]
    assert len(promises) == PROMISES
    broken: list[str] = []
    cuts = 0
    seen: tuple[int, int] | None = None
    for number, disk in trace.cuts(omit):
        promised = [p for at, p in promises if at <= number]
        if (disk.version, len(promised)) == seen:
            continue  # an equal disk and equal promises: nothing can differ
        seen = (disk.version, len(promised))
        disk.write_to(folder / "cut")
        broken += [f"cut after {number}: {b}" for b in _broken(folder / "cut/home/keys", promised)]
        shutil.rmtree(folder / "cut")
        cuts += 1
    return cuts, broken


def test_every_key_survives_a_power_cut_after_any_system_call(trace: Trace, tmp_path: Path) -> None:
    cuts, broken = _cuts(trace, tmp_path)
    assert broken == []
    assert cuts > 20


@pytest.mark.parametrize(
    ("what", "omit"),
    [
        ("bytes of a private value", lambda f: f.path.endswith(".pem.new")),
        ("bytes of the list", lambda f: f.path.endswith("keys.json.new")),
        ("names of private values", lambda f: f.path == "home/keys/private"),
        ("names in the folder of keys", lambda f: f.path == "home/keys"),
        ("the name of the folder of keys", lambda f: f.path == "home"),
        ("the name of the home folder", lambda f: f.path == ""),
    ],
)
def test_with_one_kind_of_fsync_taken_out_keys_are_lost(
    trace: Trace, tmp_path: Path, what: str, omit: Callable[[Fsync], bool]
) -> None:
    assert any(omit(f) for f in trace.fsyncs()), f"nobody fsyncs {what}"
    _, broken = _cuts(trace, tmp_path, omit)
    assert broken
