"""Chains whose parent locators were rewritten, read by libvhdi and dissect.hypervisor; and replayed by QEMU.

dissect.hypervisor 3.21 reads a sector bitmap wrongly from the middle of one of its bytes on, which is what it asks of
a disk in the middle of a chain: it is shown chains of runs of 8 sectors.
"""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from replicad.vhdx import LogState, ParentPaths, Stages, VhdxFacts, parent_paths, parse, read_chains, replay_log
from replicad.vhdx import rewrite_parent_locator as rewrite
from tests.support.vhdx_builder import MIB, PAGE, Image, drive
from tests.support.vhdx_chains import SECTOR, build_chain
from tests.support.vhdx_changing import carry_out, carry_out_on, cut_short, pieces
from tests.support.vhdx_oracles import reads_as

SHARE = "\\\\nas2\\빠른 공유"
BEFORE = ("base/부모 디스크.vhdx", "one/첫째.avhdx", "one/둘째 💽.avhdx", "leaf/three.avhdx")
AFTER = ("기본 디스크/부모 디스크.vhdx", "vms/web 01/첫째.avhdx", "vms/둘째 💽.avhdx", "vms/web 01/three.avhdx")


def plan(image: Image, paths: ParentPaths) -> Stages:
    guids = {"file_write_guid": str(uuid.uuid4()), "log_guid": str(uuid.uuid4())}
    return drive(rewrite(image.size, paths, **guids), image)


def load(path: Path) -> Image:
    """A sparse image with what the file has in its first MiBs (headers, log, metadata, BAT)."""
    image = Image(path.stat().st_size)
    with path.open("rb") as file:
        image.put(0, file.read(5 * MIB))
    return image


def facts_of(path: Path) -> VhdxFacts:
    image = load(path)
    facts = drive(parse(image.size), image)
    assert isinstance(facts, VhdxFacts)
    return facts


def move(files: Sequence[Path], root: Path) -> list[Path]:
    """Move the files of a chain to new places, which their locators know nothing of."""
    moved = [root / name for name in AFTER]
    for old, new in zip(files, moved, strict=True):
        new.parent.mkdir(parents=True, exist_ok=True)
        old.rename(new)
    return moved


def on_share(path: Path, root: Path) -> str:
    return "\\".join([SHARE, *path.relative_to(root).parts])


@pytest.mark.parametrize(
    ("run_sectors", "zeroed", "blocks"),
    [
        (1, False, range(10)),
        (8, False, range(10)),
        (8, True, range(10)),  # libvhdi shows the parent's bytes in blocks of state ZERO
        (1, False, [0, 4094, 4095, 4096, 4097, 4100]),  # on both sides of the end of a bitmap
        (8, False, [0, 4094, 4095, 4096, 4097, 4100]),
    ],
)
def test_a_moved_chain_reads_the_same_at_every_sector(
    tmp_path: Path, run_sectors: int, zeroed: bool, blocks: Sequence[int]
) -> None:
    random = Random(run_sectors + 2 * zeroed + len(blocks))
    size = (max(blocks) + 2) * MIB - 7 * SECTOR
    files = [tmp_path / "before" / name for name in BEFORE]
    chain = build_chain(random, files, blocks, size, run_sectors=run_sectors, zeroed=zeroed)
    with_dissect, with_libvhdi = run_sectors == 8, not zeroed
    reads_as(chain, files, with_dissect=with_dissect, with_libvhdi=with_libvhdi)
    facts = [facts_of(path) for path in files]
    assert [one.bat.partially_present > 0 for one in facts if one.bat] == [False, True, True, True]

    root = tmp_path / "after"
    moved = move(files, root)
    names = [on_share(path, root) for path in moved]
    stale = read_chains(dict(zip(names, facts, strict=True)))
    assert stale.chain(names[-1]) == tuple(reversed(names))  # by their linkage alone
    assert {link.found_by for link in stale.links.values()} == {"parent_linkage"}
    for name in stale.parents_first:
        if name in stale.links:
            index = names.index(name)
            like = dict(facts[index].parent_locator)["absolute_win32_path"]
            paths = parent_paths(name.rpartition("\\")[0], stale.links[name].parent, like=like)
            carry_out_on(moved[index], plan(load(moved[index]), paths))

    after = [facts_of(path) for path in moved]
    chains = read_chains(dict(zip(names, after, strict=True)))
    assert chains.chain(names[-1]) == tuple(reversed(names))
    assert {link.found_by for link in chains.links.values()} == {"relative_path"}
    for old, new, name in zip(facts[1:], after[1:], names, strict=False):
        locator = dict(new.parent_locator)
        assert locator["absolute_win32_path"] == name
        assert "volume_path" not in locator
        assert {key: locator[key] for key in ("parent_linkage", "parent_linkage2")}.items() <= dict(
            old.parent_locator
        ).items()
        assert (new.bat, new.header.data_write_guid, new.warnings) == (old.bat, old.header.data_write_guid, ())
    reads_as(chain, moved, with_dissect=with_dissect, with_libvhdi=with_libvhdi)


