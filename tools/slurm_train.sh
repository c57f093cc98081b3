#!/usr/bin/env bash
# Train under Slurm:
#   GPUS=16 GPUS_PER_NODE=8 tools/slurm_train.sh PARTITION JOB_NAME CONFIG [arguments of tools/train.py]
# SRUN_ARGS holds further arguments of srun. Submitted with sbatch, the job needs --requeue.
set -euo pipefail

if [ "$#" -lt 3 ]; then
    echo "usage: [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=8] $0 PARTITION JOB_NAME CONFIG [...]" >&2
    exit 2
fi
partition=$1
job_name=$2
config=$3
shift 3
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
gpus=${GPUS:-8}
gpus_per_node=${GPUS_PER_NODE:-8}
if [ "$gpus" -lt "$gpus_per_node" ]; then
    gpus_per_node=$gpus
fi

# GRACE seconds before the end of its time, or before it is moved away, the training gets SIGUSR1; it
# saves and exits with 75, and goes on as soon as there is a machine again.
status=0
# shellcheck disable=SC2086  # SRUN_ARGS is a list of words on purpose
srun -p "$partition" --job-name="$job_name" \
    --gres=gpu:"$gpus_per_node" --ntasks="$gpus" --ntasks-per-node="$gpus_per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-8}" --kill-on-bad-exit=1 --signal=USR1@"${GRACE:-120}" \
    ${SRUN_ARGS:-} "${PYTHON:-python}" -u "$here/train.py" "$config" --launcher slurm "$@" || status=$?
if [ "$status" -ne 75 ]; then
    exit "$status"
fi
if [ -n "${SLURM_JOB_ID:-}" ]; then  # within sbatch: the same job again; train.py resumes by itself
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exec "$0" "$partition" "$job_name" "$config" "$@" --resume
