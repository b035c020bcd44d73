"""Getting to a share: each way in which it fails has its own clause, its own class, and the next thing to do."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from replicad.cli.demo.samba import PrivateSamba
from replicad.model.address import SmbAddress
from replicad.model.errors import (
    AccessDeniedError,
    ConfigError,
    NotFoundError,
    SignInError,
    TimedOutError,
    UnreachableError,
    UnsupportedError,
)
from replicad.storage.port import OpenMode
from replicad.storage.smb import Endpoint, SmbPool
from replicad.storage.smb.link import Security
from tests.support.files import HOLDER, get, names, put
from tests.support.samba import (
    ENCRYPTED,
    PLAIN,
    READ_ONLY,
    SambaDirectory,
    closing_pool,
    open_share,
    pool_of,
    running_samba,
)
from tests.support.smb_relay import smb_relay

pytestmark = pytest.mark.samba


async def give(password: str) -> str:
    return password


# --- who signs in ----------------------------------------------------------------------------------------------------


async def test_a_wrong_password_is_refused_once_and_the_server_is_not_asked_again(samba: SambaDirectory) -> None:
    asked = 0

    async def wrong() -> str:
        nonlocal asked
        asked += 1
        return "not this one"

    async with (
        smb_relay(samba.server.host, samba.server.port) as relay,
        pool_of(samba.server, port=relay.port, password=wrong) as pool,
    ):
        results = await asyncio.gather(*(pool.share(samba.address()) for _ in range(10)), return_exceptions=True)
    assert all(isinstance(one, SignInError) for one in results)
    assert "the user name or the password is wrong" in str(results[0])
    assert "not this one" not in str(results)
    assert asked == 1
    assert relay.connections == 1


async def test_an_unknown_user_is_told_like_a_wrong_password(samba: SambaDirectory) -> None:
    with pytest.raises(SignInError, match=r"as 없는사람: the user name or the password is wrong\. .*could lock"):
        async with open_share(samba.server, samba.address(), username="없는사람"):
            pass


def _run(*arguments: str) -> None:
    subprocess.run(arguments, check=True, capture_output=True, timeout=30)


@pytest.fixture(scope="module")
def server_with_users() -> Iterator[PrivateSamba]:
    with running_samba() as server:
        server.add_user("disabled", "secret-1", unix_name="daemon", flags="D")
        server.add_user("locked", "secret-1", unix_name="games", flags="L")
        server.add_user("expired", "secret-1", unix_name="man")
        _run("pdbedit", "-s", str(server.configuration_path), "-r", "-u", "man", "--kickoff-time=1")
        server.add_user("newcomer", "secret-1", unix_name="mail")
        _run("net", "-s", str(server.configuration_path), "sam", "set", "pwdmustchangenow", "mail", "yes")
        server.add_user("powerless", "secret-1", unix_name="nobody")
        yield server


@pytest.mark.root
@pytest.mark.parametrize(
    ("user", "clause"),
    [
        ("disabled", "the account is disabled. Enable it on the server"),
        ("locked", "the account is locked. Unlock it"),
        ("expired", "the account has expired. Extend it"),
        ("newcomer", "the password must be changed first. Sign in once by hand"),
    ],
)
async def test_each_account_that_may_not_sign_in_has_its_clause(
    server_with_users: PrivateSamba, user: str, clause: str
) -> None:
    with pytest.raises(SignInError, match=clause) as caught:
        async with open_share(
            server_with_users, SmbAddress("nas", PLAIN), username=user, password=lambda: give("secret-1")
        ):
            pass
    assert "secret-1" not in str(caught.value)


@pytest.mark.root
async def test_a_user_without_rights_is_denied_writing(server_with_users: PrivateSamba) -> None:
    async with open_share(
        server_with_users, SmbAddress("nas", PLAIN), username="powerless", password=lambda: give("secret-1")
    ) as share:
        with pytest.raises(AccessDeniedError, match=r"cannot create \\\\nas\\plain\\disk: access is denied\. Give"):
            await share.open("disk", OpenMode.CREATE)


async def test_without_a_user_name_kerberos_is_asked_for(
    samba: SambaDirectory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KRB5CCNAME", f"FILE:{tmp_path / 'none'}")
    with pytest.raises(SignInError, match=r"no Kerberos ticket .* kinit"):
        async with open_share(samba.server, samba.address(), username=None, password=None):
            pass


async def test_a_server_that_is_not_configured_is_a_configuration_error(samba: SambaDirectory) -> None:
    async with pool_of(samba.server) as pool:
        with pytest.raises(ConfigError, match=r"cannot use server other: .*known servers: nas.*'servers:'"):
            await pool.share(SmbAddress("other", PLAIN))


# --- what is shared --------------------------------------------------------------------------------------------------


async def test_a_missing_share_is_not_found(samba: SambaDirectory) -> None:
    async with pool_of(samba.server) as pool:
        with pytest.raises(NotFoundError, match=r"the share \\\\nas\\없음: the server has no share of that name"):
            await pool.share(SmbAddress("nas", "없음"))
        assert await (await pool.share(samba.address())).list("") == []


async def test_a_missing_directory_is_not_found_and_can_be_made(samba: SambaDirectory) -> None:
    async with open_share(samba.server, samba.address().child("아직 없음", "deeper")) as share:
        with pytest.raises(NotFoundError):
            await share.list("")
        await share.make_dir("")
        assert await share.list("") == []


async def test_a_read_only_share_can_be_read_and_refuses_every_change(samba: SambaDirectory) -> None:
    async with open_share(samba.server, samba.address()) as share:
        await put(share, "disk", b"abc")
    async with open_share(samba.server, samba.address(READ_ONLY)) as share:
        assert await names(share) == ["disk"]
        changes: list[Callable[[], Awaitable[object]]] = [
            lambda: share.open("new", OpenMode.CREATE),
            lambda: share.open("disk", OpenMode.WRITE),
            lambda: share.make_dir("new"),
            lambda: share.rename("disk", "other"),
            lambda: share.remove("disk"),
            lambda: share.lock("replica.lock", HOLDER),
        ]
        for change in changes:
            with pytest.raises(AccessDeniedError, match=r"access is denied|the share is read-only"):
                await change()
        found = await share.capabilities()
        assert found.hold
        assert found.notes
        async with await share.open("disk", OpenMode.HOLD) as file:
            buffer = bytearray(3)
            assert await file.read_into(buffer, 0) == 3
    assert (samba.path / "disk").read_bytes() == b"abc"


# --- the way there ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def pool_for(host: str, port: int = 445, connect_timeout_s: float = 10) -> AsyncIterator[SmbPool]:
    endpoint = Endpoint("nas", host, port, "user", lambda: give("secret-1"), connect_timeout_s=connect_timeout_s)
    async with closing_pool(SmbPool({"nas": endpoint})) as pool:
        yield pool


async def test_a_name_that_does_not_resolve_says_so() -> None:
    async with pool_for("no-such-host.invalid") as pool:
        with pytest.raises(UnreachableError, match=r"find server no-such-host\.invalid: its name does not resolve"):
            await pool.share(SmbAddress("nas", "vms"))


async def test_a_closed_port_says_so() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with pool_for("127.0.0.1", unused.getsockname()[1]) as pool:
            with pytest.raises(UnreachableError, match=r"server 127\.0\.0\.1:\d+: the port is closed\. Check"):
                await pool.share(SmbAddress("nas", "vms"))


async def test_a_server_that_takes_connections_and_says_nothing_times_out() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        async with pool_for("127.0.0.1", silent.getsockname()[1], connect_timeout_s=1) as pool:
            began_s = time.monotonic()
            with pytest.raises(TimedOutError, match=r"no answer (for|within) 1(\.\d)? s"):
                await pool.share(SmbAddress("nas", "vms"))
            assert time.monotonic() - began_s < 5


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"\0\0\0\x04abcd", b"\0\0\0\x40" + b"\xfeSMB" * 16]
)
async def test_something_else_than_an_smb_server_is_told_and_never_waited_for(answer: bytes) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(other, "127.0.0.1", 0)
    async with server, pool_for("127.0.0.1", server.sockets[0].getsockname()[1]) as pool:
        with pytest.raises(UnreachableError, match=r"negotiate with .* It may speak only SMB 1, not be an SMB server"):
            await pool.share(SmbAddress("nas", "vms"))


# --- protection ------------------------------------------------------------------------------------------------------


async def test_a_share_that_demands_encryption_gets_it_even_if_we_only_allow_it(samba: SambaDirectory) -> None:
    async with open_share(samba.server, samba.address(ENCRYPTED), encryption_required=False) as share:
        await put(share, "disk", b"abc")
        tree = await share.tree()
        assert tree.encrypted
        assert not tree.link.security.encrypted
    async with open_share(samba.server, samba.address(), encryption_required=False) as share:
        assert not (await share.tree()).encrypted


async def test_a_server_that_cannot_encrypt_is_refused_if_encryption_is_required() -> None:
    with running_samba(settings={"server smb encrypt": "off"}) as server:
        with pytest.raises(UnsupportedError, match=r"it does not offer encryption.*'encryption: allowed'"):
            async with open_share(server, SmbAddress("nas", PLAIN)):
                pass
        async with open_share(server, SmbAddress("nas", PLAIN), encryption_required=False) as share:
            await put(share, "disk", b"abc")
            assert (await share.tree()).link.security.cipher == "none"


async def test_a_server_with_too_old_a_dialect_is_refused() -> None:
    with running_samba(min_protocol="SMB2_02", settings={"server max protocol": "SMB2_10"}) as server:
        async with pool_of(server) as pool:
            with pytest.raises(UnsupportedError, match=r"speaks SMB 2\.1 at most, and SMB 3\.0\.2 or later is needed"):
                await pool.share(SmbAddress("nas", PLAIN))


@pytest.mark.parametrize("required", [True, False])
async def test_the_oldest_dialect_that_we_take_works(required: bool) -> None:
    with running_samba(settings={"server max protocol": "SMB3_02"}) as server:
        async with open_share(server, SmbAddress("nas", PLAIN), encryption_required=required) as share:
            await put(share, "디스크", b"abc" * 1_000_000)
            assert await get(share, "디스크") == b"abc" * 1_000_000
            assert (await share.tree()).link.security == Security("SMB 3.0.2", "AES-CMAC", "AES-128-CCM", required)


@pytest.mark.parametrize("cipher", ["AES-256-GCM", "AES-128-CCM", "AES-256-CCM"])
async def test_whatever_cipher_the_server_prefers_works(cipher: str) -> None:
    with running_samba(settings={"server smb3 encryption algorithms": cipher}) as server:
        async with open_share(server, SmbAddress("nas", PLAIN)) as share:
            await put(share, "디스크", b"abc" * 1_000_000)
            assert await get(share, "디스크") == b"abc" * 1_000_000
            assert (await share.tree()).link.security.cipher == cipher


async def test_a_guest_is_not_signed_in() -> None:
    with running_samba(settings={"map to guest": "bad user"}) as server:
        async with pool_of(server, username="anybody", encryption_required=False) as pool:
            with pytest.raises(SignInError, match=r"takes us for a guest, without signing or encryption"):
                await pool.share(SmbAddress("nas", PLAIN))
