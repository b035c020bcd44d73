"""What RECOVERY.txt tells whoever finds a replica and nothing else. Pure."""

from __future__ import annotations

from replicad.model.points import ReplicaRecord


def recovery_text(record: ReplicaRecord) -> str:
    """The text for one replica; it needs no change from point to point."""
    return f"""This directory is a replica of the virtual machine {record.vm!r}, kept by replicad.
It was made from {record.source}. Everything needed to recover is in this directory.

Only read it. Do not change, rename or delete anything here by hand, and do not start a machine from the
files below disks/: the replica could not go on from them. Restore to another place and use what was restored.

In the commands below, put this directory in place of REPLICA, an empty directory in place of TARGET, and the
number of a recovery point in place of N. Without --point it is the latest one.


With replicad (Python 3.11 or newer), on any machine; no configuration is needed:

    pip install replicad
    replicad points --replica REPLICA
    replicad restore --replica REPLICA --to TARGET
    replicad restore --replica REPLICA --to TARGET --point N

REPLICA may be on a file server: '\\\\server\\share\\{record.vm}' in quotes, or smb://server/share/{record.vm}. Then add
--username USER; the password is asked for. The right to read is enough. Every byte is checked.


With Python alone (3.9 or newer), from this directory mounted or copied: restore_point.py is one file, which the
source of replicad has as docs/restore_point.py. Every byte is checked; that is slow, and --unchecked leaves it out.

    python3 restore_point.py REPLICA
    python3 restore_point.py REPLICA TARGET
    python3 restore_point.py REPLICA TARGET --point N


With neither, the latest point only. See whether a cycle of replication was interrupted:

    find REPLICA -name cycle.json -o -name "*.updating" -o -name "*.initial"

If that prints nothing, and no replicad is writing here, disks/ holds the files of the latest point as they were:

    cp -r REPLICA/disks/. TARGET

If it prints anything, files below disks/ may be mixtures of two points: use one of the two ways above, which bring
the old bytes back from the undo logs in points/.


The format is told byte by byte in docs/format.md of the source of replicad.
"""
