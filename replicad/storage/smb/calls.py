"""The requests of MS-SMB2 that a share needs, apart from READ and WRITE. Blocking; one function a request.

All raise smbprotocol's `SMBResponseException` for an error status, and `ConnectionLostError` or `NoAnswerError`.
Answers are taken apart here by their layout in MS-SMB2 §2.2 and MS-FSCC §2.4: smbprotocol's own classes round times
and take a millisecond an entry.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum, IntFlag
from typing import Any

from smbprotocol.change_notify import ChangeNotifyFlags, CompletionFilter, SMB2ChangeNotifyRequest
from smbprotocol.exceptions import SMBResponseException
from smbprotocol.file_info import InfoType
from smbprotocol.ioctl import IOCTLFlags, SMB2IOCTLRequest
from smbprotocol.open import (
    ImpersonationLevel,
    SMB2CloseRequest,
    SMB2CreateRequest,
    SMB2FlushRequest,
    SMB2LockElement,
    SMB2LockRequest,
    SMB2QueryDirectoryRequest,
    SMB2QueryInfoRequest,
    SMB2SetInfoRequest,
)

from . import status
from .failures import understanding
from .link import Tree

MAX_LISTING_BYTES = 64 * 1024
_HEADER_BYTES = 64
_CHANGES = (
    CompletionFilter.FILE_NOTIFY_CHANGE_FILE_NAME
    | CompletionFilter.FILE_NOTIFY_CHANGE_DIR_NAME
    | CompletionFilter.FILE_NOTIFY_CHANGE_ATTRIBUTES  # as which Samba tells of writes behind its back
    | CompletionFilter.FILE_NOTIFY_CHANGE_SIZE
    | CompletionFilter.FILE_NOTIFY_CHANGE_LAST_WRITE
)
_NAME_SURROGATE = 0x2000_0000
_NOT_IN_A_NAME = frozenset("/\\\0")
_FILETIME_EPOCH = 116_444_736_000_000_000
"""1970 in the 100 ns intervals since 1601 in which Windows counts time."""


class Access(IntFlag):
    """Desired access (MS-SMB2 §2.2.13.1)."""

    READ_DATA = 0x0000_0001
    WRITE_DATA = 0x0000_0002
    ADD_FILE = 0x0000_0002  # the same bit, on a directory
    READ_ATTRIBUTES = 0x0000_0080
    WRITE_ATTRIBUTES = 0x0000_0100
    DELETE = 0x0001_0000
    SYNCHRONIZE = 0x0010_0000


class Sharing(IntFlag):
    """What other openers may do meanwhile (MS-SMB2 §2.2.13)."""

    READ = 1
    WRITE = 2
    DELETE = 4
    ALL = 7


class Disposition(IntEnum):
    """What to do if the file is there, or is not (MS-SMB2 §2.2.13)."""

    OPEN = 1
    CREATE = 2
    OPEN_IF = 3


class Options(IntFlag):
    """Create options (MS-SMB2 §2.2.13)."""

    DIRECTORY = 0x0000_0001
    NON_DIRECTORY = 0x0000_0040
    DELETE_ON_CLOSE = 0x0000_1000
    OPEN_REPARSE_POINT = 0x0020_0000


NO_OPTIONS = Options(0)


class Locking(IntFlag):
    """What to do with a byte range (MS-SMB2 §2.2.26.1)."""

    SHARED = 0x01
    EXCLUSIVE = 0x02
    UNLOCK = 0x04
    FAIL_IMMEDIATELY = 0x10


class Attribute(IntFlag):
    """File attributes (MS-FSCC §2.6)."""

    READ_ONLY = 0x0001
    DIRECTORY = 0x0010
    NORMAL = 0x0080
    SPARSE = 0x0200
    REPARSE_POINT = 0x0400


class Control(IntEnum):
    """File-system controls (MS-SMB2 §2.2.31, MS-FSCC §2.3)."""

    REQUEST_RESUME_KEY = 0x0014_0078
    COPYCHUNK_WRITE = 0x0014_80F2
    SET_SPARSE = 0x0009_00C4
    SET_ZERO_DATA = 0x0009_80C8
    QUERY_ALLOCATED_RANGES = 0x0009_40CF


@dataclass(frozen=True, slots=True)
class Facts:
    """What the server says of one file or directory. Times are in nanoseconds since 1970 UTC."""

    write_time_ns: int
    change_time_ns: int
    size_bytes: int
    allocated_bytes: int
    attributes: Attribute
    file_id: int = 0
    name: str = ""
    reparse_tag: int | None = None

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory (or a link to one)."""
        return Attribute.DIRECTORY in self.attributes

    @property
    def is_link(self) -> bool:
        """Whether it stands for something elsewhere: a symbolic link or a mount point (MS-FSCC §2.1.2.1).

        Other reparse points are files like any other to whoever opens them, deduplicated ones for example.
        """
        if Attribute.REPARSE_POINT not in self.attributes:
            return False
        return self.reparse_tag is None or bool(self.reparse_tag & _NAME_SURROGATE)


