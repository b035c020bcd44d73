"""Addresses, and what must not be in them."""

from __future__ import annotations

import pytest

from replicad.model.address import LocalAddress, SmbAddress, parse_address
from replicad.model.errors import ConfigError


@pytest.mark.parametrize(
    "text",
    [r"\\nas1\vms\web01", "//nas1/vms/web01", "smb://nas1/vms/web01", r"\\nas1\vms/web01\\", "SMB://nas1/vms//web01"],
)
def test_share_is_the_same_however_it_is_written(text: str) -> None:
    assert parse_address(text) == SmbAddress("nas1", "vms", "web01")


def test_address_is_told_as_windows_writes_it() -> None:
    assert str(parse_address("smb://nas1/vms/회계%20서버/a")) == r"\\nas1\vms\회계 서버\a"
    assert str(LocalAddress("/").child("a", "", "b")) == "/a/b"


@pytest.mark.parametrize(
    "text",
    ["smb://svc:hunter2@nas1/vms", r"\\svc:hunter2@nas1\vms", "//svc:hunter2@nas1/vms", "svc:hunter2@nas1/vms",
     "smb://svc:hunter2@nas1:99999/vms", "svc:hunter2@nas1:/vms"],
)  # fmt: skip
def test_a_password_in_an_address_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(text)
    assert "hunter2" not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "\0", "vms", r"\nas1\vms", r"\\nas1", "smb://nas1", "smb://nas1:445/vms", "smb://nas1:99999/vms", "smb://[/vms",
     r"\\nas1\vms\..\x", "smb://nas1/vms/%2e%2e", "smb://nas1/vms?x", "/srv/../etc", "/srv/./x", r"C:\..\x",
     r"\\na s\vms", r"\\nas1\con\x"],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_address(text)
