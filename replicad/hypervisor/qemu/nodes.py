"""Which of QEMU's block nodes have which of our files, by what is really open and not by name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replicad.model.errors import IntegrityError
from replicad.storage.blocking import run_blocking

from .process import Inode, Process, identify, inode_as_seen_by, inode_of_descriptor, open_files
from .qmp import Qmp

_LOOK_UP_TIMEOUT_S = 30.0
_GIVEN = "/dev/fdset/"


@dataclass(frozen=True, slots=True)
class Bitmap:
    """A dirty bitmap as QEMU describes it; `sound`: it has noted every write since it was made."""

    name: str
    sound: bool
    granularity_bytes: int
    set_bytes: int
    """What its bits stand for that are set."""


@dataclass(frozen=True, slots=True)
class FileNode:
    """The node through which QEMU reads and writes one of our files."""

    name: str
    inode: Inode
    size_bytes: int
    bitmaps: Mapping[str, Bitmap]


@dataclass(frozen=True, slots=True)
class Disks:
    """What one QEMU has of our files; `missing` says, as a clause, why a file has no node that could be relied on."""

    process: Process
    nodes: Mapping[str, FileNode]
    missing: Mapping[str, str]


async def find_disks(qmp: Qmp, executor: Executor, directory: str, paths: Iterable[str]) -> Disks:
    """The nodes of the files `paths` below `directory`, each of them found by the file that QEMU has open.

    Raises what `Qmp.execute` does, IntegrityError for what QEMU does not mean, and StuckError for a file system that
    does not answer.
    """
    nodes = await query_nodes(qmp)
    given = await _given_files(qmp) if any(_is_given(node) for node in nodes) else {}
    wanted = tuple(paths)

    def look() -> Disks:
        return _matched(qmp.pid, nodes, given, {path: inode_of(f"{directory}/{path}") for path in wanted})

    return await run_blocking(executor, "look at", "the files that QEMU has open", look, _LOOK_UP_TIMEOUT_S)


async def query_nodes(qmp: Qmp) -> Sequence[Mapping[str, Any]]:
    """All block nodes, as QEMU describes them."""
    nodes = await qmp.execute("query-named-block-nodes", {"flat": True})
    if not isinstance(nodes, list) or not all(isinstance(n, dict) and isinstance(n.get("image"), dict) for n in nodes):
        raise IntegrityError("list the nodes of", qmp.subject, "what it returned is no list of nodes")
    return nodes


async def _given_files(qmp: Qmp) -> Mapping[str, Sequence[int]]:
    """The descriptors, as QEMU has them, of the files that it was given open, by the names that they go by."""
    sets = await qmp.execute("query-fdsets")
    return {f"{_GIVEN}{one['fdset-id']}": [int(file["fd"]) for file in one["fds"]] for one in sets}


def _is_given(node: Mapping[str, Any]) -> bool:
    return file_name(node).startswith(_GIVEN)


def _inode_of_node(process: Process, node: Mapping[str, Any], given: Mapping[str, Sequence[int]]) -> Inode | None:
    if not _is_given(node):
        return inode_as_seen_by(process, file_name(node))
    # All of a set are the same file, opened in different ways.
    found = {inode_of_descriptor(process, number) for number in given.get(file_name(node), ())}
    return found.pop() if len(found) == 1 else None


def inode_of(path: str) -> Inode | None:
    """The file of a name here; None if there is none."""
    try:
        status = Path(path).lstat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino)


def _matched(
    pid: int,
    nodes: Sequence[Mapping[str, Any]],
    given: Mapping[str, Sequence[int]],
    wanted: Mapping[str, Inode | None],
) -> Disks:
    process = identify(pid)
    opened = None if process is None else open_files(process)
    if process is None or opened is None:
        why = "which files QEMU has open can't be seen (replicad has to run as root or as QEMU's user)"
        return Disks(process or Process(pid, ""), {}, dict.fromkeys(wanted, why))
    by_inode: dict[Inode, list[Mapping[str, Any]]] = {}
    for node in nodes:
        if node.get("drv") == "file" and (inode := _inode_of_node(process, node, given)) is not None:
            by_inode.setdefault(inode, []).append(node)
    found: dict[str, FileNode] = {}
    missing: dict[str, str] = {}
    for path, inode in wanted.items():
        writing = [node for node in by_inode.get(inode, ()) if not node.get("ro")] if inode else []
        if inode is None:
            missing[path] = "it is not there"
        elif not by_inode.get(inode):
            missing[path] = "QEMU does not use it"
        elif inode not in opened:
            missing[path] = "it was replaced by another file since QEMU opened it"
        elif len(writing) != 1:
            missing[path] = "QEMU has it open read-only" if not writing else "QEMU has it open more than once"
        else:
            found[path] = _node(writing[0], inode)
    return Disks(process, found, missing)


def file_name(node: Mapping[str, Any]) -> str:
    """The name that QEMU opened a file by, whichever way it tells it."""
    name = str(node["image"].get("filename", ""))
    if not name.startswith("json:"):
        return name
    try:
        options = json.loads(name.removeprefix("json:"))
    except ValueError:
        return ""
    return str(options.get("filename", "")) if isinstance(options, dict) else ""


def _node(node: Mapping[str, Any], inode: Inode) -> FileNode:
    bitmaps = {bitmap.name: bitmap for bitmap in map(_bitmap, node.get("dirty-bitmaps", ()))}
    return FileNode(str(node["node-name"]), inode, int(node["image"]["virtual-size"]), bitmaps)


def _bitmap(told: Mapping[str, Any]) -> Bitmap:
    sound = bool(told.get("recording")) and not told.get("inconsistent") and not told.get("busy")
    return Bitmap(str(told.get("name", "")), sound, int(told.get("granularity", 0)), int(told.get("count", 0)))
