"""From a file to values, and from files that can't be used to one clear sentence."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from replicad.model.address import LocalAddress, SmbAddress
from replicad.model.errors import ConfigError
from replicad.model.timetable import RateChange, Timetable
from replicad.settings import (
    Consistency,
    HookCommand,
    Hooks,
    HookUrl,
    Keep,
    Server,
    Settings,
    SettingsError,
    find_config,
    load_settings,
)
from replicad.settings.find import default_state_dir

VM = "virtual_machines:\n  web01:\n    source: /srv/vms\n    replica: /srv/replica\n"


def _load(tmp_path: Path, text: str | bytes) -> Settings:
    file = tmp_path / "설정 🙂.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_settings(file)


def _refused(tmp_path: Path, text: str | bytes) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        _load(tmp_path, text)
    return [line.removeprefix(f"{tmp_path / '설정 🙂.yaml'}:").lstrip() for line in str(caught.value).splitlines()]


@contextmanager
def _without_rights() -> Iterator[None]:
    """As a user to whom the files of root are closed."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_values_are_of_the_model(tmp_path: Path) -> None:
    settings = _load(
        tmp_path,
        r"""
state_dir: /srv/state
bandwidth: "08:00,100M 19:00,off"
servers:
  nas1: {address: "nas1.example.net:4450", username: REPLICA\svc, password_file: /etc/nas1.pw}
  nas2: {address: "[2001:db8::7]", username: svc, password_command: "pass show 'a b'", encryption: allowed, port: 4451}
  nas3: {connections: 8}
virtual_machines:
  웹 서버 🙂:
    source: \\NAS1\vms\web01
    replica: smb://nas2/replica/deep%20er
    disks: ["*.vhdx", sub/data?.vhd]
    exclude: [pagefile.vhdx]
    config_files: []
    every: 1h30m
    consistency: {allow_fuzzy: true, wait: 0s}
    keep: {latest: 3, monthly: 2}
    verify: {every: 7d}
    chunk_size: 1MiB
    bandwidth: Sat-00:00,off Mon-00:00,20M
  manual: {source: /srv/vms, replica: /srv/replicas, every: manual, chunk_size: auto}
  nightly: {source: /srv/vms, replica: /srv/replicas, cron: "0 22 * * Mon-fri"}
""",
    )
    assert settings.state_dir == Path("/srv/state")
    assert settings.bandwidth == Timetable((RateChange(None, 480, 100 << 20), RateChange(None, 1140, None)))
    assert dict(settings.servers) == {
        "nas1": Server("nas1", "nas1.example.net", 4450, "REPLICA\\svc", password_file=Path("/etc/nas1.pw")),
        "nas2": Server(
            "nas2", "2001:db8::7", 4451, "svc", password_command=("pass", "show", "a b"), encryption_required=False
        ),
        "nas3": Server("nas3", "nas3", connections=8),
    }
    assert settings.server("NAS1") is settings.servers["nas1"]
    assert settings.server("nas4") is None
    web, manual, nightly = settings.virtual_machines.values()
    assert web.name == "웹 서버 🙂"
    assert web.source == SmbAddress("NAS1", "vms", "web01")
    assert web.replica == SmbAddress("nas2", "replica", "deep er")
    assert web.replica_dir == SmbAddress("nas2", "replica", "deep er/웹 서버 🙂")
    assert (web.disks, web.exclude, web.config_files) == (("*.vhdx", "sub/data?.vhd"), ("pagefile.vhdx",), ())
    assert (web.every_s, web.cron) == (5_400, None)
    assert web.consistency == Consistency("none", allow_fuzzy=True, wait_s=0)
    assert web.keep == Keep(latest=3, hourly=0, daily=0, weekly=0, monthly=2)
    assert (web.verify_every_s, web.chunk_size_bytes) == (604_800, 1 << 20)
    assert web.bandwidth == Timetable((RateChange(5, 0, None), RateChange(0, 0, 20 << 20)))
    assert (manual.every_s, manual.cron, manual.chunk_size_bytes, manual.bandwidth) == (None, None, None, None)
    assert (nightly.every_s, str(nightly.cron)) == (None, "0 22 * * mon-fri")


