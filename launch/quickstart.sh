#!/usr/bin/env bash
# From nothing to a trained small Qwen-VL and its report: set-up, embedded data, three stages, evaluation. Interrupt it at any
# time and run it again: it goes on where it was. `--long` trains nine times as long (about three hours on two cores).
source "$(dirname "$0")/environment.sh"

workdir=runs/tiny
options=()
for option in "$@"; do
  case $option in
    --long) workdir=runs/tiny-long; options+=(--scale-steps 9) ;;
    *) options+=("$option") ;;
  esac
done

qwenvl data make synthetic
qwenvl train tiny --workdir "$workdir" "${options[@]}"
