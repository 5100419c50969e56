#!/usr/bin/env bash
# From nothing to a trained small Qwen-VL and its report: set-up, embedded data, all stages, evaluation. Interrupt it at any
# time and run it again: it goes on where it was. `--long` trains nine times as long (up to three hours on two cores).
source "$(dirname "$0")/environment.sh"

workdir=runs/tiny
options=()
for option in "$@"; do
  case $option in
    --long) workdir=runs/tiny-long; options+=(--scale-steps 9) ;;
    *) options+=("$option") ;;
  esac
done

# Without XLA's YNN matmul fusions a language step of `tiny` took 0.93 of the time on two cores (jax 0.10.2, rows of 768).
export XLA_FLAGS="--xla_cpu_experimental_ynn_fusion_type= ${XLA_FLAGS:-}"

qwenvl data make synthetic
qwenvl train tiny --workdir "$workdir" ${options[@]+"${options[@]}"}
