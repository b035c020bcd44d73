"""Whatever a file holds, loading it gives settings or a list of problems; units survive the way there and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicad.settings import SettingsError
from replicad.settings.cron import parse_cron
from replicad.settings.load import parse
from replicad.settings.problems import WrongError
from replicad.settings.timetable import parse_timetable
from replicad.settings.units import MAX_DURATION_S, format_duration, format_size, parse_duration, parse_size

CONFIG = Path(__file__).parents[2] / "config"
EXAMPLES = [file.read_bytes() for file in sorted([*CONFIG.glob("*.yaml"), *(CONFIG / "invalid").glob("*.yaml")])]
TOKENS = [
    *("virtual_machines:", "servers:", "web01:", "source:", "replica:", "every:", "keep:", "consistency:", "disks:"),
    *("nas1:", "address:", "username:", "password_file:", "cron:", "bandwidth:", "chunk_size:", "&a", "*a", "<<:"),
    *("!!str", "!", "%YAML 1.1", "---", "...", "[", "]", "{", "}", ",", ":", "- ", "? ", "|", ">", "'", '"', '"\\'),
    *("\\\\nas1\\vms", "smb://nas1/x", "/srv", "5m", "null", "~", "0x1", "1e9", "\\x41", "\\U99999999", "!%zz"),
    *("\n", "\n  ", "\n    ", " ", "\t", "#", "\x00", "\x85", "\u2028", "\ud7ff", "é", "\U0001f600"),
]


def _either(data: bytes) -> None:
    try:
        parse(data, Path("any.yaml"), {"HOME": "/home/u"})
        return
    except SettingsError as error:
        problems, text = error.problems, str(error)
    assert problems
    assert all(p.line >= 0 and p.what for p in problems)
    assert text.split("\n") == [str(p) for p in problems]
    assert [p.line for p in problems] == sorted(p.line for p in problems)


@given(st.binary(max_size=400))
def test_any_bytes_give_settings_or_problems(data: bytes) -> None:
    _either(data)


@given(st.lists(st.sampled_from(TOKENS), max_size=40))
def test_any_mixture_of_yaml_gives_settings_or_problems(tokens: list[str]) -> None:
    _either("".join(tokens).encode())


@given(st.sampled_from(EXAMPLES), st.data())
def test_any_damage_to_a_file_gives_settings_or_problems(example: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(example)))
    end = data.draw(st.integers(start, min(len(example), start + 40)))
    new = data.draw(st.one_of(st.binary(max_size=8), st.sampled_from(TOKENS).map(str.encode)))
    _either(example[:start] + new + example[end:])


@given(st.integers(1, 10**12 - 1))
def test_size_survives_the_way_there_and_back(kib: int) -> None:
    assert parse_size(format_size(kib * 1024)) == kib * 1024


@given(st.integers(1, MAX_DURATION_S))
def test_duration_survives_the_way_there_and_back(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


TYPED = st.one_of(
    st.text(max_size=30), st.integers(), st.floats(), st.none(), st.booleans(), st.from_regex(r"[0-9.]+ ?[a-zA-Z/]+")
)


@pytest.mark.parametrize("read", [parse_size, parse_duration, parse_timetable, parse_cron])
@given(
    value=st.one_of(
        st.text(max_size=30),
        st.integers(),
        st.floats(),
        st.none(),
        st.booleans(),
        st.from_regex(r"[0-9.]+ ?[a-zA-Z/]+"),
    )
)
def test_values_are_read_or_refused_with_the_right_form(read: Callable[[object], object], value: object) -> None:
    try:
        read(value)
        return
    except WrongError as error:
        what, hint = error.what, error.hint
    assert what
    assert hint
