"""Keys in a PKCS#11 token: the process asks for signatures and never holds a private value.

    key pairs        CKA_ID 16 random bytes, label of the purpose; the private one not extractable
    data objects     `audit-platform/key`: one JSON object for each key that counts
                     `audit-platform/revoked`: one for each revocation
    AES-256 key      label `audit-platform/wrapping`: wraps data keys, not extractable

Belongs here: those objects and signing with them. Does not: what is signed (`record/signing.py`).
Objects are only ever added, so processes need no lock: the newest key of a purpose is the active
one, unless it is revoked; the earliest revocation counts. A pair that no data object names means
nothing: who made it died. Data objects are private: only who has the PIN can add one.
Source: PKCS#11 3.0 (CKM_EDDSA, CKM_AES_KEY_WRAP), RFC 8032, RFC 3394; promises: `ports.Keys`.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson
import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11 import exceptions as trouble

from audit_platform.errors import KeysUnavailable, KeyUnknown, SettingInvalid
from audit_platform.ports import DataKey, PublicKey
from audit_platform.record.signing import key_id_of

PURPOSES: Final = ("manifest", "edge")

#: PrintableString "edwards25519": how a token is told the curve.
_ED25519: Final = b"\x13\x0cedwards25519"

_APPLICATION: Final = "audit-platform"
_KEY: Final = "audit-platform/key"
_REVOKED: Final = "audit-platform/revoked"
_WRAPPING: Final = "audit-platform/wrapping"

#: Ids of pairs and of wrapping keys are random: no two processes meet.
_ID_BYTES: Final = 16

#: A wrapped data key begins with this much of its wrapping key's id.
_WRAPPING_ID_BYTES: Final = 8

DATA_KEY_BYTES: Final = 32

PUBLIC_KEY_BYTES: Final = 32

#: What may stand before a public key: nothing, or the DER head of one of two types; by its length.
_POINT_PREFIXES: Final = {0: b"", 2: b"\x04\x20", 3: b"\x03\x21\x00"}

#: How often a token is asked to open, and the wait between: a write of another process takes 10 ms.
_TRIES: Final = 5
_AGAIN_SECONDS: Final = 0.05

_REMEDY: Final = "see that the token is there and its PIN not locked, then try again"


@dataclass(frozen=True, slots=True)
class _Made:
    """A key as its data object has it. `number` orders keys; `handle` finds the pair."""

    number: int
    handle: bytes
    public_key: bytes
    purpose: str
    created_ms: int

    @property
    def key_id(self) -> str:
        return key_id_of(self.public_key)


class TokenKeys:
    """`ports.Keys` in one token, for several processes and threads at once."""

    def __init__(self, module: Path, token: str, pin: str) -> None:
        self._module = module
        self._token = token
        self._pin = pin
        self._alone = threading.Lock()
        self._session: Any = None
        self._never: SettingInvalid | None = None

    def close(self) -> None:
        """Leave the token. Idempotent."""
        with self._alone:
            self._leave()

    def sign(self, purpose: str, message: bytes) -> tuple[str, bytes]:
        """See `ports.Keys`."""
        with self._open("signing") as session:
            made, listed = _all_keys(session)
            active = next((k for k in listed if k.active and k.purpose == purpose), None)
            if active is None:
                raise KeyUnknown(
                    f"no active {purpose} key",
                    remedy=f"audit-platform keys rotate {purpose} (or new)",
                )
            handle = next(m.handle for m in made if m.key_id == active.key_id)
            private = _one(session, ObjectClass.PRIVATE_KEY, handle)
            if private is None:
                raise KeyUnknown(
                    f"the private value of {active.key_id} is missing",
                    remedy=f"bring the token back from its backup, or keys rotate {purpose}",
                )
            return active.key_id, bytes(private.sign(message, mechanism=Mechanism.EDDSA))

    def public_keys(self) -> list[PublicKey]:
        """See `ports.Keys`."""
        with self._open("reading the list of keys") as session:
            return _all_keys(session)[1]

    def new(self, purpose: str, now_ms: int) -> PublicKey:
        """See `ports.Keys`."""
        if purpose not in PURPOSES:
            raise ValueError(f"purpose {purpose!r}: wanted one of {', '.join(PURPOSES)}")
        with self._open("making a key") as session:
            curve = session.create_domain_parameters(
                KeyType.EC_EDWARDS, {Attribute.EC_PARAMS: _ED25519}, local=True
            )
            handle = secrets.token_bytes(_ID_BYTES)
            public, _ = curve.generate_keypair(
                mechanism=Mechanism.EC_EDWARDS_KEY_PAIR_GEN,
                store=True,
                id=handle,
                label=purpose,
                private_template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False},
            )
            point = _raw_point(bytes(public[Attribute.EC_POINT]))
            number = max((m.number for m in _made(session)), default=0) + 1
            _add(
                session,
                _KEY,
                {
                    "number": number,
                    "handle": handle.hex(),
                    "publicKey": point.hex(),
                    "purpose": purpose,
                    "createdMs": now_ms,
                },
            )
            return PublicKey(key_id_of(point), point, purpose, now_ms, 0, active=True)

    def revoke(self, key_id: str, now_ms: int) -> PublicKey:
        """See `ports.Keys`."""
        with self._open("revoking a key") as session:
            known = {k.key_id: k for k in _all_keys(session)[1]}
            if key_id not in known:
                raise KeyUnknown(
                    f"no key {key_id}", remedy="audit-platform keys list shows their ids"
                )
            if known[key_id].revoked_ms:
                return known[key_id]
            # 0 means good, so a clock that stands at 0 must not leave the key good.
            at = max(now_ms, 1)
            _add(session, _REVOKED, {"keyId": key_id, "revokedMs": at})
            return replace(known[key_id], revoked_ms=at, active=False)

    def new_data_key(self) -> DataKey:
        """See `ports.Keys`."""
        secret = secrets.token_bytes(DATA_KEY_BYTES)
        with self._open("making a data key") as session:
            found = _wrapping_keys(session)
            wrapping = found[min(found)] if found else _new_wrapping_key(session)
            held = session.create_object(
                {
                    Attribute.CLASS: ObjectClass.SECRET_KEY,
                    Attribute.KEY_TYPE: KeyType.AES,
                    Attribute.TOKEN: False,
                    Attribute.SENSITIVE: False,
                    Attribute.EXTRACTABLE: True,
                    Attribute.VALUE: secret,
                }
            )
            wrapped = bytes(wrapping.wrap_key(held, mechanism=Mechanism.AES_KEY_WRAP))
            held.destroy()
            return DataKey(secret, bytes(wrapping.id)[:_WRAPPING_ID_BYTES] + wrapped)

    def open_data_key(self, wrapped: bytes) -> bytes:
        """See `ports.Keys`."""
        name, rest = wrapped[:_WRAPPING_ID_BYTES], wrapped[_WRAPPING_ID_BYTES:]
        with self._open("opening a data key") as session:
            found = _wrapping_keys(session)
            wrapping = next((k for i, k in found.items() if i[:_WRAPPING_ID_BYTES] == name), None)
            # RFC 3394: the wrapped form is 8 bytes longer.
            if wrapping is None or len(rest) != DATA_KEY_BYTES + 8:
                raise KeyUnknown("not wrapped by a key of this token", remedy="restore its backup")
            try:
                held = wrapping.unwrap_key(
                    ObjectClass.SECRET_KEY,
                    KeyType.AES,
                    rest,
                    mechanism=Mechanism.AES_KEY_WRAP,
                    template={
                        Attribute.TOKEN: False,
                        Attribute.SENSITIVE: False,
                        Attribute.EXTRACTABLE: True,
                    },
                )
            except _DAMAGED as e:
                raise KeyUnknown("not a wrapped data key", remedy="the bytes are damaged") from e
            secret = bytes(held[Attribute.VALUE])
            held.destroy()
            return secret

    # ------------------------------------------------------------------------------ the session

    @contextmanager
    def _open(self, doing: str) -> Iterator[Any]:
        """The one session, opened when there is none. One thread at a time."""
        with self._alone:
            if self._never is not None:  # asking again with a wrong PIN locks the token
                raise self._never
            try:
                if self._session is None:
                    self._session = self._enter()
                yield self._session
            except SettingInvalid as e:
                self._never = e
                raise
            except (trouble.PKCS11Error, OSError) as e:
                self._leave()  # the next call begins anew: the token may have been away
                raise KeysUnavailable(f"{doing}: {type(e).__name__} {e}", remedy=_REMEDY) from e

    def _enter(self) -> Any:
        """A session that may write. Raises `SettingInvalid` for what waiting does not mend."""
        try:
            library = pkcs11.lib(str(self._module))
        except RuntimeError as e:
            raise SettingInvalid(
                "AUDIT_PKCS11_MODULE", str(self._module), f"a PKCS#11 library: {e}"
            ) from e
        for _ in range(_TRIES - 1):
            try:
                return self._log_in(library.get_token(token_label=self._token))
            except (trouble.GeneralError, trouble.NoSuchToken):
                # SoftHSM says either while another process writes the token. Nothing was done.
                time.sleep(_AGAIN_SECONDS)
        try:
            return self._log_in(library.get_token(token_label=self._token))
        except trouble.NoSuchToken as e:
            raise SettingInvalid(
                "AUDIT_PKCS11_TOKEN", self._token, "the label of a token that is there"
            ) from e

    def _log_in(self, token: Any) -> Any:
        try:
            return token.open(rw=True, user_pin=self._pin)
        except trouble.UserAlreadyLoggedIn:  # by another session of this process
            return token.open(rw=True)
        except (trouble.PinIncorrect, trouble.PinInvalid, trouble.PinLenRange) as e:
            raise SettingInvalid(
                "AUDIT_PKCS11_PIN", "(not shown)", "the PIN of that token's user"
            ) from e

    def _leave(self) -> None:
        if self._session is not None:
            with suppress(trouble.PKCS11Error):
                self._session.close()
            self._session = None


#: What tokens say of bytes that are no wrapped key; SoftHSM has only the general error for most.
_DAMAGED: Final = (
    trouble.WrappedKeyInvalid,
    trouble.WrappedKeyLenRange,
    trouble.EncryptedDataInvalid,
    trouble.GeneralError,
    trouble.FunctionFailed,
)


def _raw_point(point: bytes) -> bytes:
    """The 32 bytes of a public key: tokens give them bare, or as an OCTET or BIT STRING."""
    if len(point) - PUBLIC_KEY_BYTES in _POINT_PREFIXES:
        prefix = point[:-PUBLIC_KEY_BYTES]
        if prefix == _POINT_PREFIXES[len(prefix)]:
            return point[-PUBLIC_KEY_BYTES:]
    raise KeysUnavailable(f"the token gives a public key as {point.hex()}", remedy=_REMEDY)


def _add(session: Any, label: str, value: dict[str, Any]) -> None:
    """A data object that stays in the token, for those with the PIN."""
    session.create_object(
        {
            Attribute.CLASS: ObjectClass.DATA,
            Attribute.TOKEN: True,
            Attribute.PRIVATE: True,
            Attribute.APPLICATION: _APPLICATION,
            Attribute.LABEL: label,
            Attribute.VALUE: orjson.dumps(value),
        }
    )


def _values(session: Any, label: str) -> list[dict[str, Any]]:
    wanted = {Attribute.CLASS: ObjectClass.DATA, Attribute.LABEL: label}
    return [orjson.loads(found[Attribute.VALUE]) for found in list(session.get_objects(wanted))]


def _made(session: Any) -> list[_Made]:
    return [
        _Made(
            int(value["number"]),
            bytes.fromhex(value["handle"]),
            bytes.fromhex(value["publicKey"]),
            str(value["purpose"]),
            int(value["createdMs"]),
        )
        for value in _values(session, _KEY)
    ]


def _all_keys(session: Any) -> tuple[list[_Made], list[PublicKey]]:
    """All keys as made, and as the port tells them, oldest first."""
    # Two processes may have taken one number at the same moment.
    order: Callable[[_Made], Any] = lambda m: (m.number, m.created_ms, m.key_id)  # noqa: E731 - one key
    made = sorted(_made(session), key=order)
    revoked: dict[str, int] = {}
    for value in _values(session, _REVOKED):
        key_id, at = str(value["keyId"]), int(value["revokedMs"])
        revoked[key_id] = min(at, revoked.get(key_id, at))
    newest = {m.purpose: m.key_id for m in made}
    return made, [
        PublicKey(
            m.key_id,
            m.public_key,
            m.purpose,
            m.created_ms,
            revoked.get(m.key_id, 0),
            active=newest[m.purpose] == m.key_id and m.key_id not in revoked,
        )
        for m in made
    ]


def _one(session: Any, kind: ObjectClass, handle: bytes) -> Any:
    found = list(session.get_objects({Attribute.CLASS: kind, Attribute.ID: handle}))
    return found[0] if found else None


def _wrapping_keys(session: Any) -> dict[bytes, Any]:
    """Id -> wrapping key. Two processes may have made one each: both stay good."""
    wanted = {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.LABEL: _WRAPPING}
    return {bytes(key.id): key for key in list(session.get_objects(wanted))}


def _new_wrapping_key(session: Any) -> Any:
    return session.generate_key(
        KeyType.AES,
        DATA_KEY_BYTES * 8,
        id=secrets.token_bytes(_ID_BYTES),
        label=_WRAPPING,
        store=True,
        template={
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.WRAP: True,
            Attribute.UNWRAP: True,
        },
    )
