"""What the keys of a configuration must be to each other. Pure.

The rules look at what was typed, so that they also speak where another value of the same group is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from replicad.model.address import Address, LocalAddress, SmbAddress
from replicad.model.names import folded

from .consistency import consistency_rules
from .model import DEFAULT_PORT
from .problems import Finding, Key, WrongError, shown
from .units import format_duration
from .values import address, host_port, interval, server_name, vm_name

Steps = tuple[str, ...]


def broken_rules(data: Mapping[str, object]) -> Iterator[Finding]:
    """Every rule that a configuration breaks."""
    servers, machines = _groups(data, "servers"), _groups(data, "virtual_machines")
    for section, names, check in (("servers", servers, server_name), ("virtual_machines", machines, vm_name)):
        yield from _one_case(section, names)
        for name in names:
            try:
                check(name)
            except WrongError as error:
                yield Finding((section, name), error.what, error.hint)
    for name, server in servers.items():
        yield from _server_rules(("servers", name), server)
    for name, machine in machines.items():
        if "every" in machine and "cron" in machine:
            key = ("virtual_machines", name, "cron")
            yield Finding(key, "both 'every' and 'cron' are given", "keep one")
        yield from _objective_rules(("virtual_machines", name, "rpo"), machine)
        yield from consistency_rules(("virtual_machines", name, "consistency"), machine)
    yield from _place_rules(machines, servers)
    yield from _api_rules(data.get("api"))


def _groups(data: Mapping[str, object], section: str) -> dict[str, dict[str, object]]:
    groups = data.get(section)
    if not isinstance(groups, dict):
        return {}
    return {name: group if isinstance(group, dict) else {} for name, group in groups.items()}


def _one_case(section: str, names: Iterable[str]) -> Iterator[Finding]:
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(folded(name), name)
        if other != name:
            yield Finding(
                (section, name),
                f"the name differs from {shown(other)} only by case",
                "shares take both for one: choose another name",
            )


def _server_rules(key: Key, server: Mapping[str, object]) -> Iterator[Finding]:
    given = [name for name in ("password_file", "password_command") if name in server]
    if len(given) == 2:
        yield Finding((*key, given[1]), "both 'password_file' and 'password_command' are given", "keep one")
    if "username" in server and not any(name.lower().startswith("pas") for name in server):
        yield Finding(
            (*key, "username"),
            "there is no password for this user",
            "add password_file (a path) or password_command, or leave username out for Kerberos",
        )
    if given and "username" not in server:
        yield Finding((*key, given[0]), "there is no username to go with it", r"add username: user, or DOMAIN\user")
    if "port" in server and _port_in(server.get("address")) is not None:
        yield Finding((*key, "port"), "the port is also given in 'address'", "keep one")


def _objective_rules(key: Key, machine: Mapping[str, object]) -> Iterator[Finding]:
    try:
        every_s, rpo_s = interval(machine.get("every", "manual")), interval(machine.get("rpo", "manual"))
    except WrongError:
        return  # told where each of them is read
    if every_s is not None and rpo_s is not None and rpo_s < every_s:
        least = format_duration(every_s)
        yield Finding(
            key,
            f"it is shorter than 'every' ({least}): no point could be that fresh all the time",
            f"write {least} or more, or let 'every' be less",
        )


def _api_rules(api: object) -> Iterator[Finding]:
    if not isinstance(api, dict):
        return
    if "listen" in api and not any(str(name).lower().startswith("token") for name in api):
        yield Finding(
            ("api", "listen"),
            "there is no token to go with it, and every user of this host could give orders",
            "add token_file: the path of a file with a secret, as 'openssl rand -hex 32' makes one",
        )
    if "token_file" in api and "listen" not in api:
        yield Finding(("api", "token_file"), "there is no address to go with it", "add listen: 127.0.0.1:8600")


def _port_in(typed: object) -> int | None:
    try:
        return host_port(typed)[1]
    except WrongError:
        return None  # told where the address itself is read


def _place_rules(
    machines: Mapping[str, Mapping[str, object]], servers: Mapping[str, Mapping[str, object]]
) -> Iterator[Finding]:
    known = {folded(name): _endpoint(name, server) for name, server in servers.items()}
    replicas: list[tuple[str, Steps]] = []
    for name, machine in machines.items():
        key: Key = ("virtual_machines", name)
        if not _is_good(name):
            continue
        source, replica = _place(machine.get("source")), _place(machine.get("replica"))
        for end, place in (("source", source), ("replica", replica)):
            if isinstance(place, SmbAddress) and folded(place.server) not in known:
                yield Finding(
                    (*key, end),
                    f"the server {shown(place.server)} is not described",
                    f"add '{place.server}: {{address: {place.server}}}' under 'servers:'",
                )
        if replica is None:
            continue
        replica_steps = _steps(replica.child(name), known)
        if source is not None:
            yield from _overlap(key, _steps(source, known), replica_steps)
        for other, steps in replicas:
            if _within(replica_steps, steps):
                what = f"it lies inside the replica of {shown(other)}"
            elif _within(steps, replica_steps):
                what = f"the replica of {shown(other)} lies inside it"
            else:
                continue
            yield Finding((*key, "replica"), what, "give each virtual machine a directory of its own")
        replicas.append((name, replica_steps))


def _overlap(key: Key, source: Steps, replica: Steps) -> Iterator[Finding]:
    if replica == source:
        yield Finding((*key, "replica"), "the replica would be the source itself", "choose another directory")
    elif _within(replica, source):
        yield Finding((*key, "replica"), "the replica lies inside the source", "choose a directory outside of it")
    elif _within(source, replica):
        yield Finding((*key, "source"), "the source lies inside the replica", "choose a directory outside of it")


def _is_good(name: str) -> bool:
    try:
        vm_name(name)
    except WrongError:
        return False  # told where names are checked
    return True


def _place(typed: object) -> Address | None:
    try:
        return address(typed)
    except WrongError:
        return None  # told where the address itself is read


def _endpoint(name: str, server: Mapping[str, object]) -> str:
    """Host and port, the same for all ways of writing them."""
    try:
        host, port = host_port(server.get("address", name))
    except WrongError:
        return folded(name)  # told where the address itself is read
    return f"{host.casefold().rstrip('.')}:{port or server.get('port', DEFAULT_PORT)}"


def _within(inner: Steps, outer: Steps) -> bool:
    return inner[: len(outer)] == outer


def _steps(place: Address, endpoints: Mapping[str, str]) -> Steps:
    """The way to a directory, the same for all ways of writing it. Local links and DNS aliases are not looked up."""
    if isinstance(place, LocalAddress):
        return ("local", *(part for part in place.path.replace("\\", "/").split("/") if part))
    server = folded(place.server)
    return (
        "smb", endpoints.get(server, server), folded(place.share),
        *(folded(part) for part in place.path.split("/") if part),
    )  # fmt: skip
