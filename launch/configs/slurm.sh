#!/usr/bin/env bash
# Train on several nodes of a SLURM cluster: one launcher a node, one process a GPU.
#   sbatch --nodes 8 --gpus-per-node 8 launch/configs/slurm.sh launch/configs/zero2.yaml \
#       -m launch.train_dynamics carracing --optimizer adamw --run runs/big/dynamics
# Run from the checkout's root, which all nodes must see, as they must see the run's folder. Two minutes before its time is
# over the job gets SIGTERM: the run ends its step and saves (its launchers grant 30 seconds), and the job puts itself in
# the queue again, to go on from there.
#SBATCH --job-name=reverie
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

config=$1
shift
read -r head_node < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
gpus=${SLURM_GPUS_ON_NODE:-1}
port=$((20000 + SLURM_JOB_ID % 20000))

# Single quotes: SLURM_NODEID is another on each node.
srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_ON_NODE:-1}" bash -c '
    exec "${PYTHON:-.venv/bin/python}" -m accelerate.commands.launch \
        --config_file "$1" --num_machines "$SLURM_NNODES" --machine_rank "$SLURM_NODEID" \
        --num_processes "$2" --main_process_ip "$3" --main_process_port "$4" "${@:5}"
' launcher "$config" $((gpus * SLURM_NNODES)) "$head_node" "$port" "$@" &
step=$!

again() {
    kill -TERM "$step"
    wait "$step" || true
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
}
trap again TERM
wait "$step"
