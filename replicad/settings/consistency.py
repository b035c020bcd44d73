"""What the keys of a `consistency` group must be to each other and to the method. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from replicad.model.address import LocalAddress

from .problems import Finding, Key, WrongError, shown
from .values import METHODS, METHODS_BUILT, address

_ONLY_WITH = {
    "monitor": ("qemu",), "guest_agent": ("qemu",),
    "freeze": ("reflink", "command"), "thaw": ("reflink", "command"),
    "switch": ("reflink", "command"),
    "snapshot": ("command",), "release": ("command",),
    "keep_free": ("reflink", "qemu"), "max_stall": ("reflink", "qemu"),
    "timeout": ("reflink", "qemu", "command"), "application_every": ("reflink", "qemu", "command"),
}  # fmt: skip


def consistency_rules(key: Key, machine: Mapping[str, object]) -> Iterator[Finding]:
    """Every rule that the group at `key` breaks, which is part of `machine`."""
    group = machine.get("consistency")
    if not isinstance(group, dict):
        return
    method = group.get("method", "none")
    if method not in METHODS_BUILT:
        return  # told where the method is read
    for name, methods in _ONLY_WITH.items():
        if name in group and method not in methods:
            fitting = " or ".join(m for m in METHODS if m in methods and m in METHODS_BUILT) or "none of them"
            what = f"it has no meaning with method {shown(str(method))}"
            yield Finding((*key, name), what, f"leave it out, or choose another method: {fitting}")
    yield from _command_rules(key, group, method)
    if method == "qemu" and "monitor" not in group:
        yield Finding(
            (*key, "method"), "there is no monitor to go with it",
            "add monitor: the path of the machine's QMP socket (docs/qemu.md)",
        )  # fmt: skip
    if method in ("reflink", "qemu") and not _is_local(machine.get("source")):
        yield Finding(
            (*key, "method"), f"{shown(str(method))} needs a source on this host",
            "give a local directory as 'source', or choose none or command",
        )  # fmt: skip


def _command_rules(key: Key, group: Mapping[str, object], method: object) -> Iterator[Finding]:
    if method not in ("reflink", "command"):
        return
    for one, other in (("freeze", "thaw"), ("thaw", "freeze")):
        if one in group and other not in group:
            yield Finding((*key, one), f"there is no {other} to go with it", f"add {other}: [program, argument]")
    if "switch" in group and not {"freeze", "thaw"} & set(group):
        what = "there is no freeze to go with it: a machine is switched while it stands still"
        yield Finding((*key, "switch"), what, "add freeze and thaw: [program, argument]")
    if "release" in group and "snapshot" not in group:
        yield Finding((*key, "release"), "there is no snapshot to go with it", "add snapshot: [program, argument]")
    if method == "command" and not {"freeze", "thaw", "snapshot"} & set(group):
        yield Finding(
            (*key, "method"), "there is no command to go with it",
            "add snapshot: [program, argument], or freeze and thaw (docs/configuration.md)",
        )  # fmt: skip
    if method == "reflink" and "freeze" not in group:
        for name in ("timeout", "application_every"):
            if name in group:
                yield Finding((*key, name), "there is no freeze for it", "add freeze and thaw, or leave it out")


def _is_local(typed: object) -> bool:
    try:
        return isinstance(address(typed), LocalAddress)
    except WrongError:
        return True  # told where the address itself is read
