"""Which disks of a set are parents of which: chains of differencing disks (MS-VHDX §2.6.2.6.3). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from replicad.model.names import folded

from .facts import PATH_KEYS, Kind, VhdxFacts
from .parent_paths import follow, read_place

LINKAGE_KEYS = ("parent_linkage", "parent_linkage2")


@dataclass(frozen=True, slots=True)
class Link:
    """A child, its parent, and the key of the locator that led there.

    `found_by` is "parent_linkage" where no path led to any disk of the set, and one alone of them is the parent by its
    DataWriteGuid: the paths are stale.
    """

    child: str
    parent: str
    found_by: str


@dataclass(frozen=True, slots=True)
class MissingParent:
    """No disk of the set is where the paths of `child` lead.

    `tried` are those places, in order (a volume_path, which nobody can follow elsewhere, as it stands). `alike` are the
    disks of the set that are the parent by their DataWriteGuid: none, or several copies of it.
    """

    child: str
    tried: tuple[str, ...]
    alike: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WrongLinkage:
    """The disk at `parent`, where the paths of `child` lead, was changed since, or is another one.

    `wanted` are the GUIDs that the child would accept, `found` is the DataWriteGuid of the parent.
    """

    child: str
    parent: str
    wanted: tuple[str, ...]
    found: str


@dataclass(frozen=True, slots=True)
class WrongSectors:
    """`child` and `parent` have different logical sectors, which MS-VHDX §2.6.2.4 forbids."""

    child: str
    parent: str


@dataclass(frozen=True, slots=True)
class Cycle:
    """Each of `disks` is the child of the one after it, and the last one of the first."""

    disks: tuple[str, ...]


Fault: TypeAlias = MissingParent | WrongLinkage | WrongSectors | Cycle


@dataclass(frozen=True, slots=True)
class Chains:
    """How the disks of a set hang together.

    `parents_first` are the disks whose chain is whole, each one behind its parent. `links` are those of all children
    whose parent was found. `faults` are those of the others and of the disks of a cycle, by child.
    """

    parents_first: tuple[str, ...]
    links: Mapping[str, Link]
    faults: Mapping[str, Fault]

    def chain(self, disk: str) -> tuple[str, ...] | Fault:
        """The disk, its parent, and so on to the one that has none; or the fault that keeps it from being whole."""
        chain = [disk]
        while True:
            if chain[-1] in self.faults:
                return self.faults[chain[-1]]
            if chain[-1] not in self.links:
                return tuple(chain)
            chain.append(self.links[chain[-1]].parent)

    def children(self, disk: str) -> tuple[str, ...]:
        """The disks whose parent this one is, sorted."""
        return tuple(sorted(link.child for link in self.links.values() if link.parent == disk))


def read_chains(disks: Mapping[str, VhdxFacts]) -> Chains:
    """The chains of a set of disks, given by their absolute paths.

    A parent is where the first path of the locator leads to a disk of the set (§2.6.2.6.3: relative_path,
    volume_path, absolute_win32_path); a name that differs in case alone is the same if there is none that does not.
    Its DataWriteGuid must be the child's parent_linkage or parent_linkage2. InvalidNameError if a path is not absolute.
    """
    places = {str(read_place(path)): path for path in disks}
    spelt: dict[str, list[str]] = {}
    for place, path in places.items():
        spelt.setdefault(folded(place), []).append(path)
    in_any_case = {place: paths[0] for place, paths in spelt.items() if len(paths) == 1}
    links: dict[str, Link] = {}
    faults: dict[str, Fault] = {}
    for child, facts in disks.items():
        if facts.kind is Kind.DIFFERENCING:
            found = _parent(child, disks, places, in_any_case)
            if isinstance(found, Link):
                links[child] = found
            else:
                faults[child] = found
    for cycle in _cycles(links):
        faults.update(dict.fromkeys(cycle.disks, cycle))
    return Chains(_parents_first(disks, links, faults), links, faults)


def _parent(
    child: str, disks: Mapping[str, VhdxFacts], places: Mapping[str, str], in_any_case: Mapping[str, str]
) -> Link | Fault:
    locator = dict(disks[child].parent_locator)
    linkages = tuple(locator[key].strip("{}").lower() for key in LINKAGE_KEYS if key in locator)
    tried: list[str] = []
    for key in PATH_KEYS:
        if key not in locator:
            continue
        place = follow(child, key, locator[key])
        tried.append(place or locator[key])
        parent = place and (places.get(place) or in_any_case.get(folded(place)))
        if parent:
            return _checked(Link(child, parent, key), disks, linkages)
    alike = tuple(sorted(path for path, facts in disks.items() if facts.header.data_write_guid in linkages))
    if len(alike) == 1:
        return _checked(Link(child, alike[0], "parent_linkage"), disks, linkages)
    return MissingParent(child, tuple(tried), alike)


def _checked(link: Link, disks: Mapping[str, VhdxFacts], linkages: tuple[str, ...]) -> Link | Fault:
    parent = disks[link.parent]
    if parent.header.data_write_guid not in linkages:
        return WrongLinkage(link.child, link.parent, linkages, parent.header.data_write_guid)
    if parent.logical_sector_bytes != disks[link.child].logical_sector_bytes:
        return WrongSectors(link.child, link.parent)
    return link


def _cycles(links: Mapping[str, Link]) -> list[Cycle]:
    cycles: list[Cycle] = []
    done: set[str] = set()
    for start in links:
        walk: dict[str, None] = {}  # in order
        disk = start
        while disk in links and disk not in done and disk not in walk:
            walk[disk] = None
            disk = links[disk].parent
        if disk in walk:
            steps = [*walk]
            cycles.append(Cycle(tuple(steps[steps.index(disk) :])))
        done.update(walk)
    return cycles


def _parents_first(
    disks: Mapping[str, VhdxFacts], links: Mapping[str, Link], faults: Mapping[str, Fault]
) -> tuple[str, ...]:
    order: dict[str, None] = {}
    broken = {*faults}
    for start in sorted(disks):
        disk, walk = start, list[str]()
        while disk not in order and disk not in broken:
            walk.append(disk)
            if disk not in links:
                break
            disk = links[disk].parent
        if disk in broken:
            broken.update(walk)
        else:
            order.update(dict.fromkeys(reversed(walk)))
    return tuple(order)
