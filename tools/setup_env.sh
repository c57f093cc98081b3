#!/usr/bin/env bash
# Install what pre-training (--lite) or tests and downstream training (--full) need. No compiler
# is needed: without compiled mmcv, its operators come from torchvision (docs/operators.md).
#
#   tools/setup_env.sh --lite       pre-training
#   tools/setup_env.sh --full       also MMSegmentation, MMDetection, and what the tests need
#   tools/setup_env.sh --compiled   --full with mmcv's own operators, compiled here
#   tools/setup_env.sh --cpu        with any of these: PyTorch without CUDA, 4 GB smaller (needs uv)
#   tools/setup_env.sh --no-torch   with any of these: keep the torch (>= 2.1) of the environment
#   tools/setup_env.sh --dry-run    print what would be done
#
# Installs into the active virtual or conda environment, or else into .venv (created with $PYTHON,
# by default python3 or the newest supported python3.x). An installed torch (>= 2.1) is kept, unless
# TORCH_VERSION chooses another, and TORCHVISION_VERSION its torchvision if the numbers do not
# match. MMCV_FIND_LINKS names a folder with compiled wheels of mmcv. INSTALLER=pip avoids uv. A
# second run reuses what is installed.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mode=lite
ops=standin
keep_torch=no
cpu=no
dry_run=no
for argument in "$@"; do
    case "$argument" in
        --lite) mode=lite ;;
        --full) mode=full ;;
        --compiled) mode=full; ops=compiled ;;
        --cpu) cpu=yes ;;
        --no-torch) keep_torch=yes ;;
        --dry-run) dry_run=yes ;;
        -h | --help) sed -n '2,17s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
        *) echo "setup_env: unknown argument $argument; see --help" >&2; exit 2 ;;
    esac
done
if [ -n "${MMCV_FIND_LINKS:-}" ] && [ "$mode" = full ]; then ops=compiled; fi

say() { printf '\n[setup] %s\n' "$*"; }
die() { printf '\n[setup] failed: %s\n' "$*" >&2; exit 1; }
run() { if [ "$dry_run" = yes ]; then echo "would run: $*"; else "$@"; fi; }

# ---- the environment -------------------------------------------------------------------
python_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null; }
fits() { case "$(python_version "$1")" in 3.9 | 3.1[0-4]) true ;; *) false ;; esac }
base=${PYTHON:-python3}
if [ -z "${PYTHON:-}" ] && ! fits python3; then
    for candidate in python3.13 python3.12 python3.11 python3.10 python3.9 python3.14; do
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
fits "$probe" || die "Python 3.9 to 3.14 is needed, $probe is $version; $remedy"
# The newest torch for Python 3.9 is 2.8.
if [ "$version" = 3.9 ]; then torch=2.8.0; else torch=2.11.0; fi
torch=${TORCH_VERSION:-$torch}
case "$torch" in
    2.*.*) ;;
    *) die "TORCH_VERSION=$torch must be a full version, 2.x.y" ;;
