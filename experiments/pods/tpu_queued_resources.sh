#!/usr/bin/env bash
# A run on a TPU slice of Compute Engine, through a queued resource.
#
#   tpu_queued_resources.sh --name N --project P --zone Z --type v5p-32 \
#     --workdir DIR [options] -- --config configs/pretrain/x.py [overrides]
#
# Prints what it would do; --go does it. Asks for the slice, waits, runs
# `rsfm launch --tpu -- pretrain` on all hosts (again.sh starts it anew after
# exit 4 and 5), asks again when a spot slice was taken away, and gives the
# slice back at the end.
#
#   --dry_run          the default
#   --go               really do it
#   --spot             preemptible capacity, and its quota
#   --reserved         a reservation
#   --repo DIR         where the code and its .venv lie on every host
#                      (default: rsfm_jax, under the home of the login)
#   --workdir DIR      on storage that all hosts mount, such as Filestore
#   --runtime VERSION  default: by --type
#   --valid_for TIME   how long to queue (default 6h)
#   --attempts N       starts on a slice, and slices, at most (default 20)
#   --keep             leave the slice running at the end
#   --internal_ips     no external addresses
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"

name='' project='' zone='' type='' runtime='' workdir='' repo=rsfm_jax
valid_for=6h attempts=20 keep=0 capacity=on_demand more=()
while (($#)); do
  case $1 in
    --name) name=$2; shift ;;
    --project) project=$2; shift ;;
    --zone) zone=$2; shift ;;
    --type) type=$2; shift ;;
    --runtime) runtime=$2; shift ;;
    --workdir) workdir=$2; shift ;;
    --repo) repo=$2; shift ;;
    --valid_for) valid_for=$2; shift ;;
    --attempts) attempts=$2; shift ;;
    --spot) capacity=spot; more+=(--spot) ;;
    --reserved) capacity=reserved; more+=(--reserved) ;;
    --internal_ips) more+=(--internal-ips) ;;
    --keep) keep=1 ;;
    --go) GO=1 ;;
    --dry_run) GO=0 ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    --) shift; break ;;
    *) fail "unknown option $1; see --help." ;;
  esac
  shift
done
for option in name project zone type workdir; do need "$option"; done
(($#)) || fail 'what to train? End with: -- --config configs/pretrain/x.py'
name_ok "$name"
[[ $zone =~ ^[a-z]+-[a-z]+[0-9]+-[a-z]$ ]] ||
  fail "--zone=$zone is no zone, such as us-east5-a (a region has no letter)."
[[ $workdir != *://* ]] ||
  fail "--workdir=$workdir: mount it on every host and give the path."

# Quota is counted per project and zone, for spot apart from the rest.
spot=''
[[ $capacity != spot ]] || spot=Preemptible
case $type in
  v5p-*) default=v2-alpha-tpuv5 quota=TPUV5P${spot}PerProjectPerZoneForTPUAPI ;;
  v5litepod-*)
    default=v2-alpha-tpuv5-lite
    quota=TPUV5s${spot}LitepodPerProjectPerZoneForTPUAPI
    ;;
  v6e-*) default=v2-alpha-tpuv6e quota=TPUV6E${spot}PerProjectPerZoneForTPUAPI ;;
  *) fail "--type=$type: this recipe knows v5p-*, v5litepod-* and v6e-*." ;;
esac
runtime=${runtime:-$default}
tool gcloud
where=(--zone="$zone" --project="$project")
qr=(gcloud compute tpus queued-resources)

note "checks: the type exists in the zone; quota $quota ($capacity)"
run gcloud compute tpus accelerator-types describe "$type" "${where[@]}"
run gcloud beta quotas info list --service=tpu.googleapis.com \
  --project="$project" --filter="quotaId:$quota" \
  --format='yaml(quotaId,dimensionsInfos)'

create=("${qr[@]}" create "$name" --node-id="$name" "${where[@]}"
  --accelerator-type="$type" --runtime-version="$runtime"
  --valid-until-duration="$valid_for" ${more[@]+"${more[@]}"})
launch=$(quoted bash experiments/pods/again.sh "$attempts" \
  .venv/bin/rsfm launch --tpu -- pretrain "$@" --workdir "$workdir")
on_all=("${qr[@]}" ssh "$name" "${where[@]}" --node=all --worker=all
  --command="cd $(quoted "$repo") && $launch")
remove=("${qr[@]}" delete "$name" "${where[@]}" --force --quiet)
state=("${qr[@]}" describe "$name" "${where[@]}" --format='value(state.state)')

if [[ $GO == 0 ]]; then
  note 'ask for the slice, and wait until its state is ACTIVE'
  run "${create[@]}"
  run "${state[@]}"
  note 'on every host at once:'
  run "${on_all[@]}"
  note "a slice that is gone is asked for again, $attempts times at most;"
  note 'bad input (exit 2) ends it; then, unless --keep:'
  run "${remove[@]}"
  exit 0
fi

wait_until_active() {
  local now=''
  while now=$("${state[@]}"); do
    case $now in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDED | SUSPENDING | DELETING)
        note "the request is $now"
        return 1
        ;;
      *) note "$now"; sleep 60 ;;
    esac
  done
  return 1
}

give_back() {
  if [[ $keep == 0 ]]; then run "${remove[@]}" || true; fi
}
trap give_back EXIT

for ((attempt = 1; attempt <= attempts; attempt++)); do
  now=$("${state[@]}" 2>/dev/null || echo NONE)
  case $now in
    ACTIVE | CREATING | ACCEPTED | PROVISIONING | WAITING_FOR_RESOURCES) ;;
    *)
      # A spot slice that was taken away cannot be started again.
      if [[ $now != NONE ]]; then run "${remove[@]}"; fi
      run "${create[@]}" || fail "the request was refused; quota: $quota."
      ;;
  esac
  wait_until_active || continue
  if run "${on_all[@]}"; then exit 0; fi
  # The hosts have tried again by themselves, where that made sense.
  if [[ $("${state[@]}" || echo NONE) == ACTIVE ]]; then
    fail 'the run failed on a slice that is there; see its logs.'
  fi
  note "the slice is gone (request $attempt of $attempts)"
done
note "all $attempts requests are used up"
exit 5
