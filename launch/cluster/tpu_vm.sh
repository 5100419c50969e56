#!/usr/bin/env bash
# Trains on Cloud TPU VMs, one process on each host:
#   PROJECT=... ZONE=... bash launch/cluster/tpu_vm.sh qwen-vl --stage multitask --workdir /mnt/runs/mine
# Arguments are those of `qwenvl train`; the folder of the run must be one that all hosts see (a mounted bucket or disk), as must
# `data.root`. The checkout is copied as it was committed. TPUs that are taken away are asked for again, and the run goes on from
# its last checkpoint. It ends when the run ends; the TPUs stay until `bash launch/cluster/tpu_vm.sh delete`.
project=${PROJECT:?the project that pays}
zone=${ZONE:?a zone that has the accelerator}
name=${NAME:-qwenvl}
accelerator=${ACCELERATOR:-v5p-128}
runtime=${RUNTIME:-v2-alpha-tpuv5}
options=${OPTIONS:-} # --spot, or --reserved
most_restarts=${MOST_RESTARTS:-100}
pause=${PAUSE:-60} # seconds between two looks

set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -gt 0 ] || { echo "give a recipe, and what else \`qwenvl train\` takes" >&2; exit 2; }

tpus() { gcloud compute tpus "$@" --project "$project" --zone "$zone"; }
state() { tpus queued-resources describe "$name" --format 'value(state.state)' 2>/dev/null || echo ABSENT; }
on_all_hosts() { tpus tpu-vm ssh "$name" --worker=all --command "$1"; }

acquire() { # returns when the TPUs run
  local now
  while now=$(state) && [ "$now" != ACTIVE ]; do
    case $now in
      ABSENT)
        # shellcheck disable=SC2086 # several options
        tpus queued-resources create "$name" --node-id "$name" --accelerator-type "$accelerator" \
          --runtime-version "$runtime" $options
        ;;
      SUSPENDED | FAILED) tpus queued-resources delete "$name" --force --quiet ;;
    esac
    sleep "$pause"
  done
}

install() {
  local archive
  archive=$(mktemp)
  git archive --format tar.gz --output "$archive" HEAD
  tpus tpu-vm scp "$archive" "$name:qwenvl_jax.tar.gz" --worker=all
  rm "$archive"
  on_all_hosts "mkdir -p qwenvl_jax && tar -xzf qwenvl_jax.tar.gz -C qwenvl_jax && \
cd qwenvl_jax && QWENVL_ACCELERATOR=tpu bash -c 'source launch/environment.sh'"
}

if [ "$1" = delete ]; then
  tpus queued-resources delete "$name" --force --quiet
  exit
fi
printf -v arguments '%q ' "$@"
for ((restart = 0; restart <= most_restarts; restart++)); do
  acquire
  # ssh to many hosts does not tell how the command ended, so the hosts do; none of them does where the TPUs are taken away.
  { install && on_all_hosts "cd qwenvl_jax; .venv/bin/qwenvl train ${arguments}--coordinator auto; echo qwenvl ended: \$?"; } |
    tee "$name.log" || true
  codes=$(sed -n 's/.*qwenvl ended: //p' "$name.log" | sort -u)
  [ "$codes" != 0 ] || exit 0
  if mistakes=$(grep -vxE '0|75|134|137|143' <<< "$codes" | grep .); then # these, or nothing: stopped from outside
    echo "the run ended with $mistakes: see $name.log" >&2
    exit 2
  fi
  echo "the TPUs or a process were lost: restart $((restart + 1)) of $most_restarts" >&2
done
echo "restarted $most_restarts times: see $name.log" >&2
exit 1
