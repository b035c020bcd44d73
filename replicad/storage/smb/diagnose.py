"""The way to a share on an SMB server, taken one step at a time so that each can tell what it met."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from replicad.model.address import SmbAddress
from replicad.model.errors import ReplicadError, UnreachableError

from .connection import Connection
from .endpoint import Endpoint
from .handshake import negotiate, refuse_unprotected, sign_in
from .link import Link
from .pool import SmbPool
from .share import SmbShare
from .transport import SocketAddress, connect_to, resolve


@dataclass(frozen=True, slots=True)
class Observation:
    """What a step met: a clause, facts by name, and sentences about what is not as it should be."""

    text: str
    facts: Mapping[str, object] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class Diagnosis:
    """`find`, `connect`, `negotiate`, `protect`, `sign_in` and `open_share`, to be called in this order; each raises
    what stopped it. `open` then gives shares on connections of their own. Close it at the end."""

    def __init__(self, endpoint: Endpoint, address: SmbAddress) -> None:
        self._endpoint = endpoint
        self._address = address
        self._found: list[SocketAddress] = []
        self._socket: socket.socket | None = None
        self._link: Link | None = None
        self._pools: list[SmbPool] = []

    async def find(self) -> Observation:
        """Resolve the server's name."""
        self._found = await resolve(self._endpoint)
        addresses = list(dict.fromkeys(str(address[0]) for _, address in self._found))
        host = self._endpoint.host
        text = f"{host} is an address" if addresses == [host] else f"{host} is {', '.join(addresses)}"
        return Observation(text, {"addresses": addresses})

    async def connect(self) -> Observation:
        """Open the port on the first address that has it open."""
        failures: list[ReplicadError] = []
        for family, address in self._found:
            began_s = time.monotonic()
            try:
                self._socket = await connect_to(self._endpoint, family, address)
            except ReplicadError as failure:
                failures.append(failure)
                continue
            took_s = time.monotonic() - began_s
            return Observation(
                f"port {self._endpoint.port} is open on {address[0]} ({took_s * 1000:.1f} ms)",
                {"port": self._endpoint.port, "address": address[0], "connect_s": round(took_s, 6)},
                tuple(f"{failure.subject}: {failure.answer}." for failure in failures),
            )
        raise (
            failures[0] if failures else UnreachableError("find", f"server {self._endpoint.host}", "it has no address")
        )

    async def negotiate(self) -> Observation:
        """Agree on a dialect."""
        connected, self._socket = self._socket, None
        if connected is None:
            raise ValueError("connect comes first")
        self._link = Link(self._endpoint, Connection(self._endpoint, connected))
        await negotiate(self._link)
        found = self._link.security
        return Observation(found.dialect, {"dialect": found.dialect})

    async def protect(self) -> Observation:
        """See whether signing and encryption are there as they must be."""
        link = self._reached()
        refuse_unprotected(link)
        found = link.security
        encryption = "no encryption" if found.cipher == "none" else f"encryption {found.cipher}"
        warnings: tuple[str, ...] = ()
        if found.cipher == "none":
            warnings = ("Everything is signed, but can be read on the way: the server offers no encryption.",)
        facts = {"signing": found.signing, "cipher": None if found.cipher == "none" else found.cipher}
        return Observation(f"signing {found.signing}, {encryption}", facts, warnings)

    async def sign_in(self) -> Observation:
        """Sign in, once."""
        link = self._reached()
        await sign_in(link)
        who = self._endpoint.username or "the user of the Kerberos ticket"
        how = "encrypted" if link.security.encrypted else "signed"
        return Observation(f"as {who}, {how}", {"username": self._endpoint.username, "encrypted": how == "encrypted"})

    async def open_share(self) -> Observation:
        """Open the share, and end this connection: the next steps have their own."""
        link = self._reached()
        tree = await link.tree(self._address.share)
        how = "encrypted" if tree.encrypted else "signed"
        text = f"\\\\{self._address.server}\\{self._address.share} is there, {how}"
        await self._end()
        return Observation(text, {"encrypted": tree.encrypted})

    async def open(self) -> SmbShare:
        """The directory to be probed, on one new connection."""
        pool = SmbPool({self._address.server: replace(self._endpoint, connections=1)})
        self._pools.append(pool)
        return await pool.share(self._address)

    async def close(self) -> None:
        """Close every connection."""
        await self._end()
        while self._pools:
            await self._pools.pop().close()

    async def _end(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()
        unused, self._socket = self._socket, None
        if unused is not None:
            unused.close()

    def _reached(self) -> Link:
        if self._link is None:
            raise ValueError("negotiate comes first")
        return self._link
