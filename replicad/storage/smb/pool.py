"""The connections of one process: to each server those of one bundle, made when they are needed and made anew when they
were lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from replicad.model.address import SmbAddress
from replicad.model.errors import ConfigError, SignInError

from .bundle import Bundle
from .endpoint import Endpoint
from .handshake import connect
from .link import Link
from .share import SmbShare
from .transport import SocketAddress

_SIGN_IN_PAUSE_S = 60.0
"""After a refused sign-in the server is not asked again for so long, however many callers want it: a few wrong
passwords in a row lock an account."""
_AGAIN_S = 0.1


class _Slot:
    """What is known of one server."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.connecting = asyncio.Lock()
        self.bundle: Bundle | None = None
        self.lost_session_ids: tuple[int, ...] = ()
        """Sessions that were lost, which the server may still keep; as `Bundle.session_ids`."""
        self.users = 0
        self.refusal: SignInError | None = None
        self.refused_at_s = 0.0


class SmbPool:
    """Shares on the servers that `endpoints` names (their names compare without regard to case).

    Close it at the end; shares that were not closed before are closed with it. `warn` is told, in a sentence, when a
    server takes fewer connections than its endpoint asks for.
    """

    def __init__(self, endpoints: Mapping[str, Endpoint], warn: Callable[[str], None] = lambda text: None) -> None:
        self._closed = False
        self._warn = warn
        self._connecting: set[asyncio.Task[object]] = set()
        self._slots = {name.casefold(): _Slot(endpoint) for name, endpoint in endpoints.items()}

    async def share(self, address: SmbAddress) -> SmbShare:
        """The directory at `address`, after a sign-in to its server and an opening of the share.

        The directory itself may still be missing. ConfigError for a server that has no endpoint; UnreachableError,
        TimedOutError, SignInError, UnsupportedError, NotFoundError (no such share), AccessDeniedError.
        """
        slot = self._slot(address)
        slot.users += 1
        try:
            await (await self.bundle(address)).main.tree(address.share)
        except BaseException:
            await self.release(address)
            raise
        return SmbShare(self, address)

    async def bundle(self, address: SmbAddress) -> Bundle:
        """The connections to the server of `address`; made anew if they were lost, which ends the lost sessions."""
        slot = self._slot(address)
        async with slot.connecting:
            if self._closed:
                raise ValueError("the pool is closed")
            if slot.bundle is not None and slot.bundle.condemned:
                _give_up(slot)
            if slot.bundle is None:
                *extra_ids, main_id = slot.lost_session_ids or (0,)
                for session_id in extra_ids:
                    await self._end_session(slot, session_id)
                main = await self._connect(slot, main_id)
                slot.bundle = Bundle(main, lambda at: self._connect(slot, at=at), self._warn)
                slot.lost_session_ids = ()
            return slot.bundle

    async def end_sessions(self, address: SmbAddress, session_ids: Sequence[int]) -> None:
        """Have the server end sessions of our user that no living process uses, one after the other: on return their
        files are closed, their locks are free, and nothing that they sent takes effect any more.

        A no-op for the sessions of this pool itself. Raises what connecting raises.
        """
        slot = self._slot(address)
        for session_id in session_ids:
            if slot.bundle is None or session_id not in slot.bundle.session_ids:
                await self._end_session(slot, session_id)

    async def _end_session(self, slot: _Slot, session_id: int) -> None:
        link = await self._connect(slot, session_id)
        await link.close()

    async def _connect(self, slot: _Slot, previous_session_id: int = 0, at: SocketAddress | None = None) -> Link:
        """The one place where anybody signs in, so that a refusal counts for all."""
        if slot.refusal is not None and time.monotonic() - slot.refused_at_s < _SIGN_IN_PAUSE_S:
            earlier = slot.refusal
            raise SignInError(earlier.op, earlier.subject, earlier.answer, earlier.hint)
        endpoint = slot.endpoint
        if at is not None:  # where a server answers already: others must not wait longer for it than for an answer
            endpoint = replace(endpoint, connect_timeout_s=min(endpoint.connect_timeout_s, endpoint.timeout_s))
        try:
            with self._to_be_given_up():
                link = await connect(endpoint, previous_session_id, at)
        except SignInError as refusal:
            slot.refusal, slot.refused_at_s = refusal, time.monotonic()
            raise
        slot.refusal = None
        return link

    async def release(self, address: SmbAddress) -> None:
        """One user fewer; the last one closes the connection."""
        slot = self._slot(address)
        slot.users -= 1
        if slot.users <= 0:
            await self._close(slot)

    def give_up(self) -> None:
        """Wait for no server any more: every call that is under way ends, and the servers close what is open there when
        they notice. Does not block, and can be called again; the pool is to be closed all the same. To be called on the
        event loop."""
        self._closed = True
        for slot in self._slots.values():
            if slot.bundle is not None:
                slot.bundle.discard()
        for task in self._connecting:
            task.cancel()
        if self._connecting:
            # Who is cancelled once waits for what is in flight, and who is cancelled again does not.
            asyncio.get_running_loop().call_later(_AGAIN_S, self.give_up)

    @contextmanager
    def _to_be_given_up(self) -> Iterator[None]:
        """A connection is being made, which is no slot's yet."""
        if (task := asyncio.current_task()) is None:
            raise RuntimeError("connections are made by tasks")
        self._connecting.add(task)
        try:
            yield
        finally:
            self._connecting.discard(task)

    async def close(self) -> None:
        """Sign out everywhere, for good. Never raises because of a lost connection."""
        self._closed = True
        async with asyncio.TaskGroup() as tasks:
            for slot in self._slots.values():
                tasks.create_task(self._close(slot))

    async def _close(self, slot: _Slot) -> None:
        async with slot.connecting:
            slot.users = 0
            if slot.bundle is not None and slot.bundle.condemned:
                _give_up(slot)
            if slot.bundle is not None:
                try:
                    await slot.bundle.close()
                finally:
                    slot.bundle = None

    def _slot(self, address: SmbAddress) -> _Slot:
        slot = self._slots.get(address.server.casefold())
        if slot is None:
            known = ", ".join(sorted(s.endpoint.name for s in self._slots.values())) or "none"
            raise ConfigError(
                "use", f"server {address.server}", f"it is not configured (known servers: {known})",
                "Add it under 'servers:'.",
            )  # fmt: skip
        return slot


def _give_up(slot: _Slot) -> None:
    """Let the next bundle end the sessions of this one, which was lost."""
    if slot.bundle is not None:
        slot.lost_session_ids = slot.bundle.session_ids
        slot.bundle.discard()
        slot.bundle = None
