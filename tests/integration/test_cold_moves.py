"""Files that nobody uses are moved: whole directories, chains, and what stands in the way."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random
from socket import AF_UNIX, socket

import pytest

from replicad.model.errors import (
    AlreadyExistsError,
    BusyError,
    ConflictError,
    NotFoundError,
    OutOfSpaceError,
    UnsupportedError,
)
from replicad.model.moves import MoveOptions, MovePhase, SourceAfter
from replicad.model.progress import Alarmed, PhaseStarted, ProgressEvent
from replicad.workflows.move_journal import lock_at_source
from replicad.workflows.move_plan import Elsewhere
from tests.support.cold_moves import ColdMoves, local_settings
from tests.support.filesystems import mounted
from tests.support.vhdx_builder import MIB
from tests.support.vhdx_chains import SECTOR, build_chain
from tests.support.vhdx_oracles import reads_as

_CHAIN = ("기본/부모 디스크.vhdx", "one/첫째.avhdx", "one/둘째 💽.avhdx", "three.avhdx")


def _source(tmp_path: Path, **files: bytes) -> Path:
    source = tmp_path / "원본 VM"
    for name, data in {"디스크 하나.vhd": b"vhd" * 50_000, "sub/설정 🖥.xml": b"<vm/>", **files}.items():
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return source


def _files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


async def test_a_directory_goes_whole_and_nothing_of_it_stays(tmp_path: Path) -> None:
    source, moves = _source(tmp_path), ColdMoves(local_settings(tmp_path))
    before = _files(source)
    (tmp_path / "새 곳").mkdir()
    record = await moves.move(str(source), str(tmp_path / "새 곳/VM"))
    assert record.phase is MovePhase.DONE
    assert _files(tmp_path / "새 곳/VM") == before
    assert _files(source) == {}
    assert moves.remembered[-1] == record


async def test_a_source_that_is_to_be_kept_stays_under_other_names(tmp_path: Path) -> None:
    source, moves = _source(tmp_path), ColdMoves(local_settings(tmp_path))
    before = _files(source)
    plan = await moves.plan(str(source), str(tmp_path / "새 곳"), options=MoveOptions(source_after=SourceAfter.KEEP))
    record = await moves.run(plan.record)
    assert _files(tmp_path / "새 곳") == before
    assert _files(source) == {f"{name}.moved-{record.id[:8]}": data for name, data in before.items()}


async def test_after_its_grace_a_source_is_deleted_but_not_what_was_written_since(
    tmp_path: Path,
) -> None:
    source, moves = _source(tmp_path), ColdMoves(local_settings(tmp_path))
    plan = await moves.plan(str(source), str(tmp_path / "새 곳"), options=MoveOptions(grace_s=3600))
    record = await moves.run(plan.record)
    assert record.phase is MovePhase.RETIRED
    assert len(_files(source)) == 2
    assert (await moves.run(record)).phase is MovePhase.RETIRED
    with (source / f"디스크 하나.vhd.moved-{record.id[:8]}").open("ab") as file:
        file.write(b"somebody writes here")
    assert (await moves.run(record, later_s=3700)).phase is MovePhase.DONE
    assert set(_files(source)) == {f"디스크 하나.vhd.moved-{record.id[:8]}"}
    assert any("was written after" in event.text for event in moves.events if isinstance(event, Alarmed))


async def test_a_file_of_the_source_that_somebody_began_to_use_is_not_deleted(tmp_path: Path) -> None:
    source, moves = _source(tmp_path), ColdMoves(local_settings(tmp_path))
    plan = await moves.plan(str(source), str(tmp_path / "새 곳"), options=MoveOptions(grace_s=3600))
    record = await moves.run(plan.record)
    retired = f"디스크 하나.vhd.moved-{record.id[:8]}"
    with (source / retired).open("r+b") as file:
        assert (await moves.run(record, later_s=3700)).phase is MovePhase.DONE
        (alarm,) = [event.text for event in moves.events if isinstance(event, Alarmed)]
        assert retired in alarm
        assert f"process {os.getpid()}" in alarm
        file.write(b"written late")
    assert set(_files(source)) == {retired}


async def test_of_two_moves_of_one_machine_the_later_one_finds_nothing(tmp_path: Path) -> None:
    source, moves = _source(tmp_path), ColdMoves(local_settings(tmp_path))
    one, two = [(await moves.plan(str(source), str(tmp_path / name))).record for name in ("하나", "둘")]
    assert lock_at_source(one) == lock_at_source(two)
    assert (await moves.run(one)).phase is MovePhase.DONE
    with pytest.raises(NotFoundError):
        await moves.run(two)
    assert not any(".replicad-move-" not in path for path in _files(tmp_path / "둘"))


async def test_disks_can_go_elsewhere_than_the_rest(tmp_path: Path) -> None:
    source, moves = _source(tmp_path), ColdMoves(local_settings(tmp_path))
    await moves.move(
        str(source), str(tmp_path / "느린"), str(tmp_path / "빠른"), elsewhere=(Elsewhere("디스크*.vhd", 1),)
    )
    assert set(_files(tmp_path / "느린")) == {"sub/설정 🖥.xml"}
    assert set(_files(tmp_path / "빠른")) == {"디스크 하나.vhd"}


@pytest.mark.parametrize("run_sectors", [1, 8])
async def test_a_chain_that_was_moved_reads_the_same_at_every_sector(tmp_path: Path, run_sectors: int) -> None:
    source, moves = tmp_path / "체인", ColdMoves(local_settings(tmp_path))
    files = [source / name for name in _CHAIN]
    chain = build_chain(Random(run_sectors), files, range(6), 8 * MIB - 7 * SECTOR, run_sectors=run_sectors)
    (tmp_path / "더 깊이").mkdir()
    target = tmp_path / "더 깊이/옮긴 체인"
    record = await moves.move(str(source), str(target))
    assert record.phase is MovePhase.DONE
    assert not any(path.exists() for path in files)
    reads_as(chain, [target / name for name in _CHAIN], with_dissect=run_sectors == 8)


async def test_a_chain_whose_parts_go_to_several_places_is_found_again(tmp_path: Path) -> None:
    source, moves = tmp_path / "체인", ColdMoves(local_settings(tmp_path))
    chain = build_chain(Random(3), [source / name for name in _CHAIN], range(4), 6 * MIB, run_sectors=8)
    leaf = Elsewhere("three.avhdx", 1)
    await moves.move(str(source), str(tmp_path / "부모들"), str(tmp_path / "빠른"), elsewhere=(leaf,))
    moved = [tmp_path / "부모들" / name for name in _CHAIN[:-1]] + [tmp_path / "빠른" / _CHAIN[-1]]
    reads_as(chain, moved, with_dissect=True)


async def test_a_parent_that_others_use_is_copied_and_stays(tmp_path: Path) -> None:
    source, moves = tmp_path / "체인", ColdMoves(local_settings(tmp_path))
    files = [source / name for name in _CHAIN]
    chain = build_chain(Random(4), files, range(4), 6 * MIB, run_sectors=8)
    before = {path: path.read_bytes() for path in files}
    moves.takes = lambda path: path == "three.avhdx"
    plan = await moves.plan(str(source), str(tmp_path / "새 곳"))
    assert {file.path for file in plan.record.files if file.is_shared} == set(_CHAIN[:-1])
    await moves.run(plan.record)
    assert {path: path.read_bytes() for path in files if path.exists()} == {p: before[p] for p in files[:-1]}
    reads_as(chain, [tmp_path / "새 곳" / name for name in _CHAIN], with_dissect=True)


async def test_a_child_whose_parent_is_not_moved_is_refused(tmp_path: Path) -> None:
    source, moves = tmp_path / "체인", ColdMoves(local_settings(tmp_path))
    files = [source / name for name in _CHAIN]
    build_chain(Random(5), files, range(2), 4 * MIB)
    files[0].rename(tmp_path / "elsewhere.vhdx")
    with pytest.raises(UnsupportedError, match=r"its parent .* is not among the files that are moved"):
        await moves.move(str(source), str(tmp_path / "새 곳"))


async def test_nothing_at_the_destination_is_overwritten(tmp_path: Path) -> None:
    source, moves = _source(tmp_path), ColdMoves(local_settings(tmp_path))
    (tmp_path / "새 곳/SUB").mkdir(parents=True)
    (tmp_path / "새 곳/디스크 하나.VHD").write_bytes(b"mine")
    before = _files(tmp_path / "새 곳"), _files(source)
    with pytest.raises(AlreadyExistsError, match="there is a file of that name already"):
        await moves.move(str(source), str(tmp_path / "새 곳"))
    assert (_files(tmp_path / "새 곳"), _files(source)) == before


async def test_a_directory_is_not_moved_onto_itself(tmp_path: Path) -> None:
    source, moves = _source(tmp_path), ColdMoves(local_settings(tmp_path))
    before = _files(source)
    (tmp_path / "alias").symlink_to(source)
    for same in (source, tmp_path / "alias"):
        with pytest.raises(ConflictError, match="is the same directory"):
            await moves.move(str(source), str(same))
    assert _files(source) == before


@pytest.mark.parametrize("name", ["replica.json", "replica.lock"])
async def test_a_replica_is_not_moved(tmp_path: Path, name: str) -> None:
    source, moves = _source(tmp_path, **{name: b"{}"}), ColdMoves(local_settings(tmp_path))
    with pytest.raises(ConflictError, match="it is a replica"):
        await moves.move(str(source), str(tmp_path / "새 곳"))


async def test_a_link_among_the_files_is_refused(tmp_path: Path) -> None:
    source, moves = _source(tmp_path), ColdMoves(local_settings(tmp_path))
    (source / "disk.vhdx").symlink_to("/etc/hosts")
    with pytest.raises(UnsupportedError, match="it is a link"):
        await moves.move(str(source), str(tmp_path / "새 곳"))


async def test_a_socket_among_the_files_is_refused_before_anything_is_held(tmp_path: Path) -> None:
    source, moves = _source(tmp_path), ColdMoves(local_settings(tmp_path))
    with socket(AF_UNIX) as monitor:
        monitor.bind(str(source / "m"))
        with pytest.raises(UnsupportedError, match="m: it is a device, a pipe or a socket, not a file"):
            await moves.plan(str(source), str(tmp_path / "새 곳"))


async def test_what_is_of_others_in_the_same_directory_stays_whatever_it_is(tmp_path: Path) -> None:
    source = _source(tmp_path, **{"other.vhd": b"another machine's", ".replicad-left": b""})
    moves = ColdMoves(local_settings(tmp_path), takes=lambda path: path.startswith(("디스크", "sub/", ".replicad")))
    (source / "link").symlink_to("other.vhd")
    plan = await moves.plan(str(source), str(source / "웹"))
    record = await moves.run(plan.record)
    assert record.phase is MovePhase.DONE
    assert set(_files(source)) == {"other.vhd", ".replicad-left", "link", "웹/디스크 하나.vhd", "웹/sub/설정 🖥.xml"}


@pytest.mark.parametrize("place", ["새 곳", "sub/deep"])
async def test_all_of_a_directory_is_not_moved_into_itself(tmp_path: Path, place: str) -> None:
    source, moves = _source(tmp_path), ColdMoves(local_settings(tmp_path))
    with pytest.raises(ConflictError, match=f"its destination .*{place} is inside of it"):
        await moves.plan(str(source), str(source / place))


async def test_a_place_with_nothing_above_it_is_not_made_up(tmp_path: Path) -> None:
    source, moves = _source(tmp_path), ColdMoves(local_settings(tmp_path))
    with pytest.raises(NotFoundError, match="neither it nor the directory above it is there"):
        await moves.move(str(source), str(tmp_path / "not/mounted"))
    assert not (tmp_path / "not").exists()


async def test_a_pattern_that_fits_no_file_is_refused(tmp_path: Path) -> None:
    source, moves = _source(tmp_path), ColdMoves(local_settings(tmp_path))
    with pytest.raises(NotFoundError, match="no file fits that"):
        await moves.plan(str(source), str(tmp_path / "a"), str(tmp_path / "b"), elsewhere=(Elsewhere("*.vhdx", 1),))


class _Appearing(list[ProgressEvent]):
    """What was told; and when the copying begins, there is another file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def append(self, event: ProgressEvent) -> None:
        super().append(event)
        if isinstance(event, PhaseStarted) and event.name == "cutover":
            self.path.write_bytes(b"new")


