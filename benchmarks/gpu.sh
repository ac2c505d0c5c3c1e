#!/usr/bin/env bash
# The benchmarks that want a GPU, on one GPU, without any network.
#
#   benchmarks/gpu.sh [--out FOLDER] [--quick] [--check]
#
#   --out FOLDER  tables and rows (default: workdir/gpu); made when absent
#   --quick       small and short, to see that all of it works
#   --check       only says what is there and what is missing
#
# PYTHON names the interpreter (default: .venv/bin/python of this checkout if
# there is one, else python3). The package itself need not be installed.
#
# It needs wheels, at the versions that requirements.txt pins:
#   jax[cuda13]  (jax, jaxlib, jax-cuda13-plugin, jax-cuda13-pjrt, nvidia-*)
#   numpy flax optax orbax-checkpoint safetensors ml-collections absl-py grain
#   array-record
# and, for the comparison with PyTorch, optionally: torch timm
# CUDA, cuDNN and NCCL come with them; only NVIDIA's driver must be there.
# Where there is a network, with the same Python version and processor:
#   pip download -d wheels 'jax[cuda13]==<pin>' -r requirements.txt [torch timm]
# and here:
#   pip install --no-index --find-links wheels 'jax[cuda13]==<pin>' ...
# `--check` prints these commands with the pins filled in.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(dirname "$here")"
out=workdir/gpu quick=() check=0

help() {
  sed -n '2,/^set -/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}

while (($#)); do
  case "$1" in
    --out)
      [[ -n ${2:-} ]] || { echo 'gpu.sh: --out needs a folder' >&2; exit 2; }
      out="$2"; shift 2 ;;
    --quick) quick=(--quick); shift ;;
    --check) check=1; shift ;;
    -h | --help) help; exit 0 ;;
    *) echo "gpu.sh: unknown option $1; see --help" >&2; exit 2 ;;
  esac
done

if [[ -z ${PYTHON:-} ]]; then
  PYTHON="$root/.venv/bin/python"
  [[ -x $PYTHON ]] || PYTHON=python3
fi
# The package of this checkout, installed or not.
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
# Ours, not the shell's: a JAX that was told to use the CPU finds no GPU.
unset JAX_PLATFORMS

# Module to import -> distribution, in the order of what needs what.
modules=(
  numpy:numpy jax:jax flax:flax optax:optax orbax.checkpoint:orbax-checkpoint
  safetensors:safetensors ml_collections:ml-collections absl:absl-py grain:grain
  array_record:array-record
)
optional=(torch:torch timm:timm)

version="$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" || {
  echo "gpu.sh: $PYTHON does not run; set PYTHON=/path/to/python" >&2
  exit 2
}
minor="${version#3.}"
if ((minor < 11)); then
  echo "gpu.sh: $PYTHON is Python $version; 3.11 or newer is needed" >&2
  exit 2
fi

# The pin of a distribution for this Python, as requirements.txt has it.
pin() {
  local line
  while IFS= read -r line; do
    [[ $line == "$1=="* ]] || continue
    [[ $line == *'python_version < "3.12"'* ]] && ((minor >= 12)) && continue
    [[ $line == *'python_version >= "3.12"'* ]] && ((minor < 12)) && continue
    line="${line#*==}"
    echo "${line%%;*}"
    return
  done < "$root/requirements.txt"
}

wheels=()
for entry in "${modules[@]}"; do
  name="${entry#*:}"
  extra=''
  [[ $name == jax ]] && extra='[cuda13]'
  wheels+=("'$name$extra==$(pin "$name")'")
done
echo "Python $version: $PYTHON"
echo 'wheels, fetched where there is a network and installed here:'
echo "  pip download -d wheels ${wheels[*]}"
echo "  $PYTHON -m pip install --no-index --find-links wheels ${wheels[*]}"

# Prints the version if a module imports, else what the import says.
imports() {
  "$PYTHON" -c "import $1
from importlib import metadata
print(metadata.version('$2'))" 2>&1 | tail -n 1
  return "${PIPESTATUS[0]}"
}

missing=()
for entry in "${modules[@]}"; do
  name="${entry#*:}" want="$(pin "${entry#*:}")"
  if found="$(imports "${entry%%:*}" "$name")"; then
    note=''
    [[ $found == "$want" ]] || note="   (pinned: $want)"
    echo "  ok       $name $found$note"
  else
    echo "  MISSING  $name==$want: $found"
    missing+=("$name")
  fi
done
for entry in "${optional[@]}"; do
  if found="$(imports "${entry%%:*}" "${entry#*:}")"; then
    echo "  ok       ${entry#*:} $found (optional)"
  else
    echo "  absent   ${entry#*:} (optional: no comparison with PyTorch)"
  fi
done
if ((${#missing[@]})); then
  echo "gpu.sh: missing: ${missing[*]}; install the wheels above" >&2
  exit 2
fi

device="$("$PYTHON" -c 'import jax
d = jax.devices()
print(d[0].platform, len(d), d[0].device_kind)' 2>&1 | tail -n 1)" || true
case "$device" in
  gpu\ *) echo "  ok       GPU: ${device#gpu }" ;;
  *)
    {
      echo "gpu.sh: JAX sees no GPU; it has: $device"
      if driver="$(nvidia-smi --query-gpu=name,driver_version \
        --format=csv,noheader 2>&1)"; then
        echo "  the driver shows: $driver"
        echo "  so a wheel is missing: jax-cuda13-plugin, jax-cuda13-pjrt or" \
          'nvidia-* (see above), or the driver is older than CUDA 13 wants'
      else
        echo '  nvidia-smi does not answer either: there is no GPU, or no driver'
      fi
    } >&2
    exit 2
    ;;
esac
((check)) && exit 0

# One GPU, also where there are several.
export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES:-0}"
CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES%%,*}"
mkdir -p "$out"
failed=()

# measure LABEL PROGRAM OPTION...
measure() {
  local label="$1" program="$2"
  shift 2
  echo
  echo "== $label"
  "$PYTHON" "$here/$program.py" "$@" ${quick[@]+"${quick[@]}"} \
    --json "$out/$label.json" 2>&1 | tee "$out/$label.txt" || failed+=("$label")
}

measure moe_layer moe_layer
measure train_step_tiny train_step --size tiny
measure train_step_base train_step --size base --dtype bfloat16 --torch
measure checkpoint checkpoint

echo
echo "tables (.txt) and rows (.json) are in $out"
if ((${#failed[@]})); then
  echo "gpu.sh: failed: ${failed[*]}; see the .txt files there" >&2
  exit 1
fi