@dataclass(frozen=True, slots=True)
class Handle:
    """An open file or directory on a link."""

    file_id: bytes
    facts: Facts


def send(tree: Tree, message: Any) -> Any:
    """Send one request on a share; for `answer`."""
    return tree.link.connection.send(message, tree.link.session_id, tree.tree_id)


def answer(tree: Tree, request: Any, timeout_s: float | None = None) -> bytes:
    """Wait for the answer to a request: its body."""
    body: bytes = tree.link.connection.receive(request, timeout=timeout_s)["data"].get_value()
    return body


def exchange(tree: Tree, message: Any, timeout_s: float | None = None) -> bytes:
    """Send one request on a share and wait: the body of its answer."""
    return answer(tree, send(tree, message), timeout_s)


def create(
    tree: Tree,
    path: str,
    access: Access,
    sharing: Sharing = Sharing.ALL,
    disposition: Disposition = Disposition.OPEN,
    options: Options = NO_OPTIONS,
) -> Handle:
    """CREATE (§2.2.13): open or make a file or directory. A link is opened itself, never followed."""
    handle = _create(tree, path, access, sharing, disposition, options | Options.OPEN_REPARSE_POINT)
    if Attribute.REPARSE_POINT not in handle.facts.attributes:
        return handle
    try:
        facts = replace(handle.facts, reparse_tag=_query_reparse_tag(tree, handle))
    except BaseException:
        close(tree, handle)
        raise
    if facts.is_link:
        return replace(handle, facts=facts)
    # Opened as what it is made of, it would not show its content.
    close(tree, handle)
    handle = _create(tree, path, access, sharing, disposition, options)
    return replace(handle, facts=replace(handle.facts, reparse_tag=facts.reparse_tag))


def _create(
    tree: Tree, path: str, access: Access, sharing: Sharing, disposition: Disposition, options: Options
) -> Handle:
    message = SMB2CreateRequest()
    message["impersonation_level"] = ImpersonationLevel.Impersonation
    message["desired_access"] = int(access | Access.READ_ATTRIBUTES)
    message["file_attributes"] = 0 if options & Options.DIRECTORY else int(Attribute.NORMAL)
    message["share_access"] = int(sharing)
    message["create_disposition"] = int(disposition)
    message["create_options"] = int(options)
    message["buffer_path"] = path.encode("utf-16-le") or b"\0\0"
    body = exchange(tree, message)
    with understanding():
        _, _, write, change, allocated, size, attributes, file_id = struct.unpack_from("<qqqqqqI4x16s", body, 8)
        return Handle(file_id, _facts(write, change, size, allocated, attributes))


def close(tree: Tree, handle: Handle) -> None:
    """CLOSE (§2.2.15). A handle that the server has closed already is fine."""
    message = SMB2CloseRequest()
    message["file_id"] = handle.file_id
    try:
        exchange(tree, message, tree.link.endpoint.slow_timeout_s)
    except SMBResponseException as error:
        if error.status != status.FILE_CLOSED:
            raise


def flush(tree: Tree, handle: Handle) -> None:
    """FLUSH (§2.2.17): the file, or the names in the directory, are durable on return."""
    message = SMB2FlushRequest()
    message["file_id"] = handle.file_id
    exchange(tree, message, tree.link.endpoint.slow_timeout_s)


def query_facts(tree: Tree, handle: Handle) -> Facts:
    """FileAllInformation (MS-FSCC §2.4.2)."""
    body = _query_info(tree, handle, InfoType.SMB2_0_INFO_FILE, 18, 4096, overflow_is_fine=True)
    with understanding():
        _, _, write, change, attributes = struct.unpack_from("<qqqqI", body, 0)
        allocated, size = struct.unpack_from("<qq", body, 40)
        (file_id,) = struct.unpack_from("<Q", body, 64)
        return _facts(write, change, size, allocated, attributes, file_id)


