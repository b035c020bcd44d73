#!/bin/sh
# A read-only snapshot of a btrfs subvolume: all disks of a machine at one instant, for any hypervisor.
#
#   consistency:
#     method: command
#     snapshot: [/etc/replicad/hooks/btrfs-snapshot.sh, /srv/vms]     # the subvolume that the source lies in
#     release: [/etc/replicad/hooks/btrfs-snapshot.sh, /srv/vms]
#
# The point is as after a power failure (crash). Add freeze and thaw, as of libvirt.sh, for more. Where replicad itself
# may clone the disks, method reflink is quicker: it reads only what changed.
#
# The snapshot is <subvolume>/.replicad-<machine>, and `release` removes nothing else. Needs root, and btrfs-progs.
# Run by the tests of replicad.
set -eu

subvolume=${1:?usage: btrfs-snapshot.sh SUBVOLUME}
# A name that fits any machine's.
name=.replicad-$(printf %s "${REPLICAD_VM:?}" | sha256sum | cut -c 1-16)
snapshot=$subvolume/$name

remove() {
  if [ -d "$snapshot" ]; then
    btrfs subvolume delete "$snapshot" >&2
  fi
}

case ${REPLICAD_PHASE:?} in
snapshot)
  remove # what was left by a host that lost power
  btrfs subvolume snapshot -r "$subvolume" "$snapshot" >&2
  printf '%s\n' "${REPLICAD_DISKS:?}" | while IFS= read -r disk; do
    case $disk in
    "$subvolume"/*) printf '%s\n' "$snapshot${disk#"$subvolume"}" ;;
    *)
      echo "$disk is not below $subvolume" >&2
      exit 1
      ;;
    esac
  done
  ;;
release) remove ;;
*)
  echo "it is for snapshot and release" >&2
  exit 1
  ;;
esac
