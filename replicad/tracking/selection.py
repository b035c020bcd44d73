"""Which files of the source directory belong to the virtual machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from replicad.model.errors import InvalidNameError, NotFoundError
from replicad.model.names import folded, is_literal, join, matches, printable
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


def is_selected(path: str, selection: Selection) -> bool:
    """Whether a file of this path belongs to the virtual machine."""
    return _classify(path, selection) is not None


@dataclass(frozen=True, slots=True)
class Selected:
    """The files that were chosen, sorted by path, and the links that would have been, were they files."""

    files: tuple[SelectedFile, ...]
    links: tuple[str, ...]


async def select_files(
    share: Share, selection: Selection, check_path: Callable[[str], str]
) -> tuple[SelectedFile, ...]:
    """The files that the patterns choose, sorted by path, without links and what lies in `.hidden` directories.

    Raises as `ChangeSource.select` does; `check_path` raises InvalidNameError for paths that can't be replicated.
    """
    return (await select(share, selection, check_path)).files


async def select(share: Share, selection: Selection, check_path: Callable[[str], str]) -> Selected:
    """The same, with the links that were left out."""
    paths, all_links = await _walk(share)
    found = [file for path in paths if (file := _classify(path, selection)) is not None]
    links = [link for link in all_links if _classify(link, selection) is not None]
    for pattern in selection.disks:
        if is_literal(pattern) and not any(matches(f.path, pattern) for f in found):
            if any(matches(link, pattern) for link in links):
                raise _only_links(share, f"disk '{pattern}'", "it is a symbolic link")
            raise NotFoundError(
                "find", f"disk '{pattern}' in {share.name}", "there is no such file",
                "Put the file back, or correct 'disks' in the configuration; recovery points keep what they have.",
            )  # fmt: skip
    if not any(f.kind is FileKind.DISK for f in found):
        if links:
            raise _only_links(share, "a disk", f"'{links[0]}' is a symbolic link")
        raise NotFoundError(
            "find", f"a disk in {share.name}", f"no file matches {', '.join(selection.disks)}",
            "Put the disks back, or correct 'source' or 'disks' in the configuration; recovery points keep what they "
            "have.",
        )  # fmt: skip
    _check_names(share, found, check_path)
    return Selected(tuple(sorted(found, key=lambda f: f.path)), tuple(sorted(links)))


def _only_links(share: Share, what: str, answer: str) -> NotFoundError:
    return NotFoundError(
        "find", f"{what} in {share.name}", f"{answer}, and links are not followed",
        "Give the directory that holds the disk itself as 'source'.",
    )  # fmt: skip


def _check_names(share: Share, found: list[SelectedFile], check_path: Callable[[str], str]) -> None:
    by_name: dict[str, str] = {}
    for file in found:
        try:
            check_path(file.path)
        except InvalidNameError as error:
            raise InvalidNameError(
                "replicate", f"'{printable(file.path)}' in {share.name}", error.answer,
                "Rename it, or leave it out with 'exclude'.",
            ) from None  # fmt: skip
        other = by_name.setdefault(folded(file.path), file.path)
        if other != file.path:
            raise InvalidNameError(
                "replicate", f"{other!r} and {file.path!r} in {share.name}",
                "their names differ only by case, and SMB shares take them for one file",
                "Rename one of them, or leave it out with 'exclude'.",
            )  # fmt: skip


def _classify(path: str, selection: Selection) -> SelectedFile | None:
    if any(matches(path, pattern) for pattern in selection.exclude):
        return None
    for patterns, kind in ((selection.disks, FileKind.DISK), (selection.config_files, FileKind.CONFIG)):
        fitting = [pattern for pattern in patterns if matches(path, pattern)]
        if fitting:
            return SelectedFile(path, kind, named=any(is_literal(p) for p in fitting))
    return None


async def _walk(share: Share) -> tuple[list[str], list[str]]:
    """The paths of all files, and of all links."""
    paths: list[str] = []
    links: list[str] = []
    todo = [""]
    seen = 0
    while todo:
        directory = todo.pop()
        found = await _list(share, directory)
        seen += 1 + len(found)
        for entry in found:
            path = join(directory, entry.name)
            if _is_followed(entry) and path.count("/") < _MAX_DEPTH:
                todo.append(path)
            elif entry.is_link:
                links.append(path)
            elif not entry.is_dir:
                paths.append(path)
        if seen > _MAX_ENTRIES:
            raise NotFoundError(
                "search", share.name, f"it holds more than {_MAX_ENTRIES} files and directories",
                "Point 'source' at the directory of this virtual machine alone.",
            )  # fmt: skip
    return paths, links


async def _list(share: Share, directory: str) -> list[Stat]:
    try:
        return await share.list(directory)
    except NotFoundError:
        if directory:
            return []  # gone since it was seen
        raise NotFoundError(
            "find", f"the source directory {share.name}", "there is no such directory",
            "Put it back, mount what should be there, or correct 'source' in the configuration.",
        ) from None  # fmt: skip


def _is_followed(entry: Stat) -> bool:
    return entry.is_dir and not entry.is_link and not entry.name.startswith(".")
