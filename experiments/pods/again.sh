#!/usr/bin/env bash
# again.sh N COMMAND ...: runs a command up to N times, as long as it ends with
# 4 (stopped by SIGTERM after saving) or 5 (a peer was lost). Runs on the hosts
# themselves, where exit codes are exact. SIGTERM to this script means stop.
set -uo pipefail
attempts=$1
shift

stopping=0 child=''
stop() {
  stopping=1
  if [[ -n $child ]]; then kill -TERM "$child" 2>/dev/null; fi
}
trap stop TERM

code=5
for ((attempt = 1; attempt <= attempts && stopping == 0; attempt++)); do
  "$@" &
  child=$!
  # A signal ends `wait` before the command has ended.
  wait "$child"; code=$?
  while kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done
  child=''
  if [[ $code != 4 && $code != 5 ]]; then break; fi
  echo "again.sh: start $attempt of $attempts ended with $code" >&2
done
exit "$code"
