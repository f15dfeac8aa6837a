"""SoftHSM2 tokens for tests: made before the library is loaded, for it lists them only then.

Belongs here: tokens and their settings. Does not: any test. Fails where SoftHSM2 is missing.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

PIN: Final = "4711-test"

#: One for each test that wants a fresh one, in one process.
COUNT: Final = 32

_PLACES: Final = (
    Path("/usr/lib/softhsm/libsofthsm2.so"),
    Path("/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"),
)


def module() -> Path:
    """SoftHSM2's library."""
    found = next((place for place in _PLACES if place.exists()), None)
    if found is None or shutil.which("softhsm2-util") is None:
        raise pytest.fail.Exception("SoftHSM2 is missing: apt-get install softhsm2", pytrace=False)
    return found


@functools.cache
def _labels() -> Iterator[str]:
    home = Path(tempfile.mkdtemp(prefix="audit-softhsm-"))
    import atexit  # noqa: PLC0415 - the folder lives as long as the process

    atexit.register(shutil.rmtree, home, ignore_errors=True)
    (home / "tokens").mkdir()
    config = home / "softhsm2.conf"
    config.write_text(
        f"directories.tokendir = {home / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    os.environ["SOFTHSM2_CONF"] = str(config)  # read when the library is loaded; children have it
    labels = [f"test-{n}" for n in range(COUNT)]
    for label in labels:
        subprocess.run(
            [  # noqa: S607 - as installed
                "softhsm2-util",
                "--init-token",
                "--free",
                f"--label={label}",
                f"--pin={PIN}",
                f"--so-pin={PIN}",
            ],
            check=True,
            capture_output=True,
        )
    return iter(labels)


def new_token() -> str:
    """The label of a token that nobody has used yet."""
    return next(_labels())
