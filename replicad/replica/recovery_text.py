"""What RECOVERY.txt tells whoever finds a replica and nothing else. Pure."""

from __future__ import annotations

from replicad.model.points import ReplicaRecord


def recovery_text(record: ReplicaRecord) -> str:
    """The text for one replica; it needs no change from point to point."""
    return f"""This directory is a replica of the virtual machine {record.vm!r}, kept by replicad.
It was made from {record.source}. Everything needed to recover is in this directory.

With replicad (Python 3.11 or newer):

    pip install replicad
    replicad points --replica PATH-OF-THIS-DIRECTORY
    replicad restore --replica PATH-OF-THIS-DIRECTORY --to EMPTY-DIRECTORY              the latest point
    replicad restore --replica PATH-OF-THIS-DIRECTORY --to EMPTY-DIRECTORY --point N    an older one

PATH-OF-THIS-DIRECTORY is a local path or \\\\server\\share\\{record.vm}. Every byte is checked while it is restored.

Without replicad, the latest point only:

    If no file below disks/ ends in ".updating" or ".initial", disks/ holds the files of the latest recovery
    point as they were. Copy them, and attach the copies. Do not attach the files in place: the replica could
    not go on from them.

    If a file ends in ".updating", a cycle was under way: that file is a mixture of two points. Restore it with
    replicad, which brings back the old bytes from points/N.pending/*.undo.

Do not change, rename or delete anything here by hand. The format is told byte by byte in docs/format.md of the
project's source.
"""
