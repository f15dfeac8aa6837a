#!/usr/bin/env bash
# Programs of the system that some tests need, beside the servers' (`audit-platform stack fetch`).
# They are installed only when CI=true or AUDIT_INSTALL=1; otherwise this says which command would
# do it, and those tests fail.
set -euo pipefail

missing=()
command -v strace >/dev/null || missing+=(strace)
command -v openssl >/dev/null || missing+=(openssl)
command -v softhsm2-util >/dev/null || missing+=(softhsm2)
[ ${#missing[@]} -eq 0 ] && exit 0
install="apt-get install --yes --no-install-recommends ${missing[*]}"
if [ "${CI:-}" = true ] || [ "${AUDIT_INSTALL:-}" = 1 ]; then
    apt-get update -qq && $install
else
    echo "missing: ${missing[*]}; to install: $install (or run again with AUDIT_INSTALL=1)" >&2
fi
