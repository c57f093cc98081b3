#!/usr/bin/env bash
# Run the fast tests with several versions of Python and PyTorch, each in an environment of its own.
#
#   tools/test_matrix.sh                      all combinations of the list
#   tools/test_matrix.sh 3.9:2.1.2            only this one (Python:torch)
#   tools/test_matrix.sh 3.11:2.8.0:onedl     with the onedl forks of the OpenMMLab packages
#   tools/test_matrix.sh --list               print the list, for CI
#
# Needs uv, and the Pythons (uv looks for them in PATH, and downloads what is missing unless
# UV_PYTHON_DOWNLOADS=never). An environment takes 6 GB and is removed afterwards, unless KEEP=1.
# MATRIX_DIR is where they are made; PYTEST_ARGS is passed to pytest. Logs and a summary are written
# to work_dirs/matrix.
set -euo pipefail

combinations=(3.9:2.1.2 3.10:2.4.1 3.11:2.8.0 3.12:2.11.0 3.13:2.14.1 3.11:2.8.0:onedl)
forks=(onedl-mmengine onedl-mmpretrain onedl-mmsegmentation onedl-mmdetection)

case "${1:-}" in
    -h | --help) sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    --list) printf '%s\n' "${combinations[@]}"; exit 0 ;;
    -*) echo "test_matrix: unknown argument $1; see --help" >&2; exit 2 ;;
esac
for combination in "$@"; do
    if [[ ! $combination =~ ^3\.[0-9]+:2\.[0-9]+\.[0-9]+(:onedl)?$ ]]; then
        echo "test_matrix: expected PYTHON:TORCH such as 3.12:2.11.0, got $combination" >&2
        exit 2
    fi
done
if [ $# -gt 0 ]; then combinations=("$@"); fi
command -v uv > /dev/null || { echo 'test_matrix: uv is missing: pip install uv' >&2; exit 1; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
base=${MATRIX_DIR:-$(mktemp -d)}
logs=$root/work_dirs/matrix
mkdir -p "$logs" "$base"
overrides=$base/overrides.txt # onedl-mmcv comes as source, so mmcv-lite takes its place
printf '%s; python_version < "3"\n' onedl-mmcv mmengine > "$overrides" # mmcv-lite requires mmengine
cd "$root"

versions() { # of the installed packages, in one line
    "$1" - << 'PY'
from importlib.metadata import PackageNotFoundError, version
names = ['torch', 'torchvision', 'numpy', 'mmengine', 'mmcv-lite', 'mmpretrain', 'mmsegmentation', 'mmdet']
forks = ['onedl-mmengine', 'onedl-mmcv', 'onedl-mmpretrain', 'onedl-mmsegmentation', 'onedl-mmdetection']
found = []
for name in names + forks:
    try:
        found.append(f'{name} {version(name)}')
    except PackageNotFoundError:
        pass
print(', '.join(found))
PY
}

set_up() { # $1: environment, $2: torch, $3: onedl or nothing
    if [ -n "$3" ]; then
        uv pip install -q --python "$1/bin/python" "${forks[@]}" mmcv-lite==2.1.0 \
            --override "$overrides"
    fi
    VIRTUAL_ENV=$1 TORCH_VERSION=$2 tools/setup_env.sh --full
}

failed=0
rows=()
for combination in "${combinations[@]}"; do
    IFS=: read -r python torch onedl <<< "$combination:"
    onedl=${onedl%:}
    name=py$python-torch$torch${onedl:+-$onedl}
    environment=$base/$name
    log=$logs/$name.log
    echo "== $name (log: ${log#"$root/"})"
    result='environment not built'
    installed=
    if uv venv -q --seed --clear --python "$python" "$environment" > "$log" 2>&1 \
        && set_up "$environment" "$torch" "$onedl" >> "$log" 2>&1; then
        installed=$(versions "$environment/bin/python")
        VIRTUAL_ENV=$environment TORCH_VERSION=$torch make test-fast >> "$log" 2>&1 || true
        result=$(grep -E '^(=+ )?[0-9]+ (passed|failed|skipped|error).* in [0-9]' "$log" | tail -1 | tr -d '=' | sed 's/^ *//; s/ *$//') || true
        result=${result:-no test ran}
    fi
    case "$result" in *failed* | *error* | *no\ test* | *not\ built*) failed=1 ;; esac
    echo "   $result"
    rows+=("| $python | ${onedl:-OpenMMLab} | $installed | $result |")
    if [ -z "${KEEP:-}" ]; then rm -rf "$environment"; fi
done
{
    echo "$(date +%F), $(uname -sm)"
    echo
    echo '| Python | libraries | versions | fast tests |'
    echo '|---|---|---|---|'
    printf '%s\n' "${rows[@]}"
} | tee "$logs/summary.md"
exit "$failed"
