r"""The paths of a parent locator: whoever follows what was written for a place gets to that place."""

from __future__ import annotations

import ntpath
import posixpath

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from replicad.model.errors import InvalidNameError, UnsupportedError
from replicad.vhdx import ParentPaths, parent_paths
from replicad.vhdx.parent_paths import follow, read_place

NAMES = st.one_of(
    st.sampled_from(["vms", "VMs", "가상 머신", "웹 서버 01", "💽 disks", " x", "a.b", "...", "Straße", "UNC"]),
    st.text(
        st.characters(exclude_categories=("Cs", "Cc"), exclude_characters='\\/:*?"<>|'), min_size=1, max_size=12
    ).filter(lambda name: name not in (".", "..")),
)
PARTS = st.lists(NAMES, max_size=5).map(tuple)
FILES = st.builds(lambda parts, name: (*parts, name), PARTS, NAMES)
WINDOWS_ROOTS = st.sampled_from(
    ["D:", "E:", "\\\\nas1\\vms", "\\\\nas1\\fast", "\\\\nas2\\vms", "\\\\서버\\공유 폴더", "\\\\10.0.0.1\\c$"]
)


def windows(root: str, parts: tuple[str, ...]) -> str:
    return "\\".join([root, *parts]) if parts else root + "\\"


def posix(parts: tuple[str, ...]) -> str:
    return "/" + "/".join(parts)


@given(WINDOWS_ROOTS, PARTS, WINDOWS_ROOTS, FILES, st.booleans())
@settings(max_examples=300)
def test_windows_paths_lead_to_the_parent(
    child_root: str, directory: tuple[str, ...], parent_root: str, file: tuple[str, ...], plain: bool
) -> None:
    child_directory, parent = windows(child_root, directory), windows(parent_root, file)
    paths = parent_paths(child_directory, parent, like="D:\\before.vhdx" if plain else None)
    assert paths.volume_path is None
    assert paths.absolute_win32_path is not None
    assert paths.absolute_win32_path.startswith("\\\\?\\") is not plain
    child = windows(child_root, (*directory, "child.avhdx"))
    assert follow(child, "absolute_win32_path", paths.absolute_win32_path) == parent
    if plain:
        assert paths.absolute_win32_path == parent
    assert (paths.relative_path is not None) == (child_root == parent_root)
    if paths.relative_path is not None:
        assert paths.relative_path.startswith((".\\", "..\\"))
        assert ntpath.normpath(ntpath.join(child_directory, paths.relative_path)) == parent
        assert follow(child, "relative_path", paths.relative_path) == parent


@given(PARTS, FILES)
@settings(max_examples=200)
def test_posix_paths_lead_to_the_parent(directory: tuple[str, ...], file: tuple[str, ...]) -> None:
    paths = parent_paths(posix(directory), posix(file))
    assert paths.absolute_win32_path is None
    assert paths.relative_path is not None
    followed = posixpath.join(posix(directory), paths.relative_path.replace("\\", "/"))
    assert posixpath.normpath(followed) == posix(file)
    assert follow(posix((*directory, "c.vhdx")), "relative_path", paths.relative_path) == posix(file)


@given(PARTS, PARTS, FILES)
@settings(max_examples=200)
def test_a_chain_that_moves_as_a_whole_keeps_its_relative_paths(
    before: tuple[str, ...], after: tuple[str, ...], file: tuple[str, ...]
) -> None:
    """From one root to any other; only the way up must be there."""
    here = parent_paths(windows("D:", (*before, "a")), windows("D:", (*before, *file)))
    there = parent_paths(windows("\\\\nas\\x", (*after, "a")), windows("\\\\nas\\x", (*after, *file)))
    assert here.relative_path == there.relative_path


