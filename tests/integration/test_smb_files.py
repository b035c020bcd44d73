"""Files on a real server: large directories, holes as the server's disk sees them, copies that do not travel, links,
and full disks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicad.cli.demo.samba import PrivateSamba, SambaShare
from replicad.model.address import SmbAddress
from replicad.model.errors import (
    BusyError,
    NotFoundError,
    OutOfSpaceError,
    PermanentError,
    ReplicadError,
    UnsupportedError,
)
from replicad.model.extents import Extent, total_bytes
from replicad.storage.port import Capabilities, CopyRange, OpenMode
from replicad.storage.smb.link import CopyLimits
from tests.support.files import HOLDER, get, pattern, put
from tests.support.samba import PLAIN, SambaDirectory, open_share, running_samba
from tests.support.smb_relay import smb_relay

pytestmark = pytest.mark.samba

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def on_disk_bytes(path: Path) -> int:
    """What du tells."""
    return path.stat().st_blocks * 512


# --- directories -----------------------------------------------------------------------------------------------------


async def test_a_directory_of_a_thousand_long_names_is_listed_whole(samba: SambaDirectory) -> None:
    expected = sorted(f"{number:04} {'가상 머신' * 12} 🖥.vhdx" for number in range(1000))
    for name in expected:
        (samba.path / name).write_bytes(b"12345")
    async with open_share(samba.server, samba.address()) as share:
        entries = await share.list("")
    assert [entry.name for entry in entries] == expected
    assert {entry.size_bytes for entry in entries} == {5}


async def test_a_listing_without_end_is_cut_off(samba: SambaDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicad.storage.smb.share.MAX_ENTRIES", 600)  # more than one answer holds
    async with open_share(samba.server, samba.address()) as share:
        for number in range(600):
            (samba.path / f"{number:03} {'가상' * 30}").touch()
        assert len(await share.list("")) == 600
        (samba.path / "하나 더").touch()
        with pytest.raises(
            UnsupportedError, match=r"cannot list .*: it holds more than 600 files and directories\. Give"
        ):
            await share.list("")
        assert (await share.stat("하나 더")).name == "하나 더"  # the connection is as good as before


async def test_a_path_beyond_the_old_limit_of_windows_works(samba: SambaDirectory) -> None:
    deep = "/".join(["깊은 디렉터리 " + "x" * 60] * 15)
    async with open_share(samba.server, samba.address()) as share:
        await share.make_dir(deep)
        await put(share, f"{deep}/disk", b"deep")
        assert await get(share, f"{deep}/disk") == b"deep"
        assert len(f"{deep}/disk") > 1000


async def test_a_name_that_the_server_does_not_take_is_an_error_of_ours(samba: SambaDirectory) -> None:
    async with open_share(samba.server, samba.address()) as share:
        with pytest.raises(PermanentError):
            await put(share, "/".join(["깊은 곳" * 10] * 60), b"")


# --- holes -----------------------------------------------------------------------------------------------------------


async def test_holes_are_holes_on_the_disk_of_the_server(samba: SambaDirectory) -> None:
    file_path = samba.path / "disk"
    async with open_share(samba.server, samba.address()) as share:
        async with await share.open("disk", OpenMode.CREATE) as file:
            await file.set_size(100 * GIB)
            assert on_disk_bytes(file_path) < MIB
            await file.write(pattern(8 * MIB), 50 * GIB)
            await file.flush()
            assert 8 * MIB <= on_disk_bytes(file_path) < 9 * MIB
            assert await file.allocated_extents() == [Extent(50 * GIB, 8 * MIB)]
            await file.zero(50 * GIB + 2 * MIB, 4 * MIB)
            assert on_disk_bytes(file_path) < 5 * MIB
            assert await file.allocated_extents() == [Extent(50 * GIB, 2 * MIB), Extent(50 * GIB + 6 * MIB, 2 * MIB)]
            await file.zero(0, 1 << 60)
            assert on_disk_bytes(file_path) < MIB
        assert file_path.stat().st_size == 100 * GIB


async def test_a_file_that_somebody_else_put_there_gets_holes_when_it_is_zeroed(samba: SambaDirectory) -> None:
    (samba.path / "disk").write_bytes(pattern(8 * MIB))
    async with open_share(samba.server, samba.address()) as share, await share.open("disk", OpenMode.WRITE) as file:
        await file.zero(MIB, 6 * MIB)
        await file.flush()
    assert on_disk_bytes(samba.path / "disk") < 3 * MIB
    assert (samba.path / "disk").read_bytes() == pattern(MIB) + bytes(6 * MIB) + pattern(8 * MIB)[7 * MIB :]


async def test_more_ranges_than_fit_into_one_answer_are_all_told(samba: SambaDirectory) -> None:
    islands = 20_000
    async with open_share(samba.server, samba.address()) as share, await share.open("disk", OpenMode.CREATE) as file:
        await file.set_size(GIB)
        with (samba.path / "disk").open("r+b", buffering=0) as raw:
            for index in range(islands):
                os.pwrite(raw.fileno(), b"x", index * 16 * KIB + 4 * KIB)
        extents = await file.allocated_extents()
        assert total_bytes(extents) == islands * 4 * KIB
        assert extents[:2] == [Extent(4 * KIB, 4 * KIB), Extent(20 * KIB, 4 * KIB)]
        assert len(extents) == islands


async def test_a_server_that_keeps_no_attributes_still_works_and_its_capabilities_say_so() -> None:
    with running_samba(settings={"store dos attributes": "no", "ea support": "no"}) as server:
        async with open_share(server, SmbAddress("nas", PLAIN)) as share:
            found = await share.capabilities()
            assert not found.allocated_extents
            assert any("Holes are not told" in note for note in found.notes)
            async with await share.open("disk", OpenMode.CREATE) as file:
                await file.write(pattern(3 * MIB), 0)
                await file.zero(MIB, MIB)
                assert total_bytes(await file.allocated_extents()) == 3 * MIB
            assert await get(share, "disk") == pattern(MIB) + bytes(MIB) + pattern(3 * MIB)[2 * MIB :]


async def test_capabilities_of_a_plain_samba(samba: SambaDirectory) -> None:
    async with open_share(samba.server, samba.address()) as share:
        assert await share.capabilities() == Capabilities(
            server_copy=True, sparse=True, zero=True, allocated_extents=True, hold=True, flush_directory=True
        )


# --- copies by the server --------------------------------------------------------------------------------------------


async def test_a_copy_by_the_server_is_equal_and_does_not_travel(samba: SambaDirectory) -> None:
    data = os.urandom(32 * MIB)
    (samba.path / "source").write_bytes(data)
    async with (
        smb_relay(samba.server.host, samba.server.port) as relay,
        open_share(samba.server, samba.address(), port=relay.port) as share,
        await share.open("source", OpenMode.READ) as source,
        await share.open("target", OpenMode.CREATE) as target,
    ):
        before = relay.to_server_bytes + relay.to_client_bytes
        scattered = [CopyRange(i * 64 * KIB, (511 - i) * 64 * KIB, 64 * KIB) for i in range(512)]
        await target.copy_from(source, scattered)
        await target.copy_from(source, [CopyRange(0, 32 * MIB, 32 * MIB)])
        assert relay.to_server_bytes + relay.to_client_bytes - before < 40 * KIB
    copied = (samba.path / "target").read_bytes()
    pieces = [data[i * 64 * KIB : (i + 1) * 64 * KIB] for i in range(512)]
    assert copied == b"".join(reversed(pieces)) + data


async def test_the_limits_that_the_server_names_are_kept(samba: SambaDirectory) -> None:
    (samba.path / "source").write_bytes(pattern(20 * MIB))
    async with (
        open_share(samba.server, samba.address()) as share,
        await share.open("source", OpenMode.READ) as source,
        await share.open("target", OpenMode.CREATE) as target,
    ):
        tree = await share.tree()
        tree.copy_limits = CopyLimits(1024, 8 * MIB, 64 * MIB)
        await target.copy_from(source, [CopyRange(0, 0, 20 * MIB)])
        assert tree.copy_limits == CopyLimits(256, MIB, 16 * MIB)
        assert (samba.path / "target").read_bytes() == pattern(20 * MIB)


async def test_a_copy_between_two_connections_is_refused_and_harms_neither(samba: SambaDirectory) -> None:
    (samba.path / "source").write_bytes(b"abc")
    async with (
        open_share(samba.server, samba.address()) as one,
        open_share(samba.server, samba.address()) as two,
        await one.open("source", OpenMode.READ) as source,
        await two.open("target", OpenMode.CREATE) as target,
    ):
        with pytest.raises(UnsupportedError, match="not on the same connection"):
            await target.copy_from(source, [CopyRange(0, 0, 3)])
        assert await get(one, "source") == await get(two, "source") == b"abc"


# --- links -----------------------------------------------------------------------------------------------------------


async def test_a_link_that_leaves_the_share_leads_nowhere(samba: SambaDirectory, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (samba.path / "link").symlink_to(tmp_path / "secret")
    (samba.path / "dir").symlink_to(tmp_path)
    async with open_share(samba.server, samba.address()) as share:
        for path in ("link", "dir/secret"):
            with pytest.raises(ReplicadError):
                await get(share, path)


async def test_a_server_that_follows_no_links_has_them_refused() -> None:
    with running_samba(settings={"follow symlinks": "no"}) as server:
        data = server.share_directory(PLAIN)
        (data / "real").write_bytes(b"abc")
        (data / "link").symlink_to("real")
        async with open_share(server, SmbAddress("nas", PLAIN)) as share:
            assert await get(share, "real") == b"abc"
            with pytest.raises(ReplicadError):
                await get(share, "link")


async def test_a_dfs_link_is_told_as_one() -> None:
    with running_samba(settings={"host msdfs": "yes", "msdfs root": "yes"}) as server:
        (server.share_directory(PLAIN) / "다른 곳").symlink_to("msdfs:other\\share")
        async with open_share(server, SmbAddress("nas", PLAIN)) as share:
            await put(share, "disk", b"here")
            assert await get(share, "disk") == b"here"
            with pytest.raises(UnsupportedError, match=r"the path is a DFS link to another server\. Name the server"):
                await get(share, "다른 곳/disk")


async def test_a_file_that_is_being_deleted_is_waited_for_and_then_told(samba: SambaDirectory) -> None:
    async with open_share(samba.server, samba.address()) as share, open_share(samba.server, samba.address()) as other:
        await put(share, "disk", b"1")
        reader = await other.open("disk", OpenMode.READ)
        await share.remove("disk")
        with pytest.raises(BusyError, match="it is being deleted while somebody still has it open"):
            await share.stat("disk")
        waiting = asyncio.ensure_future(share.stat("disk"))
        await reader.close()
        with contextlib.suppress(NotFoundError):  # Samba may still open it while it deletes it
            await waiting
        with pytest.raises(NotFoundError):
            await share.stat("disk")
        await put(share, "disk", b"2")
        assert await get(other, "disk") == b"2"


# --- full disks ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_server(tmp_path: Path) -> Iterator[PrivateSamba]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)], check=True)
    try:
        with running_samba({PLAIN: SambaShare(disk)}) as server:
            yield server
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.root
async def test_a_full_disk_says_so_and_its_lock_works_all_the_same(small_server: PrivateSamba) -> None:
    async with open_share(small_server, SmbAddress("nas", PLAIN)) as share:
        await put(share, "source", pattern(5 * MIB))
        async with (
            await share.open("disk", OpenMode.CREATE) as file,
            await share.open("source", OpenMode.READ) as other,
        ):
            with pytest.raises(OutOfSpaceError, match=r"cannot write .*disk: no space is left on the share\. Free"):
                await file.write(bytes(16 * MIB), 0)
            with pytest.raises(OutOfSpaceError):
                await file.copy_from(other, [CopyRange(0, 0, 5 * MIB)])
        assert await share.free_bytes() < MIB
        async with await share.lock("replica.lock", HOLDER) as lock:
            await lock.check()
            await share.remove("disk")
        assert await share.free_bytes() > 2 * MIB


async def test_nothing_is_found_below_a_file(samba: SambaDirectory) -> None:
    async with open_share(samba.server, samba.address()) as share:
        await put(share, "disk", b"1")
        with pytest.raises(NotFoundError):
            await share.stat("disk/below")
