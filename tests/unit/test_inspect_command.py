"""`replicad inspect` on local files: what is printed, where, and the exit code."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from replicad.cli.inspect import locate
from replicad.cli.main import main
from replicad.model.address import LocalAddress, SmbAddress
from replicad.model.errors import ConfigError
from tests.support.vhdx_builder import HEADERS, MIB, REGION_TABLES, ZERO, Block, Image, Spec, build

PARENT = {"parent_linkage": "{aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee}", "relative_path": ".\\부모 💽.vhdx"}


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["inspect", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def save(path: Path, image: Image) -> str:
    return str(image.save(path))


def test_a_sound_disk_is_told_as_a_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = {0: Block(), 1: Block(), 2: Block(ZERO)}
    file = save(tmp_path / "웹 서버 💽.avhdx", build(Spec(parent=PARENT, blocks=blocks)))
    code, out, err = run(capsys, file)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"file             {file}",
        "format           VHDX, differencing",
        "made by          replicad's tests",
        "virtual size     64 MiB (67,108,864 bytes)",
        "file size        6 MiB (6,291,456 bytes)",
        "block size       1 MiB (1,048,576 bytes)",
        "sector size      512 B logical, 4096 B physical",
        "disk id          11111111-2222-3333-4444-555555555555",
        "headers          both copies valid; sequence number 9",
        "file write GUID  00000000-0000-0000-0000-000000000007",
        "data write GUID  aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
        "region tables    both copies valid",
        "log              clean",
        "blocks           2 present, 1 zero, 61 not present",
        "allocated        2 MiB (2,097,152 bytes)",
        "parent linkage   {aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee}",
        "parent path      .\\부모 💽.vhdx (relative_path)",
    ]


def test_json_holds_every_fact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = build(Spec(parent=PARENT, blocks={0: Block()}))
    image.flip(HEADERS[0] + 9)
    file = save(tmp_path / "a.vhdx", image)
    code, out, err = run(capsys, "--json", file)
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts["file"] == file
    assert (facts["format"], facts["damaged"], facts["kind"]) == ("vhdx", False, "differencing")
    assert facts["virtual_size_bytes"] == 64 * MIB
    assert facts["header"]["log_guid"] is None
    assert facts["header_copies_valid"] == [False, True]
    assert facts["log"] == {"state": "clean", "entries": 0, "first_sequence_number": None, "last_sequence_number": None}
    assert facts["parent_locator"] == PARENT
    assert (facts["bat"]["fully_present"], facts["bat"]["allocated_bytes"]) == (1, MIB)
    assert [region["name"] for region in facts["regions"]] == ["BAT", "metadata"]
    assert len(facts["warnings"]) == 1


def test_a_warning_is_a_line_of_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = build()
    image.flip(REGION_TABLES[1] + 9)
    code, out, _ = run(capsys, save(tmp_path / "a.vhdx", image))
    assert code == 0
    assert "region tables    copy 2 is damaged, the other one is used" in out
    assert "warning          region table 2 at byte 262144 is damaged: its checksum is 0x" in out


@pytest.mark.parametrize("as_json", [False, True])
def test_damage_is_one_sentence_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    image = build()
    for at in HEADERS:
        image.put(at, b"HEAD")
    file = save(tmp_path / "a.vhdx", image)
    code, out, err = run(capsys, file, *["--json"] * as_json)
    reason = (
        "its header 1 at byte 65536 is damaged: its signature is b'HEAD' instead of b'head'; "
        "header 2 is no better: its signature is b'HEAD' instead of b'head'"
    )
    assert code == 1
    assert err == f"replicad: cannot inspect 'a.vhdx': {reason}\n"
    if as_json:
        assert json.loads(out) == {"file": file, "format": "vhdx", "damaged": True, "reason": reason}
    else:
        assert out == ""


def test_plain_bytes_are_no_vhdx_and_no_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.vhdx"
    file.write_bytes(b"plain bytes")
    code, out, err = run(capsys, str(file), "--json")
    assert code == 1
    assert err == (
        f"replicad: {file} is not a VHDX: it begins with b'plain by' instead of b'vhdxfile'; "
        "replicad treats it as plain bytes\n"
    )
    assert json.loads(out) == {
        "file": str(file), "format": None, "damaged": False, "file_size_bytes": 11,
        "reason": "it begins with b'plain by' instead of b'vhdxfile'", "vhd": None,
    }  # fmt: skip


def test_a_relative_path_and_a_link_are_followed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "b").mkdir()
    build().save(tmp_path / "b" / "disk.vhdx")
    (tmp_path / "link").symlink_to(Path("b") / "disk.vhdx")
    monkeypatch.chdir(tmp_path)
    for text in ("link", os.path.join("b", "..", "b", "disk.vhdx")):  # noqa: PTH118 - pathlib would keep no '..' apart
        code, out, _ = run(capsys, text)
        assert code == 0
        assert out.startswith(f"file             {text}\n")


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("nothing.vhdx",), 10, "nothing.vhdx: it is not there"),
        (("b",), 1, "it is a directory"),
        (("",), 2, "it is empty"),
        (("\\\\server\\share",), 2, "it names no file"),
        (("smb://server/share/a/../b.vhdx",), 2, "it does not name anything inside its directory"),
        (("\\\\server.invalid\\share\\a.vhdx",), 5, "does not resolve"),
        (("a.vhdx", "--config", "nothing.yaml"), 2, "nothing.yaml"),
    ],
)
def test_what_cannot_be_opened_is_told_in_one_sentence(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    sentence: str,
) -> None:
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path)
    for variable in ("REPLICAD_CONFIG", "REPLICAD_USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    got, out, err = run(capsys, *arguments)
    assert (got, out) == (code, "")
    assert sentence in err
    assert err.count("\n") == 1


def test_hostile_text_in_a_file_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = build(Spec(creator="\x1b[2J\x9b31mred", parent={**PARENT, "relative_path": "a\r\nb\x1b]0;x\x07"}))
    _, out, _ = run(capsys, save(tmp_path / "a.vhdx", image))
    assert not {"\x1b", "\x9b", "\r", "\x07"} & set(out)
    assert len(out.splitlines()) == 17


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\\\\nas1\\vms\\web01\\a 💽.vhdx", (SmbAddress("nas1", "vms", "web01"), "a 💽.vhdx")),
        ("smb://nas1/vms/a%20b.vhdx", (SmbAddress("nas1", "vms", ""), "a b.vhdx")),
        ("//nas1/vms/x/y/디스크.vhdx", (SmbAddress("nas1", "vms", "x/y"), "디스크.vhdx")),
        ("/no/where/a.vhdx", (LocalAddress("/no/where"), "a.vhdx")),
        ("/a.vhdx", (LocalAddress("/"), "a.vhdx")),
    ],
)
def test_where_a_file_is(text: str, expected: tuple[object, str]) -> None:
    assert locate(text) == expected


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        locate("smb://user:geheim@nas1/vms/a.vhdx")
    assert "geheim" not in str(caught.value)
