"""Taking answers apart, and what the window of credits does."""

from __future__ import annotations

import struct
import threading

import pytest

from replicad.storage.port import CopyRange
from replicad.storage.smb.calls import Attribute, Facts, control_output, entries
from replicad.storage.smb.credits import CreditWindow
from replicad.storage.smb.link import CopyLimits
from replicad.storage.smb.server_copy import batches

SYMLINK, MOUNT_POINT, DEDUPLICATED, CLOUD = 0xA000000C, 0xA0000003, 0x80000013, 0x9000001A


def entry(name: str, *, attributes: int = 0x20, tag: int = 0, last: bool = True) -> bytes:
    encoded = name.encode("utf-16-le")
    body = struct.pack("<qqqqqqIIIBB24sHQ", 0, 0, 116_444_736_000_000_010, 0, 5, 4096, attributes, len(encoded), tag, 0,
                       0, bytes(24), 0, 77) + encoded  # fmt: skip
    body += bytes(-len(body) % 8)
    return struct.pack("<II", 0 if last else 8 + len(body), 0) + body


def test_a_listing_is_read_without_the_directory_itself() -> None:
    found = list(entries(entry(".", last=False) + entry("..", last=False) + entry("디스크 🖥")))
    assert found == [Facts(1000, 0, 5, 4096, Attribute(0x20), 77, "디스크 🖥", 0)]


@pytest.mark.parametrize(
    ("tag", "is_link"), [(SYMLINK, True), (MOUNT_POINT, True), (DEDUPLICATED, False), (CLOUD, False)]
)
def test_only_reparse_points_that_stand_for_something_elsewhere_are_links(tag: int, is_link: bool) -> None:
    (found,) = entries(entry("disk", attributes=0x420, tag=tag))
    assert found.is_link is is_link


def test_a_plain_file_is_no_link_whatever_the_size_of_its_attributes() -> None:
    (found,) = entries(entry("disk", tag=SYMLINK))
    assert not found.is_link


@pytest.mark.parametrize("body", [b"", bytes(8), struct.pack("<H", 9) + bytes(60)])
def test_an_error_without_output_has_none(body: bytes) -> None:
    assert control_output(body) == b""


def test_copies_are_cut_to_what_the_server_takes() -> None:
    limits = CopyLimits(chunks=3, chunk_bytes=10, total_bytes=25)
    found = list(batches([CopyRange(0, 100, 24), CopyRange(50, 200, 0), CopyRange(60, 300, 12)], limits))
    assert [[(r.source_offset_bytes, r.offset_bytes, r.length_bytes) for r in batch] for batch in found] == [
        [(0, 100, 10), (10, 110, 10), (20, 120, 4)],
        [(60, 300, 10), (70, 310, 2)],
    ]


def grant(window: CreditWindow, count: int) -> None:
    window["high"] += count


def use(window: CreditWindow, count: int) -> None:
    window["low"] += count


def test_credits_are_reserved_used_and_granted_again() -> None:
    window = CreditWindow()
    assert window.reserve(1, 0)
    assert not window.reserve(1, 0)
    use(window, 1)
    assert window.available == 0
    grant(window, 16)
    assert window.reserve(16, 0)
    assert window.available == 0


def test_a_large_request_is_served_before_small_ones_that_came_later() -> None:
    window = CreditWindow()
    order: list[int] = []
    waiting = threading.Semaphore(0)

    def take(count: int) -> None:
        waiting.release()
        assert window.reserve(count, 10)
        order.append(count)

    threads: list[threading.Thread] = []
    for count in (8, 1):
        thread = threading.Thread(target=take, args=(count,))
        thread.start()
        waiting.acquire()
        while len(window.waiting) < len(threads) + 1:
            pass
        threads.append(thread)
    grant(window, 7)  # 8 now: enough for the first one alone
    threads[0].join(10)
    assert order == [8]
    grant(window, 1)
    threads[1].join(10)
    assert order == [8, 1]


def test_closing_wakes_whoever_waits() -> None:
    window = CreditWindow()
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(window.reserve(2, 10)))
    thread.start()
    while not window.waiting:
        pass
    window.close()
    thread.join(10)
    assert results == [False]
    assert not window.reserve(1, 0)
