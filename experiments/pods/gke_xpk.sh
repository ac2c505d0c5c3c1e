#!/usr/bin/env bash
# A run on TPU slices of a GKE cluster, as an xpk workload.
#
#   gke_xpk.sh --name N --project P --zone Z --cluster C --type v5p-32 \
#     --image IMAGE --workdir DIR [options] -- --config C [overrides]
#
# Prints what it would do; --go does it. The image holds this repository and
# its environment, with `rsfm` on the path.
#
#   --dry_run      the default
#   --go           really do it
#   --spot         spot capacity (for clusters with autoprovisioning)
#   --workdir DIR  on a volume that all pods mount
#   --slices N     default 1
#   --attempts N   starts in all (default 20)
#   --grace N      seconds from SIGTERM to SIGKILL, time to save (default 300)
#   --priority P   very-low, low, medium (default), high, very-high
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"

name='' project='' zone='' cluster='' type='' image='' workdir='' slices=1
attempts=20 grace=300 priority=medium more=()
while (($#)); do
  case $1 in
    --name) name=$2; shift ;;
    --project) project=$2; shift ;;
    --zone) zone=$2; shift ;;
    --cluster) cluster=$2; shift ;;
    --type) type=$2; shift ;;
    --image) image=$2; shift ;;
    --workdir) workdir=$2; shift ;;
    --slices) slices=$2; shift ;;
    --attempts) attempts=$2; shift ;;
    --grace) grace=$2; shift ;;
    --priority) priority=$2; shift ;;
    --spot) more+=(--spot) ;;
    --go) GO=1 ;;
    --dry_run) GO=0 ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    --) shift; break ;;
    *) fail "unknown option $1; see --help." ;;
  esac
  shift
done
for option in name project zone cluster type image workdir; do
  need "$option"
done
(($#)) || fail 'what to train? End with: -- --config configs/pretrain/x.py'
name_ok "$name"
[[ $image == *:* && $image != *:latest ]] ||
  fail "--image=$image: give a tag other than latest, so that every start of" \
    'the run is the same code.'
[[ $workdir != *://* ]] ||
  fail "--workdir=$workdir: mount it in every pod and give the path."
tool xpk
tool gcloud
where=(--project="$project" --zone="$zone")

launch=$(quoted rsfm launch --tpu --grace_seconds $((grace - 20)) -- \
  pretrain "$@" --workdir "$workdir")
note 'checks: workloads that run there already'
run xpk workload list --cluster="$cluster" "${where[@]}"
note 'the run; started again after exit 4 (preempted, saved) and 5 (peer lost),'
note 'and after signals (xpk does that by itself), not after 2 and 3'
run xpk workload create --workload="$name" --cluster="$cluster" "${where[@]}" \
  --tpu-type="$type" --num-slices="$slices" --docker-image="$image" \
  --priority="$priority" --max-restarts=$((attempts - 1)) \
  --restart-on-exit-codes=4,5 --termination-grace-period-seconds="$grace" \
  ${more[@]+"${more[@]}"} --command="$launch"
note 'to stop it:'
note "xpk workload delete --workload=$name --cluster=$cluster ${where[*]}"