def test_defaults_are_those_of_the_model(tmp_path: Path) -> None:
    machine = _load(tmp_path, VM).virtual_machines["web01"]
    assert machine == type(machine)("web01", LocalAddress("/srv/vms"), LocalAddress("/srv/replica"))
    assert machine.keep == Keep()


def test_hooks_are_commands_and_urls_that_are_not_shown(tmp_path: Path) -> None:
    settings = _load(
        tmp_path,
        "max_concurrent: 64\n"
        "max_moves: 32\n"
        "hooks:\n"
        "  on_failure: [/usr/local/bin/tell, $HOME, 'hunter2 웹']\n"
        "  on_success: HTTPS://svc:hunter2@alerts.example.net:8443/hunter2?q=hunter2\n"
        "  on_health_change: http://[::1]/\n"
        "  timeout: 1h\n",
    )
    failure, success, health = (
        HookCommand(("/usr/local/bin/tell", "$HOME", "hunter2 웹")),
        HookUrl("HTTPS://svc:hunter2@alerts.example.net:8443/hunter2?q=hunter2"),
        HookUrl("http://[::1]/"),
    )
    assert settings.hooks == Hooks(failure, success, health, timeout_s=3_600)
    assert settings.max_concurrent == 64
    assert settings.max_moves == 32
    assert [hook.shown for hook in (failure, success, health)] == [
        "/usr/local/bin/tell", "https://alerts.example.net:8443/…", "http://[::1]",
    ]  # fmt: skip
    assert "hunter2" not in repr(settings)


def test_without_hooks_nobody_is_told(tmp_path: Path) -> None:
    for text in (VM, VM + "hooks: {}\n"):
        settings = _load(tmp_path, text)
        assert (settings.hooks, settings.max_concurrent) == (Hooks(None, None, None, timeout_s=30), 4)


def test_an_api_on_tcp_has_a_loopback_address_and_a_token_file(tmp_path: Path) -> None:
    for typed, address in (
        ("127.0.0.1:8600", "127.0.0.1:8600"),
        ("'[::1]:80'", "[::1]:80"),
        ("'[0:0::0001]:8600'", "[::1]:8600"),
        ("127.9.0.1:1", "127.9.0.1:1"),
    ):
        settings = _load(tmp_path, VM + f"api: {{listen: {typed}, token_file: /etc/토큰}}\n")
        assert settings.api is not None
        assert (settings.api.address, settings.api.token_file) == (address, Path("/etc/토큰"))


@pytest.mark.parametrize("group", ["", "api: {}\n"])
def test_without_an_address_the_api_is_on_its_own_socket_alone(tmp_path: Path, group: str) -> None:
    assert _load(tmp_path, VM + group).api is None


def test_the_objective_is_the_interval_unless_it_is_said(tmp_path: Path) -> None:
    def rpo_s(*lines: str) -> int | None:
        text = VM + "".join(f"    {line}\n" for line in lines)
        return _load(tmp_path, text).virtual_machines["web01"].rpo_s

    assert rpo_s() is None
    assert rpo_s("cron: 0 22 * * mon-fri") is None
    assert rpo_s("cron: 0 22 * * mon-fri", "rpo: 4d") == 345_600
    assert rpo_s("every: 5m") == 300
    assert rpo_s("every: 5m", "rpo: 5m") == 300
    assert rpo_s("every: 5m", "rpo: 15m") == 900
    assert rpo_s("every: manual", "rpo: 1s") == 1


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    settings = _load(tmp_path, VM)
    with pytest.raises(FrozenInstanceError):
        settings.virtual_machines["web01"].every_s = 1  # type: ignore[misc]  # what the test is about
    with pytest.raises(TypeError):
        settings.virtual_machines["web02"] = settings.virtual_machines["web01"]  # type: ignore[index]  # as above


