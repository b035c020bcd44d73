"""What replicad makes in a QEMU, and how it goes away again: also what a process of ours left there when it died.

Everything bears the replica's name: `replicad-<16 hexadecimal digits>-…`. Node names have 31 characters at most.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

from replicad.model.errors import PermanentError

from .exports import remove_exports, stop_left_server
from .graph import query_graph, reattach
from .monitor import Monitor
from .nodes import query_nodes
from .qmp import Qmp

END_SUFFIX = "-end"
"""How the name of the bitmap ends that goes with another, and whose only bit is the one at the end of the file."""


def prefix_of(name: str) -> str:
    """How the names of all that a replica has in QEMU begin."""
    return f"replicad-{name}-"


async def remove_left(qmp: Qmp, monitor: Monitor, name: str, remembered: Collection[str] | None) -> None:
    """Remove all that bears the name of a replica but the bitmaps that are remembered; None: all of those stay."""
    prefix = prefix_of(name)
    await remove_exports(qmp, prefix)
    await stop_left_server(qmp, monitor, prefix)
    await remove_nodes(qmp, prefix)
    await remove_files(qmp, prefix)
    if remembered is None:
        return
    nodes = await query_nodes(qmp)
    there = {str(bitmap.get("name")) for node in nodes for bitmap in node.get("dirty-bitmaps", ())}
    ours = {bitmap.removesuffix(END_SUFFIX) for bitmap in there if bitmap.startswith(prefix)}
    await remove_bitmaps(qmp, ours - set(remembered))


async def remove_bitmaps(qmp: Qmp, bitmaps: Collection[str]) -> None:
    """Remove bitmaps, with those that go with them, from whichever nodes they are on. Fine if they are gone."""
    if not bitmaps:
        return
    for node in await query_nodes(qmp):
        for bitmap in node.get("dirty-bitmaps", ()):
            if str(bitmap.get("name", "")).removesuffix(END_SUFFIX) in bitmaps:
                with suppress(PermanentError):  # it is in use, or has just gone: the next cycle looks again
                    await qmp.execute("block-dirty-bitmap-remove", {"node": node["node-name"], "name": bitmap["name"]})


async def remove_nodes(qmp: Qmp, prefix: str) -> None:
    """Remove nodes whose names begin so, from the machine's own disks first. PermanentError if one is in use."""
    graph = await query_graph(qmp)
    ours = [name for name in graph.names if name.startswith(prefix)]
    # Whoever looks at a filter, first: it wants what the machine's own use of the disk rules out.
    for name in ours:
        if not graph.parents(name) and graph.child(name, "file") in ours:
            await remove_node(qmp, name)
    for name in ours:
        for parent in graph.parents(name):
            if parent not in ours and (below := graph.child(name, "file")) is not None:
                await reattach(qmp, parent, below)
    left = [name for name in (await query_graph(qmp)).names if name.startswith(prefix)]
    while left:
        graph = await query_graph(qmp)
        free = [name for name in left if not graph.parents(name)] or left[:1]
        for name in free:
            await remove_node(qmp, name)
        left = [name for name in left if name not in free]


async def remove_files(qmp: Qmp, prefix: str) -> None:
    """Have QEMU close the files that it was given under a name (`opaque`) which begins so, and that no node uses. As
    long as anybody is connected to it, it keeps them, and the room that they take."""
    for held in await qmp.execute("query-fdsets"):
        for file in held["fds"]:
            if str(file.get("opaque", "")).startswith(prefix):
                with suppress(PermanentError):  # it has just gone
                    await qmp.execute("remove-fd", {"fdset-id": held["fdset-id"], "fd": file["fd"]})


async def remove_node(qmp: Qmp, name: str) -> None:
    """Remove a node of ours. Fine if it is gone."""
    try:
        await qmp.execute("blockdev-del", {"node-name": name})
    except PermanentError:
        if name in (await query_graph(qmp)).names:
            raise
