"""What lies ahead of each VM, in the catalog. Blocking, each within the caller's transaction."""

from __future__ import annotations

from sqlite3 import Connection

from replicad.model.agenda import Agenda

from .rows import AGENDA_COLUMNS, agenda_of, agenda_values

_COLUMNS = ", ".join(AGENDA_COLUMNS)
_READ = f"SELECT vm.name, {_COLUMNS} FROM agenda JOIN vm ON vm.id = agenda.vm_id"  # noqa: S608 - our own columns
_SAVE = f"INSERT OR REPLACE INTO agenda (vm_id, {_COLUMNS}) VALUES (?{', ?' * len(AGENDA_COLUMNS)})"  # noqa: S608 - as above


def vm_id(connection: Connection, vm: str) -> int:
    """The number under which the catalog knows a VM, from now on."""
    connection.execute("INSERT OR IGNORE INTO vm (name) VALUES (?)", (vm,))
    return int(connection.execute("SELECT id FROM vm WHERE name = ?", (vm,)).fetchone()[0])


def drop_unused_vms(connection: Connection) -> None:
    """Forget the names of VMs that have neither an agenda nor a history."""
    connection.execute("DELETE FROM vm WHERE runs = 0 AND id NOT IN (SELECT vm_id FROM agenda)")


def read_agendas(connection: Connection) -> dict[str, Agenda]:
    """All of them, by VM. SenselessRowError."""
    agendas = (agenda_of(vm, row) for vm, *row in connection.execute(_READ))
    return {agenda.vm: agenda for agenda in agendas}


def save(connection: Connection, agenda: Agenda) -> None:
    """Put it in the place of the one there was."""
    connection.execute(_SAVE, (vm_id(connection, agenda.vm), *agenda_values(agenda)))


def remove(connection: Connection, vm: str) -> None:
    """Fine if there is none."""
    connection.execute("DELETE FROM agenda WHERE vm_id = (SELECT id FROM vm WHERE name = ?)", (vm,))
    drop_unused_vms(connection)
