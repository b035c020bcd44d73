"""From a file to `Settings`, or to everything that is wrong in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from replicad.model.retention import Keep

from .document import Document, DocumentError, read_document
from .file import (
    ApiGroup,
    ConsistencyGroup,
    HooksGroup,
    KeepGroup,
    LogGroup,
    ServerGroup,
    SettingsFile,
    VerifyGroup,
    VirtualMachineGroup,
)
from .find import MAX_FILE_BYTES, default_state_dir
from .model import DEFAULT_PORT, Commands, Consistency, Hooks, LogSettings, Server, Settings, TcpAccess, VirtualMachine
from .problems import Finding, Key, Problem, SettingsError, WrongError, key_text, kind, nearest, shown
from .rules import broken_rules

# What other programs call it.
_MEANT = {
    "schedule": "every", "interval": "every", "destination": "replica", "target": "replica", "host": "address",
    "user": "username", "retention": "keep", "vms": "virtual_machines", "directory": "source", "path": "source",
    "logging": "log", "log_level": "log", "log_format": "log", "loglevel": "log",
}  # fmt: skip
_EXAMPLES = {
    "consistency": "{method: none}", "keep": "{latest: 12, daily: 7}", "verify": "{every: 7d}",
    "api": "{listen: 127.0.0.1:8600, token_file: /etc/replicad/api.token}",
    "log": "{level: info, format: auto}",
    "hooks": '{on_failure: ["/usr/local/bin/tell", "admin"]}',
}  # fmt: skip
_MISSING = {
    "source": r"write where the disks are: \\server\share\directory or an absolute local path",
    "replica": r"write where the replica goes: \\server\share\directory or an absolute local path",
}


def load(path: Path, environ: Mapping[str, str]) -> Settings:
    """Read and check one file. Raises SettingsError with all that is wrong, in the order of the lines."""
    return parse(_read(path), path, environ)


def parse(data: bytes, path: Path, environ: Mapping[str, str]) -> Settings:
    """Check the content of a file that is known as `path`. Raises SettingsError."""
    try:
        document = read_document(_decode(data, path))
    except DocumentError as error:
        complaint = error.complaint
        raise SettingsError(
            str(path), (Problem(str(path), complaint.line, "", complaint.what, complaint.hint),)
        ) from None
    value = document.value
    if not isinstance(value, dict):
        what = "the file is empty" if value is None else f"the file holds {kind(value)}, where keys are wanted"
        raise _whole(path, what, "write at least 'virtual_machines:' with one machine under it")
    findings = [*_shape_findings(value), *broken_rules(value)]
    if findings or document.complaints:
        raise _in_order(path, document, findings)
    group = SettingsFile.model_validate(value)
    return Settings(
        file=path,
        state_dir=Path(group.state_dir) if group.state_dir else default_state_dir(environ),
        bandwidth=group.bandwidth,
        max_concurrent=group.max_concurrent,
        max_moves=group.max_moves,
        hooks=_hooks(group.hooks),
        api=_api(group.api),
        log=LogSettings(group.log.level, group.log.format),
        servers=MappingProxyType({name: _server(name, one) for name, one in group.servers.items()}),
        virtual_machines=MappingProxyType(
            {name: _machine(name, one, _line(document, name)) for name, one in group.virtual_machines.items()}
        ),
    )


def _whole(path: Path, what: str, hint: str) -> SettingsError:
    return SettingsError(str(path), (Problem(str(path), 0, "", what, hint),))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise _whole(path, "there is no such file", "check the path, or give another with --config") from None
    except IsADirectoryError:
        raise _whole(path, "this is a directory", "name the file in it") from None
    except PermissionError:
        raise _whole(path, "this user may not read it", "change its owner or mode, or run as another user") from None
    except (OSError, ValueError) as error:
        answer = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise _whole(path, f"it can't be read ({answer})", "check the path") from None
    if len(data) > MAX_FILE_BYTES:
        raise _whole(path, "it is longer than 1 MiB", "name a configuration file")
    return data


def _decode(data: bytes, path: Path) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _whole(path, "it is UTF-16", "save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DocumentError(
            line, f"the byte 0x{data[error.start]:02x} is not UTF-8", "save the file as UTF-8"
        ) from None


def _in_order(path: Path, document: Document, findings: Iterable[Finding]) -> SettingsError:
    def line(key: Key) -> int:
        while key and key not in document.lines:
            key = key[:-1]
        return document.lines[key]

    found = {(line(key), key, what, hint) for key, what, hint in findings}
    found |= {(c.line, c.key, c.what, c.hint) for c in document.complaints}
    return SettingsError(
        str(path), tuple(Problem(str(path), at, key_text(key), what, hint) for at, key, what, hint in sorted(found))
    )


def _shape_findings(value: Mapping[str, object]) -> list[Finding]:
    try:
        SettingsFile.model_validate(value)
    except ValidationError as error:
        return [_finding(detail) for detail in error.errors(include_url=False)]
    return []


def _finding(detail: ErrorDetails) -> Finding:
    """One of pydantic's errors in our words."""
    key, given = detail["loc"], detail["input"]
    match detail["type"]:
        case "value_error":
            error = detail["ctx"]["error"]
            if not isinstance(error, WrongError):
                raise error
            return Finding(key, error.what, error.hint)
        case "extra_forbidden":
            return _unknown(key)
        case "missing":
            return Finding(key, "is missing", _MISSING[str(key[-1])])
        case "tuple_type":
            hint = f"write [{shown(given)}]" if isinstance(given, str) and "'" not in given else "write it as [a, b]"
            return Finding(key, f"this is {kind(given)}, not a list", hint)
        case "model_type" | "dict_type":
            example = _EXAMPLES.get(str(key[-1]), "keys and values under it")
            hint = f"write {example}" + (", or leave it out" if given is None else "")
            return Finding(key, f"this is {kind(given)}, where keys are wanted", hint)
    return Finding(key, detail["msg"], "")  # pragma: no cover - no other type arises from these models


