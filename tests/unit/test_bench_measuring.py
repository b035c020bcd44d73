"""What the benchmarks measure of a program, and how they tell a right copy from a wrong one."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.ballast import Ballast, ballast
from benchmarks.lab import (
    Lab,
    LeftOutError,
    change_one_percent,
    check_and_remove,
    check_same,
    is_in_memory,
    lab,
)
from benchmarks.measuring import cpu_of_group, measure

_MIB = 1 << 20
_BURN = "import time\nwhile time.process_time() < 0.3: pass"
_BURN_IN_CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_BURN!r}], check=True)"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_time_processor_and_memory_are_those_of_the_program_with_its_children() -> None:
    hold = "held = bytearray(100 << 20); import time; time.sleep(0.3)"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_BURN + chr(10) + hold!r}])"
    measured, said = measure([sys.executable, "-c", program + "; print('끝')"])
    assert said == "끝\n"
    assert measured.seconds >= 0.6
    assert measured.cpu_s >= 0.3
    assert 100 * _MIB < measured.peak_rss_bytes < 1000 * _MIB
    assert measured.server_cpu_s == 0


def test_what_a_server_spent_is_the_difference() -> None:
    spent = iter((2.25, 5.75))
    assert measure(["true"], server_cpu_s=lambda: next(spent))[0].server_cpu_s == 3.5


def test_a_program_that_fails_is_told_with_what_it_said() -> None:
    with pytest.raises(RuntimeError, match=r"^sh -c .* ended with 3: out\nerr\n$"):
        measure(["sh", "-c", "echo out; echo err >&2; exit 3"])


def test_a_group_has_spent_what_its_leader_collected_too() -> None:
    wait = "; import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", _BURN_IN_CHILD + wait], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        assert cpu_of_group(process.pid) >= 0.25
        process.communicate()
    assert cpu_of_group(process.pid) == 0


def _disk(path: Path, size_bytes: int = 3 * _MIB + 5) -> Path:
    path.write_bytes(random.Random(1).randbytes(size_bytes))
    return path


def test_an_equal_copy_is_right_and_is_taken_away(tmp_path: Path) -> None:
    disk, copy = _disk(tmp_path / "a"), _disk(tmp_path / "b")
    check_same(disk, copy)
    check_and_remove(disk, copy)
    assert not copy.exists()


@pytest.mark.parametrize("offset_bytes", [0, _MIB, 3 * _MIB + 4])
def test_one_wrong_byte_is_found(tmp_path: Path, offset_bytes: int) -> None:
    disk, copy = _disk(tmp_path / "a"), _disk(tmp_path / "b")
    with copy.open("r+b") as file:
        file.seek(offset_bytes)
        old = file.read(1)
        file.seek(offset_bytes)
        file.write(bytes([old[0] ^ 1]))
    with pytest.raises(AssertionError, match="differs"):
        check_and_remove(disk, copy)
    assert copy.exists()


def test_a_shorter_copy_is_found(tmp_path: Path) -> None:
    disk, copy = _disk(tmp_path / "a"), _disk(tmp_path / "b", 3 * _MIB)
    with pytest.raises(AssertionError, match="not as long"):
        check_same(disk, copy)


def test_holes_of_a_terabyte_are_compared_at_once_and_data_in_one_of_them_are_found(tmp_path: Path) -> None:
    disk, copy = tmp_path / "a", tmp_path / "b"
    for path in (disk, copy):
        with path.open("wb") as file:
            file.truncate(1 << 40)
    check_same(disk, copy)
    with copy.open("r+b") as file:
        file.seek(1 << 39)
        file.write(b"x")
    with pytest.raises(AssertionError, match="differs"):
        check_same(disk, copy)


def test_one_chunk_in_a_hundred_changes_and_none_of_the_first_8_mib(tmp_path: Path) -> None:
    disk = tmp_path / "디스크"
    disk.write_bytes(bytes(32 * _MIB))
    before = disk.read_bytes()
    changed_bytes = change_one_percent(Lab(tmp_path, random.Random(1)), disk)
    after = disk.read_bytes()
    starts = range(0, len(before), 65536)
    chunks = [start for start in starts if before[start : start + 65536] != after[start : start + 65536]]
    assert changed_bytes == len(chunks) * 65536 == 5 * 65536
    assert min(chunks) >= 8 * _MIB
    assert disk.stat().st_size == len(before)


@pytest.mark.skipif(not is_in_memory(Path("/dev/shm")), reason="needs a directory in memory")
def test_a_ballast_holds_one_page_in_64_and_its_memory_goes_with_it() -> None:
    with ballast(Path("/dev/shm")) as held:
        held.hold(3 * _MIB)
        before = _blocks_of(held)
        held.hold(5 * _MIB + 1)
        held.hold(_MIB)
        assert held.held_bytes == 6 * _MIB
        pages = 6 * _MIB // os.sysconf("SC_PAGE_SIZE")
        assert _blocks_of(held) == 2 * before == pages // 64 * os.sysconf("SC_PAGE_SIZE") // 512


@pytest.mark.skipif(not is_in_memory(Path("/dev/shm")), reason="needs a directory in memory")
def test_a_lab_in_memory_has_as_much_kept_ready_as_it_needs() -> None:
    with ballast(Path("/dev/shm")) as held, lab(Path("/dev/shm"), seed=1, ballast=held) as place:
        place.need_room(4 * _MIB)
        assert held.held_bytes == 8 * _MIB
        with pytest.raises(LeftOutError):
            place.need_room(1 << 50)
        assert held.held_bytes == 8 * _MIB


def _blocks_of(held: Ballast) -> int:
    return os.fstat(held._fd).st_blocks