@pytest.mark.parametrize(
    ("directory", "parent", "expected"),
    [
        ("\\\\nas\\v\\web", "\\\\nas\\v\\web\\p.vhdx", ParentPaths(".\\p.vhdx", "\\\\?\\UNC\\nas\\v\\web\\p.vhdx")),
        ("\\\\nas\\vms\\웹 서버", "\\\\NAS\\VMS\\기본\\부모 💽.vhdx",
         ParentPaths("..\\기본\\부모 💽.vhdx", "\\\\?\\UNC\\NAS\\VMS\\기본\\부모 💽.vhdx")),
        ("\\\\nas\\vms", "\\\\nas\\vms\\x\\p.vhdx", ParentPaths(".\\x\\p.vhdx", "\\\\?\\UNC\\nas\\vms\\x\\p.vhdx")),
        ("\\\\nas\\vms\\a", "\\\\nas\\fast\\a\\p.vhdx", ParentPaths(None, "\\\\?\\UNC\\nas\\fast\\a\\p.vhdx")),
        ("\\\\nas\\vms\\a", "\\\\nas2\\vms\\a\\p.vhdx", ParentPaths(None, "\\\\?\\UNC\\nas2\\vms\\a\\p.vhdx")),
        ("d:/path1/sub2", "D:\\path2\\sub3\\parent.vhdx",
         ParentPaths("..\\..\\path2\\sub3\\parent.vhdx", "\\\\?\\D:\\path2\\sub3\\parent.vhdx")),
        ("C:\\vms", "D:\\p.vhdx", ParentPaths(None, "\\\\?\\D:\\p.vhdx")),
        ("/srv/vms", "\\\\nas\\x\\p.vhdx", ParentPaths(None, "\\\\?\\UNC\\nas\\x\\p.vhdx")),
        ("\\\\?\\UNC\\nas\\x\\a", "\\\\nas\\x\\p.vhdx", ParentPaths("..\\p.vhdx", "\\\\?\\UNC\\nas\\x\\p.vhdx")),
        ("\\\\?\\D:\\a\\.\\b\\..", "D:\\a\\p.vhdx", ParentPaths(".\\p.vhdx", "\\\\?\\D:\\a\\p.vhdx")),
        ("D:\\VMs", "D:\\vms\\p.vhdx", ParentPaths("..\\vms\\p.vhdx", "\\\\?\\D:\\vms\\p.vhdx")),
        ("/srv/vms/web", "/srv/base/p.vhdx", ParentPaths("..\\..\\base\\p.vhdx")),
        ("/", "/p.vhdx", ParentPaths(".\\p.vhdx")),
    ],
)  # fmt: skip
def test_examples(directory: str, parent: str, expected: ParentPaths) -> None:
    assert parent_paths(directory, parent) == expected


def test_a_parent_that_no_path_leads_to_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="no path leads there from"):
        parent_paths("\\\\nas\\vms", "/srv/p.vhdx")


@pytest.mark.parametrize(
    ("directory", "parent", "reason"),
    [
        ("vms", "/p.vhdx", "no absolute path"),
        ("/vms", "p.vhdx", "no absolute path"),
        ("/vms", "\\\\nas", "no absolute path"),
        ("/vms", "D:p.vhdx", "no absolute path"),
        ("/vms", "\\\\?\\Volume{26A21BDA-A627-11D7-9931-806E6F6E6963}\\p.vhdx", "no absolute path"),
        ("/vms", "\\\\.\\PhysicalDrive0", "no absolute path"),
        ("/vms", "/../p.vhdx", "beyond its root"),
        ("\\\\nas\\vms", "\\\\nas\\vms\\..\\p.vhdx", "beyond its root"),
        ("/vms", "/", "names no file"),
        ("/vms", "D:\\", "names no file"),
        ("/vms", "/a\\b.vhdx", "ends a name"),
        ("/vms", "/a\0b.vhdx", "NUL"),
        ("/vms", "/a\ud83d.vhdx", "surrogate"),
        ("", "", "no absolute path"),
    ],
)
def test_what_is_no_place_is_refused(directory: str, parent: str, reason: str) -> None:
    with pytest.raises(InvalidNameError, match=reason):
        parent_paths(directory, parent)


def test_a_backslash_in_a_directory_that_both_share_is_not_in_the_way() -> None:
    assert parent_paths("/a\\b/c", "/a\\b/p.vhdx") == ParentPaths("..\\p.vhdx")


@pytest.mark.parametrize(
    ("child", "key", "path", "place"),
    [
        ("\\\\nas\\v\\c.vhdx", "relative_path", "..\\p.vhdx", None),  # beyond the share
        ("\\\\nas\\v\\a\\c.vhdx", "relative_path", "../p.vhdx", "\\\\nas\\v\\p.vhdx"),
        ("D:\\a\\c.vhdx", "relative_path", "p.vhdx", "D:\\a\\p.vhdx"),
        ("D:\\a\\c.vhdx", "absolute_win32_path", "e:\\p.vhdx", "E:\\p.vhdx"),
        ("D:\\a\\c.vhdx", "absolute_win32_path", "\\\\?\\unc\\nas\\v\\p.vhdx", "\\\\nas\\v\\p.vhdx"),
        ("D:\\a\\c.vhdx", "absolute_win32_path", "p.vhdx", None),
        ("D:\\a\\c.vhdx", "absolute_win32_path", "", None),
        ("D:\\a\\c.vhdx", "volume_path", "\\\\?\\Volume{x}\\p.vhdx", None),
        ("D:\\a\\c.vhdx", "volume_path", "D:\\p.vhdx", None),
    ],
)
def test_where_paths_lead(child: str, key: str, path: str, place: str | None) -> None:
    assert follow(child, key, path) == place


@given(st.text(alphabet="\\/?.:UNCd \0\ud800가", max_size=24))
@settings(max_examples=400)
def test_any_text_is_a_place_or_none(text: str) -> None:
    for key in ("relative_path", "absolute_win32_path"):
        place = follow("\\\\nas\\v\\a\\c.vhdx", key, text)
        if place is not None:
            assert str(read_place(place)) == place


@given(WINDOWS_ROOTS, PARTS)
@settings(max_examples=100)
def test_a_place_is_read_as_it_is_written(root: str, parts: tuple[str, ...]) -> None:
    assume(parts)
    place = read_place(windows(root, parts))
    assert (place.root, place.parts) == (root, parts)
