"""Every topology: rounds of changes, each one replicated, and in the end every point restored and compared."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from replicad.cli.demo.samba import PrivateSamba
from tests.support.machine_model import MachineModel
from tests.support.topologies import TOPOLOGIES, staged

pytestmark = pytest.mark.samba


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_every_point_restores_exactly_after_rounds_of_changes(
    topology: str, room: Path, samba_server: PrivateSamba
) -> None:
    random = Random(f"{topology} 1")
    with staged(topology, room, samba_server) as stage:
        model = MachineModel(stage.source, random, room / "kept")
        model.begin()
        first = stage.installation.run("sync", "--json").facts
        assert (first["point"], first["kind"]) == (1, "initial")
        model.remember(1)
        for number, change in enumerate(random.sample(model.changes, k=5), start=2):
            change()
            model.some_changes()
            report = stage.installation.run("sync", "--json").facts
            assert (report["point"], report["kind"]) == (number, "delta")
            model.remember(number)
        for point in model.history:
            model.check_point(point, stage.installation, room / "restored")
        stage.installation.run("verify")