def test_a_merged_group_brings_what_the_machine_does_not_say_itself(tmp_path: Path) -> None:
    settings = _load(
        tmp_path,
        "virtual_machines:\n"
        "  a: &a {source: /srv/a, replica: /srv/r, every: 5m, keep: {latest: 3}}\n"
        "  b: &b {<<: *a, source: /srv/b, every: 1h}\n"
        "  c:\n    source: /srv/c\n    <<: [*b, *a]\n    keep: {latest: 9}\n",
    )
    a, b, c = settings.virtual_machines.values()
    assert (b.source, b.every_s, b.keep) == (LocalAddress("/srv/b"), 3_600, a.keep)
    assert (c.source, c.every_s, c.keep.latest) == (LocalAddress("/srv/c"), 3_600, 9)


def test_plain_scalars_follow_yaml_1_2_whatever_the_file_says(tmp_path: Path) -> None:
    for head in ("", "%YAML 1.1\n---\n", "%YAML 1.2\n---\n"):
        assert _load(tmp_path, f"{head}bandwidth: off\n").bandwidth == Timetable((RateChange(None, 0, None),))


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    assert _load(tmp_path, b"\xef\xbb\xbf" + VM.replace("\n", "\r\n").encode()).virtual_machines


def test_names_that_look_like_numbers_are_names(tmp_path: Path) -> None:
    names = ["1", "0x10", "true", "null", "1.5"]
    text = "virtual_machines:\n" + "".join(f"  {name}: {{source: /a, replica: /b}}\n" for name in names)
    assert list(_load(tmp_path, text).virtual_machines) == names


def test_everything_that_is_wrong_is_told_in_one_run_in_the_order_of_lines(tmp_path: Path) -> None:
    told = _refused(tmp_path, "bandwith: 1M\n" + VM + "    every: 5\n    disks: []\n  web01: {}\nstate_dir: x\n")
    assert [int(line.partition(":")[0]) for line in told] == [1, 6, 7, 8, 9]


def test_files_that_cannot_be_read_give_one_sentence_each(tmp_path: Path) -> None:
    def said(path: Path) -> str:
        with pytest.raises(SettingsError) as caught:
            load_settings(path)
        assert caught.value.exit_code == 2
        return str(caught.value).removeprefix(f"{path}: ")

    assert said(tmp_path / "none.yaml") == "there is no such file; check the path, or give another with --config"
    assert said(tmp_path) == "this is a directory; name the file in it"
    closed = tmp_path / "closed.yaml"
    closed.write_text(VM, encoding="utf-8")
    closed.chmod(0o000)
    with _without_rights():
        assert said(closed) == "this user may not read it; change its owner or mode, or run as another user"
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    assert said(tmp_path / "loop.yaml") == "it can't be read (Too many levels of symbolic links); check the path"
    assert said(Path("/dev/zero")) == "it is longer than 1 MiB; name a configuration file"
    assert said(Path("nul\0byte")) == "it can't be read (embedded null byte); check the path"


def test_texts_that_are_no_configuration_give_one_sentence_each(tmp_path: Path) -> None:
    empty = "the file is empty; write at least 'virtual_machines:' with one machine under it"
    for text in (b"", b"\n\n", b"---\n", b"\xef\xbb\xbf", b"null\n", b"# nothing\n"):
        assert _refused(tmp_path, text) == [empty]
    assert _refused(tmp_path, VM.encode("utf-16")) == ["it is UTF-16; save it as UTF-8"]
    assert _refused(tmp_path, b"a: 1\nb: \xff\n") == ["2: the byte 0xff is not UTF-8; save the file as UTF-8"]
    assert _refused(tmp_path, b"a: 1\nb: \0\n") == [
        "2: the character U+0000 is not allowed in YAML; remove it, or write it as an escape in double quotes"
    ]
    for escape in ("\\U99999999", "\\U00110000"):
        assert _refused(tmp_path, f'state_dir: "/{escape}"\n') == [
            "it is not YAML; check its quotes, escapes and indentation"
        ]
    assert "control character" in _refused(tmp_path, 'state_dir: "/\\ud800"\n')[0]


