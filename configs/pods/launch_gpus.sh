#!/usr/bin/env bash
# Trains on several GPUs without a scheduler: one process per machine, or one per GPU.
#
#   one machine, all its GPUs (one process sees them all; no launcher is needed):
#     python -m streamzoo.train --config NAME --set loop.batch=64
#   several machines, on each of them, with its own number INDEX from 0:
#     configs/pods/launch_gpus.sh COORDINATOR:PORT MACHINES INDEX --config NAME --set loop.batch=64
#   the same with one process per GPU:
#     PER_GPU=8 configs/pods/launch_gpus.sh COORDINATOR:PORT MACHINES INDEX --config NAME ...
#
# COORDINATOR is machine 0. All machines need the same code and data, and a loop.out that they share.
# Ctrl-C or SIGTERM lets every process finish its step; the same command then goes on.
set -euo pipefail
if [ $# -lt 4 ]; then
  echo "usage: $0 COORDINATOR:PORT MACHINES INDEX --config NAME [--set A.B=C ...]" >&2
  exit 2
fi
address=$1 machines=$2 index=$3
shift 3
each=${PER_GPU:-1}
export JAX_COORDINATOR_ADDRESS=$address JAX_NUM_PROCESSES=$((machines * each))
pids=()
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT
for ((i = 0; i < each; i++)); do
  if [ "$each" -gt 1 ]; then export CUDA_VISIBLE_DEVICES=$i; fi
  JAX_PROCESS_ID=$((index * each + i)) python -m streamzoo.train --distributed "$@" &
  pids+=($!)
done
status=0
for pid in "${pids[@]}"; do
  wait "$pid" || status=$?
  # a trapped signal ends `wait` early: then wait for the process itself
  while kill -0 "$pid" 2>/dev/null; do wait "$pid" || status=$?; done
done
exit $status