def _unknown(key: Key) -> Finding:
    """An unknown key, with the one that was probably meant. Its value is not shown: it may be a secret."""
    name = str(key[-1])
    if key[0] == "servers" and name.lower() in ("password", "passwd", "pass", "secret"):
        return Finding(
            key, "a password does not belong in this file", "write it to a file of its own and name that: password_file"
        )
    if key[0] == "api" and name.lower() in ("token", "password", "secret"):
        return Finding(key, "a token does not belong in this file", "write it to a file of its own: token_file")
    known = list(_group_at(key[:-1]).model_fields)
    guess = nearest(name, known) or (_MEANT.get(name.lower(), "") if _MEANT.get(name.lower()) in known else "")
    return Finding(key, "unknown key", f"did you mean '{guess}'?" if guess else f"known here: {', '.join(known)}")


def _group_at(key: Key) -> type[BaseModel]:
    if not key:
        return SettingsFile
    if key[0] == "servers":
        return ServerGroup
    if key[0] == "hooks":
        return HooksGroup
    if key[0] == "api":
        return ApiGroup
    if key[0] == "log":
        return LogGroup
    match key[2:]:
        case ("consistency",):
            return ConsistencyGroup
        case ("keep",):
            return KeepGroup
        case ("verify",):
            return VerifyGroup
    return VirtualMachineGroup


def _server(name: str, group: ServerGroup) -> Server:
    host, port = group.address or (name, None)
    return Server(
        name=name,
        host=host,
        port=port or group.port or DEFAULT_PORT,
        username=group.username,
        password_file=Path(group.password_file) if group.password_file else None,
        password_command=group.password_command,
        encryption_required=group.encryption == "required",
        connections=group.connections,
        mounts=MappingProxyType({share: Path(path) for share, path in group.mounts.items()}),
    )


def _hooks(group: HooksGroup) -> Hooks:
    return Hooks(
        on_failure=group.on_failure,
        on_success=group.on_success,
        on_health_change=group.on_health_change,
        on_move=group.on_move,
        timeout_s=group.timeout,
    )


def _api(group: ApiGroup) -> TcpAccess | None:
    if group.listen is None or group.token_file is None:
        return None
    return TcpAccess(*group.listen, Path(group.token_file))


def _consistency(group: ConsistencyGroup) -> Consistency:
    return Consistency(
        method=group.method,
        allow_fuzzy=group.allow_fuzzy,
        wait_s=group.wait,
        application_every_s=group.application_every,
        sample=group.sample,
        keep_free=group.keep_free,
        max_stall_ms=group.max_stall,
        monitor=Path(group.monitor) if group.monitor else None,
        guest_agent=Path(group.guest_agent) if group.guest_agent else None,
        commands=Commands(group.freeze, group.thaw, group.snapshot, group.release, group.switch),
        timeout_s=group.timeout,
    )


def _line(document: Document, name: str) -> int:
    """Where a machine's source is said; where the machine begins, if it comes from elsewhere in the file."""
    key = ("virtual_machines", name)
    return document.lines.get((*key, "source"), document.lines.get(key, 0))


def _machine(name: str, group: VirtualMachineGroup, source_line: int) -> VirtualMachine:
    return VirtualMachine(
        name=name,
        source_line=source_line,
        source=group.source,
        replica=group.replica,
        disks=group.disks,
        exclude=group.exclude,
        config_files=group.config_files,
        every_s=group.every,
        cron=group.cron,
        objective_s=group.rpo,
        consistency=_consistency(group.consistency),
        keep=Keep(**group.keep.model_dump()),
        verify_every_s=group.verify.every,
        verify_bandwidth=group.verify.bandwidth,
        watch=group.watch,
        chunk_size_bytes=group.chunk_size,
        bandwidth=group.bandwidth,
    )
