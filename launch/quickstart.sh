#!/usr/bin/env bash
# From nothing to a trained small model and its report: set-up, embedded data, all stages, evaluation. Interrupt it at any
# time and run it again: it goes on where it was.
#   bash launch/quickstart.sh [tiny | tiny-qwen2] [--long] [--field.name value ...]
# `tiny` (Qwen-VL) where no recipe is named; `--long` trains it seven times as long (some two hours on two cores), `tiny-qwen2`
# six times (two to three hours).
source "$(dirname "$0")/environment.sh"

recipe=tiny
long=
options=()
for option in "$@"; do
  case $option in
    tiny | tiny-qwen2) recipe=$option ;;
    --long) long=-long ;;
    *) options+=("$option") ;;
  esac
done
case $recipe in
  tiny) world=synthetic longer=7 ;;
  tiny-qwen2) world=native longer=6 ;;
esac
[[ $long ]] && options=(--scale-steps "$longer" ${options[@]+"${options[@]}"})

# Without XLA's YNN matmul fusions a language step of `tiny` took 0.93 of the time on two cores (jax 0.10.2, rows of 768).
export XLA_FLAGS="--xla_cpu_experimental_ynn_fusion_type= ${XLA_FLAGS:-}"

# A step allocates some 100 MB anew. On 2 MB pages that glibc keeps, it took 0.88 to 0.94 of the time.
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184

qwenvl data make "$world"
qwenvl train "$recipe" --workdir "runs/$recipe$long" ${options[@]+"${options[@]}"}
