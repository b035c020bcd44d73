"""`replicad demo` as users run it: a process of its own, of any user, with or without Samba, ended in any way."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from replicad.cli.demo.machine import digest
from replicad.cli.demo.story import check_digests
from replicad.model.errors import IntegrityError

_PROGRAM = "import sys; from replicad.cli.main import main; sys.exit(main())"
_DEMO = [sys.executable, "-c", _PROGRAM, "demo"]
_AS_NOBODY = ("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups")
_CHECKOUT = Path(__file__).parents[2]
_TIMEOUT_S = 110
_LEDGER = "/srv/회계/장부 2026 📒.txt"

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def place() -> Iterator[Path]:
    """A short directory that anybody may enter, for temporary files and as home; all that is ours is below it."""
    path = Path(tempfile.mkdtemp(prefix="replicad-", dir="/tmp"))
    path.chmod(0o755)
    (path / "tmp").mkdir()
    (path / "home").mkdir()
    yield path
    shutil.rmtree(path)


def _environment(place: Path, **changes: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("REPLICAD_", "XDG_"))}
    ours = {"TMPDIR": str(place / "tmp"), "HOME": str(place / "home"), "PYTHONPATH": str(_CHECKOUT), "TERM": "xterm"}
    return {**kept, **ours, **changes}


def _run(place: Path, *arguments: str, demo: Sequence[str] = _DEMO, **changes: str) -> str:
    """What the demo prints; asserts that it succeeds and leaves neither file nor process."""
    done = subprocess.run(
        [*demo, *arguments], env=_environment(place, **changes), cwd=place, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=_TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert _left_behind(place) == []
    return done.stdout


def _left_behind(place: Path) -> list[str]:
    """Files in the temporary directory and at home, and processes that were told of that directory."""
    files = [str(p) for name in ("tmp", "home") for p in (place / name).iterdir()]
    return files + [f"process {pid}: {command}" for pid, command in _processes_of(place).items()]


def _processes_of(place: Path) -> Mapping[int, str]:
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            told = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            state = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
        except OSError:
            continue  # it ended meanwhile
        if bytes(place) in told and state != "Z":
            found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return found


def _assert_story(text: str) -> None:
    """All that must have happened, in this order."""
    position = 0
    for line in (
        "$ replicad check-config",
        "$ replicad sync web01\n",
        "web01: point 1 (initial, cold) committed in ",
        "$ replicad sync web01 --dry-run",
        "nothing was written",
        "web01: point 2 (delta, cold) committed in ",
        "$ replicad points web01",
        "$ replicad status",
        "$ replicad restore web01 --point 1 --to restored",
        "✓ The SHA-256 of every file is that of the machine at point 1.",
        "$ replicad verify web01\n",
        ": sound\n",
        "(at byte ",
        "exit code 3)",
        "$ replicad verify web01 --repair",
        "repaired: ",
        ": sound\n",
        "$ unset REPLICAD_CONFIG",
        "$ replicad restore --replica ",
        "✓ The machine is back",
        "All of it held, in ",
    ):
        found = text.find(line, position)
        assert found >= 0, f"{line!r} is missing after:\n{text[:position]}\nin:\n{text[position:]}"
        position = found + len(line)


@pytest.mark.samba
def test_the_story_holds_with_real_servers_and_leaves_nothing_behind(place: Path) -> None:
    text = _run(place)
    _assert_story(text)
    assert r"\\site-a\vms, smbd on 127.0.0.1 port " in text
    assert r"\\site-b\replicas, smbd on 127.0.0.1 port " in text
    assert text.count("Images are identical.") == 2
    assert f"{_LEDGER} on the restored disk: 잔액 Balance: 1,000,000 KRW" in text
    assert "\n   !" not in text
    assert "\x1b" not in text


@pytest.mark.samba
@pytest.mark.root
def test_an_ordinary_user_sees_the_same_and_keeps_everything_on_request(place: Path) -> None:
    for directory in (place, place / "tmp", place / "home"):
        shutil.chown(directory, "nobody", "nogroup")
    python, path = _interpreter_for_nobody()
    text = _run(
        place, "--keep", "보관 🗄", demo=[*_AS_NOBODY, python, "-c", _PROGRAM, "demo"], PYTHONPATH=path
    )  # fmt: skip
    _assert_story(text)
    assert "smbd on 127.0.0.1" in text
    kept = place / "보관 🗄"
    assert sorted(p.name for p in kept.iterdir()) == [
        "lost", "restored", "saved", "set-aside", "site-a", "site-a.pw", "site-b", "site-b.pw",
    ]  # fmt: skip
    assert {p.owner() for p in kept.rglob("*")} == {"nobody"}
    assert _read_points(place, text.splitlines()[-1]) == [1, 2]


def _interpreter_for_nobody() -> tuple[str, str]:
    """An interpreter that runs replicad for an ordinary user, and its PYTHONPATH: root's own may lie in root's home."""
    path = f"{_CHECKOUT}:{sysconfig.get_path('platlib')}"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/local/bin/{version}", f"/usr/bin/{version}"):
        done = subprocess.run(
            [*_AS_NOBODY, "env", f"PYTHONPATH={path}", python, "-c", "import replicad.cli.main, smbprotocol, xxhash"],
            cwd="/", capture_output=True, timeout=_TIMEOUT_S, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            return python, path
    pytest.skip(f"no {version} here that an ordinary user can run")


def _read_points(place: Path, command: str) -> list[int]:
    """What the command, as it was shown, lists."""
    shown = command.strip().removeprefix("$ replicad ")
    done = subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" {shown} --json', sys.executable, _PROGRAM],
        env=_environment(place), cwd=place, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [point["number"] for point in json.loads(done.stdout)]


def test_without_smbd_local_directories_stand_in_and_a_notice_says_so(place: Path) -> None:
    text = _run(place, **_without(place, "smbd"))
    _assert_story(text)
    assert "! No SMB server: cannot start a private SMB server: smbd is not installed. Install Debian's package" in text
    assert "! Two local directories stand in for the servers" in text
    assert text.count("Images are identical.") == 2


def test_without_any_tools_plain_bytes_are_replicated_and_notices_say_so(place: Path) -> None:
    text = _run(place, **_without(place, "smbd", "qemu-img", "mke2fs"))
    _assert_story(text)
    assert "! qemu-img and qemu-io are missing (Debian package qemu-utils): the disks are plain bytes." in text
    assert "! mke2fs and debugfs are missing (Debian package e2fsprogs): no disk has a file system." in text
    assert "회계 데이터 📒.img" in text


def _without(place: Path, *programs: str) -> dict[str, str]:
    """A PYTHONPATH on which `shutil.which` finds all programs but these, wherever it is told to look."""
    (place / "without").mkdir()
    (place / "without" / "sitecustomize.py").write_text(
        "import shutil\n"
        "found = shutil.which\n"
        f"shutil.which = lambda name, *a, **k: None if name in {programs!r} else found(name, *a, **k)\n"
    )
    return {"PYTHONPATH": f"{place / 'without'}:{_CHECKOUT}"}


@pytest.mark.samba
@pytest.mark.parametrize("moment", ["1. Two sites", "$ replicad sync web01", "5. A part"])
def test_ctrl_c_on_a_terminal_stops_it_and_leaves_nothing_behind(place: Path, moment: str) -> None:
    terminal, inside = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *_DEMO], stdin=inside, stdout=inside, stderr=inside,
        env=_environment(place, COLUMNS="200"), cwd=place, start_new_session=True,
    )  # fmt: skip
    with process:
        os.close(inside)
        shown = _read_until(terminal, moment)
        os.write(terminal, b"\x03\x03")  # twice, as impatient people do
        shown += _read_until(terminal, None)
        os.close(terminal)
        assert process.wait(30) == 130, shown
    assert "\x1b[1;36m" in shown  # a terminal sees colours
    assert "replicad: interrupted" in shown
    assert "Traceback" not in shown
    assert _left_behind(place) == []


def _read_until(terminal: int, text: str | None) -> str:
    """What is shown up to `text`, or up to the end."""
    data = b""
    deadline = time.monotonic() + _TIMEOUT_S
    while text is None or text.encode() not in data:
        assert select.select([terminal], [], [], max(0, deadline - time.monotonic()))[0], data.decode()
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            piece = b""  # nobody has the other side open any more
        if not piece:
            assert text is None, f"it ended before {text!r}: {data.decode()}"
            break
        data += piece
    return data.decode()


def test_sigterm_stops_it_in_the_middle_of_a_command_and_leaves_nothing_behind(place: Path) -> None:
    with subprocess.Popen(
        _DEMO, env=_environment(place, **_without(place, "smbd")), cwd=place, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if line.strip() == "$ replicad sync web01":
                break
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130
        assert process.stderr.read().strip() == "replicad: interrupted"
    assert _left_behind(place) == []


def test_a_step_that_fails_ends_the_story_with_an_error_and_leaves_nothing_behind(place: Path) -> None:
    """Here the machine has a `check-config` that always fails."""
    changes = _without(place, "smbd")
    with (place / "without" / "sitecustomize.py").open("a") as sabotage:
        sabotage.write("import sys\nif 'check-config' in sys.orig_argv:\n    import os; os._exit(7)\n")
    done = subprocess.run(
        _DEMO, env=_environment(place, **changes), cwd=place, capture_output=True, text=True, timeout=_TIMEOUT_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "All of it held" not in done.stdout
    assert "'replicad check-config' failed: it ended with exit code 7 instead of 0" in done.stderr
    assert _left_behind(place) == []


def test_files_that_are_not_what_they_were_are_named(place: Path) -> None:
    disk = place / "home" / "회계 데이터 📒.vhdx"
    disk.write_bytes(b"one")
    wanted = {disk.name: digest(disk)}
    check_digests(place / "home", wanted)
    disk.write_bytes(b"two")
    with pytest.raises(IntegrityError, match=r"회계 데이터 📒\.vhdx is not what it was at the point"):
        check_digests(place / "home", wanted)
    with pytest.raises(IntegrityError, match=r"web01\.xml"):
        check_digests(place / "home", {disk.name: digest(disk), "web01.xml": "0"})


def test_a_directory_with_something_in_it_is_not_kept_in(place: Path) -> None:
    (place / "home" / "mine.txt").write_text("mine")
    done = subprocess.run(
        [*_DEMO, "--keep", str(place / "home")], env=_environment(place), cwd=place,
        capture_output=True, text=True, timeout=_TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "there is something in it" in done.stderr
    assert _left_behind(place) == [str(place / "home" / "mine.txt")]
