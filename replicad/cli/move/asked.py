"""An order of a move, as it was typed."""

from __future__ import annotations

from pathlib import Path

import click

from replicad.model.moves import MoveOptions


class Asked:
    """An order as it was typed. Local directories may be relative."""

    def __init__(
        self, source: str, destination: str, disks: tuple[tuple[str, str], ...], options: MoveOptions,
        monitor: str | None,
    ) -> None:  # fmt: skip
        from replicad.cli.replica_target import locate_replica
        from replicad.service.moving.orders import Wanted, is_address

        if not is_address(destination):
            raise click.UsageError(
                f"'{destination}' is no directory's address: write ./{destination} for the one here, or its whole path"
            )
        self.source = _absolute(source) if is_address(source) else source
        self.wanted = Wanted(
            locate_replica(destination),
            tuple((pattern, locate_replica(directory)) for pattern, directory in disks),
            options,
            None if monitor is None else str(Path(monitor).absolute()),
        )


def _absolute(source: str) -> str:
    """A pattern in the last part stays as it is."""
    from replicad.cli.replica_target import locate_replica

    if source.startswith(("\\", "//")) or source.lower().startswith("smb://"):
        return source if source.startswith(("\\\\", "//")) or "/" in source else str(locate_replica(source))
    above, _, last = source.rstrip("/").rpartition("/")
    return str(locate_replica(above or "/").child(last)) if above or source.startswith("/") else source
