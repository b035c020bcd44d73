"""With which options QEMU opened a disk, read from what it was started with."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from replicad.hypervisor.qemu.options import Options, options_of, our_names
from replicad.hypervisor.qemu.process import Inode

UNMAP, IGNORE = {"discard": "unmap"}, {"discard": "ignore"}
DISK: Inode = (1, 2)
FILES = {"/v/웹, 📦.vhdx": DISK, "/v/other.vhdx": (1, 3)}
_NESTED = {
    "driver": "vhdx",
    "node-name": "d",
    "file": {"driver": "file", "filename": "/v/웹, 📦.vhdx", "aio": "native"},
}
_DOTTED = "file.driver=file,file.filename=/v/웹,, 📦.vhdx"
_DRIVE = "if=none,file=/v/웹,, 📦.vhdx,format=vhdx"


def found(arguments: Sequence[str], file: str = "#block1", above: str = "#block2") -> Options:
    return options_of(file, above, DISK, ("qemu-system-x86_64", *arguments), FILES.get)


@pytest.mark.parametrize(
    ("arguments", "file", "above"),
    [
        (["-drive", _DRIVE], {}, {}),
        (["-drive", f"{_DRIVE},aio=io_uring,cache=none"], {"aio": "io_uring"}, {}),
        (["--drive", f"{_DRIVE},discard=on"], UNMAP, UNMAP),
        (["-drive", f"{_DRIVE},discard=off,file.locking=off"], IGNORE | {"locking": "off"}, IGNORE),
        (["-drive", "file.filename=/v/웹,, 📦.vhdx,file.aio=native,format=vhdx"], {"aio": "native"}, {}),
        (["-drive", "file=file:/v/웹,, 📦.vhdx"], {}, {}),
        (["-drive", "file=/v/other.vhdx,aio=native", "-drive", _DRIVE], {}, {}),
        (["-blockdev", json.dumps(_NESTED)], {"aio": "native"}, {}),
        (["-blockdev", json.dumps({"driver": "throttle", "file": _NESTED | UNMAP})], {"aio": "native"}, UNMAP),
        (["-blockdev", f"driver=vhdx,{_DOTTED},file.locking=on"], {"locking": "on"}, {}),
        (["-hda", "/v/웹, 📦.vhdx"], {}, {}),
        (["-pflash", "/v/웹, 📦.vhdx"], {}, {}),
    ],
)  # fmt: skip
def test_it_is_found_however_the_disk_was_given(
    arguments: list[str], file: dict[str, str], above: dict[str, str]
) -> None:
    assert found(arguments) == Options(file, above)


def test_nodes_that_were_given_apart_are_found_by_their_names() -> None:
    arguments = ["-blockdev", '{"driver": "vhdx", "node-name": "v", "file": "f", "discard": "unmap"}']
    arguments += ["-blockdev", "driver=file,node-name=f,filename=/elsewhere,locking=on,discard=unmap"]
    assert found(arguments, "f", "v") == Options({"locking": "on", "discard": "unmap"}, {"discard": "unmap"})


@pytest.mark.parametrize(
    "arguments",
    [[], ["-drive"], ["-drive", "file=/v/other.vhdx"], ["-blockdev", "{"], ["-blockdev", "[]"], ["-device", "x,file"]],
)  # fmt: skip
def test_what_is_not_there_is_not_known_and_left_to_qemu(arguments: list[str]) -> None:
    assert found(arguments) == Options(known=False)


@pytest.mark.parametrize("aio", ["threads", "native", "io_uring"])
@pytest.mark.parametrize("locking", ["auto", "on", "off"])
@pytest.mark.parametrize("discard", ["ignore", "unmap"])
def test_our_own_nodes_tell_theirs_by_short_names(aio: str, locking: str, discard: str) -> None:
    options = Options({"aio": aio, "locking": locking, "discard": discard}, {"discard": discard})
    for number in (0, 999):
        file, above, keeper = our_names("replicad-m0123abcd-", number, options)
        assert len(file) <= 31
        assert keeper not in (file, above)
        assert found(["-drive", f"{_DRIVE},aio=native"], file, above) == options


def test_what_is_not_said_is_what_qemu_does_by_itself() -> None:
    file, above, _ = our_names("replicad-m0123abcd-", 0, Options())
    assert found([], file, above).file == {"aio": "threads", "locking": "auto", "discard": "ignore"}
