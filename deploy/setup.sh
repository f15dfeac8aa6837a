#!/usr/bin/env bash
# Makes .venv with exactly the locked dependencies. Needs Python >= 3.11 and nothing else: uv comes
# from PyPI (pinned, with its hash) into .venv/.uv when the machine has none.
set -euo pipefail
cd "$(dirname "$0")/.."

python=""
for name in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
    if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        python=$name
        break
    fi
done
if [ -z "$python" ]; then
    echo "error: Python 3.11 or newer is needed; none was found" >&2
    echo "remedy: install it, or name it: make setup PYTHON=/path/to/python3.12" >&2
    exit 2
fi

export UV_PYTHON_DOWNLOADS=never
[ -x .venv/bin/python ] || "$python" -m venv .venv
if command -v uv >/dev/null; then
    uv=uv
else
    uv=.venv/.uv/bin/uv
    if [ ! -x "$uv" ]; then
        echo "setup: fetching uv"
        "$python" -m venv .venv/.uv
        .venv/.uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.lock
    fi
fi
echo "setup: installing locked dependencies into .venv"
VIRTUAL_ENV=.venv "$uv" pip sync --quiet --require-hashes requirements.lock
VIRTUAL_ENV=.venv "$uv" pip install --quiet --no-deps --no-build-isolation -e .
echo "setup: done"
