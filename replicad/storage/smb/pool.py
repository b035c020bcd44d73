"""The connections of one process: at most one to each server, made when it is needed and made anew when it was lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from replicad.model.address import SmbAddress
from replicad.model.errors import ConfigError, SignInError

from .endpoint import Endpoint
from .link import Link, connect
from .share import SmbShare

_SIGN_IN_PAUSE_S = 60.0
"""After a refused sign-in the server is not asked again for so long, however many callers want it: a few wrong
passwords in a row lock an account."""


class _Slot:
    """What is known of one server."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.connecting = asyncio.Lock()
        self.link: Link | None = None
        self.users = 0
        self.refusal: SignInError | None = None
        self.refused_at_s = 0.0


class SmbPool:
    """Shares on the servers that `endpoints` names (their names compare without regard to case).

    Close it at the end; shares that were not closed before are closed with it.
    """

    def __init__(self, endpoints: Mapping[str, Endpoint]) -> None:
        self._closed = False
        self._slots = {name.casefold(): _Slot(endpoint) for name, endpoint in endpoints.items()}

    async def share(self, address: SmbAddress) -> SmbShare:
        """The directory at `address`, after a sign-in to its server and an opening of the share.

        The directory itself may still be missing. ConfigError for a server that has no endpoint; UnreachableError,
        TimedOutError, SignInError, UnsupportedError, NotFoundError (no such share), AccessDeniedError.
        """
        slot = self._slot(address)
        slot.users += 1
        try:
            await (await self.link(address)).tree(address.share)
        except BaseException:
            await self.release(address)
            raise
        return SmbShare(self, address)

    async def link(self, address: SmbAddress) -> Link:
        """The connection to the server of `address`; made anew if it was lost, which ends the lost session."""
        slot = self._slot(address)
        async with slot.connecting:
            if self._closed:
                raise ValueError("the pool is closed")
            lost_session_id = 0
            if slot.link is not None:
                if not slot.link.condemned:
                    return slot.link
                lost_session_id = slot.link.session_id
            self._respect_refusal(slot)
            try:
                link = await connect(slot.endpoint, lost_session_id)
            except SignInError as refusal:
                slot.refusal, slot.refused_at_s = refusal, time.monotonic()
                raise
            slot.refusal = None
            lost, slot.link = slot.link, link
            if lost is not None:
                await lost.close()
            return link

    async def end_session(self, address: SmbAddress, session_id: int) -> None:
        """Have the server end a session of our user that no living process uses: its locks are free on return.

        A no-op for the session of this pool itself. Raises what connecting raises.
        """
        slot = self._slot(address)
        if slot.link is not None and slot.link.session_id == session_id:
            return
        self._respect_refusal(slot)
        link = await connect(slot.endpoint, session_id)
        await link.close()

    async def release(self, address: SmbAddress) -> None:
        """One user fewer; the last one closes the connection."""
        slot = self._slot(address)
        slot.users -= 1
        if slot.users <= 0:
            await self._close(slot)

    async def close(self) -> None:
        """Sign out everywhere, for good. Never raises because of a lost connection."""
        self._closed = True
        async with asyncio.TaskGroup() as tasks:
            for slot in self._slots.values():
                tasks.create_task(self._close(slot))

    async def _close(self, slot: _Slot) -> None:
        async with slot.connecting:
            link, slot.link, slot.users = slot.link, None, 0
            if link is not None:
                await link.close()

    def _slot(self, address: SmbAddress) -> _Slot:
        slot = self._slots.get(address.server.casefold())
        if slot is None:
            known = ", ".join(sorted(s.endpoint.name for s in self._slots.values())) or "none"
            raise ConfigError(
                "use", f"server {address.server}", f"it is not configured (known servers: {known})",
                "Add it under 'servers:'.",
            )  # fmt: skip
        return slot

    def _respect_refusal(self, slot: _Slot) -> None:
        if slot.refusal is not None and time.monotonic() - slot.refused_at_s < _SIGN_IN_PAUSE_S:
            earlier = slot.refusal
            raise SignInError(earlier.op, earlier.subject, earlier.answer, earlier.hint)
