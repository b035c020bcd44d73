#!/bin/sh
# A machine of libvirt that stands still: its guest agent quiesces it where that is wanted and possible (application),
# else it is paused (crash).
#
#   consistency:
#     method: reflink                                          # or command, with a snapshot such as btrfs-snapshot.sh
#     freeze: [/etc/replicad/hooks/libvirt.sh, web01]          # the domain's name for virsh
#     thaw: [/etc/replicad/hooks/libvirt.sh, web01]
#     application_every: 1h
#
# With `freeze` and `thaw` alone (method command) the machine stands still for as long as all its disks are read.
# `thaw` undoes what `freeze` did, also when that was ended half-way, and leaves a domain alone that its user paused.
# Needs libvirt-clients, and rights on the domain ($LIBVIRT_DEFAULT_URI says where). NOT RUN HERE: the tests of replicad have no libvirt.
set -eu

domain=${1:?usage: libvirt.sh DOMAIN}
state=${STATE_DIRECTORY:-/var/lib/replicad}/hooks
# What was done is written down before it is done: a thaw may come from another process, after a crash.
note=$state/libvirt-$(printf %s "$domain" | sha256sum | cut -c 1-16)

case ${REPLICAD_PHASE:?} in
freeze)
  mkdir -p "$state"
  if [ "$(virsh domstate "$domain")" != running ]; then
    echo "$domain does not run" >&2
    echo crash
    exit 0
  fi
  if [ "${REPLICAD_WANTED:-crash}" = application ]; then
    echo quiesced >"$note"
    if virsh domfsfreeze "$domain" >&2; then
      echo application
      exit 0
    fi
    virsh domfsthaw "$domain" >&2 || true # it may have frozen a part
  fi
  echo paused >"$note"
  virsh suspend "$domain" >&2
  echo crash
  ;;
thaw)
  [ -e "$note" ] || exit 0
  if [ "$(virsh domstate "$domain")" = "shut off" ]; then
    rm "$note"
    exit 0
  fi
  case $(cat "$note") in
  quiesced)
    virsh domfsthaw "$domain" >&2
    ;;
  paused)
    if [ "$(virsh domstate "$domain")" = paused ]; then
      virsh resume "$domain" >&2
    fi
    ;;
  esac
  rm "$note"
  ;;
*)
  echo "it is for freeze and thaw" >&2
  exit 1
  ;;
esac
