#!/usr/bin/env bash
# Pin and hash the packages of this environment (make lock):
#   tools/lock_requirements.sh
# Writes requirements/lock/linux-cp311.txt, mmcv.txt, mmcv-lite.txt and docs.txt. It needs uv
# (pip install uv) and the environment of tools/setup_env.sh --full on Linux with Python 3.11. The
# index is uv's default or UV_INDEX_URL; its address is not written to the files.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python}
lock=$root/requirements/lock
command -v uv > /dev/null || { echo "lock_requirements: uv is missing: pip install uv" >&2; exit 1; }
here=$("$python" -c 'import sys; print(sys.platform, "%d.%d" % sys.version_info[:2])')
if [ "$here" != 'linux 3.11' ]; then
    echo "lock_requirements: the lock is for linux 3.11, this is $here" >&2
    exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The installed versions are the tested ones; mmcv, compiled or lite, has a file of its own.
"$python" -m pip freeze --exclude-editable | grep -E '^[A-Za-z0-9._-]+==' | grep -v '^mmcv' > "$work/installed.txt"
for name in torch torchvision; do grep "^$name==" "$work/installed.txt"; done > "$work/chosen.txt"
mmcv=$(sed -n 's/^mmcv_version=//p' "$root/tools/setup_env.sh")

pin() { # $1: file to write; others: what to resolve
    local target=$1
    shift
    { # usage first, then the pins
        sed -n "s/^#$(basename "$target" .txt)# \{0,1\}/# /p" "${BASH_SOURCE[0]}"
        uv pip compile -q --generate-hashes --no-header --no-annotate --python-version 3.11.5 \
            --python-platform x86_64-manylinux_2_28 "$@"
    } > "$work/out.txt"
    mv "$work/out.txt" "$target"
}
#linux-cp311# All packages that the tests use, made by tools/lock_requirements.sh:
#linux-cp311#     pip install --require-hashes -r requirements/lock/linux-cp311.txt
#linux-cp311# then mmcv.txt or mmcv-lite.txt beside this file, then pip install --no-deps -e .
#mmcv# Compiled operators, from source; after linux-cp311.txt, in the same environment:
#mmcv#     MMCV_WITH_OPS=1 pip install --no-build-isolation --no-deps --require-hashes -r requirements/lock/mmcv.txt
#mmcv-lite# Enough for pre-training; after linux-cp311.txt and in place of mmcv.txt:
#mmcv-lite#     pip install --no-deps --require-hashes -r requirements/lock/mmcv-lite.txt
#docs# What make docs needs, also in the same environment as linux-cp311.txt:
#docs#     pip install --require-hashes -r requirements/lock/docs.txt
mkdir -p "$lock"
tested=()
for file in "$root"/requirements/*.txt; do
    if [ "$(basename "$file")" != docs.txt ]; then tested+=("$file"); fi
done
pin "$lock/linux-cp311.txt" --constraint "$work/installed.txt" "$work/chosen.txt" "${tested[@]}"
pin "$lock/docs.txt" --constraint "$work/installed.txt" "$root/requirements/docs.txt"
for name in mmcv mmcv-lite; do
    echo "$name==$mmcv" > "$work/one.txt"
    pin "$lock/$name.txt" --no-deps "$work/one.txt"
done