def _facts(write: int, change: int, size: int, allocated: int, attributes: int, *rest: Any) -> Facts:
    """ValueError for sizes that there can't be: room may be made for them."""
    if size < 0 or allocated < 0:
        raise ValueError("a size below zero")
    return Facts(_to_ns(write), _to_ns(change), size, allocated, Attribute(attributes), *rest)


def _query_reparse_tag(tree: Tree, handle: Handle) -> int:
    """FileAttributeTagInformation (MS-FSCC §2.4.6)."""
    body = _query_info(tree, handle, InfoType.SMB2_0_INFO_FILE, 35, 8)
    with understanding():
        _, tag = struct.unpack_from("<II", body)
    return int(tag)


def query_free_bytes(tree: Tree, handle: Handle) -> int:
    """The room left for this user, by FileFsFullSizeInformation (MS-FSCC §2.5.4)."""
    body = _query_info(tree, handle, InfoType.SMB2_0_INFO_FILESYSTEM, 7, 64)
    with understanding():
        _, for_us, _, sectors, sector_bytes = struct.unpack_from("<qqqII", body, 0)
    return int(for_us) * int(sectors) * int(sector_bytes)


def query_file_system(tree: Tree, handle: Handle) -> tuple[int, str]:
    """The attributes and the name of the file system, by FileFsAttributeInformation (MS-FSCC §2.5.1)."""
    body = _query_info(tree, handle, InfoType.SMB2_0_INFO_FILESYSTEM, 5, 512)
    with understanding():
        attributes, _, length = struct.unpack_from("<III", body, 0)
    return int(attributes), body[12 : 12 + length].decode("utf-16-le", "replace")


def _query_info(
    tree: Tree, handle: Handle, kind: int, number: int, most_bytes: int, *, overflow_is_fine: bool = False
) -> bytes:
    message = SMB2QueryInfoRequest()
    message["info_type"] = kind
    message["file_info_class"] = number
    message["output_buffer_length"] = most_bytes
    message["file_id"] = handle.file_id
    try:
        body = exchange(tree, message)
    except SMBResponseException as error:
        # FileAllInformation ends in a name that may not fit; what comes before it is there all the same.
        if not (overflow_is_fine and error.status == status.BUFFER_OVERFLOW):
            raise
        body = error.header["data"].get_value()
    return _output(body)


def _output(body: bytes) -> bytes:
    """The output buffer of an answer to QUERY_INFO or QUERY_DIRECTORY (§2.2.38, §2.2.34)."""
    with understanding():
        offset, length = struct.unpack_from("<HI", body, 2)
    start = max(0, offset - _HEADER_BYTES)
    return bytes(body[start : start + length])


def _set_info(tree: Tree, handle: Handle, number: int, buffer: bytes, timeout_s: float | None = None) -> None:
    message = SMB2SetInfoRequest()
    message["info_type"] = InfoType.SMB2_0_INFO_FILE
    message["file_info_class"] = number
    message["file_id"] = handle.file_id
    message["buffer"] = buffer
    exchange(tree, message, timeout_s)


def ask_for_changes(tree: Tree, handle: Handle, *, below: bool) -> Any:
    """CHANGE_NOTIFY (§2.2.35) on a directory, or also all below it: the request, whose answer comes when something
    changes. What changes between two requests on one handle is in the answer to the second."""
    message = SMB2ChangeNotifyRequest()
    message["flags"] = ChangeNotifyFlags.SMB2_WATCH_TREE if below else ChangeNotifyFlags.NONE
    message["output_buffer_length"] = MAX_LISTING_BYTES
    message["file_id"] = handle.file_id
    message["completion_filter"] = _CHANGES
    return send(tree, message)


def changed_names(body: bytes) -> frozenset[str]:
    """The paths in an answer to that, with '/' between the parts; empty: too many changed to name them."""
    names = set()
    buffer, position = _output(body), 0
    with understanding():
        while buffer:
            step, _, length = struct.unpack_from("<III", buffer, position)
            name = buffer[position + 12 : position + 12 + length].decode("utf-16-le", "surrogatepass")
            names.add(name.replace("\\", "/"))
            if step == 0:
                break
            position += step
    return frozenset(names)


