#!/usr/bin/env bash
# Train under Slurm:
#   GPUS=16 GPUS_PER_NODE=8 tools/slurm_train.sh PARTITION JOB_NAME CONFIG [arguments of tools/train.py]
# SRUN_ARGS contains additional arguments of srun.
#
# GRACE seconds (default 120) before its time limit, the training receives SIGUSR1, saves, exits with
# status 75, and is restarted. Without an allocation, this script requests the signal from srun.
# Within a job of sbatch, srun cannot send it: submit the job with
#   sbatch --requeue --signal=USR1@120 job.sh
# without "B:" before USR1, which would signal only the shell of the job. To receive the signal also
# before a preemption, the cluster needs PreemptParameters=send_user_signal and a GraceTime.
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

signal_args=()
if [ -z "${SLURM_JOB_ID:-}" ]; then
    signal_args=(--signal=USR1@"${GRACE:-120}")
elif [ -z "${SBATCH_SIGNAL:-}" ]; then  # the options of sbatch are unknown here
    echo "warning: this job will be stopped at its time limit without saving, unless it was submitted" \
        "with sbatch --requeue --signal=USR1@120 (without B:). Setting SBATCH_SIGNAL=USR1@120 in the" \
        "environment of sbatch has the same effect and avoids this warning." >&2
fi

status=0
# shellcheck disable=SC2086  # SRUN_ARGS is a list of words on purpose
srun -p "$partition" --job-name="$job_name" \
    --gres=gpu:"$gpus_per_node" --ntasks="$gpus" --ntasks-per-node="$gpus_per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-8}" --kill-on-bad-exit=1 ${signal_args[@]+"${signal_args[@]}"} \
    ${SRUN_ARGS:-} "${PYTHON:-python}" -u "$here/train.py" "$config" --launcher slurm "$@" || status=$?
if [ "$status" -ne 75 ]; then
    exit "$status"
fi
if [ -n "${SLURM_JOB_ID:-}" ]; then  # within sbatch: requeue the job; train.py resumes automatically
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exec "$0" "$partition" "$job_name" "$config" "$@" --resume
