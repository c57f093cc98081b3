#!/usr/bin/env bash
# Test on several GPUs (or, without a GPU, on several CPU processes):
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of tools/test.py]
# For several machines, see tools/dist_train.sh.
set -euo pipefail

if [ "$#" -lt 3 ]; then
    echo "usage: $0 CONFIG CHECKPOINT GPUS [arguments of tools/test.py]" >&2
    exit 2
fi
config=$1
checkpoint=$2
gpus=$3
shift 3
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

TOOL=test.py exec "$here/dist_train.sh" "$config" "$gpus" "$checkpoint" "$@"
