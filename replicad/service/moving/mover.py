"""One move at a time, with all that it needs: planned, carried out, gone on with, or taken back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from replicad.catalog import Catalog
from replicad.hypervisor.port import Usage
from replicad.model.errors import ConflictError, NoConvergenceError, ReplicadError
from replicad.model.known_moves import KnownMove, as_wanted, shown_id
from replicad.model.moved_sources import MovedSource, moved_again
from replicad.model.moves import MovePhase, MoveRecord
from replicad.model.progress import Warned
from replicad.service.compose import Shares
from replicad.service.freezing import freeze_journal
from replicad.settings import Consistency, Settings
from replicad.tracking.selection import Selection, is_selected
from replicad.workflows.context import Context
from replicad.workflows.move_parts import MoveParts, relocations
from replicad.workflows.move_plan import Elsewhere, MovePlan, plan_move
from replicad.workflows.move_retiring import take_back
from replicad.workflows.retries import move_with_retries

from .parts import MovedShares, move_parts, open_shares, unmake_places


@dataclass(frozen=True, slots=True)
class Plan:
    """What a move would do. `usage`: whether somebody uses the disks now."""

    move: KnownMove
    copied_bytes: int
    warnings: tuple[str, ...]
    usage: Usage


class Mover:
    """Carries moves out, by a configuration and over shares that others may use, too."""

    def __init__(self, settings: Settings, catalog: Catalog, shares: Shares, ctx: Context) -> None:
        self._settings = settings
        self._catalog = catalog
        self._shares = shares
        self._ctx = ctx

    async def plan(self, known: KnownMove) -> Plan:
        """Look at everything that can be known beforehand; nothing is there afterwards that was not before.

        Raises what `plan_move` does, and BusyError if somebody uses the disks whom the move does not control.
        """
        opened = await open_shares(known.record, self._shares)
        try:
            plan = await self._planned(known, opened)
            planned = replace(known, record=plan.record)
            parts = self._parts(planned, opened)
            usage = await parts.user.usage(relocations(plan.record, plan.record.files))
        finally:
            await unmake_places(known.record, opened.made, self._shares)
        return Plan(planned, plan.copied_bytes, plan.warnings, usage)

    async def carry_out(self, known: KnownMove) -> KnownMove:
        """Begin the move, or go on with it wherever it was; the same as it is then: ended, or RETIRED until its source
        may be deleted.

        Lost connections as in `move_with_retries`. What does not converge is taken back, and has failed. What is
        raised is written down in the move, which can be gone on with afterwards, unless nothing was there yet.
        """
        try:
            return await self._attempt(as_wanted(await self._latest(known), known))
        except NoConvergenceError as error:
            await self._give_up(await self._latest(known), error)
            raise
        except ReplicadError as error:
            latest = await self._latest(known)
            if latest.record.files:
                await self._catalog.save_move(replace(as_wanted(latest, known), error=str(error)))
            raise

    async def cancel(self, known: KnownMove) -> KnownMove:
        """Take back all that the move has brought to its destination; the same, ended.

        ConflictError once the switch has begun, or if it has ended already; LockedError while somebody works on it.
        """
        if known.phase.has_ended:
            raise ConflictError("cancel", f"move {shown_id(known.id)} of {known.vm}", f"it is {known.phase} already")
        record = known.record
        if not record.files:  # it never got as far as to have anything anywhere
            return await self._save(known, replace(record, phase=MovePhase.CANCELLED))
        return await self._taken_back(known)

    async def _attempt(self, known: KnownMove) -> KnownMove:
        await freeze_journal(self._ctx).undo_left(known.vm)
        opened = await open_shares(known.record, self._shares)
        if not known.record.files:
            try:
                plan = await self._planned(known, opened)
                # While somebody else uses them there may come other files: then it is planned anew.
                parts = self._parts(replace(known, record=plan.record), opened)
                await parts.user.usage(relocations(plan.record, plan.record.files))
            except BaseException:
                await unmake_places(known.record, opened.made, self._shares)
                raise
            for warning in plan.warnings:
                self._ctx.observe(Warned(warning))
            known = await self._save(known, replace(plan.record, made_places=opened.made))
        parts = self._parts(known, opened)
        return await self._save(known, await move_with_retries(known.record, parts, self._ctx))

    async def _planned(self, known: KnownMove, opened: MovedShares) -> MovePlan:
        elsewhere = [Elsewhere(pattern, place) for pattern, place in known.order.elsewhere]
        return await plan_move(
            known.record, opened.source, opened.places, takes=self._takes(known), elsewhere=elsewhere
        )

    def _takes(self, known: KnownMove) -> Callable[[str], bool] | None:
        """A machine takes its whole directory along, unless another one of the configuration has its disks in it."""
        machine = self._settings.virtual_machines.get(known.vm) if known.order.is_configured else None
        if machine is None:
            return None
        others = [m for m in self._settings.virtual_machines.values() if m.name != machine.name]
        if all(other.source != machine.source for other in others):
            return None
        selection = Selection(machine.disks, machine.exclude, machine.config_files)
        return lambda path: is_selected(path, selection)

    def _parts(self, known: KnownMove, opened: MovedShares) -> MoveParts:
        async def remember(record: MoveRecord) -> None:
            if (latest := await self._latest(known)).ended is not None:
                raise ConflictError("go on with", f"move {shown_id(known.id)} of {known.vm}", f"it is {latest.phase}")
            await self._save(known, record)

        consistency = self._consistency(known)
        takes = self._takes(known)
        return move_parts(known.record, consistency, opened, self._settings, self._ctx, remember, takes)

    def _consistency(self, known: KnownMove) -> Consistency:
        if known.order.monitor is not None:
            return Consistency(method="qemu", monitor=Path(known.order.monitor))
        machine = self._settings.virtual_machines.get(known.vm) if known.order.is_configured else None
        return machine.consistency if machine is not None else Consistency()

    async def _give_up(self, known: KnownMove, error: ReplicadError) -> None:
        taken_back = await self._taken_back(known)
        failed = replace(taken_back, error=str(error), record=replace(taken_back.record, phase=MovePhase.FAILED))
        await self._catalog.save_move(failed)

    async def _taken_back(self, known: KnownMove) -> KnownMove:
        opened = await open_shares(known.record, self._shares)
        record = await take_back(known.record, self._parts(known, opened), self._ctx)
        await unmake_places(record, {*record.made_places, *opened.made}, self._shares)
        return await self._save(known, record)

    async def _latest(self, known: KnownMove) -> KnownMove:
        return next((one for one in await self._catalog.moves() if one.id == known.id), known)

    async def _save(self, known: KnownMove, record: MoveRecord) -> KnownMove:
        ended = self._ctx.clock.now() if record.phase.has_ended else None
        saved = replace(known, record=record, ended=ended, error=None)
        await self._catalog.save_move(saved, await self._moved_source(saved))
        return saved

    async def _moved_source(self, known: KnownMove) -> MovedSource | None:
        """Where a machine of the configuration is from now on. None while it is where it was, and where its disks went
        to several places: the configuration can't say that, and a cycle must not take those of one place for all."""
        record = known.record
        switched = record.phase in (MovePhase.SWITCHED, MovePhase.RETIRED, MovePhase.DONE)
        if not switched or not known.order.is_configured or any(file.place for file in record.files):
            return None
        before = (await self._catalog.moved_sources()).get(known.vm)
        if before is not None and before.source == record.places[0]:
            return None  # it was written down already
        return moved_again(before, known.vm, record.source, record.places[0], self._ctx.clock.now())
