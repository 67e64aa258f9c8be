#!/usr/bin/env bash
# Remake the hashed locks from pyproject.toml, requirements-build.in and requirements-packages.in. Pins that still fit
# are kept; with --upgrade every library moves to its newest release. No index address, host name or path may come into
# the files.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CUSTOM_COMPILE_COMMAND='make lock'
readonly OPTIONS=(--quiet --generate-hashes --strip-extras --allow-unsafe
    --no-emit-index-url --no-emit-trusted-host --no-emit-find-links)

echo 'lock: build tools'
.venv/bin/pip-compile "${OPTIONS[@]}" "$@" --output-file=requirements-build.lock requirements-build.in
echo 'lock: the tool of make packages'
.venv/bin/pip-compile "${OPTIONS[@]}" "$@" --output-file=requirements-packages.lock requirements-packages.in
echo 'lock: libraries (a few minutes: every published file of each is hashed)'
.venv/bin/pip-compile "${OPTIONS[@]}" "$@" --all-extras --constraint=requirements-build.lock \
    --output-file=requirements.lock pyproject.toml
# Libraries that only Piccolo's command line needs are not installed: docs/dependencies.md.
mapfile -t unused <tools/unused.txt
.venv/bin/python -m tools.prune_lock requirements.lock "${unused[@]}"

if grep -nE '://|file:/|^--(index|extra|find|trusted)|(^|[ =])/' requirements.lock requirements-build.lock requirements-packages.lock; then
    echo 'lock: cannot keep these locks: the lines above name an address or a path' >&2
    exit 1
fi
