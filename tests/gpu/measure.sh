#!/usr/bin/env bash
# Check and time the product on the GPU of this machine, in nine minutes: tests/gpu/measure.sh OUTPUT [STEP ...]
# Needs torch with CUDA, Triton and a C compiler, no network, and what pack.sh made. See CONTRIBUTING.md.
set -euo pipefail
output=$(realpath -m "${1:?say into which folder the results go}")
cd "$(dirname "$0")/../.."
mkdir -p "$output"
site=$(mktemp -d)
trap 'rm -r "$site"' EXIT
python3 -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$site" .gpu-pack/wheels/*.whl
PYTHONPATH="$PWD:$site" PYTHONUNBUFFERED=1 python3 -m tests.gpu --output "$output" "${@:2}" 2>&1 | tee "$output/log.txt"
