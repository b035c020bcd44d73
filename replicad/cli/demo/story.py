"""The story, from two empty servers to a machine that came back from its replica alone."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from replicad.model.chunks import choose_chunk_size
from replicad.model.errors import IntegrityError
from replicad.model.sizes import human_bytes

from .machine import LEDGER, LEDGER_AFTER, LEDGER_BEFORE, Machine, digest, find_tools
from .narrator import Narrator
from .prompt import Prompt
from .stage import VM, Stage, move_away

_DAMAGE_FOUND = 3
_SET_ASIDE = "set-aside"

Digests = dict[str, str]


def tell(here: Stage, narrator: Narrator) -> None:
    """Play it. Raises what went wrong; nothing is taken for done that was not checked."""
    prompt = Prompt(here, narrator)
    _show_servers(here, narrator)
    machine = _make_machine(here, narrator)
    _configure(here, machine, prompt, narrator)
    first = _replicate_first(here, machine, prompt, narrator)
    second = _replicate_change(machine, prompt, narrator)
    _look(prompt, narrator)
    _go_back(here, machine, first, prompt, narrator)
    _verify(prompt, narrator)
    _break_and_mend(here, machine, prompt, narrator)
    _lose_everything_else(here, second, prompt, narrator)


def _show_servers(here: Stage, narrator: Narrator) -> None:
    narrator.step("Two sites")
    for site, role in ((here.source, "machines live here"), (here.replica, "replicas go here")):
        if site.server is None:
            narrator.say(f"{site.name}: {role}: {site.address}, a local directory")
        else:
            narrator.say(f"{site.name}: {role}: {site.address}, smbd on 127.0.0.1 port {site.server.port}, encrypted")


def _make_machine(here: Stage, narrator: Narrator) -> Machine:
    narrator.step("A virtual machine with two disks")
    machine = Machine(here.machine_directory, here.scratch, find_tools(), here.interruption)
    machine.build()
    if not machine.tools.vhdx:
        narrator.notice("qemu-img and qemu-io are missing (Debian package qemu-utils): the disks are plain bytes.")
    if not machine.tools.file_system:
        narrator.notice("mke2fs and debugfs are missing (Debian package e2fsprogs): no disk has a file system.")
    for path in sorted(machine.directory.iterdir()):
        narrator.say(f"{path.name}: {human_bytes(path.stat().st_size)}")
    if machine.tools.file_system:
        _check_ledger(machine, machine.disks[0], LEDGER_BEFORE)
        narrator.say(f"On the first disk, ext4 with {LEDGER}: {LEDGER_BEFORE.strip()}")
    return machine


def _configure(here: Stage, machine: Machine, prompt: Prompt, narrator: Narrator) -> None:
    narrator.step("The configuration")
    lines = [f"state_dir: {here.root / 'state'}"]
    sites = (here.source, here.replica)
    if any(site.server for site in sites):
        lines.append("servers:")
    for site in sites:
        if site.server is None:
            continue
        password = here.root / f"{site.name}.pw"
        password.touch(mode=0o600)
        password.write_text(site.server.password + "\n")
        lines += [f"  {site.name}:", f"    address: {site.server.host}:{site.server.port}"]
        lines += [f"    username: {site.server.username}", f"    password_file: {password}"]
    lines += ["virtual_machines:", f"  {VM}:", f"    source: {_below(here.source.address, VM)}"]
    lines += [f'    disks: ["*{machine.suffix}"]', f"    replica: {here.replica.address}", "    every: 5m"]
    here.config.write_text("\n".join(lines) + "\n", encoding="utf-8")
    prompt.show(f"cd {here.root}")
    prompt.show("export REPLICAD_CONFIG=$PWD/replicad.yaml")
    prompt.show("cat replicad.yaml")
    narrator.output(here.config.read_text(encoding="utf-8"))
    prompt.type("check-config")


def _replicate_first(here: Stage, machine: Machine, prompt: Prompt, narrator: Narrator) -> Digests:
    narrator.step("The first copy")
    prompt.type("sync", VM)
    shutil.copytree(machine.directory, here.root / _SET_ASIDE)
    narrator.say(f"A copy of the machine is set aside in {_SET_ASIDE}, to compare with later.")
    return _digests(machine)


def _replicate_change(machine: Machine, prompt: Prompt, narrator: Narrator) -> Digests:
    narrator.step("A part changes, and only that part is sent")
    written_bytes = machine.change()
    narrator.say(f"{human_bytes(written_bytes)} are written to the disks, as their guest would.")
    if machine.tools.file_system:
        _check_ledger(machine, machine.disks[0], LEDGER_AFTER)
        narrator.say(f"{LEDGER} now: {LEDGER_AFTER.strip()}")
    prompt.type("sync", VM, "--dry-run")
    prompt.type("sync", VM)
    first, second = prompt.ask("points", VM)
    sent, whole = second["sent_bytes"], first["sent_bytes"]
    if not 0 < sent < whole / 4:
        raise IntegrityError("check", "the second cycle", f"it sent {sent} bytes, and the first one {whole}")
    narrator.good(f"Sent: {human_bytes(sent)}, which is {sent / whole:.1%} of the first copy.")
    return _digests(machine)


def _look(prompt: Prompt, narrator: Narrator) -> None:
    narrator.step("What there is")
    prompt.type("points", VM)
    prompt.type("status")


def _go_back(here: Stage, machine: Machine, first: Digests, prompt: Prompt, narrator: Narrator) -> None:
    narrator.step("Back to before the mistake")
    prompt.type("restore", VM, "--point", "1", "--to", "restored")
    restored = here.root / "restored"
    check_digests(restored, first)
    narrator.good("The SHA-256 of every file is that of the machine at point 1.")
    if machine.tools.vhdx:
        for path in machine.disks:
            files = f"{_SET_ASIDE}/{path.name}", f"restored/{path.name}"
            narrator.command(shlex.join(["qemu-img", "compare", "-f", "vhdx", "-F", "vhdx", *files]))
            narrator.output(machine.compare(here.root / _SET_ASIDE / path.name, restored / path.name))
    if machine.tools.file_system:
        _check_ledger(machine, restored / machine.disks[0].name, LEDGER_BEFORE)
        narrator.good(f"{LEDGER} on the restored disk: {LEDGER_BEFORE.strip()}")


def _verify(prompt: Prompt, narrator: Narrator) -> None:
    narrator.step("Is the replica sound?")
    prompt.type("verify", VM)


def _break_and_mend(here: Stage, machine: Machine, prompt: Prompt, narrator: Narrator) -> None:
    narrator.step("A fault in the replica's storage, found and mended")
    disk = here.replica_directory / "disks" / machine.disks[1].name
    offset = _break_a_chunk(disk)
    narrator.say(f"Behind replicad's back, 64 bytes of disks/{disk.name} are inverted at offset {offset}.")
    before = digest(disk)
    prompt.type("verify", VM, exit_code=_DAMAGE_FOUND)
    prompt.type("verify", VM, "--repair")
    if digest(disk) == before or digest(disk) != digest(machine.disks[1]):
        raise IntegrityError("check", str(disk), "it is not what it was before it was broken")
    prompt.type("verify", VM)
    narrator.good("The chunk was sent again from the machine's own disk; the SHA-256 of both is the same.")


def _lose_everything_else(here: Stage, second: Digests, prompt: Prompt, narrator: Narrator) -> None:
    narrator.step("The day when only the replica is left")
    move_away([here.machine_directory, here.config, here.root / "state"], here.lost)
    if here.source.server is not None:
        here.source.server.kill()
        narrator.say("site-a is gone: its server is killed; so are its disks, the configuration and replicad's state.")
    else:
        narrator.say("site-a is gone: its disks are moved away; so are the configuration and replicad's state.")
    prompt.unset_configuration()
    server = here.replica.server
    if server is None:
        prompt.type("restore", "--replica", str(here.replica_directory), "--to", "saved")
    else:
        prompt.type(
            "restore", "--replica", rf"\\{server.host}\{here.replica.share}\{VM}", "--to", "saved",
            "--port", str(server.port), "--username", server.username, "--password-file", "site-b.pw",
        )  # fmt: skip
    check_digests(here.root / "saved", second)
    narrator.good("The machine is back: the SHA-256 of every file is that of its last point.")


def _below(address: str, name: str) -> str:
    return f"{address}\\{name}" if address.startswith("\\") else f"{address}/{name}"


def _break_a_chunk(disk: Path) -> int:
    """Invert some bytes of a chunk that is not zero, past the middle of the disk; where."""
    size_bytes = disk.stat().st_size
    chunk_bytes = choose_chunk_size(size_bytes)
    with disk.open("r+b") as file:
        for start in range(size_bytes // 2 // chunk_bytes * chunk_bytes, size_bytes, chunk_bytes):
            offset = start + 1000
            file.seek(offset)
            piece = file.read(64)
            if piece.strip(b"\0"):
                file.seek(offset)
                file.write(bytes(byte ^ 0xFF for byte in piece))
                return offset
    raise IntegrityError("break a chunk of", str(disk), "its second half is empty")


def _digests(machine: Machine) -> Digests:
    return {path.name: digest(path) for path in machine.directory.iterdir()}


def check_digests(directory: Path, wanted: Digests) -> None:
    """IntegrityError if the files of a directory are not exactly those."""
    found = {path.name: digest(path) for path in directory.iterdir()}
    if found != wanted:
        names = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
        raise IntegrityError("compare", str(directory), f"{', '.join(names)} is not what it was at the point")


def _check_ledger(machine: Machine, disk: Path, wanted: str) -> None:
    if (found := machine.ledger(disk)) != wanted:
        raise IntegrityError("read", f"{LEDGER} on {disk.name}", f"it says {found!r} instead of {wanted!r}")
