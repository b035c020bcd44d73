"""What the composition root makes of configuration and options. (Real servers: tests/integration/test_shares.py.)"""

from __future__ import annotations

from pathlib import Path

import pytest

from replicad.cli.credentials import one_off_credentials
from replicad.cli.options import SignIn
from replicad.model.address import LocalAddress, SmbAddress
from replicad.model.errors import ConfigError
from replicad.model.progress import ProgressEvent, Warned, nobody
from replicad.service.compose import OneOffCredentials, Shares
from replicad.settings import Settings, load_settings
from replicad.storage.port import OpenMode
from replicad.storage.smb import Endpoint

NAS1, NAS9 = SmbAddress("nas1", "vms"), SmbAddress("nas9", "vms")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "nas1.pw").write_text("from file\n")
    (tmp_path / "nas1.pw").chmod(0o644)
    file = tmp_path / "replicad.yaml"
    file.write_text(
        f"servers:\n"
        f"  nas1: {{address: 'nas1.example.net:4450', username: svc, password_file: {tmp_path}/nas1.pw}}\n"
        f"  nas2: {{username: svc, password_command: [echo, from command], encryption: allowed, "
        f"connections: 5}}\n"
        f"  nas3: {{}}\n"
    )
    return load_settings(file)


async def test_endpoints_are_those_of_the_configuration(settings: Settings) -> None:
    shares = Shares(settings)
    nas1, nas2, nas3 = (shares.endpoint(name) for name in ("NAS1", "nas2", "nas3"))
    assert (nas1.name, nas1.host, nas1.port, nas1.username) == ("NAS1", "nas1.example.net", 4450, "svc")
    assert nas1.encryption_required
    assert nas1.password is not None
    assert await nas1.password() == "from file"
    assert (nas2.host, nas2.port, nas2.encryption_required, nas2.connections) == ("nas2", 445, False, 5)
    assert nas2.password is not None
    assert await nas2.password() == "from command"
    assert (nas3.username, nas3.password) == (None, None)
    assert nas1.connections == nas3.connections == Endpoint("nas9", "nas9").connections


async def test_a_changed_password_is_read_at_the_next_sign_in_and_its_file_warned_of_once(
    settings: Settings, tmp_path: Path
) -> None:
    events: list[ProgressEvent] = []
    password = Shares(settings, observe=events.append).endpoint("nas1").password
    assert password is not None
    assert await password() == "from file"
    (tmp_path / "nas1.pw").write_text("changed")
    assert await password() == "changed"
    assert [type(event) for event in events] == [Warned]


async def test_a_server_that_nobody_described_is_refused(settings: Settings) -> None:
    with pytest.raises(ConfigError) as caught:
        await Shares(settings).open(NAS9)
    assert str(caught.value) == (
        f"cannot use server nas9: it is not described in {settings.file}. "
        "Add 'nas9: {address: nas9}' under 'servers:'."
    )
    with pytest.raises(ConfigError, match="there is no configuration"):
        await Shares(None).open(NAS9)


async def test_typed_credentials_reach_a_server_that_nobody_described() -> None:
    endpoint = Shares(None, OneOffCredentials("svc", "typed")).endpoint("nas9")
    assert (endpoint.name, endpoint.host, endpoint.port, endpoint.username) == ("nas9", "nas9", 445, "svc")
    assert endpoint.encryption_required
    assert endpoint.password is not None
    assert await endpoint.password() == "typed"
    kerberos = Shares(None, OneOffCredentials(encryption_required=False, port=4450)).endpoint("nas9")
    assert (kerberos.username, kerberos.password, kerberos.encryption_required, kerberos.port) == (
        None,
        None,
        False,
        4450,
    )


async def test_what_was_typed_wins_over_the_configuration_and_leaves_the_rest(settings: Settings) -> None:
    other_user = Shares(settings, OneOffCredentials("root", "typed")).endpoint("nas1")
    assert (other_user.host, other_user.port, other_user.username) == ("nas1.example.net", 4450, "root")
    assert other_user.password is not None
    assert await other_user.password() == "typed"
    other_port = Shares(settings, OneOffCredentials(port=1445, encryption_required=False)).endpoint("nas1")
    assert (other_port.port, other_port.encryption_required, other_port.username) == (1445, False, "svc")


