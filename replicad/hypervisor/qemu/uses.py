"""How a QEMU uses the disks of a machine, and what of that keeps them from being switched to other files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

from replicad.model.errors import BusyError, IntegrityError
from replicad.storage.blocking import run_blocking

from .graph import Graph, query_graph
from .nodes import file_name, inode_of, query_nodes
from .options import OURS, Options, options_of
from .process import Inode, Process, command_line, identify, inode_as_seen_by, open_files, writers_of
from .qmp import Qmp

FORMATS = ("vhdx", "vpc", "raw")
_JOBS = ("mirror_top", "commit_top", "backup-top")
_FILTERS = ("throttle",)
"""Of those that QEMU has, this one alone can be given another node below it (7.2)."""
_LOOK_UP_TIMEOUT_S = 30.0
_RIGHTS = "which files QEMU has open can't be seen (replicad has to run as root or as QEMU's user)"
_HINT = "docs/qemu.md tells how a machine's disks have to be used so that they can be moved while it runs."


@dataclass(frozen=True, slots=True)
class Use:
    """One disk: the nodes of its file and its format, and what is right above them: a device, by its path, or a filter,
    by its node's name. `size_bytes`: what the machine sees."""

    path: str
    inode: Inode
    file_node: str
    format_node: str
    format: str
    size_bytes: int
    device: str | None
    filter: str | None
    caching: Mapping[str, Mapping[str, object]]
    """By node: what QEMU tells of how it was opened, as options."""
    options: Options


@dataclass(frozen=True, slots=True)
class Uses:
    """What one QEMU uses of the files that were asked for; the others it does not have open."""

    process: Process
    used: Mapping[str, Use]
    unused: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Looked:
    process: Process
    opened: frozenset[Inode]
    wanted: Mapping[str, Inode]
    of_nodes: Mapping[str, Inode]
    writers: Mapping[Inode, str]
    arguments: tuple[str, ...]


async def find_uses(qmp: Qmp, executor: Executor, names: Mapping[str, str]) -> Uses:
    """How QEMU uses files, given by what they are called and the names that they have on this host.

    One that is not there is not used. BusyError, with what is in the way, if one is used in a way in which it can't be
    switched, or by another process. Raises what `Qmp.execute` does besides.
    """
    nodes, graph = _without_left(await query_nodes(qmp), await query_graph(qmp))
    devices = await _devices(qmp)
    looked = await run_blocking(
        executor, "look at", "the files that QEMU has open", lambda: _look(qmp, nodes, names), _LOOK_UP_TIMEOUT_S
    )
    by_name = {str(node["node-name"]): node for node in nodes}
    used: dict[str, Use] = {}
    unused = [path for path in names if path not in looked.wanted]
    for path, inode in looked.wanted.items():
        file_nodes = [name for name, of in looked.of_nodes.items() if of == inode]
        if why := _in_the_way(looked, inode, file_nodes):
            raise busy(path, why)
        if file_nodes:
            used[path] = _use(path, inode, file_nodes[0], by_name, graph, devices, looked)
        else:
            unused.append(path)
    return Uses(looked.process, used, tuple(unused))


def _without_left(nodes: Sequence[Mapping[str, Any]], graph: Graph) -> tuple[Sequence[Mapping[str, Any]], Graph]:
    """The nodes but those of ours that a process which died has left, and which nothing uses."""
    left = {name for name in graph.names if name.startswith(OURS) and not _is_at_work(graph, name)}
    edges = tuple(edge for edge in graph.edges if edge[0] not in left)
    return [node for node in nodes if node["node-name"] not in left], replace(graph, edges=edges)


def busy(path: str, why: str) -> BusyError:
    """A disk can't be switched now; `why` is a clause."""
    return BusyError("move", f"{path} while its machine runs", why, _HINT)


async def sides_in(qmp: Qmp, executor: Executor, names: Mapping[str, Sequence[str | None]]) -> dict[str, int | None]:
    """Of each file, given by the names that it may be used by: the number of the one that QEMU uses now; None: none.

    BusyError if that can't be told. A file counts that is open and that a device uses, or, if none is, that is open.
    """
    nodes, graph = await query_nodes(qmp), await query_graph(qmp)

    def look() -> dict[str, int | None]:
        process = identify(qmp.pid)
        opened = None if process is None else open_files(process)
        if process is None or opened is None:
            raise BusyError("ask", qmp.subject, _RIGHTS)
        of_nodes = _inodes_of(process, nodes)
        at_work = {inode for name, inode in of_nodes.items() if _is_at_work(graph, name)}
        return {
            path: _chosen(path, [inode_of(n) if n else None for n in by], opened, at_work) for path, by in names.items()
        }

    return await run_blocking(executor, "look at", "the files that QEMU has open", look, _LOOK_UP_TIMEOUT_S)


def _chosen(path: str, inodes: Sequence[Inode | None], opened: frozenset[Inode], at_work: set[Inode]) -> int | None:
    there = [number for number, inode in enumerate(inodes) if inode is not None and inode in opened]
    if len(there) > 1:
        there = [number for number in there if inodes[number] in at_work]
        if len(there) != 1:
            raise BusyError("tell", f"which {path} the machine uses", "QEMU has both of them open", _HINT)
    return there[0] if there else None


def _is_at_work(graph: Graph, name: str) -> bool:
    """Whether a device, a job or an export uses a node, or one above it."""
    return name in graph.others_above or any(_is_at_work(graph, parent) for parent in graph.parents(name))