def test_a_rewriting_that_was_cut_short_leaves_a_chain_that_others_can_read(tmp_path: Path) -> None:
    """The middle of a chain, at each stage whole and torn, after our replay, with a parent in both places."""
    random = Random(11)
    files = [tmp_path / name for name in BEFORE[:3]]
    chain = build_chain(random, files, [0, 1], 3 * MIB, run_sectors=8)
    elsewhere = tmp_path / "새 자리" / "부모.vhdx"
    elsewhere.parent.mkdir()
    chain.layers[0].image.save(elsewhere)
    image = chain.layers[1].image
    stages = plan(image, parent_paths(str(files[1].parent), str(elsewhere)))
    seen: set[str] = set()
    for done in range(len(stages) + 1):
        units = len([*pieces(stages[done])]) if done < len(stages) else 0
        for kept in ([False] * units, *[[random.random() < 0.5 for _ in range(units)] for _ in range(2 * (units > 0))]):
            torn = cut_short(image, stages, done, kept)
            replayed = carry_out(torn, drive(replay_log(torn.size, file_write_guid=str(uuid.uuid4())), torn))
            replayed.save(files[1])
            relative = dict(facts_of(files[1]).parent_locator)["relative_path"]
            seen.add(relative)
            parent = elsewhere if "새 자리" in relative else files[0]
            reads_as(chain, [parent, *files[1:]], with_dissect=True)
    assert seen == {"..\\base\\부모 디스크.vhdx", "..\\새 자리\\부모.vhdx"}


@pytest.mark.parametrize("kind", ["child", "long"])
def test_qemu_replays_our_log_entry_as_we_do(tmp_path: Path, kind: str) -> None:
    """QEMU 7.2 can't open a disk with a parent, but it replays its log before it finds out."""
    files = [tmp_path / name for name in BEFORE[:2]]
    chain = build_chain(Random(3), files, [0, 1], 3 * MIB)
    image = chain.layers[1].image
    name = "긴 이름 💽" * 1500 if kind == "long" else "p"
    stages = plan(image, ParentPaths(f".\\{name}.vhdx", f"\\\\?\\UNC\\nas\\v\\{name}.vhdx"))
    new = carry_out(image, stages)
    metadata = image.places["metadata"]
    decided = len(stages) - 5
    random = Random(8)
    for done in (0, decided - 1, decided, decided + 1, decided + 2, decided + 3, len(stages)):
        units = len([*pieces(stages[done])]) if done < len(stages) else 0
        torn = cut_short(image, stages, done, [random.random() < 0.5 for _ in range(units)])
        path = torn.save(tmp_path / "torn.vhdx")
        needs_replay = facts_of(path).needs_replay
        if done not in (decided, len(stages) - 2):  # the header in which the log is named, or is not, any more
            assert needs_replay is (decided < done < len(stages) - 2)
        opened = subprocess.run(
            ["qemu-io", "-f", "vhdx", "-c", "quit", str(path)], capture_output=True, text=True, check=False, timeout=60
        )
        assert "Operation not supported" in opened.stdout + opened.stderr
        after = path.read_bytes()
        expected = new if done > decided else image if done < decided else None
        if expected is not None:
            assert after[metadata : metadata + MIB] == expected.get(metadata, MIB)
        facts = facts_of(path)
        assert facts.log.state is LogState.CLEAN or not needs_replay
        assert facts.bat == facts_of(files[1]).bat
        assert after[metadata + MIB :] == image.get(metadata + MIB, image.size)
    assert (new.get(metadata, MIB) != image.get(metadata, MIB)) is True
    assert len(pieces_of(stages)) > (100 if kind == "long" else 10)


def pieces_of(stages: Stages) -> list[object]:
    return [piece for stage in stages for piece in pieces(stage)]


def test_qemu_replays_a_log_that_was_cut_short_by_itself_as_our_replay_does(tmp_path: Path) -> None:
    """A dynamic disk, which QEMU reads to the end: what it had written is there after our replay of its log."""
    path = tmp_path / "a.vhdx"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "vhdx", "-o", "block_size=1M", str(path), "64M"], check=True, timeout=60
    )
    bat = next(region.offset_bytes for region in facts_of(path).regions if region.name == "BAT")
    rule = f'json:{{"driver":"vhdx","file":{{"driver":"blkdebug","image":{{"driver":"file","filename":"{path}"}},' + (
        f'"inject-error":[{{"event":"none","iotype":"write","sector":{bat // 512},"errno":5,"once":false,'
        '"immediately":true}]}}'
    )
    subprocess.run(["qemu-io", "-c", "write -P 7 3M 64k", rule], capture_output=True, check=False, timeout=60)
    before = facts_of(path)
    assert before.needs_replay
    image = load(path)
    carry_out_on(path, drive(replay_log(image.size, file_write_guid=str(uuid.uuid4())), image))
    after = facts_of(path)
    assert (after.bat, after.log.state, after.warnings) == (before.bat, LogState.CLEAN, ())
    read = ["qemu-io", "-r", "-f", "vhdx", "-c", "read -P 7 3M 64k", "-c", "read -P 0 4M 1M", str(path)]
    told = subprocess.run(
        read, capture_output=True, text=True, check=True, timeout=60
    )  # -r: QEMU would not replay here
    assert "failed" not in told.stdout + told.stderr
    assert subprocess.run(["qemu-img", "check", "-q", str(path)], check=False, timeout=60).returncode == 0
    assert len(image.get(0, PAGE)) == PAGE
