#!/usr/bin/env bash
# Trains under SLURM, one process on each GPU: `sbatch launch/cluster/slurm.sh qwen2-vl-2b --workdir /shared/runs/mine`, from a
# checkout and with a folder of the run that all nodes see. Arguments are those of `qwenvl train`.
# A job that is taken away, or whose time ends, saves and is put into the queue again; so is one that lost a node.
#
#SBATCH --job-name=qwenvl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=qwenvl-%j.log
most_restarts=${MOST_RESTARTS:-100}
export QWENVL_ACCELERATOR=${QWENVL_ACCELERATOR-cuda12} # empty: CPUs

set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?start it with sbatch}"
source launch/environment.sh # once, before all nodes start

code=0
srun qwenvl train "$@" --coordinator auto || code=$?
case $code in
  75 | 134 | 137 | 143) # as docs/reliability.md has it: stopped from outside. The rest would end in the same way again
    if [ "${SLURM_RESTART_COUNT:-0}" -lt "$most_restarts" ]; then
      echo "job $SLURM_JOB_ID goes on from its last checkpoint: restart $((${SLURM_RESTART_COUNT:-0} + 1)) of $most_restarts"
      scontrol requeue "$SLURM_JOB_ID"
      exit 0
    fi
    echo "job $SLURM_JOB_ID was restarted $most_restarts times: look why, then submit it again" >&2
    ;;
esac
exit "$code"