async def test_what_was_typed_for_one_server_is_not_shown_to_another(settings: Settings) -> None:
    typed = one_off_credentials(NAS9, settings, SignIn("root", port=1445), {"REPLICAD_PASSWORD": "typed"}, nobody)
    shares = Shares(settings, typed)
    nas9, nas1 = shares.endpoint("NAS9"), shares.endpoint("nas1")
    assert (nas9.port, nas9.username) == (1445, "root")
    assert (nas1.port, nas1.username) == (4450, "svc")
    assert nas1.password is not None
    assert await nas1.password() == "from file"
    with pytest.raises(ConfigError, match="nas8: it is not described"):
        shares.endpoint("nas8")


async def test_a_local_directory_is_a_share(tmp_path: Path) -> None:
    async with Shares(None) as shares:
        share = await shares.open(LocalAddress(str(tmp_path)))
        async with await share.open("웹.vhdx", OpenMode.CREATE) as file:
            await file.write(b"vhdxfile", 0)
    assert (tmp_path / "웹.vhdx").read_bytes() == b"vhdxfile"


def test_no_representation_shows_a_password() -> None:
    credentials = OneOffCredentials("svc", "hunter2")
    assert "hunter2" not in repr(credentials) + repr(Shares(None, credentials).endpoint("nas9"))


def _ask(question: str) -> str:
    assert question == "Password for svc on nas9"
    return "asked"


def test_user_and_password_come_from_options_then_environment_then_a_question(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("option file\n")
    (tmp_path / "b").write_text("environment file\n")
    for name in "ab":
        (tmp_path / name).chmod(0o600)
    environ: dict[str, str] = {}

    def got(sign_in: SignIn = SignIn()) -> tuple[str | None, str | None]:  # noqa: B008 - frozen
        credentials = one_off_credentials(NAS9, None, sign_in, environ, nobody, _ask)
        assert credentials is not None
        return credentials.username, credentials.password

    assert got() == (None, None)
    environ["REPLICAD_USERNAME"] = "svc"
    assert got() == ("svc", "asked")
    environ["REPLICAD_PASSWORD"] = "environment"
    assert got() == ("svc", "environment")
    environ["REPLICAD_PASSWORD_FILE"] = str(tmp_path / "b")
    assert got() == ("svc", "environment file")
    assert got(SignIn("root", tmp_path / "a")) == ("root", "option file")


def test_environment_does_not_override_a_configured_server(settings: Settings) -> None:
    environ = {"REPLICAD_USERNAME": "root", "REPLICAD_PASSWORD": "environment"}
    assert one_off_credentials(NAS1, settings, SignIn(), environ, nobody) is None
    assert one_off_credentials(NAS1, settings, SignIn(port=1), environ, nobody) == OneOffCredentials(
        port=1, server="nas1"
    )
    assert one_off_credentials(LocalAddress("/srv"), None, SignIn(), environ, nobody) is None


def test_a_user_without_a_password_and_a_password_without_a_user_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no password for svc, and no terminal to ask on"):
        one_off_credentials(NAS9, None, SignIn("svc"), {}, nobody)
    with pytest.raises(ConfigError, match="there is a password and no user"):
        one_off_credentials(NAS9, None, SignIn(None, tmp_path / "pw"), {}, nobody)
    for name in ("REPLICAD_PASSWORD", "REPLICAD_PASSWORD_FILE"):
        # Else it would be left aside and Kerberos tried, with an error that speaks of tickets.
        with pytest.raises(ConfigError, match="there is a password and no user"):
            one_off_credentials(NAS9, None, SignIn(), {name: "typed"}, nobody)
        assert one_off_credentials(NAS9, None, SignIn(), {name: ""}, nobody) == OneOffCredentials(server="nas9")
