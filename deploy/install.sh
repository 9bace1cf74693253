#!/bin/sh
# Installs the gateway by its lock into a fresh directory: sh deploy/install.sh /opt/zephyra
# The image's build runs this, and so does the test that stands in for a Docker engine. Needs uv and Python.
set -eu
target=$1
uv=${UV:-uv}
cd "$(dirname "$0")/.."

"$uv" venv -q --python "${PYTHON:-python3}" "$target"
install() { "$uv" pip install -q --python "$target/bin/python" --link-mode copy --no-deps "$@"; }
install -r deploy/locks/gateway.txt
install .

# What serving never reads.
packages=$("$target/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
(cd "$packages/onnxruntime" && rm -rf transformers tools quantization datasets)
find "$packages" -type d \( -name tests -o -name test \) -prune -exec rm -rf {} +
find "$packages" -type f \( -name '*.pyi' -o -name '*.pxd' -o -name '*.a' \) -delete
# The image is read-only: what is not compiled now is compiled at every start.
"$target/bin/python" -m compileall -q -j 0 "$packages"
