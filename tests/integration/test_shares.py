"""The composition root with real servers: configuration and options in, shares that work out."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicad.cli.demo.samba import PrivateSamba
from replicad.model.address import LocalAddress, SmbAddress
from replicad.model.errors import ConfigError, SignInError
from replicad.model.progress import ProgressEvent, Warned
from replicad.service.compose import OneOffCredentials, Shares
from replicad.settings import Settings, load_settings
from replicad.storage.port import CopyRange, OpenMode, Share
from tests.support.files import HOLDER
from tests.support.samba import PLAIN, running_samba
from tests.support.smb_relay import smb_relay

pytestmark = pytest.mark.samba

DATA = b"vhdxfile" * 512


def _settings(tmp_path: Path, server: PrivateSamba, password: str, more: str = "") -> Settings:
    secret = tmp_path / "nas.pw"
    secret.write_text(password + "\n")
    secret.chmod(0o600)
    file = tmp_path / "replicad.yaml"
    file.write_text(
        f"servers:\n"
        f"  nas: {{address: '{server.host}:{server.port}', username: {server.username}, password_file: {secret}}}\n"
        f"  other: {{address: {server.host}, port: {server.port}, username: {server.username},"
        f" password_command: [cat, {secret}]}}\n{more}"
    )
    return load_settings(file)


async def _write_and_read(share: Share) -> bytes:
    async with await share.open("웹 🙂.vhdx", OpenMode.CREATE) as file:
        await file.write(DATA, 0)
    buffer = bytearray(len(DATA))
    async with await share.open("웹 🙂.vhdx", OpenMode.READ) as file:
        assert await file.read_into(buffer, 0) == len(DATA)
    await share.remove("웹 🙂.vhdx")
    return bytes(buffer)


async def test_configured_servers_and_local_directories_open_by_address(tmp_path: Path) -> None:
    with running_samba() as server:
        async with Shares(_settings(tmp_path, server, server.password)) as shares:
            for address in (SmbAddress("NAS", PLAIN), SmbAddress("other", PLAIN), LocalAddress(str(tmp_path))):
                assert await _write_and_read(await shares.open(address)) == DATA


async def test_shares_of_one_server_copy_between_each_other(tmp_path: Path) -> None:
    """They are on one connection, however the server's name is written."""
    with running_samba() as server:
        async with Shares(_settings(tmp_path, server, server.password)) as shares:
            first = await shares.open(SmbAddress("nas", PLAIN))
            await first.make_dir("sub")
            second = await shares.open(SmbAddress("NAS", PLAIN, "sub"))
            async with (
                await first.open("source.vhdx", OpenMode.CREATE) as source,
                await second.open("copy.vhdx", OpenMode.CREATE) as target,
            ):
                await source.write(DATA, 0)
                await target.copy_from(source, [CopyRange(0, 0, len(DATA))])
            assert (await second.stat("copy.vhdx")).size_bytes == len(DATA)
            await second.close()
            assert await _write_and_read(first) == DATA


async def test_typed_credentials_sign_in_where_there_is_no_configuration() -> None:
    with running_samba() as server:
        typed = OneOffCredentials(server.username, server.password, port=server.port)
        async with Shares(None, typed) as shares:
            assert await _write_and_read(await shares.open(SmbAddress(server.host, PLAIN))) == DATA


async def test_a_server_that_takes_fewer_connections_than_configured_is_warned_of_once(tmp_path: Path) -> None:
    events: list[ProgressEvent] = []
    with running_samba() as server:
        async with smb_relay(server.host, server.port) as relay:
            relay.most_connections = 1
            file = tmp_path / "replicad.yaml"
            file.write_text(f"servers:\n  nas: {{address: '{relay.host}:{relay.port}', connections: 3}}\n")
            typed = OneOffCredentials(server.username, server.password)
            async with Shares(load_settings(file), typed, events.append) as shares:
                share = await shares.open(SmbAddress("nas", PLAIN))
                for _ in range(2):
                    await (await share.lock("replica.lock", HOLDER)).release()
            assert relay.connections == 2
    (warned,) = events
    assert isinstance(warned, Warned)
    assert warned.text.startswith(r"Only 1 of 3 connections to \\nas could be made: ")


async def test_a_wrong_password_is_refused_and_not_shown(tmp_path: Path) -> None:
    with running_samba() as server:
        async with Shares(_settings(tmp_path, server, "hunter2")) as shares:
            with pytest.raises(SignInError) as caught:
                await shares.open(SmbAddress("nas", PLAIN))
        assert "hunter2" not in str(caught.value) + repr(caught.value)


async def test_a_missing_password_file_is_told_by_its_path(tmp_path: Path) -> None:
    with running_samba() as server:
        settings = _settings(tmp_path, server, server.password)
        (tmp_path / "nas.pw").unlink()
        async with Shares(settings) as shares:
            with pytest.raises(ConfigError, match=r"cannot read the password for server nas: .*nas\.pw can't be read"):
                await shares.open(SmbAddress("nas", PLAIN))
