#!/usr/bin/env bash
# Install everything that pre-training (--lite) or tests and downstream training (--full) need.
#
#   tools/setup_env.sh --lite       no compiler needed: mmcv-lite
#   tools/setup_env.sh --full       mmcv with compiled operators, MMSegmentation, MMDetection
#   tools/setup_env.sh --no-torch   keep the torch (>= 2.1) of the active environment
#   tools/setup_env.sh --dry-run    print what would be done
#
# Installs into the active virtual or conda environment, or else into .venv (created with $PYTHON,
# by default python3 or the newest supported python3.x). TORCH_VERSION and TORCHVISION_VERSION
# override the versions; MMCV_FIND_LINKS names a folder with mmcv wheels. A second run reuses
# what is installed.
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
        -h | --help) sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
        *) echo "setup_env: unknown argument $argument; see --help" >&2; exit 2 ;;
    esac
done

say() { printf '\n[setup] %s\n' "$*"; }
die() { printf '\n[setup] failed: %s\n' "$*" >&2; exit 1; }
run() { if [ "$dry_run" = yes ]; then echo "would run: $*"; else "$@"; fi; }

# ---- the environment -------------------------------------------------------------------
python_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null; }
fits() { case "$(python_version "$1")" in 3.9 | 3.10 | 3.11 | 3.12) true ;; *) false ;; esac }
base=${PYTHON:-python3}
if [ -z "${PYTHON:-}" ] && ! fits python3; then
    for candidate in python3.12 python3.11 python3.10 python3.9; do
        if fits "$candidate"; then base=$candidate; break; fi
    done
fi
# Never install into conda's base environment, which all others share.
if [ -n "${VIRTUAL_ENV:-}" ]; then
    environment=$VIRTUAL_ENV
elif [ -n "${CONDA_PREFIX:-}" ] && [ "${CONDA_DEFAULT_ENV:-}" != base ]; then
    environment=$CONDA_PREFIX
else
    environment=$root/.venv
fi
python=$environment/bin/python
remedy='set PYTHON=/path/to/python3.11'
probe=$base
if [ -x "$python" ]; then probe=$python; remedy="remove or leave $environment, then $remedy"; fi
command -v "$probe" > /dev/null || die "no Python found as '$probe'; $remedy"
version=$(python_version "$probe") || die "'$probe' does not run; $remedy"
fits "$probe" || die "Python 3.9 to 3.12 is needed, $probe is $version; $remedy"
# The newest torch for Python 3.9 is 2.8.
if [ "$version" = 3.9 ]; then torch=2.8.0; vision=0.23.0; else torch=2.11.0; vision=0.26.0; fi
if [ -n "${TORCH_VERSION:-}" ] && [ -z "${TORCHVISION_VERSION:-}" ]; then
    die "TORCH_VERSION=$TORCH_VERSION needs its TORCHVISION_VERSION (torch 2.N goes with torchvision 0.(N+15))"
fi
torch=${TORCH_VERSION:-$torch}
vision=${TORCHVISION_VERSION:-$vision}

# ---- is everything installed already? ----------------------------------------------------
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
    # The next run would take an incomplete folder for an environment.
    run "$base" -m venv "$environment" || {
        rm -rf "$environment"
        die "cannot create a virtual environment; on Debian: apt install python$version-venv"
    }
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
python_says() { "$python" -W ignore -c "$1" 2> /dev/null; }

pip install -q 'setuptools<81' wheel || die 'pip cannot install anything (message above)'
if [ "$keep_torch" = yes ]; then
    has_torch any any || die "--no-torch needs torch >= 2.1 and its torchvision in $environment"
    say "keeping the installed torch"
elif has_torch "$torch" "$vision"; then
    say "torch $torch and torchvision $vision are installed"
else
    if [ "$version" = 3.9 ] && [ -z "${TORCH_VERSION:-}" ]; then
        say "Python 3.9: torch $torch is the last release that supports it"
    fi
    say "torch $torch and torchvision $vision: a few GB, 1 to 10 minutes"
    pip install -q "torch==$torch" "torchvision==$vision" \
        || die "torch $torch or torchvision $vision cannot be installed (message above)"
fi
# No later step may replace torch; torch before 2.3 does not support numpy 2.
pins=$(mktemp)
trap 'rm -f "$pins"' EXIT
if [ "$dry_run" = no ]; then
    python_says 'import torch, torchvision
from importlib.metadata import version
for name in ("torch", "torchvision"): print(f"{name}=={version(name)}")
if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 3): print("numpy<2")' > "$pins" \
        || die 'torch and torchvision are installed, but do not import together'
fi

