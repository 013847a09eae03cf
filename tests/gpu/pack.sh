#!/usr/bin/env bash
# Put what a borrowed GPU machine without a network lacks into .gpu-pack: wheels for its Python 3.12, weights, photographs.
set -euo pipefail
cd "$(dirname "$0")/../.."
pack=.gpu-pack
platforms=$(printf -- '--platform manylinux%s_x86_64 ' _2_28 _2_27 _2_24 _2_17 2014 1)
rm -rf "$pack/wheels"  # two versions of one would stop the installation
.venv/bin/python -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
	$platforms --constraint constraints.txt --requirement tests/gpu/carried.txt --dest "$pack/wheels"
.venv/bin/python -m tests.gpu.pack "$pack"
mebibytes=$(du -sm "$pack" | cut -f1)
echo "$pack: $mebibytes MiB"
test "$mebibytes" -lt 60 || { echo "with the repository that is more than the 64 MiB that travel" >&2; exit 1; }
