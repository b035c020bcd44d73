#!/bin/sh
# A snapshot of the logical volume that the disks lie on: all of them at one instant, for any hypervisor, on ext4, XFS
# and whatever else is mounted from LVM.
#
#   consistency:
#     method: command
#     snapshot: [/etc/replicad/hooks/lvm-snapshot.sh, vg0/vms, /srv/vms]   # the volume, and where it is mounted
#     release: [/etc/replicad/hooks/lvm-snapshot.sh, vg0/vms, /srv/vms]
#     timeout: 1m
#
# LVM stops the file system for the instant and brings what is in memory to the disk, so the point is as after a power
# failure (crash). Add freeze and thaw, as of libvirt.sh, for more.
#
# A snapshot that is written full ends the cycle with an error of reading, and nothing else: give it as much room (the
# -l below) as is written to the volume during the longest cycle. Needs root, and lvm2. NOT RUN HERE: the
# tests of replicad run where the kernel has no device mapper.
set -eu

volume=${1:?usage: lvm-snapshot.sh VG/LV MOUNT_POINT}
mount_point=${2:?usage: lvm-snapshot.sh VG/LV MOUNT_POINT}
# A name that fits any machine's.
name=replicad-$(printf %s "${REPLICAD_VM:?}" | sha256sum | cut -c 1-16)
snapshot=${volume%%/*}/$name
shown=${STATE_DIRECTORY:-/var/lib/replicad}/hooks/$name

remove() {
  if mountpoint --quiet "$shown"; then
    umount "$shown"
  fi
  if lvs "$snapshot" >/dev/null 2>&1; then
    lvremove --force "$snapshot" >&2
  fi
}

case ${REPLICAD_PHASE:?} in
snapshot)
  remove # what was left by a host that lost power
  lvcreate --snapshot --name "$name" -l 20%ORIGIN "$volume" >&2
  mkdir -p "$shown"
  # XFS refuses to mount a second one with the same identity.
  options=ro
  if [ "$(findmnt --noheadings --output FSTYPE "$mount_point")" = xfs ]; then
    options=ro,nouuid
  fi
  mount -o "$options" "/dev/$snapshot" "$shown"
  printf '%s\n' "${REPLICAD_DISKS:?}" | while IFS= read -r disk; do
    case $disk in
    "$mount_point"/*) printf '%s\n' "$shown${disk#"$mount_point"}" ;;
    *)
      echo "$disk is not below $mount_point" >&2
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
