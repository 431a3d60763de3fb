# Shared by mysql and mariadb (sourced, not run): a server's life in a folder DIR. What sources it defines
#   prefix VERSION              prints the folder above bin/ and sbin/, unpacked first where necessary
#   DAEMON, CLIENT              names of the server's and the client's program
#   initialise PREFIX DIR SQL   makes DIR/data and runs the file SQL in it; output is kept as a log
#   OWN                         array of settings that only this flavor has

# Whoever may log in may read and write files as the server's user: never root.
server_user() { if id mysql >/dev/null 2>&1; then echo mysql; else echo nobody; fi; }
as_server() {  # run the rest as the server's user; the process dies with its parent
  if [ "$(id -u)" = 0 ]; then
    exec setpriv --reuid="$(server_user)" --regid="$(id -g "$(server_user)")" --clear-groups --pdeathsig KILL -- "$@"
  else
    exec setpriv --pdeathsig KILL -- "$@"
  fi
}
give() { [ "$(id -u)" != 0 ] || chown -R "$(server_user)" "$@"; }

programs() {  # PREFIX: the arguments by which a server that was moved finds its own files
  echo "--no-defaults --basedir=$1 --lc-messages-dir=$1/share/mysql --character-sets-dir=$1/share/mysql/charsets --plugin-dir=$1/lib/mysql/plugin"
}

make_template() {  # PREFIX FOLDER
  [ ! -d "$2" ] || return 0
  local new=$2.new host
  rm -rf "$new"; mkdir -p "$new"
  { echo "FLUSH PRIVILEGES;"
    for host in localhost 127.0.0.1; do
      echo "CREATE USER drover@'$host';"   # one statement a line
      echo "GRANT ALL PRIVILEGES ON *.* TO drover@'$host' WITH GRANT OPTION;"
    done
    echo "CREATE DATABASE drover;"
  } > "$new/init.sql"
  give "$new"
  (initialise "$1" "$new" "$new/init.sql") > "$2.log" 2>&1 || { cat "$2.log" >&2; die "the data folder could not be made"; }
  rm -f "$new"/data/{auto.cnf,*.pid,binlog.*}   # a copy must not have the server id of another
  mv "$new" "$2"
}

init() {  # DIR VERSION
  local prefix template
  prefix=$(prefix "$2")
  template=$("$prefix/sbin/$DAEMON" --version | grep -oE '[0-9]+\.[0-9]+\.[0-9]+' | head -n 1)
  template=$(cache_dir)/data-${0##*/}-$template-$(cat "$0" "$HERE/mysql-family.sh" | cksum | cut -d " " -f 1)-$(id -u)
  [ -d "$template" ] || locked "$template.lock" make_template "$prefix" "$template"
  mkdir -p "$1/tmp"
  cp -a "$template/data" "$1/data"
  give "$1"
  echo "$prefix" > "$1/prefix"
}

arguments() {  # DIR PORT [NAME=VALUE…]: fills ARGS
  local dir=$1 port=$2 setting; shift 2
  read -ra ARGS <<< "$(programs "$(cat "$dir/prefix")")"
  for setting in datadir="$dir/data" tmpdir="$dir/tmp" socket="$dir/socket" pid-file="$dir/pid" port="$port" server-id="$port" \
      bind-address=127.0.0.1 skip-name-resolve=ON secure-file-priv= local-infile=ON max-connections=200 log-bin=binlog \
      binlog-row-image=FULL binlog-row-metadata=FULL innodb-buffer-pool-size=64M performance-schema=OFF \
      sync-binlog=0 innodb-flush-log-at-trx-commit=2 "${OWN[@]}" "$@"; do   # a killed process loses nothing by these two
    ARGS+=("--$setting")
  done
}
run() { arguments "$@"; cd "$1"; as_server "$(cat "$1/prefix")/sbin/$DAEMON" "${ARGS[@]}"; }

client() { "$(cat "$1/prefix")/bin/$CLIENT" --no-defaults --user=drover --socket="$1/socket" "${@:2}"; }

start() {
  arguments "$@"; cd "$1"
  local user=() i
  [ "$(id -u)" != 0 ] || user=(setpriv --reuid="$(server_user)" --regid="$(id -g "$(server_user)")" --clear-groups --)
  setsid "${user[@]}" "$(cat "$1/prefix")/sbin/$DAEMON" "${ARGS[@]}" < /dev/null >> "$1/log" 2>&1 &
  for ((i = 0; i < 600; i++)); do
    ! client "$1" -e "SELECT 1" > /dev/null 2>&1 || return 0
    kill -0 $! 2>/dev/null || break
    sleep 0.1
  done
  tail -n 20 "$1/log" >&2; die "no start"
}
stop() {
  local pid i
  pid=$(cat "$1/pid" 2>/dev/null) || return 0
  kill "$pid" 2>/dev/null || return 0
  for ((i = 0; i < 600; i++)); do kill -0 "$pid" 2>/dev/null || return 0; sleep 0.1; done
  die "process $pid does not end"
}

main() {
  case ${1:-}:$# in
    bin:2) prefix "$2" ;;
    init:3) init "$2" "$3" ;;
    run:* | start:*) [ $# -ge 3 ] || usage; "$@" ;;
    stop:2) stop "$2" ;;
    *) usage ;;
  esac
}
