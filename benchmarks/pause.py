"""`python -m benchmarks.pause`: how long a guest stands still when its disk is moved, seen from inside it.

Needs what `make test` installs for its guest. Its disk goes back and forth between the shares of two servers, over SMB,
while it writes records, each one synced, and sends a heartbeat every 2 ms. The longest time without a heartbeat, and
without a durable record, is measured in each move, and in as long a time after it: the guest's own jitter.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time

from tests.support.guest import Load, monitor
from tests.support.moving_world import MovedWorld, moved_world

from .stops import Gaps, Stops, spread

_KIB, _MIB = 1 << 10, 1 << 20
_LOADS = {"few": Load(rate_per_s=60), "many": Load(80, 256 * _KIB, 256 * _KIB)}
_SETTLED_RECORDS = 20


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pause", description=__doc__)
    parser.add_argument("--moves", type=int, default=20, metavar="N", help="20 if not given; at least 2")
    parser.add_argument("--only", choices=list(_LOADS), help="records of up to 64 KiB, or of 256 KiB")
    parser.add_argument("--disks", type=int, default=1, metavar="N")
    asked = parser.parse_args()
    for name, load in _LOADS.items():
        if asked.only in (None, name):
            asyncio.run(_measure(load, asked.disks, asked.moves))
    return 0


async def _measure(load: Load, disks: int, moves: int) -> None:
    during, beside, took_s = Gaps(), Gaps(), list[float]()
    async with moved_world(disks, load) as world:
        await world.guest.wait_durable(_SETTLED_RECORDS)
        began_s, began_bytes = time.monotonic(), await _written(world)
        async with Stops(world.guest) as stops:
            for number in range(moves):
                took_s.append(await _one_move(world, number, during, beside))
        rate = (await _written(world) - began_bytes) / (time.monotonic() - began_s) / _MIB
    rounds = [record.rounds for record in world.records]
    print(f"{time.strftime('%Y-%m-%d %H:%M')}, load {os.getloadavg()[1]:.1f}")
    print(
        f"{moves} moves of {disks} x 256 MiB over SMB, the guest writes {rate:.1f} MiB/s, {max(rounds)} rounds at most"
    )
    print(f"  a move took                          {spread(took_s)}")
    print(f"  stood still, as QEMU tells           {spread(stops.took_s)}")
    print(f"  longest gap between heartbeats       {spread(during.beats_s)}")
    print(f"    with no move                       {spread(beside.beats_s)}")
    print(f"  longest gap between durable records  {spread(during.records_s)}")
    print(f"    with no move                       {spread(beside.records_s)}")


async def _one_move(world: MovedWorld, number: int, during: Gaps, beside: Gaps) -> float:
    """Seconds."""
    source, destination = ("nas1", "nas2") if number % 2 == 0 else ("nas2", "nas1")
    began_s = time.monotonic()
    await world.move(rf"\\{source}\vms", rf"\\{destination}\vms")
    took_s = time.monotonic() - began_s
    during.add(world.guest, began_s, began_s + took_s)
    await world.guest.wait_durable(world.guest.durable().number + _SETTLED_RECORDS)
    began_s = time.monotonic()
    await asyncio.sleep(took_s)
    beside.add(world.guest, began_s, began_s + took_s)
    return took_s


async def _written(world: MovedWorld) -> int:
    """What QEMU has written to its disks since it began, as it tells."""
    async with monitor(world.guest.own_qmp_path) as qmp:
        return sum(one["stats"]["wr_bytes"] for one in await qmp.execute("query-blockstats"))


if __name__ == "__main__":
    raise SystemExit(main())