def set_size(tree: Tree, handle: Handle, size: int) -> None:
    """FileEndOfFileInformation (MS-FSCC §2.4.13)."""
    _set_info(tree, handle, 20, struct.pack("<q", size), tree.link.endpoint.slow_timeout_s)


def rename(tree: Tree, handle: Handle, target: str, *, replace: bool) -> None:
    """FileRenameInformation (MS-FSCC §2.4.37.2); the handle needs DELETE, `target` is relative to the share."""
    name = target.encode("utf-16-le")
    _set_info(tree, handle, 10, struct.pack("<B7xQI", replace, 0, len(name)) + name)


def mark_for_deletion(tree: Tree, handle: Handle) -> None:
    """FileDispositionInformation (MS-FSCC §2.4.11): it goes when the last handle on it is closed."""
    _set_info(tree, handle, 13, b"\x01")


def lock_byte(tree: Tree, handle: Handle, offset: int, locking: Locking) -> None:
    """LOCK (§2.2.26) of one byte, which may lie beyond the end of the file."""
    element = SMB2LockElement()
    element["offset"], element["length"], element["flags"] = offset, 1, int(locking)
    message = SMB2LockRequest()
    message["file_id"] = handle.file_id
    message["locks"] = [element]
    exchange(tree, message)


def control(
    tree: Tree,
    handle: Handle,
    code: Control,
    given: bytes = b"",
    most_bytes: int = 0,
    timeout_s: float | None = None,
) -> bytes:
    """IOCTL (§2.2.31): a file-system control."""
    message = SMB2IOCTLRequest()
    message["ctl_code"] = int(code)
    message["file_id"] = handle.file_id
    message["max_output_response"] = most_bytes
    message["flags"] = IOCTLFlags.SMB2_0_IOCTL_IS_FSCTL
    message["buffer"] = given
    return control_output(exchange(tree, message, timeout_s))


def control_output(body: bytes) -> bytes:
    """The output of an IOCTL answer, which some error statuses carry as well (§3.3.5.15.6); else empty."""
    if len(body) < 48 or struct.unpack_from("<H", body)[0] != 49:
        return b""
    offset, length = struct.unpack_from("<II", body, 32)
    start = max(0, offset - _HEADER_BYTES)
    return bytes(body[start : start + length])


def list_directory(tree: Tree, handle: Handle) -> Iterator[Facts]:
    """QUERY_DIRECTORY (§2.2.33) until there is no more: the entries without '.' and '..'."""
    most_bytes = min(MAX_LISTING_BYTES, tree.link.connection.max_transact_size)
    while True:
        message = SMB2QueryDirectoryRequest()
        message["file_information_class"] = 37  # FileIdBothDirectoryInformation
        message["file_id"] = handle.file_id
        message["output_buffer_length"] = most_bytes
        message["buffer"] = "*".encode("utf-16-le")
        try:
            body = exchange(tree, message)
        except SMBResponseException as error:
            if error.status in (status.NO_MORE_FILES, status.NO_SUCH_FILE):
                return
            raise
        listing = _output(body)
        with understanding():
            found = list(entries(listing))
        yield from found


def entries(buffer: bytes) -> Iterator[Facts]:
    """One answer to a listing: FileIdBothDirectoryInformation (MS-FSCC §2.4.22).

    ValueError or struct.error for one that makes no sense, above all a name that leads to another directory.
    """
    position = 0
    while True:
        step, _, _, _, write, change, size, allocated, attributes, length = struct.unpack_from(
            "<IIqqqqqqII", buffer, position
        )
        (tag,) = struct.unpack_from("<I", buffer, position + 64)  # EaSize, but for reparse points
        (file_id,) = struct.unpack_from("<Q", buffer, position + 96)
        name = buffer[position + 104 : position + 104 + length].decode("utf-16-le", "surrogatepass")
        if not name or not _NOT_IN_A_NAME.isdisjoint(name):
            raise ValueError("what is listed is no name")
        if name not in (".", ".."):
            yield _facts(write, change, size, allocated, attributes, file_id, name, tag)
        if step == 0:
            return
        position += step


def _to_ns(filetime: int) -> int:
    return (filetime - _FILETIME_EPOCH) * 100 if filetime > 0 else 0
