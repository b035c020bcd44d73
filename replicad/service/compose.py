"""The composition root: the one place that names concrete adapters and ties them to the configuration."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Self

from replicad.model.address import Address, LocalAddress, SmbAddress
from replicad.model.errors import ConfigError
from replicad.model.names import folded
from replicad.model.progress import Observer, Warned, nobody
from replicad.settings import Server, Settings, VirtualMachine

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from replicad.model.timetable import Timetable
    from replicad.storage.metered import Meter
    from replicad.storage.port import ChangeHints, Share
    from replicad.storage.smb import Endpoint, SmbPool
    from replicad.storage.throttled import Throttles

    from .bandwidth import BandwidthLimits


@dataclass(frozen=True, slots=True)
class OneOffCredentials:
    """What was typed for one command, in place of a configuration or on top of it; None where nothing was.

    Without `username` the sign-in is Kerberos, where the configuration does not say another. With `server` they are for
    that one only: another server must never see them, even if one command uses both.
    """

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    encryption_required: bool | None = None
    port: int | None = None
    server: str | None = None

    def are_for(self, server: str) -> bool:
        """Whether they may be used there."""
        return self.server is None or folded(self.server) == folded(server)


class Shares:
    """Opens shares by their address, over the same connections to each server. Use as `async with`.

    What is left open is closed at the end. Passwords are read at each sign-in; `observe` hears warnings about
    them, and about servers that take fewer connections than they should, each one once. What the configuration says of
    bandwidth is obeyed: by `limits` if others share them, else by these shares alone; and so is `bandwidth`, which was
    typed for this command, beside it. Without either there is no limit. A `meter` counts all that goes through.
    """

    def __init__(
        self,
        settings: Settings | None,
        credentials: OneOffCredentials | None = None,
        observe: Observer = nobody,
        limits: BandwidthLimits | None = None,
        bandwidth: Timetable | None = None,
        meter: Meter | None = None,
    ) -> None:
        self._settings = settings
        self._credentials = credentials
        self._observe = observe
        self._limits = limits
        self._bandwidth = bandwidth
        self._meter = meter
        self._typed: Throttles | None = None
        self._warned: set[str] = set()
        self._pools: dict[str, SmbPool] = {}
        self._open = AsyncExitStack()

    async def open(self, address: Address, *, vm: str | None = None, replica: bool = False) -> Share:
        """The share at `address`; whether the directory itself is there shows at the first use.

        Its bandwidth is limited if it is on a server or is a replica's; a local directory that is neither is free. With
        `vm` the limit of that virtual machine holds, too. Raises ConfigError for a server that is neither configured
        nor given credentials for, or whose password can't be read, and whatever connecting raises.
        """
        if isinstance(address, LocalAddress):
            local = await self._open_local(address)
            share = self._limited(local, vm) if replica else local
        else:
            share = self._limited(await self._open_smb(address), vm)
        if self._meter is None:
            return share
        from replicad.storage.metered import MeteredShare

        return MeteredShare(share, self._meter)

    async def open_replica(self, machine: VirtualMachine) -> Share:
        """The share under which a configured machine's replica lies; raises as `open`."""
        return await self.open(machine.replica, vm=machine.name, replica=True)

    async def changes(self, address: Address) -> ChangeHints:
        """Hints of changes in the directory at `address`. To be closed before these shares are. Raises as `open`."""
        if isinstance(address, LocalAddress):
            from .local_changes import LocalChanges

            return LocalChanges(address.path)
        from replicad.storage.smb.changes import SmbChanges

        return SmbChanges(self._pool_of(address), address)

    async def close(self) -> None:
        """Close every share and connection."""
        try:
            await self._open.aclose()
        finally:
            self._pools.clear()

    def give_up(self) -> None:
        """Wait for no server any more, not even to close what is open there. To be closed all the same."""
        for pool in self._pools.values():
            pool.give_up()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _open_local(self, address: LocalAddress) -> Share:
        from replicad.storage.local import LocalShare

        share = LocalShare(address.path)
        self._open.push_async_callback(share.close)
        return share

    def _limited(self, share: Share, vm: str | None) -> Share:
        if self._settings is None and self._bandwidth is None:
            return share
        from replicad.storage.throttled import ThrottledShare

        from .bandwidth import BandwidthLimits, throttles_of

        if self._bandwidth is not None:
            self._typed = self._typed or throttles_of(self._bandwidth)
            share = ThrottledShare(share, self._typed)
        if self._settings is None:
            return share
        if self._limits is None:
            self._limits = BandwidthLimits(self._settings)
        return ThrottledShare(share, self._limits.throttles(vm))

    async def _open_smb(self, address: SmbAddress) -> Share:
        return await self._pool_of(address).share(address)

    def _pool_of(self, address: SmbAddress) -> SmbPool:
        from replicad.storage.smb import SmbPool

        key = folded(address.server)
        pool = self._pools.get(key)
        if pool is None:
            # A pool for each server: servers of one-off credentials are not known before they are asked for.
            pool = SmbPool({address.server: self.endpoint(address.server)}, self._warn)
            self._pools[key] = pool
            self._open.push_async_callback(pool.close)
        return pool

    def endpoint(self, server: str) -> Endpoint:
        """Where a server is and who signs in: what was typed, else what is configured, else the name itself."""
        from replicad.storage.smb import Endpoint

        configured = self._settings.server(server) if self._settings else None
        typed = self._credentials if self._credentials and self._credentials.are_for(server) else None
        if configured is None and typed is None:
            raise self._unknown(server)
        typed = typed or OneOffCredentials()
        known = configured or Server(server, host=server)
        username, password = known.username, self._password_of(known)
        if configured is None or typed.username is not None:
            username, password = typed.username, _given(typed.password)
        return Endpoint(
            name=server,
            host=known.host,
            port=typed.port or known.port,
            username=username,
            password=password,
            encryption_required=(
                known.encryption_required if typed.encryption_required is None else typed.encryption_required
            ),
            connections=known.connections,
        )

    def _unknown(self, server: str) -> ConfigError:
        where = f"it is not described in {self._settings.file}" if self._settings else "there is no configuration"
        return ConfigError("use", f"server {server}", where, f"Add '{server}: {{address: {server}}}' under 'servers:'.")

    def _password_of(self, server: Server) -> Callable[[], Awaitable[str]] | None:
        from . import passwords

        if path := server.password_file:
            return lambda: passwords.from_file(path, server.name, self._warn)
        if command := server.password_command:
            return lambda: passwords.from_command(command, server.name)
        return None

    def _warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            self._observe(Warned(text))


def _given(password: str | None) -> Callable[[], Awaitable[str]] | None:
    if password is None:
        return None

    async def give() -> str:
        return password

    return give