def _look(qmp: Qmp, nodes: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> _Looked:
    process = identify(qmp.pid)
    opened = None if process is None else open_files(process)
    if process is None or opened is None:
        raise BusyError("ask", qmp.subject, _RIGHTS)
    wanted = {path: inode for path, name in names.items() if (inode := inode_of(name)) is not None}
    writers = writers_of(frozenset(wanted.values()), process.pid)
    return _Looked(process, opened, wanted, _inodes_of(process, nodes), writers, command_line(process))


def _inodes_of(process: Process, nodes: Sequence[Mapping[str, Any]]) -> dict[str, Inode]:
    """The files of the nodes that have one of this host, by the nodes' names."""
    found = {}
    for node in nodes:
        if node.get("drv") == "file" and (inode := inode_as_seen_by(process, file_name(node))) is not None:
            found[str(node["node-name"])] = inode
    return found


def _in_the_way(looked: _Looked, inode: Inode, file_nodes: Sequence[str]) -> str:
    """Why a file can't be switched, as far as files tell, as a clause; empty if nothing is in the way."""
    if inode in looked.writers:
        return f"{looked.writers[inode]} has it open for writing, too"
    if file_nodes and inode not in looked.opened:
        return "it was replaced by another file since QEMU opened it"
    if not file_nodes and inode in looked.opened:
        return "QEMU has it open, and not as a disk"
    if len(file_nodes) > 1:
        return f"QEMU has it open more than once (as {', '.join(file_nodes)})"
    return ""


def _use(
    path: str, inode: Inode, file_node: str, by_name: Mapping[str, Mapping[str, Any]], graph: Graph,
    devices: Mapping[str, str], looked: _Looked,
) -> Use:  # fmt: skip
    format_node = _only_above(path, file_node, by_name, graph)
    kind = str(by_name[format_node].get("drv"))
    if kind not in FORMATS:
        raise busy(path, _use_of(kind, format_node))
    if [below for above, _, below in graph.edges if above == format_node] != [file_node]:
        raise busy(path, f"its node {format_node} reads from others, too")
    filters: list[str] = []
    top = format_node
    while graph.parents(top):
        top = _only_above(path, top, by_name, graph)
        if (drv := str(by_name[top].get("drv"))) not in _FILTERS or graph.child(top, "file") is None:
            raise busy(path, _use_of(drv, top))
        filters.append(top)
    device = _device(path, top, graph, devices)
    if by_name[file_node].get("ro"):
        raise busy(path, "QEMU has it open read-only")
    options = options_of(
        file_node, format_node, inode, looked.arguments, lambda name: inode_as_seen_by(looked.process, name)
    )
    return Use(
        path, inode, file_node, format_node, kind, int(by_name[format_node]["image"]["virtual-size"]),
        None if filters else device, filters[0] if filters else None,
        {name: _told(by_name[name]) for name in (file_node, format_node)}, options,
    )  # fmt: skip


def _only_above(path: str, node: str, by_name: Mapping[str, Mapping[str, Any]], graph: Graph) -> str:
    """The one node above another, where nothing else may be."""
    parents = graph.parents(node)
    if kinds := [kind for kind, _, below in graph.users if below == node]:
        if "block-job" in kinds:
            raise busy(path, "a block job of QEMU's is under way on it")
        if not parents:
            raise busy(path, "a device uses it without a format (driver=raw above driver=file would do)")
        raise busy(path, f"{node} is used by something beside the one node above it (an export?)")
    if len(parents) != 1:
        more = "; ".join(_use_of(str(by_name.get(parent, {}).get("drv")), parent) for parent in parents)
        raise busy(path, more or "no device of the machine uses it, though QEMU has it open")
    if ((parents[0], "backing", node) in graph.edges) and by_name[parents[0]].get("drv") not in _JOBS:
        raise busy(path, f"it is what another image is based on (a backing chain, at {parents[0]})")
    return parents[0]


def _use_of(driver: str, node: str) -> str:
    """What it means that a node of some kind is above a disk, as a clause."""
    if driver == "copy-before-write":
        return f"a snapshot or a backup of it is under way ({node})"
    if driver in _JOBS:
        return f"a block job of QEMU's is under way on it ({node})"
    if driver in FORMATS or driver in _FILTERS:
        return f"it is used through {node}"
    return f"it is used through {node} ({driver}), and not as a disk of its own"


def _device(path: str, top: str, graph: Graph, devices: Mapping[str, str]) -> str:
    users = [(kind, name) for kind, name, below in graph.users if below == top]
    if any(kind == "block-job" for kind, _ in users):
        raise busy(path, "a block job of QEMU's is under way on it")
    if top not in devices:
        raise busy(path, "no device of the machine uses it, though QEMU has it open")
    if len(users) != 1:
        raise busy(path, "something uses it beside the machine's device (an export over NBD?)")
    return devices[top]


async def _devices(qmp: Qmp) -> dict[str, str]:
    """The devices that use nodes, by these."""
    told = await qmp.execute("query-block")
    if not isinstance(told, list) or not all(isinstance(one, dict) for one in told):
        raise IntegrityError("list the disks of", qmp.subject, "what it returned is no list of disks")
    found = {}
    for one in told:
        node, device = (one.get("inserted") or {}).get("node-name"), one.get("qdev")
        if node and device:
            found[str(node)] = str(device) if str(device).startswith("/") else f"/machine/peripheral/{device}"
    return found


def _told(node: Mapping[str, Any]) -> dict[str, object]:
    """What QEMU tells of how a node was opened, as options of another."""
    cache = node.get("cache", {})
    caching = {"direct": bool(cache.get("direct")), "no-flush": bool(cache.get("no-flush"))}
    return {"cache": caching, "detect-zeroes": str(node.get("detect_zeroes", "off"))}
