#!/bin/bash
# A run on several nodes under Slurm, saved before the time is up, requeued, and gone on with:
#
#   sbatch examples/slurm.sh --config paper/qwen3-8b-base --accelerate_config zero3 --output_dir /shared/runs/mine
#
# All arguments are options of `htpo train`. `output_dir` and HF_HOME lie on storage that all nodes share.
#SBATCH --job-name=htpo
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1        # one `htpo train` on each node, which starts a process for each GPU
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@600        # seconds before the end: more than an optimizer step and a checkpoint take
#SBATCH --requeue
#SBATCH --open-mode=append         # one log for all starts
#SBATCH --output=%x-%j.log

set -u
: "${SLURM_JOB_ID:?is not set. Start this script by sbatch.}"
per_node=${PROCESSES_PER_NODE:-${SLURM_GPUS_ON_NODE:?is not set. Ask Slurm for GPUs, or set PROCESSES_PER_NODE.}}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000)) # jobs that share a node have ports of their own

# shellcheck disable=SC2016  # each task has its own SLURM_NODEID
srun --kill-on-bad-exit=0 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
    bash -c 'exec htpo train "$@" --machine_rank "$SLURM_NODEID"' htpo "$@" \
    --num_machines "$SLURM_NNODES" --num_processes $((SLURM_NNODES * per_node)) \
    --main_process_ip "$first" --main_process_port "$port" --resume_from_checkpoint auto &
step=$!

warned=
trap 'warned=yes; kill -USR1 "$step"' USR1 # of the time limit; srun passes it on to the tasks
trap 'kill -TERM "$step"' TERM             # of scancel or preemption, after which Slurm requeues by itself
wait "$step"
code=$?
while kill -0 "$step" 2> /dev/null; do # a signal ends `wait`, not the step
    wait "$step"
    code=$?
done

if [ -n "$warned" ] && [ "$code" -eq $((128 + 10)) ]; then # stopped by SIGUSR1, with a checkpoint
    echo "Job $SLURM_JOB_ID goes on from its checkpoint."
    scontrol requeue "$SLURM_JOB_ID"
    exit
fi
# 0: the run is complete. 2: an option must be mended, which no second start will do. Others: see the log.
exit "$code"
