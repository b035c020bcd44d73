"""Disks that a machine has stopped writing because somebody has put an overlay on them (`blockdev-snapshot`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Executor

from replicad.model.errors import BusyError
from replicad.storage.blocking import run_blocking

from .graph import query_graph
from .nodes import file_name, inode_of, query_nodes
from .process import Inode, identify, inode_as_seen_by
from .qmp import Qmp

_BACKING = "backing"
_LOOK_UP_TIMEOUT_S = 10.0


async def refuse_overlaid(qmp: Qmp, executor: Executor, directory: str, paths: Iterable[str]) -> None:
    """BusyError if one of these files is below what the machine writes: it shows a moment that has passed, and a point
    of it would not say so. Raises what `Qmp.execute` does besides."""
    wanted = tuple(paths)
    if not wanted:
        return
    nodes, graph = await query_nodes(qmp), await query_graph(qmp)
    files = {str(node["node-name"]): file_name(node) for node in nodes}

    def look() -> tuple[Mapping[str, Inode | None], Mapping[str, Inode | None]]:
        process = identify(qmp.pid)
        seen = {name: None if process is None else inode_as_seen_by(process, file) for name, file in files.items()}
        return seen, {path: inode_of(f"{directory}/{path}") for path in wanted}

    seen, inodes = await run_blocking(executor, "look at", "QEMU's overlays", look, _LOOK_UP_TIMEOUT_S)
    below = {name: above for above, what, name in graph.edges if what == _BACKING}
    for path, inode in inodes.items():
        for name in (name for name, found in seen.items() if inode is not None and found == inode):
            if name in below:
                overlay = files[graph.child(below[name], "file") or below[name]]
                raise BusyError(
                    "read", path, f"the machine writes to an overlay of it, {overlay!r}",
                    "Commit the overlay (block-commit) first: the disk itself shows a moment that has passed.",
                )  # fmt: skip
