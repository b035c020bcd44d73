"""Which files of the source directory belong to the virtual machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from replicad.model.errors import InvalidNameError, NotFoundError
from replicad.model.names import folded, is_literal, join, matches
from replicad.model.points import FileKind
from replicad.storage.port import Share, Stat

from .port import SelectedFile

_MAX_DEPTH = 8
_MAX_ENTRIES = 100_000


@dataclass(frozen=True, slots=True)
class Selection:
    """Glob patterns as in the configuration; `exclude` wins."""

    disks: tuple[str, ...]
    exclude: tuple[str, ...]
    config_files: tuple[str, ...]


async def select_files(
    share: Share, selection: Selection, check_path: Callable[[str], str]
) -> tuple[SelectedFile, ...]:
    """The files that the patterns choose, sorted by path, without links and what lies in `.hidden` directories.

    Raises as `ChangeSource.select` does; `check_path` raises InvalidNameError for paths that can't be replicated.
    """
    found = [file for path in await _walk(share) if (file := _classify(path, selection)) is not None]
    for pattern in selection.disks:
        if is_literal(pattern) and not any(matches(f.path, pattern) for f in found):
            raise NotFoundError(
                "find", f"disk {pattern!r} in {share.name}", "there is no such file",
                "Correct 'disks' in the configuration, or put the file back.",
            )  # fmt: skip
    if not any(f.kind is FileKind.DISK for f in found):
        raise NotFoundError(
            "find", f"a disk in {share.name}", f"no file matches {', '.join(selection.disks)}",
            "Correct 'source' or 'disks' in the configuration.",
        )  # fmt: skip
    by_name: dict[str, str] = {}
    for file in found:
        check_path(file.path)
        other = by_name.setdefault(folded(file.path), file.path)
        if other != file.path:
            raise InvalidNameError(
                "replicate", f"{other!r} and {file.path!r} in {share.name}",
                "their names differ only by case, and SMB shares take them for one file",
                "Rename one of them, or leave it out with 'exclude'.",
            )  # fmt: skip
    return tuple(sorted(found, key=lambda f: f.path))


def _classify(path: str, selection: Selection) -> SelectedFile | None:
    if any(matches(path, pattern) for pattern in selection.exclude):
        return None
    for patterns, kind in ((selection.disks, FileKind.DISK), (selection.config_files, FileKind.CONFIG)):
        fitting = [pattern for pattern in patterns if matches(path, pattern)]
        if fitting:
            return SelectedFile(path, kind, named=any(is_literal(p) for p in fitting))
    return None


async def _walk(share: Share) -> list[str]:
    paths: list[str] = []
    todo = [""]
    while todo:
        directory = todo.pop()
        for entry in await share.list(directory):
            path = join(directory, entry.name)
            if _is_followed(entry) and path.count("/") < _MAX_DEPTH:
                todo.append(path)
            elif not entry.is_dir and not entry.is_link:
                paths.append(path)
        if len(paths) + len(todo) > _MAX_ENTRIES:
            raise NotFoundError(
                "search", share.name, f"it holds more than {_MAX_ENTRIES} files",
                "Point 'source' at the directory of this virtual machine alone.",
            )  # fmt: skip
    return paths


def _is_followed(entry: Stat) -> bool:
    return entry.is_dir and not entry.is_link and not entry.name.startswith(".")
