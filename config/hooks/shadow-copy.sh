#!/bin/sh
# A shadow copy of a remote share, made by its own file server (FSRVP, "File Server VSS Agent Service" on Windows
# Server, rpcd_fsrvp on Samba) and read as the share that the server shows it as.
#
#   source: \\nas1\vms\web01
#   consistency:
#     method: command
#     snapshot: [/etc/replicad/hooks/shadow-copy.sh, nas1.example.net, vms, /etc/replicad/nas1.auth]
#     release: [/etc/replicad/hooks/shadow-copy.sh, nas1.example.net, vms, /etc/replicad/nas1.auth]
#     timeout: 5m
#
# The last argument is a file for rpcclient -A (username, password and domain, a line each), which its owner alone can
# read; its user must be a backup operator of the server. The point is as after a power failure (crash). Add freeze and
# thaw for more. A server makes one shadow copy at a time: others get "busy", and replicad tries again later.
# Needs smbclient (Debian), which brings rpcclient. Run by the tests of replicad, against Samba 4.17; on Windows it was not.
set -eu

address=${1:?usage: shadow-copy.sh ADDRESS SHARE AUTHENTICATION_FILE [PORT]}
share=${2:?usage: shadow-copy.sh ADDRESS SHARE AUTHENTICATION_FILE [PORT]}
authentication=${3:?usage: shadow-copy.sh ADDRESS SHARE AUTHENTICATION_FILE [PORT]}
port=${4:-445}
state=${STATE_DIRECTORY:-/var/lib/replicad}/hooks
# What the copy is called is known when it is there only: kept for a release by another process, after a crash.
note=$state/shadow-$(printf %s "${REPLICAD_VM:?}" | sha256sum | cut -c 1-16)

on_server() { rpcclient --authentication-file "$authentication" --port "$port" "ncacn_np:${address}[sign]" -c "$1"; }

remove() {
  [ -e "$note" ] || return 0
  read -r set copy <"$note"
  on_server "fss_delete $share $set $copy" >&2
  rm "$note"
}

case ${REPLICAD_PHASE:?} in
snapshot)
  mkdir -p "$state"
  remove
  # <set>(<copy>): share <name> exposed as a snapshot of <share>
  made=$(on_server "fss_create_expose backup ro $share")
  printf '%s\n' "$made" >&2
  printf '%s\n' "$made" | sed -n 's/^\([^ (]*\)(\([^)]*\)): share .* exposed as a snapshot of .*/\1 \2/p' | tail -n 1 >"$note"
  shown=$(printf '%s\n' "$made" | sed -n 's/^[^ (]*([^)]*): share \(.*\) exposed as a snapshot of .*/\1/p' | tail -n 1)
  shown=${shown##*\\}
  if [ -z "$shown" ]; then
    rm "$note"
    echo "the server said nothing of a shadow copy" >&2
    exit 1
  fi
  # \\server\share\path becomes \\server\shadow copy\path.
  printf '%s\n' "${REPLICAD_DISKS:?}" | while IFS= read -r disk; do
    rest=${disk#\\\\}
    server=${rest%%\\*}
    rest=${rest#*\\}
    printf '%s\n' "\\\\$server\\$shown\\${rest#*\\}"
  done
  ;;
release) remove ;;
*)
  echo "it is for snapshot and release" >&2
  exit 1
  ;;
esac
