#!/usr/bin/env bash
# Writes a JobSet that trains on TPU slices of GKE, one process on each host:
#   docker build -f launch/cluster/Dockerfile -t IMAGE . && docker push IMAGE
#   IMAGE=... BUCKET=... bash launch/cluster/gke.sh qwen-vl --stage multitask | kubectl apply -f -
# Arguments are those of `qwenvl train`; `data.root` and the folder of the run lie below /bucket. The cluster needs the JobSet
# controller and, for the bucket, the Cloud Storage FUSE driver. What stops a run from outside starts all hosts again, which
# go on from the last checkpoint; a mistake (exit code 2) ends the JobSet.
name=${NAME:-qwenvl}
image=${IMAGE:?the image that launch/cluster/Dockerfile makes}
bucket=${BUCKET:?the bucket with data and runs, without gs://}
accelerator=${ACCELERATOR:-tpu-v5p-slice}
topology=${TOPOLOGY:-4x4x4}
chips_per_host=${CHIPS_PER_HOST:-4}
slices=${SLICES:-1}
service_account=${SERVICE_ACCOUNT:-default}
most_restarts=${MOST_RESTARTS:-100}
seconds_to_save=${SECONDS_TO_SAVE:-180}

set -euo pipefail
[ $# -gt 0 ] || { echo "give a recipe, and what else \`qwenvl train\` takes" >&2; exit 2; }
chips=$((${topology//x/*}))
if [ $((chips % chips_per_host)) -ne 0 ]; then
  echo "topology $topology has $chips chips, which are not whole hosts of $chips_per_host: set TOPOLOGY or CHIPS_PER_HOST" >&2
  exit 2
fi
hosts=$((chips / chips_per_host))
quoted=""
for argument in train "$@" --coordinator auto --workdir "/bucket/runs/$name" --data.root /bucket/data; do
  argument=${argument//\\/\\\\}
  quoted+="${quoted:+, }\"${argument//\"/\\\"}\""
done

cat <<JOBSET
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: $most_restarts
    rules:
    - action: FailJobSet
      onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
  - name: slice
    replicas: $slices
    template:
      spec:
        completionMode: Indexed
        parallelism: $hosts
        completions: $hosts
        backoffLimit: 0
        podFailurePolicy:
          rules:
          - action: FailJob
            onExitCodes: {containerName: train, operator: In, values: [2]}
        template:
          metadata:
            annotations:
              gke-gcsfuse/volumes: "true"
          spec:
            restartPolicy: Never
            serviceAccountName: $service_account
            terminationGracePeriodSeconds: $seconds_to_save
            nodeSelector:
              cloud.google.com/gke-tpu-accelerator: $accelerator
              cloud.google.com/gke-tpu-topology: $topology
            containers:
            - name: train
              image: $image
              command: ["qwenvl"]
              args: [$quoted]
              resources:
                limits:
                  google.com/tpu: $chips_per_host
              volumeMounts:
              - {name: bucket, mountPath: /bucket}
              - {name: memory, mountPath: /dev/shm}
            volumes:
            - name: bucket
              csi:
                driver: gcsfuse.csi.storage.gke.io
                volumeAttributes: {bucketName: $bucket, mountOptions: implicit-dirs}
            - name: memory
              emptyDir: {medium: Memory}
JOBSET
