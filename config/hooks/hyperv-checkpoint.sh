#!/bin/sh
# A checkpoint of a Hyper-V machine, made by PowerShell on its host, which is reached by SSH. While it is there the
# machine writes to .avhdx files of its own, and its disks can be read where they are.
#
#   source: \\hv1\vms\web01
#   disks: ["*.vhdx"]                                          # not the .avhdx of the checkpoint itself
#   consistency:
#     method: command
#     snapshot: [/etc/replicad/hooks/hyperv-checkpoint.sh, replica@hv1, web01]   # for ssh; the machine's name
#     release: [/etc/replicad/hooks/hyperv-checkpoint.sh, replica@hv1, web01]
#     timeout: 10m                                             # merging the checkpoint takes a while
#
# A production checkpoint quiesces the guest by VSS, and the point is `application`; a standard one is as after a power
# failure (crash). A machine that has checkpoints of its user's already is refused: its disks are not what it writes.
# Needs an SSH server with PowerShell on the host, a key for it, and a user in "Hyper-V Administrators".
# NOT RUN HERE: the tests of replicad have no Hyper-V host.
set -eu

host=${1:?usage: hyperv-checkpoint.sh USER@HOST MACHINE}
machine=${2:?usage: hyperv-checkpoint.sh USER@HOST MACHINE}

# Encoded, so that no name is ever read as a command, on the way or there.
literal() { printf "'%s'" "$(printf %s "$1" | sed "s/'/''/g")"; }
on_host() {
  encoded=$(printf '%s\n%s\n%s' "\$ErrorActionPreference = 'Stop'" "\$name = $(literal "$machine")" "$1" |
    iconv -f UTF-8 -t UTF-16LE | base64 -w 0)
  ssh -o BatchMode=yes "$host" powershell -NoProfile -NonInteractive -EncodedCommand "$encoded"
}

# shellcheck disable=SC2016  # what begins with $ is PowerShell's
case ${REPLICAD_PHASE:?} in
snapshot)
  # What was left by a host that lost power is removed first, and merged.
  kind=$(on_host '
    function Wait-ForDisks { while (Get-VMHardDiskDrive -VMName $name | Where-Object Path -like "*.avhdx") { Start-Sleep 1 } }
    Get-VMSnapshot -VMName $name -Name replicad -ErrorAction SilentlyContinue | Remove-VMSnapshot
    if (Get-VMSnapshot -VMName $name) { throw "the machine has checkpoints already" }
    Wait-ForDisks
    Checkpoint-VM -Name $name -SnapshotName replicad
    if ((Get-VMSnapshot -VMName $name -Name replicad).SnapshotType -eq "Production") { "application" } else { "crash" }
  ' | tr -d '\r' | tail -n 1)
  printf '%s\n' "${REPLICAD_DISKS:?}" "$kind"
  ;;
release)
  on_host '
    Get-VMSnapshot -VMName $name -Name replicad -ErrorAction SilentlyContinue | Remove-VMSnapshot
    while (Get-VMHardDiskDrive -VMName $name | Where-Object Path -like "*.avhdx") { Start-Sleep 1 }
  ' >&2
  ;;
*)
  echo "it is for snapshot and release" >&2
  exit 1
  ;;
esac
