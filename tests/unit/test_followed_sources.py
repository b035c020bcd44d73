"""Machines that were moved, in a configuration that says where they were."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import pytest

from replicad.model.address import LocalAddress, SmbAddress, parse_address
from replicad.model.moved_sources import MovedSource
from replicad.service.moving.following import followed, what_to_change
from replicad.settings import Consistency, Server, Settings, VirtualMachine

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
NAS = r"\\nas\vms\웹"


def _settings(source: str, method: str) -> Settings:
    machine = VirtualMachine(
        "웹", parse_address(source), LocalAddress("/사본"), consistency=Consistency(method=method), source_line=12
    )
    server = Server("nas", "nas", mounts=MappingProxyType({"vms": Path("/mnt/vms")}))
    return Settings(
        Path("/etc/replicad.yaml"), Path("/state"), servers=MappingProxyType({"nas": server}),
        virtual_machines=MappingProxyType({"웹": machine}),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "source"),
    [
        ("none", SmbAddress("nas", "vms", "웹")),
        ("qemu", LocalAddress("/mnt/vms/웹")),
        ("reflink", LocalAddress("/mnt/vms/웹")),
    ],
)
def test_a_method_that_works_with_files_of_this_host_reads_a_share_where_it_is_mounted(
    method: str, source: LocalAddress | SmbAddress
) -> None:
    settings = followed(_settings("/원본", method), {"웹": MovedSource("웹", ("/원본",), NAS, NOW)})
    machine = settings.machine("웹")
    assert (machine.source, machine.moved_from) == (source, ("/원본",))
    assert f"replicad.yaml:12 says where it was: write 'source: {source}'" in what_to_change(settings)["웹"]
    again = followed(_settings(str(source), method), {"웹": MovedSource("웹", ("/원본",), NAS, NOW)})
    assert again.machine("웹").moved_from == ("/원본",)
    assert what_to_change(again) == {}


def test_other_machines_and_other_sources_stay_as_they_are() -> None:
    moved = {"웹": MovedSource("웹", ("/원본",), NAS, NOW), "없음": MovedSource("없음", ("/원본",), NAS, NOW)}
    settings = _settings("/다른 것", "none")
    assert followed(settings, moved) == settings
    assert followed(settings, {}) == settings
