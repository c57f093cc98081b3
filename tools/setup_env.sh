#!/usr/bin/env bash
# Set up everything that pre-training (--lite) or tests and downstream work (--full) need.
#
#   tools/setup_env.sh --lite       no compiler needed: mmcv-lite
#   tools/setup_env.sh --full       mmcv with compiled operators, MMSegmentation, MMDetection
#   tools/setup_env.sh --no-torch   keep the torch (>= 2.1) of the active environment
#   tools/setup_env.sh --dry-run    say what would be done
#
# Installs into the active virtual environment, or else into .venv (made with $PYTHON, python3
# by default). TORCH_VERSION and TORCHVISION_VERSION override the versions; MMCV_FIND_LINKS names a
# folder with mmcv wheels. A second run reuses what is there.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mode=lite
keep_torch=no
dry_run=no
for argument in "$@"; do
    case "$argument" in
        --lite) mode=lite ;;
        --full) mode=full ;;
        --no-torch) keep_torch=yes ;;
        --dry-run) dry_run=yes ;;
        -h | --help) sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
        *) echo "setup_env: unknown argument $argument; see --help" >&2; exit 2 ;;
    esac
done

say() { printf '\n[setup] %s\n' "$*"; }
die() { printf '\n[setup] failed: %s\n' "$*" >&2; exit 1; }
run() { if [ "$dry_run" = yes ]; then echo "would run: $*"; else "$@"; fi; }

# ---- the environment -------------------------------------------------------------------
base=${PYTHON:-python3}
if [ -n "${VIRTUAL_ENV:-}" ]; then
    environment=$VIRTUAL_ENV
    python=$VIRTUAL_ENV/bin/python
else
    environment=$root/.venv
    python=$environment/bin/python
fi
if [ -x "$python" ]; then probe=$python; else probe=$base; fi
command -v "$probe" > /dev/null || die "no Python found as '$probe'; set PYTHON=/path/to/python3.11"
version=$("$probe" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case "$version" in
    3.9 | 3.10 | 3.11 | 3.12) ;;
    *) die "Python 3.9 to 3.12 is needed, $probe is $version; set PYTHON=/path/to/python3.11" ;;
esac
# The newest torch for Python 3.9 is 2.8.
if [ "$version" = 3.9 ]; then torch=2.8.0; vision=0.23.0; else torch=2.11.0; vision=0.26.0; fi
torch=${TORCH_VERSION:-$torch}
vision=${TORCHVISION_VERSION:-$vision}

