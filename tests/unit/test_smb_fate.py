"""Connections that stand or fall together: no request is taken on one after another is known to be lost."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from replicad.storage.smb.data.protect import Sealing
from replicad.storage.smb.failures import ConnectionLostError
from replicad.storage.smb.fate import Fate
from replicad.storage.smb.job import Job
from tests.support.smb_peer import SmbPeer, answer_to, read_body, smb_peer


@contextmanager
def bound_peers(count: int) -> Iterator[list[SmbPeer]]:
    """Connections of which all but the first stand or fall with that one."""
    with ExitStack() as stack:
        peers = [stack.enter_context(smb_peer(Sealing.AES_128_GCM)) for _ in range(count)]
        for peer in peers[1:]:
            peer.connection.stand_or_fall_with(peers[0].connection)
        yield peers


def read(peer: SmbPeer) -> int:
    channel = peer.connection.channel
    return channel.wait(channel.send_read(peer.target, 0, memoryview(bytearray(4)), Job().lend()))


def test_the_first_reason_is_that_of_all() -> None:
    fate, ended = Fate(), list[str]()
    fate.join(lambda: ended.append("one"))
    fate.join(lambda: ended.append("two"))
    assert fate.reason == ""
    assert ended == []
    fate.seal("it is over")
    fate.seal("something else")
    assert fate.reason == "it is over"
    assert ended[:2] == ["one", "two"]
    fate.join(lambda: ended.append("late"))
    assert ended[-1] == "late"


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_when_one_connection_is_lost_all_are(lost: int) -> None:
    with bound_peers(3) as peers, ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(read, peer) for peer in peers if peer is not peers[lost]]
        for peer in peers:
            if peer is not peers[lost]:
                peer.request()
        peers[lost].close()
        for future in waiting:
            with pytest.raises(ConnectionLostError, match="the server closed the connection"):
                future.result(10)
        for peer in peers:
            with pytest.raises(ConnectionLostError, match="the server closed the connection"):
                read(peer)


def test_whoever_learns_of_a_loss_can_be_sure_that_no_other_connection_takes_a_request() -> None:
    def ask_elsewhere_once_it_fails(peers: list[SmbPeer]) -> None:
        with pytest.raises(ConnectionLostError):
            read(peers[1])
        with pytest.raises(ConnectionLostError):
            read(peers[0])

    with ThreadPoolExecutor(1) as threads:
        for _ in range(50):
            with bound_peers(2) as peers:
                asking = threads.submit(ask_elsewhere_once_it_fails, peers)
                answer = bytearray(peers[1].protected(answer_to(peers[1].request(), read_body(b"data"))))
                answer[-1] ^= 1  # the tag does not fit any more
                peers[1].send(bytes(answer))
                asking.result(10)
                assert peers[0].connection.condemned == "an answer can't be decrypted"


def test_a_connection_that_was_lost_before_takes_the_others_with_it() -> None:
    with smb_peer() as one, smb_peer() as other:
        one.connection.condemn("it was too slow")
        one.connection.stand_or_fall_with(other.connection)
        assert other.connection.condemned == one.connection.condemned == "it was too slow"


def test_a_connection_joins_those_that_were_lost_before_and_is_lost_too() -> None:
    with smb_peer() as one, smb_peer() as other:
        other.connection.condemn("it was too slow")
        one.connection.stand_or_fall_with(other.connection)
        assert one.connection.condemned == "it was too slow"
        with pytest.raises(ConnectionLostError):
            read(one)


def test_until_they_are_bound_one_connection_is_lost_without_the_other() -> None:
    with smb_peer() as one, smb_peer() as other, ThreadPoolExecutor(1) as threads:
        one.connection.condemn("it was refused")
        reading = threads.submit(read, other)
        other.answer(other.request(), read_body(b"data"))
        assert reading.result(10) == 4
