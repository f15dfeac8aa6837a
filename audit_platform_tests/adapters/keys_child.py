"""A program that makes and revokes keys and says, line by line, what it was promised.

Started under strace by `test_keys.py`: `python -m … ROOT`. Not here: what must hold.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from audit_platform.adapters.embedded.keys import FileKeys

NOW = 1_772_323_200_000


def _say(**promised: object) -> None:
    os.write(1, json.dumps(promised).encode() + b"\n")


def main(root: Path) -> None:
    """Make three keys, sign with each, revoke one."""
    keys = FileKeys(root)
    for purpose in ("manifest", "edge", "manifest"):
        key = keys.new(purpose, NOW)
        _say(made=key.key_id, purpose=purpose)
        _say(signed_by=keys.sign(purpose, b"something")[0])
    keys.revoke(key.key_id, NOW + 1)
    _say(revoked=key.key_id)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
