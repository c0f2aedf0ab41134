#!/usr/bin/env bash
# Trains on the GPUs of a Slurm cluster. From the repository's root, on a file system that all nodes see:
#
#   sbatch --nodes=4 launch/slurm.sh --config=configs/mlm.py:v3_base --config.data.paths="('data/rows',)" \
#       --workdir=runs/base
#
# The program is .venv/bin/python (pip install -r requirements-cuda.txt). One process a GPU, because jax gives each
# process under Slurm one device, the one numbered SLURM_LOCALID; so every process of a node must see all its GPUs: no
# --gpus-per-task, no --gpu-bind. jax finds the coordinator by itself.
#
# Two minutes before the time limit, when preempted, or after
#   scancel --signal=TERM JOBID
# train.py saves its state and ends with 75; the job is queued again and goes on. So it is after 5 (a peer died) and
# after a signal; after any other code it is not. To stop for good:
#   scontrol update JobId=JOBID Requeue=0 && scancel --signal=TERM JOBID
#
#SBATCH --job-name=deberta
#SBATCH --dependency=singleton
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -uo pipefail

readonly RESTARTS=100 # the time limit counts too

# srun reports the highest code of its tasks. 1 to 4 are lifted above all others, so that the one that failed is heard
# and not its peers' 5. Slurm signals every process of a step: this shell must outlive train.py, which saves.
# shellcheck disable=SC2016
readonly TASK='trap : TERM; "$@"; code=$?; case $code in [1-4]) exit $((code + 250)) ;; esac; exit $code'

srun --kill-on-bad-exit=0 --wait=0 bash -c "$TASK" - .venv/bin/python train.py "$@"
code=$?
((code < 251)) || code=$((code - 250))

if ((code == 5 || code == 75 || code > 128)) && ((${SLURM_RESTART_COUNT:-0} < RESTARTS)); then
  echo "slurm.sh: ended with $code, queued again" >&2
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