def test_aliases_cannot_be_made_to_expand_without_bounds(tmp_path: Path) -> None:
    lists = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
    merges = "a0: &a0 {k: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 60))
    dropped = ", ".join(f"&a{n} {{<<: *a{n - 1}}}" for n in range(1, 60))
    unseen = f"a: &a0 {{k: 1}}\na: [{dropped}]\nb: {{<<: *a59}}\n"
    assert _refused(tmp_path, lists) == ["1: its aliases expand to more than a configuration can hold; use fewer"]
    assert len(_refused(tmp_path, merges)) == 60
    assert _refused(tmp_path, unseen) == ["2: '<<' merges more than 16 groups in a row; use fewer"]


def test_brackets_cannot_be_made_to_nest_without_bounds(tmp_path: Path) -> None:
    told = "1: it is nested more than 16 levels deep; no setting is that deep"
    assert _refused(tmp_path, "[" * 200_000) == [told]
    assert _refused(tmp_path, "{a: " * 200_000) == [told]


def test_control_characters_never_reach_the_terminal(tmp_path: Path) -> None:
    told = _refused(tmp_path, VM + '    every: "\\e[31mred"\n    "\\e[2J": 1\n    chunk_size: "a\\u202Eb"\n')
    assert len(told) == 3
    assert all(c.isprintable() for line in told for c in line)


def test_state_is_kept_where_the_user_may_write() -> None:
    with _without_rights():
        assert default_state_dir({"XDG_STATE_HOME": "/x", "HOME": "/home/u"}) == Path("/x/replicad")
        for ignored in ({}, {"XDG_STATE_HOME": ""}, {"XDG_STATE_HOME": "relative"}):
            assert default_state_dir({"HOME": "/home/u"} | ignored) == Path("/home/u/.local/state/replicad")
    if os.geteuid() == 0:
        assert default_state_dir({"XDG_STATE_HOME": "/x"}) == Path("/var/lib/replicad")


def test_configuration_is_found_in_the_order_that_is_documented(tmp_path: Path) -> None:
    system, home = tmp_path / "system.yaml", tmp_path / "home"
    user = home / ".config/replicad/replicad.yaml"
    other = tmp_path / "xdg/replicad/replicad.yaml"
    environ = {"HOME": str(home)}
    with pytest.raises(ConfigError, match="cannot find a configuration: there is neither"):
        find_config(None, environ, system)
    for file in (user, other):
        file.parent.mkdir(parents=True)
        file.touch()
    assert find_config(None, environ, system) == user
    assert find_config(None, environ | {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}, system) == other
    system.touch()
    assert find_config(None, environ, system) == system
    environ["REPLICAD_CONFIG"] = "/not/there.yaml"
    assert find_config(None, environ, system) == Path("/not/there.yaml")
    assert find_config(Path("given.yaml"), environ, system) == Path("given.yaml")


def test_what_a_hypervisor_sees_of_a_share_lies_below_its_mount(tmp_path: Path) -> None:
    mounts = "servers:\n  nas1: {mounts: {VMs: '/mnt/가 나'}}\n  nas2: {}\n"
    settings = _load(tmp_path, mounts + VM)
    assert settings.seen_at(SmbAddress("NAS1", "vms", "웹/disk 1.vhdx")) == "/mnt/가 나/웹/disk 1.vhdx"
    assert settings.seen_at(SmbAddress("nas1", "vms")) == "/mnt/가 나"
    assert settings.seen_at(SmbAddress("nas1", "other", "a")) is None
    assert settings.seen_at(SmbAddress("nas2", "vms", "a")) is None
    assert settings.seen_at(SmbAddress("nas3", "vms", "a")) is None
    assert settings.seen_at(LocalAddress("/srv/vms/a")) == "/srv/vms/a"
