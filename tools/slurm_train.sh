#!/usr/bin/env bash
# Train under Slurm:
#   GPUS=16 GPUS_PER_NODE=8 tools/slurm_train.sh PARTITION JOB_NAME CONFIG [arguments of tools/train.py]
# SRUN_ARGS holds further arguments of srun.
#
# GRACE seconds (120) before the end of its time the training gets SIGUSR1. It saves, exits with 75,
# and is started again. Without an allocation this script asks srun for that signal. In a job of
# sbatch, srun cannot: submit it with
#   sbatch --requeue --signal=USR1@120 job.sh
# without "B:" before USR1, which would signal the shell of the job only. To get the signal before a
# preemption as well, the cluster needs PreemptParameters=send_user_signal and a GraceTime.
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
elif [ -z "${SBATCH_SIGNAL:-}" ]; then  # it cannot be told whether sbatch had the option
    echo "warning: this job is stopped at the end of its time without saving, unless it was submitted" \
        "with sbatch --requeue --signal=USR1@120 (without B:). SBATCH_SIGNAL=USR1@120 in the" \
        "environment of sbatch does the same, and avoids this warning." >&2
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
if [ -n "${SLURM_JOB_ID:-}" ]; then  # within sbatch: the same job again; train.py resumes by itself
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exec "$0" "$partition" "$job_name" "$config" "$@" --resume