# ---- MMEngine, MMPretrain and small packages -------------------------------------------------
requirements=(-r "$root/requirements/runtime.txt")
files=("$root/requirements/mminstall.txt")
if [ "$mode" = full ]; then
    requirements+=(-r "$root/requirements/tests.txt")
    files+=("$root/requirements/downstream.txt")
fi
while read -r line; do # keep a maintained fork, which has the same import name
    case "$line" in '' | '#'*) continue ;; esac
    name=${line%%[<>=]*}
    if [ "${name#mm}" != "$name" ] && installed "onedl-$name"; then
        say "keeping onedl-$name instead of $name"
    else
        requirements+=("$line")
    fi
done < <(cat "${files[@]}")
say "MMEngine, MMPretrain and small packages: 1 to 3 minutes"
pip install -q -c "$pins" "${requirements[@]}" || die 'a package cannot be installed (message above)'
if [ "$dry_run" = no ] && ! python_says 'import cv2'; then
    say "OpenCV does not import (no graphics libraries?): installing its headless build"
    pip uninstall -q -y opencv-python
    pip install -q -c "$pins" --force-reinstall --no-deps opencv-python-headless
fi

# ---- mmcv: lite, or with compiled operators; not both, they share a folder ---------------------
ops_work() { python_says 'import mmcv.ops'; }
mmcv_version=2.1.0
only_one() { # remove package $1, and $2 as well, since both own the folder mmcv/
    if installed "$1"; then pip uninstall -q -y "$1"; fi
    if installed "$2"; then pip uninstall -q -y "$2"; fi
}
build_mmcv() {
    say "mmcv $mmcv_version from source: 5 to 15 minutes on all cores"
    local compiler=${CXX:-c++}
    command -v "$compiler" > /dev/null \
        || die "mmcv's operators need a C++ compiler; on Debian: apt install build-essential"
    "$probe" -c 'import os, sys, sysconfig
sys.exit(not os.path.isfile(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' \
        || die "mmcv's operators need the Python headers; on Debian: apt install python$version-dev"
    pip install -q ninja psutil
    local settings=(MMCV_WITH_OPS=1 "MAX_JOBS=$(getconf _NPROCESSORS_ONLN)" 'CFLAGS=-O1 -g0')
    if ! command -v "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" nvcc > /dev/null; then
        echo "no CUDA compiler (nvcc) found: building operators for the CPU only"
        settings+=(CUDA_VISIBLE_DEVICES=)
    fi
    run env "${settings[@]}" \
        "$python" -m pip --disable-pip-version-check install -q --no-build-isolation --no-deps \
        --no-binary mmcv --no-cache-dir "mmcv==$mmcv_version" \
        || die "mmcv did not compile (messages above)"
}
if installed mmcv && installed mmcv-lite; then
    say "mmcv and mmcv-lite are both installed and overwrite each other: removing both"
    only_one mmcv mmcv-lite
fi
if ops_work; then
    say "mmcv with compiled operators is installed"
elif [ "$mode" = lite ]; then
    if python_says 'import mmcv' && { installed mmcv-lite || installed onedl-mmcv; }; then
        say "mmcv without operators is installed"
    else
        say "mmcv-lite $mmcv_version: seconds"
        only_one mmcv mmcv-lite
        pip install -q -c "$pins" "mmcv-lite==$mmcv_version" \
            || die "mmcv-lite $mmcv_version cannot be installed (message above)"
    fi
else
    if installed onedl-mmcv; then
        die 'onedl-mmcv is installed without working operators: build it with them, or uninstall it and run this again'
    fi
    only_one mmcv mmcv-lite
    folder=${MMCV_FIND_LINKS:-}
    if [ "$dry_run" = no ] && [ -d "$folder" ] && "$python" -m pip --disable-pip-version-check install -q --no-deps \
        --no-index --only-binary :all: --find-links "$folder" "mmcv==$mmcv_version" 2> /dev/null; then
        if ops_work; then
            say "mmcv $mmcv_version: installed a matching wheel from $folder"
        else
            pip uninstall -q -y mmcv
        fi
    fi
    if ! ops_work; then build_mmcv; fi
fi

# ---- this package --------------------------------------------------------------------------------
say "cotap_mm itself, editable"
pip install -q --no-deps --no-build-isolation -e "$root" || die 'cotap_mm cannot be installed (message above)'
if [ "$dry_run" = yes ]; then exit 0; fi
if [ "$mode" = full ]; then
    "$python" -W ignore -c 'import mmcv.ops' || die "mmcv is installed, but its operators do not import (message above)"
fi
"$python" -W ignore -c "$check" || die "the packages are installed, but '$check' does not run (message above)"
printf '%s' "$recipe" > "$stamp"
say "ready: $environment"
if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
    echo "        make uses it automatically; for other commands: source $environment/bin/activate"
fi
