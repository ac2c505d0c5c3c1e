# Read by the recipes beside it (`source recipe.sh`): say, check, run.
#
# Nothing happens unless GO=1, which --go sets.

GO=0

fail() {
  echo "$(basename "$0"): $*" >&2
  exit 2
}

# Prints a command so that it can be pasted; runs it with --go.
run() {
  printf '+'
  printf ' %q' "$@"
  printf '\n'
  if [[ $GO == 1 ]]; then "$@"; fi
}

note() { echo "# $*"; }

need() {  # need NAME: a variable that an option sets must not be empty.
  local variable=${1//-/_}
  [[ -n ${!variable:-} ]] || fail "--$1 is missing; see --help."
}

tool() {  # tool NAME: a program that only --go needs.
  [[ $GO == 0 ]] || command -v "$1" >/dev/null ||
    fail "$1 is not installed; without --go it is not needed."
}

# Lower-case letters, digits and dashes, as clouds want names.
name_ok() {
  [[ $1 =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    fail "--name=$1: a letter first, then letters, digits, dashes; at most 40."
}

# One argument per word, safe for a shell to read again.
quoted() {
  local out
  printf -v out '%q ' "$@"
  echo "${out% }"
}