@pytest.mark.parametrize("name", ["sub/새 점검.avhdx", "sub/NEW.VHDX"])
async def test_a_disk_that_comes_while_the_others_are_copied_does_not_stay_behind_unnoticed(
    tmp_path: Path, name: str
) -> None:
    source, moves = (
        _source(tmp_path),
        ColdMoves(local_settings(tmp_path), events=_Appearing(tmp_path / "원본 VM" / name)),
    )
    record = (await moves.plan(str(source), str(tmp_path / "새 곳"))).record
    with pytest.raises(ConflictError, match=f"{name}: it has come since the move was planned"):
        await moves.run(record)
    assert len(_files(source)) == 3
    assert not any(".replicad-move-" not in path for path in _files(tmp_path / "새 곳"))
    (source / name).unlink()
    moves.events = []
    assert (await moves.run(record)).phase is MovePhase.DONE


async def test_a_log_that_comes_meanwhile_stays_and_is_no_obstacle(tmp_path: Path) -> None:
    source, moves = (
        _source(tmp_path),
        ColdMoves(local_settings(tmp_path), events=_Appearing(tmp_path / "원본 VM/a.log")),
    )
    assert (await moves.move(str(source), str(tmp_path / "새 곳"))).phase is MovePhase.DONE
    assert set(_files(source)) == {"a.log"}


async def test_a_destination_without_room_is_refused_before_a_byte_moves(tmp_path: Path) -> None:
    with mounted("ext4", 32 * MIB) as small:
        source, moves = _source(tmp_path, **{"big.vhd": b"1" * 64 * MIB}), ColdMoves(local_settings(tmp_path))
        with pytest.raises(OutOfSpaceError, match=r"65.1 MiB are needed and .* MiB are free"):
            await moves.move(str(source), str(small / "VM"))
        assert _files(small / "VM") == {}


async def test_a_disk_that_is_written_is_not_moved_and_its_writer_is_named(tmp_path: Path) -> None:
    source, moves = _source(tmp_path), ColdMoves(local_settings(tmp_path))
    before = _files(source)
    with (source / "디스크 하나.vhd").open("r+b"), pytest.raises(BusyError, match=r"process \d+") as caught:
        await moves.move(str(source), str(tmp_path / "새 곳"))
    assert "docs/moving.md" in caught.value.hint
    assert _files(source) == before
    assert (await moves.move(str(source), str(tmp_path / "새 곳 2"))).phase is MovePhase.DONE
