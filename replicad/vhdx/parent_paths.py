r"""Where a parent is, as a child says it: the paths of a parent locator (MS-VHDX §2.6.2.6.3). Pure.

Places are written as their own system writes them: `\\server\share\dir`, `D:\dir` or `/srv/dir`. A Windows path may
begin with `\\?\` (`\\?\UNC\` in place of the two backslashes): it is the same place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import takewhile

from replicad.model.errors import InvalidNameError, UnsupportedError

_EXTENDED, _EXTENDED_UNC = "\\\\?\\", "\\\\?\\UNC\\"
_UNC = re.compile(r"\\\\([^\\/?.][^\\/]*)[\\/]+([^\\/]+)(?:[\\/]+(.*))?", re.DOTALL)
_DRIVE = re.compile(r"([A-Za-z]:)(?:[\\/]+(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ParentPaths:
    """The paths that a parent locator holds. None: it holds none of this kind. At least one is there."""

    relative_path: str | None = None
    absolute_win32_path: str | None = None
    volume_path: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    r"""A file or directory: `root` is `\\server\share`, `D:` or `` (POSIX); `parts` hold no '.' and no '..'."""

    root: str
    parts: tuple[str, ...]

    def __str__(self) -> str:
        separator = "\\" if self.root else "/"
        return self.root + separator + separator.join(self.parts)

    @property
    def directory(self) -> Place:
        """The directory that holds it; the root is its own."""
        return Place(self.root, self.parts[:-1])

    def is_beside(self, other: Place) -> bool:
        """Whether both are on one share, drive or POSIX system: only then a relative path leads from one to another."""
        return self.root.lower() == other.root.lower()


def read_place(path: str) -> Place:
    """The place that an absolute path names. '.' and '..' in it are followed.

    InvalidNameError if it is not absolute, goes beyond its root, or holds a NUL or half a surrogate pair.
    """
    plain = path
    if path.upper().startswith(_EXTENDED_UNC):
        plain = "\\\\" + path[len(_EXTENDED_UNC) :]
    elif path.startswith(_EXTENDED):
        plain = path[len(_EXTENDED) :]
    if plain is path and path.startswith("/"):
        return Place("", _walk((), path.split("/"), path))
    if match := _UNC.fullmatch(plain):
        server, share, rest = match.groups()
        return Place(f"\\\\{server}\\{share}", _walk((), _split(rest or ""), path))
    if match := _DRIVE.fullmatch(plain):
        return Place(match[1].upper(), _walk((), _split(match[2] or ""), path))
    raise _refuse(path, "it is no absolute path")


def parent_paths(child_directory: str, parent_file: str, *, like: str | None = None) -> ParentPaths:
    r"""What a child in `child_directory` is to say of its parent at `parent_file` (both absolute).

    `relative_path` where both are on one share, drive or POSIX system; `absolute_win32_path` where the parent has a
    Windows path, in the form that MS-VHDX asks for, with `\\?\`. Hyper-V itself writes it without: it is written so if
    `like`, the one that the locator holds now, is so. Never a volume_path: it would name the volume that the parent was
    moved away from, or one that is known on one machine alone.

    UnsupportedError if there is neither; InvalidNameError if one of them is no absolute path, the parent's names
    nothing in its root, or a name holds a backslash, which would be read as two names.
    """
    child, parent = read_place(child_directory), read_place(parent_file)
    if not parent.parts:
        raise _refuse(parent_file, "it names no file")
    relative = _relative(child.parts, parent.parts) if child.is_beside(parent) else None
    absolute = None
    if parent.root:
        absolute = str(parent)
        if like is None or like.startswith(_EXTENDED):
            prefix = _EXTENDED_UNC if absolute.startswith("\\\\") else _EXTENDED
            absolute = prefix + absolute.removeprefix("\\\\")
    if relative is None and absolute is None:
        raise UnsupportedError(
            "write", f"the place of the parent {str(parent)!r}",
            f"no path leads there from {str(child)!r}, and it has no Windows path",
            "Put the parent where its child is, or name both by their share.",
        )  # fmt: skip
    return ParentPaths(relative, absolute)


def follow(child_file: str, key: str, path: str) -> str | None:
    """The place that the path of one key of a locator names, for a child there; None if it can't be told.

    A path in the volume form is never followed: only the machine that made it knows the volume. What begins beyond a
    root, or is no path at all, leads nowhere. A relative path is read with either separator.
    """
    try:
        if key == "relative_path":
            directory = read_place(child_file).directory
            return str(Place(directory.root, _walk(directory.parts, _split(path), path)))
        return None if key == "volume_path" else str(read_place(path))
    except InvalidNameError:
        return None


def _relative(start: tuple[str, ...], end: tuple[str, ...]) -> str:
    """From one directory to a file. Names that differ in case alone count as different: up and down again is right
    wherever they are the same, and the only right one where they are not."""
    common = len([*takewhile(lambda pair: pair[0] == pair[1], zip(start, end[:-1], strict=False))])
    up, down = [".."] * (len(start) - common) or ["."], end[common:]
    for name in down:
        if "\\" in name:
            raise _refuse(name, "it holds a backslash, which ends a name in a parent locator")
    return "\\".join([*up, *down])


def _split(path: str) -> list[str]:
    return re.split(r"[\\/]", path)


def _walk(start: tuple[str, ...], steps: list[str], path: str) -> tuple[str, ...]:
    parts = [*start]
    for step in steps:
        if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in step):
            raise _refuse(path, "it holds a NUL or half a surrogate pair")
        if step == "..":
            if not parts:
                raise _refuse(path, "it goes up beyond its root")
            parts.pop()
        elif step not in ("", "."):
            parts.append(step)
    return tuple(parts)


def _refuse(path: str, reason: str) -> InvalidNameError:
    return InvalidNameError("use", f"the path {path!r}", reason, "Give the whole path.")
