#!/usr/bin/env bash
# A run on nodes of a Slurm cluster.
#
#   slurm.sh --name N --nodes 4 --gpus 8 --workdir DIR [options] \
#     -- --config configs/pretrain/x.py [overrides]
#
# Prints what it would submit; --go submits slurm.sbatch, which runs
# `rsfm launch --slurm -- pretrain` on every node and goes back to the queue
# after exit 4 or 5.
#
#   --dry_run        the default
#   --go             really do it
#   --workdir DIR    on storage that all nodes share
#   --time LIMIT     default 24:00:00
#   --grace N        seconds before the limit at which to save (default 300)
#   --attempts N     starts in all (default 20)
#   --partition P, --account A, --qos Q
#   --cpus N         of each node's task
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/recipe.sh"

name='' nodes='' gpus='' workdir='' time=24:00:00 grace=300 attempts=20 more=()
while (($#)); do
  case $1 in
    --name) name=$2; shift ;;
    --nodes) nodes=$2; shift ;;
    --gpus) gpus=$2; shift ;;
    --workdir) workdir=$2; shift ;;
    --time) time=$2; shift ;;
    --grace) grace=$2; shift ;;
    --attempts) attempts=$2; shift ;;
    --partition) more+=(--partition="$2"); shift ;;
    --account) more+=(--account="$2"); shift ;;
    --qos) more+=(--qos="$2"); shift ;;
    --cpus) more+=(--cpus-per-task="$2"); shift ;;
    --go) GO=1 ;;
    --dry_run) GO=0 ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    --) shift; break ;;
    *) fail "unknown option $1; see --help." ;;
  esac
  shift
done
for option in name nodes gpus workdir; do need "$option"; done
(($#)) || fail 'what to train? End with: -- --config configs/pretrain/x.py'
name_ok "$name"
[[ $workdir == /* ]] ||
  fail "--workdir=$workdir: give an absolute path on storage all nodes share."
tool sbatch

note 'on every node:'
note "$(quoted rsfm launch --slurm -- pretrain "$@" --workdir "$workdir")"
note "again after exit 4 or 5, $attempts starts at most; not after 2 or 3"
run mkdir -p "$workdir"
run sbatch --job-name="$name" --nodes="$nodes" --ntasks-per-node=1 \
  --gres=gpu:"$gpus" --exclusive --time="$time" --requeue \
  --open-mode=append --output="$workdir/slurm-%j.log" \
  --signal=TERM@"$grace" ${more[@]+"${more[@]}"} \
  "$here/slurm.sbatch" "$attempts" "$grace" "$@" --workdir "$workdir"