esac
minor=${torch#2.}
vision=${TORCHVISION_VERSION:-0.$((${minor%%.*} + 15)).${minor#*.}} # 2.N.P goes with 0.(N+15).P

no_bytecode=no
if [ -n "${PYTHONDONTWRITEBYTECODE:-}" ]; then no_bytecode=yes; fi
unset PYTHONDONTWRITEBYTECODE # the checks below import PyTorch several times

# ---- is everything installed already? ----------------------------------------------------
stamp=$environment/.cotap_mm_$mode
recipe=$(cat "$root"/requirements/*.txt "$root/setup.py" "${BASH_SOURCE[0]}" | cksum)
recipe="$recipe torch=$torch vision=$vision keep=$keep_torch cpu=$cpu ops=$ops root=$root"
check='import cotap_mm.models'
if [ "$mode" = full ]; then check='import cotap_mm.models, mmcv.ops, mmseg.models, mmdet.models'; fi
# Finding the packages takes a tenth of a second, importing them many seconds.
packages='cotap_mm torch torchvision mmengine mmcv mmpretrain'
if [ "$mode" = full ]; then packages="$packages mmseg mmdet pytest ruff mypy"; fi
present="import importlib.util, sys
sys.exit(not all(map(importlib.util.find_spec, '$packages'.split())))"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$recipe" ] && "$python" -W ignore -c "$present" 2> /dev/null; then
    say "$environment is ready (Python $version, $mode)"
    exit 0
fi

size='5 GB'
if [ "$mode" = full ]; then size='6 GB'; fi
if [ "$cpu" = yes ]; then size='1 to 2 GB'; fi
say "setting up $environment with Python $version ($mode): about $size on disk, 1 to 10 minutes, mostly downloads"
if [ "$cpu" = no ] && [ "$keep_torch" = no ] && [ "$(uname -sm)" = 'Linux x86_64' ] && [ ! -e /dev/nvidiactl ]; then
    echo "        no NVIDIA GPU found: $(basename "$0") --cpu installs PyTorch without CUDA, 4 GB less"
fi
if [ ! -x "$python" ]; then
    # The next run would take an incomplete folder for an environment.
    run "$base" -m venv "$environment" || {
        rm -rf "$environment"
        die "cannot create a virtual environment; on Debian: apt install python$version-venv"
    }
fi
pip() { run "$python" -m pip --disable-pip-version-check "$@"; }
python_says() { [ -x "$python" ] && "$python" -W ignore -c "$1" 2> /dev/null; }
version_of() { python_says "import importlib.metadata; print(importlib.metadata.version('$1'))"; }
installed() { version_of "$1" > /dev/null; }

# ---- uv installs faster than pip; pip is used where uv is missing or fails -------------------
find_uv() {
    if [ "${INSTALLER:-uv}" != uv ]; then return 1; fi
    if command -v uv > /dev/null; then uv=uv; return; fi
    if [ ! -x "$environment/bin/uv" ]; then
        run "$python" -m pip --disable-pip-version-check install -q uv 2> /dev/null || return 1
    fi
    uv=$environment/bin/uv
}
uv=
if find_uv; then
    # uv does not read pip's settings; an index inside an organization must stay in use.
    index=${PIP_INDEX_URL:-}
    if [ -z "$index" ] && [ "$dry_run" = no ]; then
        index=$("$python" -m pip config get global.index-url 2> /dev/null || true)
    fi
    if [ -n "$index" ]; then export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"; fi
    export UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-180}" UV_PYTHON_DOWNLOADS=never
elif [ "$cpu" = yes ]; then
    die '--cpu needs uv, which knows where PyTorch keeps its builds: install uv, or leave --cpu out'
fi
install() { # packages and options that pip and uv share
    if [ -n "$uv" ]; then
        if run "$uv" pip install -q --python "$python" "$@"; then return 0; fi
        if [[ " $* " == *' --torch-backend '* ]]; then return 1; fi
        say 'uv failed (message above): trying pip'
    fi
    pip install -q "$@"
}
uninstall() { pip uninstall -q -y "$@"; }

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

install 'setuptools<81' wheel || die 'neither uv nor pip can install anything (message above)'
if [ "$keep_torch" = yes ]; then
    has_torch any any || die "--no-torch needs torch >= 2.1 and its torchvision in $environment"
    say "keeping the installed torch"
elif has_torch "$torch" "$vision"; then
    say "torch $torch and torchvision $vision are installed"
elif [ -z "${TORCH_VERSION:-}${TORCHVISION_VERSION:-}" ] && has_torch any any; then
    say "keeping torch $(version_of torch) and torchvision $(version_of torchvision)"
else
    if [ "$version" = 3.9 ] && [ -z "${TORCH_VERSION:-}" ]; then
        say "Python 3.9: torch $torch is the last release that supports it"
    fi
    backend=()
    if [ "$cpu" = yes ]; then backend=(--torch-backend cpu); fi
    say "torch $torch and torchvision $vision"
    install ${backend[@]+"${backend[@]}"} "torch==$torch" "torchvision==$vision" \
        || die "torch $torch or torchvision $vision cannot be installed for Python $version (message above)"
fi
# No later step may replace torch. Before 2.3 it does not support numpy 2, before 2.5 transformers 5,
# and 2.1, which imports transformers itself, needs transformers 4.48.
pins=$(mktemp)
trap 'rm -f "$pins"' EXIT
if [ "$dry_run" = no ]; then
    python_says 'import torch, torchvision
from importlib.metadata import version
for name in ("torch", "torchvision"): print(f"{name}=={version(name)}")
number = tuple(map(int, torch.__version__.split(".")[:2]))
if number < (2, 3): print("numpy<2")
if number < (2, 5): print("transformers>=4.40,<4.49" if number < (2, 2) else "transformers>=4.40,<5")' > "$pins" \
        || die 'torch and torchvision are installed, but do not import together'
fi

# ---- MMEngine, MMPretrain and small packages -------------------------------------------------
requirements=(-r "$root/requirements/runtime.txt")
files=("$root/requirements/mminstall.txt")
if [ "$mode" = full ]; then
    requirements+=(-r "$root/requirements/tests.txt")
    files+=("$root/requirements/mmseg.txt" "$root/requirements/mmdet.txt")
fi
while read -r line; do # keep a maintained fork, which has the same import name
    case "$line" in '' | '#'* | mmcv*) continue ;; esac
    name=${line%%[<>=]*}
    fork=onedl-$name
    if [ "$name" = mmdet ]; then fork=onedl-mmdetection; fi
    if [ "${name#mm}" != "$name" ] && installed "$fork"; then
        say "keeping $fork instead of $name"
    else
        requirements+=("$line")
    fi
done < <(cat "${files[@]}")
say "MMEngine, MMPretrain and small packages"
install -c "$pins" "${requirements[@]}" || die 'a package cannot be installed (message above)'
if [ "$dry_run" = no ] && ! python_says 'import cv2'; then
    say "OpenCV does not import (no graphics libraries?): installing its headless build"
    uninstall opencv-python
    pip install -q -c "$pins" --force-reinstall --no-deps opencv-python-headless
fi

# ---- mmcv: lite or compiled; not both, they share a folder -------------------------------------
compiled_works() { # the stand-in of cotap_mm is a file of Python
    python_says 'import sys, torch, mmcv._ext
sys.exit(mmcv._ext.__file__.endswith(".py"))'
}
mmcv_version=2.1.0
without_mmcv() { # since both own the folder mmcv/, removing one breaks the other
    for name in mmcv mmcv-lite; do
        if installed "$name"; then uninstall "$name"; fi
    done
}
build_mmcv() {
    say "mmcv $mmcv_version from source: 5 to 15 minutes on all cores"
    local compiler=${CXX:-c++}
    command -v "$compiler" > /dev/null \
        || die "compiling mmcv needs a C++ compiler (on Debian: apt install build-essential); --full needs none"
    "$probe" -c 'import os, sys, sysconfig
sys.exit(not os.path.isfile(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' \
        || die "compiling mmcv needs the Python headers (on Debian: apt install python$version-dev); --full needs none"
    pip install -q ninja psutil
    local settings=(MMCV_WITH_OPS=1 "MAX_JOBS=$(getconf _NPROCESSORS_ONLN)" 'CFLAGS=-O1 -g0')
    if ! command -v "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" nvcc > /dev/null; then
        echo "no CUDA compiler (nvcc) found: building operators for the CPU only"
        settings+=(CUDA_VISIBLE_DEVICES=)
    fi
    run env "${settings[@]}" \
        "$python" -m pip --disable-pip-version-check install -q --no-build-isolation --no-deps \
        --no-binary mmcv --no-cache-dir "mmcv==$mmcv_version" \
        || die "mmcv did not compile (messages above); --full needs no compiler"
}
install_compiled() {
    without_mmcv
    local folder=${MMCV_FIND_LINKS:-}
    if [ "$dry_run" = no ] && [ -d "$folder" ] && "$python" -m pip --disable-pip-version-check install -q --no-deps \
        --no-index --only-binary :all: --find-links "$folder" "mmcv==$mmcv_version" 2> /dev/null; then
        if compiled_works; then
            say "mmcv $mmcv_version: installed a matching wheel from $folder"
            return
        fi
        uninstall mmcv
    fi
    build_mmcv
}
if installed mmcv && installed mmcv-lite; then
    say "mmcv and mmcv-lite are both installed and overwrite each other: removing both"
    without_mmcv
fi
if compiled_works; then
    say "mmcv with compiled operators is installed"
elif [ "$ops" = compiled ]; then
    if installed onedl-mmcv; then
        die 'onedl-mmcv is installed without working operators: build it with them, or uninstall it and run this again'
    fi
    install_compiled
elif python_says 'import mmcv' && { installed mmcv-lite || installed onedl-mmcv; }; then
    say "mmcv without compiled operators is installed"
else
    say "mmcv-lite $mmcv_version"
    without_mmcv
    install -c "$pins" "mmcv-lite==$mmcv_version" \
        || die "mmcv-lite $mmcv_version cannot be installed (message above)"
fi

# uv leaves compiling to the first import. With PYTHONDONTWRITEBYTECODE, as in many containers,
# every process would compile again what it imports.
if [ "$no_bytecode" = yes ] && [ -n "$uv" ]; then
    say "compiling the packages to bytecode: 1 to 2 minutes"
    run "$python" -m compileall -qq -j 0 \
        "$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')" || true
fi

# ---- this package --------------------------------------------------------------------------------
say "cotap_mm itself, editable"
pip install -q --no-deps --no-build-isolation -e "$root" || die 'cotap_mm cannot be installed (message above)'
if [ "$dry_run" = yes ]; then exit 0; fi
cp "$root/cotap_mm/assets/cotap_mm_mmcv_lite.pth" \
    "$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')" # as a wheel does
"$python" -W ignore -c "$check" || die "the packages are installed, but '$check' does not run (message above)"
printf '%s' "$recipe" > "$stamp"
say "ready: $environment"
if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
    echo "        make uses it automatically; for other commands: source $environment/bin/activate"
fi
