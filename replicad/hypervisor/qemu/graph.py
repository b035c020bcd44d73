"""How QEMU's block nodes hang together, and hanging one of them on another."""

from __future__ import annotations

from dataclasses import dataclass

from replicad.model.errors import IntegrityError, UnsupportedError

from .qmp import Qmp

_NODE = "block-driver"


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes by their names; each edge is (above, what for, below)."""

    names: tuple[str, ...]
    edges: tuple[tuple[str, str, str], ...]
    users: tuple[tuple[str, str, str], ...]
    """What uses nodes directly and is no node itself: (its kind, its name, the node). A `block-backend` is that of a
    device, or of an export, which has no name; a `block-job` is a job."""

    @property
    def others_above(self) -> frozenset[str]:
        """The nodes that something beside nodes uses directly."""
        return frozenset(below for _, _, below in self.users)

    def is_used(self, name: str) -> bool:
        """Whether anything uses a node."""
        return name in self.others_above or any(below == name for _, _, below in self.edges)

    def parents(self, name: str) -> list[str]:
        """The nodes right above one."""
        return [above for above, _, below in self.edges if below == name]

    def child(self, name: str, role: str) -> str | None:
        """The node right below one that it uses for something (`file`)."""
        return next((below for above, what, below in self.edges if above == name and what == role), None)


async def query_graph(qmp: Qmp) -> Graph:
    """How it is now."""
    told = await qmp.execute("x-debug-query-block-graph")
    try:
        named = {node["id"]: (str(node["name"]), str(node["type"])) for node in told["nodes"]}
        edges, users = [], []
        for edge in told["edges"]:
            (above, kind), (below, _) = named[edge["parent"]], named[edge["child"]]
            if kind == _NODE:
                edges.append((above, str(edge["name"]), below))
            else:
                users.append((kind, above, below))
    except (KeyError, TypeError) as error:
        raise IntegrityError("ask for the graph of", qmp.subject, "what it returned is no graph") from error
    names = tuple(name for name, kind in named.values() if kind == _NODE)
    return Graph(names, tuple(edges), tuple(users))


async def reattach(qmp: Qmp, parent: str, below: str) -> None:
    """Have a node read and write through another one from now on, with whatever was under way finished before.

    UnsupportedError if QEMU does not do it; then all is as it was.
    """
    # Unlike `blockdev-reopen`, this leaves all other options of the node as they are, and takes nodes whose names QEMU
    # made up. What it says is for people; whether it was done is seen from the graph.
    said = await qmp.execute("human-monitor-command", {"command-line": f'qemu-io {parent} "reopen -o file={below}"'})
    if (await query_graph(qmp)).child(parent, "file") != below:
        answer = f"QEMU says: {str(said).strip()[:300]}"
        raise UnsupportedError("put a node below", f"{parent} at {qmp.subject}", answer)
