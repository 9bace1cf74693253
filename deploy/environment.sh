#!/usr/bin/env bash
# Makes .venv and installs the lock into it; quick when nothing changed.
# PyTorch's CPU wheel: from wherever pip finds 2.13.0+cpu by itself (a find-links directory, say), else from PyTorch's
# own CPU index, which is asked for torch alone.
set -euo pipefail
cd "$(dirname "$0")/.."

TORCH="2.13.0+cpu"
TORCH_INDEX="https://download.pytorch.org/whl/cpu"
UV="uv==0.13.9"

say() { printf 'zephyra: %s\n' "$*"; }

find_python() {
    for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3.14 python3}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    say "no Python 3.11 to 3.14 found; install one, or name it: make serve PYTHON=/path/to/python" >&2
    return 1
}

flavour=cpu
if [ "${ZEPHYRA_ENGINE:-}" = gpu ] || { [ -z "${ZEPHYRA_ENGINE:-}" ] && [ -e /dev/nvidiactl ]; }; then
    flavour=gpu
fi
lock="deploy/locks/$flavour.txt"
stamp=".venv/.installed"
wanted="$(cat "$lock" pyproject.toml deploy/environment.sh | sha256sum | cut -c1-16) $flavour $PWD"
if [ -x .venv/bin/zephyra ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    say "environment .venv is up to date ($flavour)"
    exit 0
fi

python=$(find_python)
say "making the environment .venv with $("$python" --version) for the $flavour engine"
rm -f "$stamp"
if ! { [ -x .venv/bin/python ] && .venv/bin/python -m pip --version >/dev/null 2>&1; }; then
    rm -rf .venv
    "$python" -m venv .venv || { say "this Python lacks venv; on Debian: apt-get install python3-venv" >&2; exit 1; }
fi
export PIP_DISABLE_PIP_VERSION_CHECK=1
say "installing the installer"
.venv/bin/python -m pip install -q --no-deps "$UV"
if [ "$flavour" = cpu ] && ! .venv/bin/python -c "import sys, importlib.metadata as m; sys.exit(m.version('torch') != '$TORCH')" 2>/dev/null; then
    say "installing torch $TORCH (about 200 MB)"
    .venv/bin/python -m pip install -q --no-deps "torch==$TORCH" 2>/dev/null ||
        .venv/bin/python -m pip install -q --no-deps --index-url "$TORCH_INDEX" "torch==$TORCH"
fi
say "installing $(grep -c == "$lock") locked packages from $lock (about 3 GB on disk)"
.venv/bin/uv pip install -q --no-deps --python .venv/bin/python -r "$lock"
.venv/bin/uv pip install -q --no-deps --no-build-isolation --python .venv/bin/python -e .
echo "$wanted" >"$stamp"
say "environment ready"
