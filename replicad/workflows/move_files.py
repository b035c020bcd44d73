"""Which files a move takes along, and in which order they hang together."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Container, Mapping, Sequence
from dataclasses import dataclass

from replicad.model.errors import ConflictError, IntegrityError, NotFoundError, UnsupportedError
from replicad.model.names import check_path, folded, is_vhdx_name, join, matches, path_on
from replicad.model.points import FileKind
from replicad.storage.port import OpenMode, Share, Stat
from replicad.vhdx.chains import Chains, Cycle, Fault, MissingParent, WrongLinkage, WrongSectors, read_chains
from replicad.vhdx.facts import DamagedVhdxError, VhdxFacts
from replicad.vhdx.parse import check_structure

from .inspect import drive

_DISKS = ("*.vhdx", "*.avhdx", "*.vhd", "*.vhds", "*.iso", "*.raw", "*.img", "*.qcow2")
_MAX_FILES = 10_000
_RECORDS = ("replica.json", "replica.lock")
_OURS = ".replicad-"
_MOVED = re.compile(r"\.moved-[0-9a-f]{8}$")


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file below the source."""

    path: str
    size_bytes: int
    allocated_bytes: int


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """All files below a source, sorted by path, which of them are `chosen`, and what is left behind on purpose."""

    files: tuple[FoundFile, ...]
    chosen: frozenset[str]
    warnings: tuple[str, ...]


def is_put_away(name: str) -> bool:
    """Whether a move has given a file this name, to have it out of the way."""
    return _MOVED.search(name) is not None


async def find_files(source: Share, takes: Callable[[str], bool] | None) -> FoundFiles:
    """All files below the source, of which those are chosen that it `takes`; None: all are.

    NotFoundError if none is; UnsupportedError for a link among those that it takes, which would lead elsewhere at the
    destination, and for devices, pipes and sockets; ConflictError if the directory is a replica's; InvalidNameError for
    a name that not every share takes.
    """
    files: list[FoundFile] = []
    chosen: set[str] = set()
    warnings: list[str] = []
    async for path, entry in _entries(source):
        if path in _RECORDS:
            raise _is_replica(source)
        if is_put_away(entry.name):
            warnings.append(f"{path} was put away by a move before, and stays where it is")
            continue
        if takes is None or takes(path):
            _refuse_no_file(source, path, entry)
            check_path(path)
            chosen.add(path)
        elif entry.is_link or entry.is_special:
            continue
        files.append(FoundFile(path, entry.size_bytes, entry.allocated_bytes))
        if len(files) > _MAX_FILES:
            raise UnsupportedError(
                "move", source.name, f"it holds more than {_MAX_FILES} files",
                "Give the directory of one virtual machine.",
            )  # fmt: skip
    if not chosen and warnings:
        raise NotFoundError(
            "move", source.name, "all of its files were put away by a move before",
            "They are at that move's destination: 'replicad move list' tells which that is.",
        )  # fmt: skip
    if not chosen:
        raise NotFoundError("move", source.name, "there is no file of a virtual machine in it", "Check the path.")
    _refuse_twins(source, [file for file in files if file.path in chosen])
    return FoundFiles(tuple(sorted(files, key=lambda file: file.path)), frozenset(chosen), tuple(warnings))


async def refuse_new_disks(source: Share, takes: Callable[[str], bool] | None, known: Container[str]) -> None:
    """ConflictError if a disk is below the source that it `takes` and that is not `known`: the machine may use it, and
    it may be based on one that is to go."""
    async for path, entry in _entries(source):
        is_taken = path not in known and not is_put_away(entry.name) and (takes is None or takes(path))
        if is_taken and kind_of(path) is FileKind.DISK:
            raise ConflictError(
                "move", path_on(source.name, path), "it has come since the move was planned, and would stay behind",
                "Take the move back by 'replicad move cancel', and start it again; the machine is used at its source.",
            )  # fmt: skip


async def refuse_other_machines(place: Share) -> None:
    """ConflictError if there is a disk below a machine's new directory already, or a replica: with the directory it
    would be the machine's from then on, and go along at its next move."""
    try:
        async for path, entry in _entries(place):
            if path in _RECORDS:
                raise ConflictError("move to", place.name, "it is a replica", "Choose another directory.")
            if kind_of(path) is FileKind.DISK and not is_put_away(entry.name):
                raise ConflictError(
                    "move to", place.name, f"there is a disk already, {path}, and all in it would be this machine's",
                    "Give a directory of the machine's own, such as a new one below that; it is made.",
                )  # fmt: skip
    except NotFoundError:
        return  # it went away meanwhile


