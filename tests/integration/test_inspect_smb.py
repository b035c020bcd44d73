"""`replicad inspect` of files on a real SMB server, also while somebody writes them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicad.cli.main import main
from replicad.storage.port import OpenMode
from tests.support.samba import ENCRYPTED, PLAIN, SambaDirectory, common_samba, fresh_directory, open_share
from tests.support.vhdx_builder import HEADERS, MIB, Block, Spec, build

pytestmark = pytest.mark.samba


@pytest.fixture(scope="module")
def server_directory() -> Iterator[SambaDirectory]:
    with common_samba() as server, fresh_directory(server) as directory:
        yield directory


@pytest.fixture
def sign_in(server_directory: SambaDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    for variable in ("REPLICAD_CONFIG", "REPLICAD_USERNAME", "REPLICAD_PASSWORD", "REPLICAD_PASSWORD_FILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    server = server_directory.server
    password = tmp_path / "password"
    password.write_text(server.password)
    password.chmod(0o600)
    return ("--username", server.username, "--password-file", str(password), "--port", str(server.port), "--json")


def address(directory: SambaDirectory, share: str, name: str) -> str:
    return f"\\\\{directory.server.host}\\{share}\\{directory.path.name}\\{name}"


@pytest.mark.parametrize("share", [PLAIN, ENCRYPTED])
def test_a_disk_on_a_share_is_inspected(
    server_directory: SambaDirectory, sign_in: tuple[str, ...], share: str, capsys: pytest.CaptureFixture[str]
) -> None:
    build(Spec(virtual_size=1 << 40, blocks={5: Block()})).save(server_directory.path / "웹 💽.vhdx")
    encryption = ("--encryption", "allowed" if share == PLAIN else "required")
    code = main(["inspect", address(server_directory, share, "웹 💽.vhdx"), *sign_in, *encryption])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert (facts["virtual_size_bytes"], facts["bat"]["fully_present"]) == (1 << 40, 1)


def test_damage_on_a_share_is_told(
    server_directory: SambaDirectory, sign_in: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    image = build()
    for at in HEADERS:
        image.flip(at + 8)
    image.save(server_directory.path / "bad.vhdx")
    code = main(["inspect", address(server_directory, PLAIN, "bad.vhdx"), *sign_in, "--encryption", "allowed"])
    out, err = capsys.readouterr()
    assert code == 1
    assert json.loads(out)["damaged"] is True
    assert err.startswith("replicad: cannot inspect 'bad.vhdx': its header 1 at byte 65536 is damaged: its checksum is")


def test_a_file_that_is_not_there_has_its_exit_code(
    server_directory: SambaDirectory, sign_in: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["inspect", address(server_directory, PLAIN, "none.vhdx"), *sign_in, "--encryption", "allowed"])
    out, err = capsys.readouterr()
    assert (code, out) == (10, "")
    assert "none.vhdx" in err


async def test_a_disk_that_somebody_writes_is_inspected_without_disturbing_him(
    server_directory: SambaDirectory, sign_in: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    image = build(Spec(blocks={0: Block()}))
    path = image.save(server_directory.path / "busy.vhdx")
    async with (
        open_share(server_directory.server, server_directory.address(), encryption_required=False) as share,
        await share.open("busy.vhdx", OpenMode.WRITE) as writer,
    ):
        await writer.write(b"before", image.places["block 0"])
        arguments = ["inspect", address(server_directory, PLAIN, "busy.vhdx"), *sign_in, "--encryption", "allowed"]
        code = await asyncio.to_thread(main, arguments)
        await writer.write(b"after!", image.places["block 0"] + MIB // 2)
    assert code == 0
    assert json.loads(capsys.readouterr().out)["bat"]["fully_present"] == 1
    assert path.read_bytes()[image.places["block 0"] + MIB // 2 :][:6] == b"after!"
