#!/usr/bin/env bash
# Starts an SMB server for the demonstration, or makes the passwords for it.
#
#   entry serve       share $SAMBA_DIR as $SAMBA_SHARE to $SAMBA_USER, whose password is in $SAMBA_PASSWORD_FILE.
#                     With $SAMBA_DISK (a path below the share), a dynamic VHDX is made there if there is none.
#   entry passwords   write a password for each name after it to $PASSWORDS_DIR, for $PASSWORDS_OWNER alone.
#
# All that it writes but the share's files is below $SAMBA_STATE. It listens on $SAMBA_INTERFACES and $SAMBA_PORT.
set -euo pipefail

serve() {
  local share=${SAMBA_SHARE:?} user=${SAMBA_USER:?} dir=${SAMBA_DIR:-/srv/share} state=${SAMBA_STATE:-/var/lib/samba-demo}
  local port=${SAMBA_PORT:-445} interfaces=${SAMBA_INTERFACES:-} password one
  password=$(<"${SAMBA_PASSWORD_FILE:?}")
  [ -n "$password" ] || { echo "entry: $SAMBA_PASSWORD_FILE is empty" >&2; exit 1; }

  id -u "$user" >/dev/null 2>&1 || useradd --system --no-create-home --shell /usr/sbin/nologin "$user"
  mkdir -p "$dir"
  for one in lock state cache pid private ncalrpc; do mkdir -p "$state/$one"; done
  chmod 700 "$state/private"
  configuration >"$state/smb.conf"
  # By stdin: arguments are there for all to read.
  printf '%s\n%s\n' "$password" "$password" | smbpasswd -c "$state/smb.conf" -L -a -s "$user" >/dev/null
  [ -z "${SAMBA_DISK:-}" ] || make_disk "$dir/$SAMBA_DISK"
  chown -R "$user:" "$dir"
  exec smbd --foreground --no-process-group --debug-stdout --configfile="$state/smb.conf" </dev/null
}

configuration() {
  cat <<END
[global]
server role = standalone server
server min protocol = SMB3_00
server signing = mandatory
server smb encrypt = required
smb ports = $port
disable netbios = yes
map to guest = never
load printers = no
printing = bsd
printcap name = /dev/null
disable spoolss = yes
usershare max shares = 0
lock directory = $state/lock
state directory = $state/state
cache directory = $state/cache
pid directory = $state/pid
private dir = $state/private
ncalrpc dir = $state/ncalrpc
passdb backend = tdbsam:$state/private/passdb.tdb
# A client that vanishes gives its locks back within seconds: see docs/smb.md.
socket options = TCP_NODELAY SO_KEEPALIVE TCP_KEEPIDLE=10 TCP_KEEPINTVL=5 TCP_KEEPCNT=3 TCP_USER_TIMEOUT=20000
END
  [ -z "$interfaces" ] || printf 'interfaces = %s\nbind interfaces only = yes\n' "$interfaces"
  printf '[%s]\npath = %s\nread only = no\nvalid users = %s\n' "$share" "$dir" "$user"
}

make_disk() {
  [ ! -e "$1" ] || return 0
  mkdir -p "$(dirname "$1")"
  qemu-img create -q -f vhdx "$1.new" 256M
  qemu-io -f vhdx -c 'write -q -P 1 0 16M' "$1.new"
  mv "$1.new" "$1"
}

passwords() {
  local dir=${PASSWORDS_DIR:?} owner=${PASSWORDS_OWNER:?} name
  for name; do
    [ ! -s "$dir/$name" ] || continue
    (umask 077 && openssl rand -hex 24 >"$dir/$name.new")
    chown "$owner" "$dir/$name.new"
    mv "$dir/$name.new" "$dir/$name"
  done
}

case ${1:-serve} in
  serve) serve ;;
  passwords) shift && passwords "$@" ;;
  *) exec "$@" ;;
esac
