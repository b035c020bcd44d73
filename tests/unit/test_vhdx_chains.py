"""Which disks of a set hang together, and what is said where they don't."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicad.model.errors import InvalidNameError
from replicad.vhdx import (
    Cycle,
    Link,
    MissingParent,
    VhdxFacts,
    WrongLinkage,
    WrongSectors,
    check_structure,
    parent_paths,
    read_chains,
)
from tests.support.vhdx_builder import Spec, build, drive


@cache
def disk(number: int, parent: tuple[tuple[str, str], ...] = (), sector: int = 512) -> VhdxFacts:
    """A disk whose DataWriteGuid is this number."""
    spec = Spec(data_write_guid=uuid.UUID(int=number), parent=dict(parent) or None, logical_sector=sector)
    image = build(spec)
    facts = drive(check_structure(image.size), image)
    assert isinstance(facts, VhdxFacts)
    return facts


def child(number: int, of: int, linkage2: int = 0, sector: int = 512, **paths: str) -> VhdxFacts:
    locator = {"parent_linkage": "{" + str(uuid.UUID(int=of)).upper() + "}"}
    if linkage2:
        locator["parent_linkage2"] = "{" + str(uuid.UUID(int=linkage2)) + "}"
    return disk(number, tuple((locator | paths).items()), sector)


BESIDE = ".\\부모.vhdx"


def test_a_chain_of_three_is_read_from_any_order_of_names() -> None:
    disks = {
        "\\\\nas\\vms\\a\\잎.avhdx": child(3, 2, relative_path="..\\z\\mid.avhdx"),
        "\\\\nas\\vms\\z\\mid.avhdx": child(2, 1, relative_path="..\\부모.vhdx"),
        "\\\\nas\\vms\\부모.vhdx": disk(1),
        "\\\\nas\\vms\\alone.vhdx": disk(9),
        "\\\\nas\\vms\\a\\other.avhdx": child(4, 1, absolute_win32_path="\\\\?\\UNC\\NAS\\vms\\부모.vhdx"),
    }
    chains = read_chains(disks)
    leaf, middle, root, alone, other = disks
    assert chains.faults == {}
    assert chains.chain(leaf) == (leaf, middle, root)
    assert chains.chain(root) == (root,)
    assert sorted(chains.parents_first) == sorted(disks)
    assert chains.parents_first.index(root) < chains.parents_first.index(middle) < chains.parents_first.index(leaf)
    assert chains.children(root) == tuple(sorted([middle, other]))
    assert chains.children(alone) == ()
    assert chains.links[other] == Link(other, root, "absolute_win32_path")


def test_paths_are_tried_in_the_order_of_the_specification() -> None:
    paths = {
        "absolute_win32_path": "D:\\b\\p.vhdx",
        "volume_path": "\\\\?\\Volume{x}\\p.vhdx",
        "relative_path": ".\\p.vhdx",
    }
    both = {"D:\\a\\c.vhdx": child(2, 1, 0, 512, **paths), "D:\\a\\p.vhdx": disk(1), "D:\\b\\p.vhdx": disk(1)}
    assert read_chains(both).links["D:\\a\\c.vhdx"] == Link("D:\\a\\c.vhdx", "D:\\a\\p.vhdx", "relative_path")
    del both["D:\\a\\p.vhdx"]
    assert read_chains(both).links["D:\\a\\c.vhdx"].found_by == "absolute_win32_path"


def test_the_first_path_that_leads_to_a_disk_decides_even_if_that_is_the_wrong_one() -> None:
    paths = {"relative_path": ".\\p.vhdx", "absolute_win32_path": "D:\\b\\p.vhdx"}
    disks = {"D:\\a\\c.vhdx": child(2, 1, 0, 512, **paths), "D:\\a\\p.vhdx": disk(7), "D:\\b\\p.vhdx": disk(1)}
    chains = read_chains(disks)
    wrong = WrongLinkage("D:\\a\\c.vhdx", "D:\\a\\p.vhdx", (str(uuid.UUID(int=1)),), str(uuid.UUID(int=7)))
    assert chains.chain("D:\\a\\c.vhdx") == wrong
    assert chains.parents_first == ("D:\\a\\p.vhdx", "D:\\b\\p.vhdx")


def test_the_second_linkage_counts_while_a_merge_is_under_way() -> None:
    disks = {"/v/c.vhdx": child(2, 5, linkage2=1, relative_path=BESIDE), "/v/부모.vhdx": disk(1)}
    assert read_chains(disks).chain("/v/c.vhdx") == ("/v/c.vhdx", "/v/부모.vhdx")


def test_stale_paths_are_made_up_for_by_the_one_disk_that_is_the_parent() -> None:
    disks = {
        "/v/c.vhdx": child(2, 1, absolute_win32_path="C:\\old\\p.vhdx"),
        "/v/p.vhdx": disk(1),
        "/v/x.vhdx": disk(8),
    }
    assert read_chains(disks).links["/v/c.vhdx"] == Link("/v/c.vhdx", "/v/p.vhdx", "parent_linkage")
    disks["/v/copy.vhdx"] = disk(1)
    fault = MissingParent("/v/c.vhdx", ("C:\\old\\p.vhdx",), ("/v/copy.vhdx", "/v/p.vhdx"))
    assert read_chains(disks).faults == {"/v/c.vhdx": fault}


def test_a_missing_parent_breaks_everything_above_it() -> None:
    disks = {
        "/v/leaf.vhdx": child(3, 2, relative_path=".\\mid.vhdx"),
        "/v/mid.vhdx": child(2, 1, relative_path=BESIDE, volume_path="\\\\?\\Volume{x}\\p"),
        "/v/alone.vhdx": disk(9),
    }
    chains = read_chains(disks)
    fault = MissingParent("/v/mid.vhdx", ("/v/부모.vhdx", "\\\\?\\Volume{x}\\p"), ())
    assert chains.chain("/v/leaf.vhdx") == chains.chain("/v/mid.vhdx") == fault
    assert chains.links["/v/leaf.vhdx"].parent == "/v/mid.vhdx"
    assert chains.parents_first == ("/v/alone.vhdx",)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_cycle_is_found_and_so_is_what_hangs_on_it(length: int) -> None:
    disks = {
        f"/v/{n}.vhdx": child(n + 1, (n + 1) % length + 1, relative_path=f".\\{(n + 1) % length}.vhdx")
        for n in range(length)
    }
    ring = tuple(disks)
    disks["/v/0-leaf.vhdx"] = child(77, 1, relative_path=".\\0.vhdx")
    chains = read_chains(disks)
    fault = chains.chain("/v/0-leaf.vhdx")
    assert isinstance(fault, Cycle)
    start = ring.index(fault.disks[0])
    assert fault.disks == ring[start:] + ring[:start]
    assert set(chains.faults) == set(ring)
    assert chains.parents_first == ()


def test_a_name_that_differs_in_case_is_the_same_if_no_other_is_nearer() -> None:
    leaf = child(2, 1, relative_path=".\\PARENT.VHDX")
    assert read_chains({"/v/c": leaf, "/v/parent.vhdx": disk(1)}).links["/v/c"].parent == "/v/parent.vhdx"
    exact = {"/v/c": leaf, "/v/parent.vhdx": disk(5), "/v/PARENT.VHDX": disk(1)}
    assert read_chains(exact).links["/v/c"].parent == "/v/PARENT.VHDX"
    unclear = {"/v/c": leaf, "/v/parent.vhdx": disk(5), "/v/Parent.vhdx": disk(6)}
    assert read_chains(unclear).faults["/v/c"] == MissingParent("/v/c", ("/v/PARENT.VHDX",), ())


def test_different_sectors_are_a_fault() -> None:
    disks = {"/v/c.vhdx": child(2, 1, sector=4096, relative_path=BESIDE), "/v/부모.vhdx": disk(1)}
    assert read_chains(disks).faults == {"/v/c.vhdx": WrongSectors("/v/c.vhdx", "/v/부모.vhdx")}


def test_a_set_is_named_by_absolute_paths() -> None:
    with pytest.raises(InvalidNameError, match="no absolute path"):
        read_chains({"a.vhdx": disk(1)})


@given(st.data())
@settings(max_examples=150, deadline=5_000)
def test_any_set_is_divided_into_whole_chains_and_faults(data: st.DataObject) -> None:
    """Each disk points to any other, by its right GUID or not: what is said of the set is what following it shows."""
    count = data.draw(st.integers(1, 7))
    points = data.draw(st.lists(st.one_of(st.none(), st.integers(0, count)), min_size=count, max_size=count))
    right = data.draw(st.lists(st.sampled_from([True, True, True, False]), min_size=count, max_size=count))
    names = [f"/vms {n % 2}/디스크 {n}.vhdx" for n in range(count + 1)]  # the last one is not there
    disks: dict[str, VhdxFacts] = {}
    for n in data.draw(st.permutations(range(count))):
        to = points[n]
        if to is None:
            disks[names[n]] = disk(n + 1)
            continue
        relative = parent_paths(f"/vms {n % 2}", names[to]).relative_path
        assert relative is not None
        disks[names[n]] = child(n + 1, to + 1 if right[n] else 99, relative_path=relative)
    chains = read_chains(disks)
    for n in range(count):
        _agree(n, points, right, names, chains.chain(names[n]))
    whole = {name for name in disks if isinstance(chains.chain(name), tuple)}
    assert set(chains.parents_first) == whole
    for place, name in enumerate(chains.parents_first):
        assert name not in chains.links or chains.links[name].parent in chains.parents_first[:place]
    _links_are_right(chains.links, disks)


def _agree(n: int, points: list[int | None], right: list[bool], names: list[str], said: object) -> None:
    walk = [n]
    while True:
        to = points[walk[-1]]
        if to is None:
            assert said == tuple(names[i] for i in walk)
        elif to == len(points):
            assert isinstance(said, MissingParent)
            assert said.child == names[walk[-1]]
        elif not right[walk[-1]]:
            assert isinstance(said, WrongLinkage)
            assert (said.child, said.parent) == (names[walk[-1]], names[to])
        elif to in walk:
            assert isinstance(said, Cycle)
            assert set(said.disks) == {names[i] for i in walk[walk.index(to) :]}
        else:
            walk.append(to)
            continue
        return


def _links_are_right(links: Mapping[str, Link], disks: Mapping[str, VhdxFacts]) -> None:
    for link in links.values():
        wanted = dict(disks[link.child].parent_locator)["parent_linkage"].strip("{}").lower()
        assert disks[link.parent].header.data_write_guid == wanted