def kind_of(path: str) -> FileKind:
    """Whether a file is a disk, by its name."""
    return FileKind.DISK if any(matches(path, pattern) for pattern in _DISKS) else FileKind.CONFIG


async def _entries(source: Share) -> AsyncIterator[tuple[str, Stat]]:
    """Whatever is below the source and no directory, with its path, but for what is ours."""
    todo = [""]
    while todo:
        directory = todo.pop()
        for entry in await source.list(directory):
            path = join(directory, entry.name)
            if entry.name.startswith(_OURS):
                continue
            if entry.is_dir and not entry.is_link:
                todo.append(path)
            else:
                yield path, entry


def _refuse_no_file(source: Share, path: str, entry: Stat) -> None:
    if entry.is_link:
        raise UnsupportedError(
            "move", path_on(source.name, path), "it is a link, and would lead elsewhere from its destination",
            "Put the file itself in its place, or move it away.",
        )  # fmt: skip
    if entry.is_special:
        raise UnsupportedError(
            "move", path_on(source.name, path), "it is a device, a pipe or a socket, not a file",
            "Have it elsewhere, such as below /run, or say which files are the machine's.",
        )  # fmt: skip


def _is_replica(source: Share) -> ConflictError:
    return ConflictError(
        "move", source.name, "it is a replica, and its points would not survive that",
        "Fail over to it, or have it made anew at another place ('replica' in the configuration).",
    )  # fmt: skip


def _refuse_twins(source: Share, files: Sequence[FoundFile]) -> None:
    by_name: dict[str, str] = {}
    for file in files:
        other = by_name.setdefault(folded(file.path), file.path)
        if other != file.path:
            raise ConflictError(
                "move", f"{other!r} and {file.path!r} in {source.name}",
                "their names differ only by case, and SMB shares take them for one file", "Rename one of them.",
            )  # fmt: skip


async def read_links(source: Share, files: Sequence[FoundFile], place_of: Callable[[str], str]) -> Chains:
    """How the differencing disks among the files hang together; `place_of` gives a file's absolute path.

    IntegrityError for a disk that is damaged, or whose parent is not the one that it was made of.
    """
    facts: dict[str, VhdxFacts] = {}
    for file in files:
        if is_vhdx_name(file.path):
            async with await source.open(file.path, OpenMode.READ) as opened:
                try:
                    found = await drive(check_structure(file.size_bytes), opened)
                except DamagedVhdxError:
                    continue  # whoever uses it may be writing it; it is moved as the bytes that it is
            if isinstance(found, VhdxFacts):
                facts[place_of(file.path)] = found
    return read_chains(facts)


def parents_of(chains: Chains, path_of: Mapping[str, str]) -> dict[str, str]:
    """The parent of each child, both by their paths below the source, of all whose parent was found."""
    return {path_of[link.child]: path_of[link.parent] for link in chains.links.values()}


def refuse_broken(chains: Chains, path_of: Mapping[str, str], taken: Container[str], source: Share) -> None:
    """Raise what keeps the chain of a file that is taken along from being whole."""
    for child, fault in chains.faults.items():
        if path_of[child] in taken:
            raise _fault(path_on(source.name, path_of[child]), fault)


def _fault(subject: str, fault: Fault) -> UnsupportedError | IntegrityError:
    match fault:
        case MissingParent(tried=tried):
            where = " or ".join(tried) or "where nobody can follow"
            return UnsupportedError(
                "move", subject, f"its parent ({where}) is not among the files that are moved",
                "Move the directory that holds both, or merge the disk into its parent.",
            )  # fmt: skip
        case WrongLinkage(parent=parent):
            return IntegrityError(
                "move", subject, f"its parent {parent} was changed since the disk was made of it",
                "Repair the chain first: the disk can't be read as it is.",
            )  # fmt: skip
        case WrongSectors(parent=parent):
            return IntegrityError("move", subject, f"its parent {parent} has other sectors", "Repair the chain first.")
        case Cycle():
            return IntegrityError("move", subject, "it is its own parent's parent", "Repair the chain first.")
