"""Names and paths that are safe on every share, and those that are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicad.model.errors import InvalidNameError
from replicad.model.names import check_name, check_path, folded, is_literal, join, last_part, matches, parent, printable
from replicad.replica.layout import (
    check_disk_path,
    disk_key,
    manifest_name,
    path_of_key,
    pending_number,
    point_number,
    undo_path,
)


@pytest.mark.parametrize("name", ["web.vhdx", "웹 서버 🖥.vhdx", "a b", ".hidden", "console.txt", "com10", "가" * 85])
def test_usable_names_pass(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "inside its directory"), (".", "inside"), ("..", "inside"), ("a/b", "'/'"),
        ("a\\b", "SMB shares do not allow"),
        ("a:b", "':'"), ("a\0b", "U\\+0000"), ("a\nb", "U\\+000A"), ("\ud800", "not valid UTF-8"),
        ("web.", "ends in a dot"),
        ("web ", "ends in a dot or a space"), ("NUL", "device"), ("com1.vhdx", "device"), ("aux .txt", "device"),
        ("CONIN$", "device"), ("conout$.log", "device"),
        ("가" * 86, "258 bytes"), ("what?", "'\\?'"),
    ],
)  # fmt: skip
def test_names_that_some_share_can_not_hold_are_refused_with_the_reason(name: str, why: str) -> None:
    with pytest.raises(InvalidNameError, match=why):
        check_name(name)


@pytest.mark.parametrize("path", ["../x", "a/../b", "/a", "a//b", "a/", "a/./b"])
def test_paths_that_could_leave_their_directory_are_refused(path: str) -> None:
    with pytest.raises(InvalidNameError):
        check_path(path)


@pytest.mark.parametrize(
    ("path", "pattern", "fits"),
    [
        ("web.VHDX", "*.vhdx", True), ("Virtual Hard Disks/web.vhdx", "*.vhdx", True), ("web.vhdx", "web.vhdx", True),
        ("a/web.vhdx", "a/*.vhdx", True), ("b/web.vhdx", "a/*.vhdx", False), ("a/b/web.vhdx", "a/*.vhdx", False),
        ("web.vhdx.bak", "*.vhdx", False), ("web1.vhdx", "web[0-9].vhdx", True), ("웹.vhdx", "?.vhdx", True),
    ],
)  # fmt: skip
def test_patterns_without_a_slash_match_at_any_depth_and_those_with_one_part_by_part(
    path: str, pattern: str, fits: bool
) -> None:
    assert matches(path, pattern) is fits


def test_literal_patterns_are_those_without_wildcards() -> None:
    assert is_literal("web 가.vhdx")
    assert not any(map(is_literal, ["*.vhdx", "web?.vhdx", "web[1].vhdx"]))


def test_parts_of_paths() -> None:
    assert join("", "a", "", "b/c") == "a/b/c"
    assert (parent("a/b/c"), parent("a"), last_part("a/b/c"), last_part("a")) == ("a/b", "", "c", "a")
    assert folded("STRASSE.vhdx") == folded("straße.vhdx")
    assert folded("한.vhdx") == folded("한.vhdx")


@given(st.text())
def test_printable_text_can_not_steer_a_terminal(text: str) -> None:
    assert not any(ord(c) < 32 or c in "\x7f\x9b\u202e\u2066" for c in printable(text))


@given(st.text())
def test_a_disk_key_is_one_name_and_leads_back_to_its_path(path: str) -> None:
    key = disk_key(path)
    assert "/" not in key
    assert path_of_key(key) == path
    try:
        assert undo_path(f"{key}.undo") == (check_disk_path(path) or None)
    except InvalidNameError:
        assert undo_path(f"{key}.undo") is None
    assert manifest_name(f"{key}.17.xxh3") == ((key, 17) if key else None)


@pytest.mark.parametrize("name", ["0", "01", "1.pending", "-1", "1 ", "９", "1" * 19, "point"])
def test_only_plain_numbers_name_points(name: str) -> None:
    assert point_number(name) is None


def test_numbers_of_points_and_of_cycles_under_way() -> None:
    assert (point_number("12"), pending_number("13.pending"), pending_number("13")) == (12, 13, None)
    assert pending_number("x.pending") is None
