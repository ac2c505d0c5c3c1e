#!/usr/bin/env bash
# E001: pack real scenes, pre-train the four-sensor RingMoE tiny, prune, probe.
# Run it again after an interruption: every part resumes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
shared=${SHARED:-../shared}
work=${WORKDIR:-workdir/real}
rsfm data pack --recipe real --shared "$shared" --out "$work/stores"
rsfm pretrain --config configs/pretrain/ringmoe_tiny_real.py \
  --workdir "$work/pretrain" --config.data.root="$work/stores" "$@"
rsfm assess --workdir "$work/pretrain" --store "$work/stores/opt_eurosat" \
  --protocols linear,dinov2_knn20,olmoearth_knn20,galileo_knn5,knn20_whitened \
  --pictures "ms=$work/stores/ms_oscd" \
  --pictures "sar_l1=$work/stores/sar_l1_single_pol" \
  --pictures "sar_l2=$work/stores/sar_l2_mstar" --out "$work"
