# Shared by the scripts beside it (sourced, not run): messages, the cache folder, locks.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)

die() { echo "${0##*/}: $*" >&2; exit 1; }
usage() { sed -n '2,/^$/{s/^# \{0,1\}//p}' "$0" >&2; exit 2; }

# Where everything that is downloaded or prepared once lies: $DROVER_CACHE, or drover/ in the user's cache folder. A root
# whose home is closed to others takes /var/cache/drover: the database servers run as another user and must get in.
cache_dir() {
  local d=${DROVER_CACHE:-}
  if [ -z "$d" ]; then
    d=${XDG_CACHE_HOME:-$HOME/.cache}/drover
    if [ "$(id -u)" = 0 ] && ! open_to_others "$d"; then d=/var/cache/drover; fi
  fi
  mkdir -p "$d"; (cd "$d" && pwd -P)
}
open_to_others() {  # may any user enter this folder (or, as far as it exists, the folders above it)?
  local p=$1
  until [ -d "$p" ]; do p=$(dirname "$p"); done
  setpriv --reuid=65534 --regid=65534 --clear-groups test -x "$p"
}

# locked FILE COMMAND…: one at a time over all processes of this machine
locked() {
  local lock=$1; shift
  mkdir -p "$(dirname "$lock")"
  ( flock 9; "$@" 9>&- ) 9>"$lock"
}