# ---- is everything there already? --------------------------------------------------------
stamp=$environment/.cotap_mm_$mode
recipe=$(cat "$root"/requirements/*.txt "$root/setup.py" "${BASH_SOURCE[0]}" | cksum)
recipe="$recipe torch=$torch vision=$vision keep=$keep_torch root=$root"
check='import cotap_mm.models'
if [ "$mode" = full ]; then check='import mmcv.ops, cotap_mm.models, mmseg.models, mmdet.models'; fi
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$recipe" ] && "$python" -W ignore -c "$check" 2> /dev/null; then
    say "$environment is ready (Python $version, $mode)"
    exit 0
fi

say "setting up $environment with Python $version ($mode)"
if [ ! -x "$python" ]; then
    run "$base" -m venv "$environment" || die "cannot make a virtual environment; on Debian: apt install python3-venv"
fi
pip() { run "$python" -m pip --disable-pip-version-check "$@"; }
installed() { [ -x "$python" ] && "$python" -m pip show -q "$1" > /dev/null 2>&1; }

# ---- torch ---------------------------------------------------------------------------------
has_torch() {
    [ -x "$python" ] && "$python" -W ignore - "$1" "$2" 2> /dev/null << 'PY'
import sys
import torch, torchvision
wanted = sys.argv[1:]
found = [torch.__version__.split('+')[0], torchvision.__version__.split('+')[0]]
if wanted[0] == 'any':
    sys.exit(tuple(map(int, found[0].split('.')[:2])) < (2, 1))
sys.exit(found != wanted)
PY
}
pip install -q 'setuptools<81' wheel
if [ "$keep_torch" = yes ]; then
    has_torch any any || die "--no-torch needs torch >= 2.1 with its torchvision in $environment"
    say "keeping the torch that is there"
elif has_torch "$torch" "$vision"; then
    say "torch $torch and torchvision $vision are there"
else
    say "torch $torch and torchvision $vision: a few GB, 1 to 10 minutes"
    pip install -q "torch==$torch" "torchvision==$vision"
fi

# ---- MMEngine, MMPretrain and small packages -------------------------------------------------
requirements=(-r "$root/requirements/runtime.txt" -r "$root/requirements/mminstall.txt")
if [ "$mode" = full ]; then
    requirements+=(-r "$root/requirements/downstream.txt" -r "$root/requirements/tests.txt")
fi
say "MMEngine, MMPretrain and small packages: about a minute"
pip install -q "${requirements[@]}"

# ---- mmcv: lite, or with compiled operators; never both, they share a folder -------------------
ops_work() { "$python" -W ignore -c 'import mmcv.ops' 2> /dev/null; }
mmcv_version=2.1.0
only_one() { # remove package $1 and, since both own the folder mmcv/, what is left of $2
    if installed "$1"; then pip uninstall -q -y "$1"; fi
    if installed "$2"; then pip uninstall -q -y "$2"; fi
}
build_mmcv() {
    say "mmcv $mmcv_version from source: 5 to 15 minutes on all cores"
    local compiler=${CXX:-c++}
    command -v "$compiler" > /dev/null || command -v g++ > /dev/null \
        || die "mmcv's operators need a C++ compiler; on Debian: apt install build-essential"
    "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.isfile(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' \
        || die "mmcv's operators need the Python headers; on Debian: apt install python$version-dev"
    pip install -q ninja psutil
    run env MMCV_WITH_OPS=1 MAX_JOBS="$(nproc)" CFLAGS="-O1 -g0" CXXFLAGS="-O1 -g0" \
        "$python" -m pip --disable-pip-version-check install -q --no-build-isolation --no-deps \
        --no-binary mmcv --no-cache-dir "mmcv==$mmcv_version" \
        || die "mmcv did not compile; the messages above say why"
}
if ops_work; then
    say "mmcv with compiled operators is there"
elif [ "$mode" = lite ]; then
    if "$python" -W ignore -c 'import mmcv' 2> /dev/null && installed mmcv-lite; then
        say "mmcv-lite is there"
    else
        say "mmcv-lite $mmcv_version: seconds"
        only_one mmcv mmcv-lite
        pip install -q "mmcv-lite==$mmcv_version"
    fi
else
    only_one mmcv mmcv-lite
    for folder in ${MMCV_FIND_LINKS:+"$MMCV_FIND_LINKS"} "$root/../shared/wheels"; do
        if [ "$dry_run" = no ] && [ -d "$folder" ] && "$python" -m pip --disable-pip-version-check install -q --no-deps \
            --no-index --only-binary :all: --find-links "$folder" "mmcv==$mmcv_version" 2> /dev/null; then
            if ops_work; then say "mmcv $mmcv_version: a wheel that fits was in $folder"; break; fi
            pip uninstall -q -y mmcv
        fi
    done
    if ! ops_work; then build_mmcv; fi
    # mmcv's own small requirements; it was installed without any.
    pip install -q addict packaging pyyaml yapf opencv-python-headless
fi

# ---- this package --------------------------------------------------------------------------------
say "cotap_mm itself, editable"
pip install -q --no-deps --no-build-isolation -e "$root"
if [ "$dry_run" = yes ]; then exit 0; fi
if [ "$mode" = full ]; then
    "$python" -W ignore -c 'import mmcv.ops' || die "mmcv is installed, but its operators do not import (message above)"
fi
"$python" -W ignore -c "$check" || die "the packages are installed, but '$check' does not run (message above)"
printf '%s' "$recipe" > "$stamp"
say "ready: $environment"
