"""What the server's answers mean: NTSTATUS (MS-ERREF §2.3) to errors, once and by number."""

from __future__ import annotations

from dataclasses import dataclass

from replicad.model.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    BusyError,
    IntegrityError,
    InvalidNameError,
    NotFoundError,
    OutOfSpaceError,
    PermanentError,
    ReplicadError,
    SignInError,
    TimedOutError,
    UnreachableError,
    UnsupportedError,
)

SUCCESS = 0x00000000
PENDING = 0x00000103
NOTIFY_CLEANUP = 0x0000010B
NOTIFY_ENUM_DIR = 0x0000010C
BUFFER_OVERFLOW = 0x80000005
NO_MORE_FILES = 0x80000006
STOPPED_ON_SYMLINK = 0x8000002D
INVALID_INFO_CLASS = 0xC0000003
INVALID_PARAMETER = 0xC000000D
NOT_FOUND = 0xC0000225
NO_SUCH_FILE = 0xC000000F
INVALID_DEVICE_REQUEST = 0xC0000010
END_OF_FILE = 0xC0000011
MORE_PROCESSING_REQUIRED = 0xC0000016
INVALID_VIEW_SIZE = 0xC000001F
ACCESS_DENIED = 0xC0000022
BUFFER_TOO_SMALL = 0xC0000023
OBJECT_NAME_NOT_FOUND = 0xC0000034
OBJECT_NAME_COLLISION = 0xC0000035
OBJECT_PATH_NOT_FOUND = 0xC000003A
SHARING_VIOLATION = 0xC0000043
FILE_LOCK_CONFLICT = 0xC0000054
LOCK_NOT_GRANTED = 0xC0000055
DELETE_PENDING = 0xC0000056
FILE_IS_A_DIRECTORY = 0xC00000BA
NOT_SUPPORTED = 0xC00000BB
NETWORK_NAME_DELETED = 0xC00000C9
DIRECTORY_NOT_EMPTY = 0xC0000101
NOT_A_DIRECTORY = 0xC0000103
FILE_CLOSED = 0xC0000128
USER_SESSION_DELETED = 0xC0000203
PATH_NOT_COVERED = 0xC0000257
NETWORK_SESSION_EXPIRED = 0xC000035C

CANNOT_DO = frozenset({NOT_SUPPORTED, INVALID_DEVICE_REQUEST, INVALID_INFO_CLASS, 0xC0000002})
"""What servers answer to a request that they, or their file system, do not know."""
SESSION_IS_OVER = frozenset({NETWORK_NAME_DELETED, USER_SESSION_DELETED, NETWORK_SESSION_EXPIRED, 0xC000020C})
"""After these a connection is of no more use: the next request needs a new one."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """The kind of error, a clause and a hint."""

    kind: type[ReplicadError]
    clause: str
    hint: str = ""


_LATER = "Try again later."
_RIGHTS = "Give the user rights on the share and in the file system."
_SIGN_IN = "The sign-in is not tried again by itself, because that could lock the account."

_TABLE: dict[int, Meaning] = {
    ACCESS_DENIED: Meaning(AccessDeniedError, "access is denied", _RIGHTS),
    0xC0000061: Meaning(AccessDeniedError, "a privilege is missing", _RIGHTS),
    0xC0000121: Meaning(AccessDeniedError, "it is read-only or in use by the system", "Remove its read-only mark."),
    0xC00000A2: Meaning(AccessDeniedError, "the share is read-only", "Let the user write on the share."),
    0xC00000CA: Meaning(AccessDeniedError, "access to the network resource is denied", _RIGHTS),
    OBJECT_NAME_NOT_FOUND: Meaning(NotFoundError, "it is not there"),
    NO_SUCH_FILE: Meaning(NotFoundError, "it is not there"),
    OBJECT_PATH_NOT_FOUND: Meaning(NotFoundError, "the directory above it is not there"),
    NOT_FOUND: Meaning(NotFoundError, "it is not there"),
    0xC00000CC: Meaning(
        NotFoundError, "the server has no share of that name", "Check the share's name; `smbclient -L` lists them."
    ),
    0xC00000BE: Meaning(NotFoundError, "the server does not know that path", "Check the names of server and share."),
    NOT_A_DIRECTORY: Meaning(NotFoundError, "there is no such directory"),
    FILE_IS_A_DIRECTORY: Meaning(UnsupportedError, "it is a directory"),
    DIRECTORY_NOT_EMPTY: Meaning(UnsupportedError, "it is a directory that is not empty"),
    OBJECT_NAME_COLLISION: Meaning(AlreadyExistsError, "it is there already"),
    0xC0000033: Meaning(InvalidNameError, "the server does not take that name", "Choose another name."),
    0xC0000039: Meaning(InvalidNameError, "the server does not take that path", "Choose another name."),
    0xC000003B: Meaning(InvalidNameError, "the server does not take that path", "Choose another name."),
    0xC0000106: Meaning(InvalidNameError, "the name is too long for the server", "Choose a shorter name."),
    SHARING_VIOLATION: Meaning(BusyError, "somebody else has it open", "Try again when it is closed."),
    FILE_LOCK_CONFLICT: Meaning(BusyError, "somebody else has locked a part of it", _LATER),
    LOCK_NOT_GRANTED: Meaning(BusyError, "somebody else has locked a part of it", _LATER),
    DELETE_PENDING: Meaning(BusyError, "it is being deleted while somebody still has it open", _LATER),
    0xC000009A: Meaning(BusyError, "the server is short of resources", _LATER),
    0xC0000205: Meaning(BusyError, "the server is short of resources", _LATER),
    0xC00000D0: Meaning(BusyError, "the server takes no more connections now", _LATER),
    0xC00000CE: Meaning(BusyError, "the server has too many requests under way", _LATER),
    0xC0000466: Meaning(BusyError, "the server is not available now", _LATER),
    0xC000007F: Meaning(OutOfSpaceError, "no space is left on the share", "Free some space or add some."),
    0xC0000044: Meaning(OutOfSpaceError, "the quota is used up", "Free some space or raise the quota."),
    0xC0000904: Meaning(UnsupportedError, "the file system does not hold files of that size"),
    0xC00000B5: Meaning(TimedOutError, "the server's storage gave no answer in time", _LATER),
    0xC000023C: Meaning(UnreachableError, "the network behind the server is not reachable", _LATER),
    NETWORK_NAME_DELETED: Meaning(UnreachableError, "the server has closed the share", _LATER),
    USER_SESSION_DELETED: Meaning(UnreachableError, "the server has ended our session", _LATER),
    0xC000020C: Meaning(UnreachableError, "the server has dropped the connection", _LATER),
    NETWORK_SESSION_EXPIRED: Meaning(UnreachableError, "the sign-in has expired", _LATER),
    FILE_CLOSED: Meaning(UnreachableError, "the server has closed our handle", _LATER),
    0xC0000008: Meaning(UnreachableError, "the server does not know our handle", _LATER),
    NOT_SUPPORTED: Meaning(UnsupportedError, "the server does not support that"),
    INVALID_DEVICE_REQUEST: Meaning(UnsupportedError, "the server's file system does not support that"),
    INVALID_INFO_CLASS: Meaning(UnsupportedError, "the server does not support that"),
    0xC0000002: Meaning(UnsupportedError, "the server does not implement that"),
    0xC00000CB: Meaning(UnsupportedError, "the share is not one of files", "Name a share that holds files."),
    STOPPED_ON_SYMLINK: Meaning(
        UnsupportedError, "a symbolic link is on the way, and links are not followed", "Name the directory itself."
    ),
    PATH_NOT_COVERED: Meaning(
        UnsupportedError, "the path is a DFS link to another server", "Name the server and share that it leads to."
    ),
    0xC000026D: Meaning(UnreachableError, "the DFS service is not available", _LATER),
    0xC000009C: Meaning(IntegrityError, "the server's disk has a bad block", "Check the server's disks."),
    0xC0000185: Meaning(IntegrityError, "the server's disk reports an input/output error", "Check the server's disks."),
    0xC0000032: Meaning(IntegrityError, "the server's file system is damaged", "Check the server's file system."),
    0xC0000102: Meaning(IntegrityError, "the file is damaged on the server", "Check the server's file system."),
    INVALID_VIEW_SIZE: Meaning(IntegrityError, "the source ends before the range to be copied"),
}

_SIGN_IN_TABLE: dict[int, tuple[str, str]] = {
    0xC000006D: ("the user name or the password is wrong", "Check both under 'servers:'."),
    0xC000006A: ("the password is wrong", "Check it under 'servers:'."),
    0xC0000064: ("the server knows no user of that name", "Check the user name under 'servers:'."),
    0xC0000072: ("the account is disabled", "Enable it on the server."),
    0xC0000234: ("the account is locked", "Unlock it on the server, then check the password under 'servers:'."),
    0xC0000193: ("the account has expired", "Extend it on the server."),
    0xC0000071: ("the password has expired", "Set a new password for the user."),
    0xC0000224: ("the password must be changed first", "Sign in once by hand and change it."),
    0xC000006E: ("an account restriction forbids it", "An empty password, for example, is not allowed."),
    0xC000006F: ("the account may not sign in at this hour", "Change its logon hours."),
    0xC0000070: ("the account may not sign in from this machine", "Change its list of workstations."),
    0xC000015B: ("the account lacks the right to sign in over the network", "Grant it on the server."),
    0xC0000413: ("the server's authentication policy forbids it", "Ask the server's administrator."),
    0xC000005E: ("no domain controller answers the server", "Check the server's connection to its domain."),
    0xC000018D: ("the server's trust with its domain is broken", "Join the server to its domain again."),
    0xC000018C: ("the trust between the domains is broken", "Ask the domain's administrator."),
    0xC0000192: ("the server's logon service does not run", "Start it on the server."),
    0xC0000133: ("the clocks differ too much", "Set this machine's clock and the server's."),
    0xC0000388: ("the server takes no NTLM sign-in for this account", "Use Kerberos, or allow NTLM on the server."),
    0xC0000418: ("the server takes no NTLM sign-in", "Use Kerberos, or allow NTLM on the server."),
    0xC000019B: ("the domain has two accounts of that name", "Ask the domain's administrator."),
    ACCESS_DENIED: ("the server refuses the user", "It may demand encryption or refuse this host; see its log."),
    0xC00000CA: ("the server refuses the user", "See the server's log."),
    INVALID_PARAMETER: ("the server could not use the sign-in", "See the server's log."),
}


def meaning_of(status: int) -> Meaning:
    """What a status says about a request on a share; a sign-in that was refused later on is one, too."""
    known = _TABLE.get(status)
    if known is None and status in _SIGN_IN_TABLE:
        clause, hint = _SIGN_IN_TABLE[status]
        return Meaning(SignInError, clause, f"{hint} {_SIGN_IN}")
    return known or Meaning(PermanentError, f"the server answered with status 0x{status:08X}")


def error_for(status: int, op: str, subject: str) -> ReplicadError:
    """The error for a request on a share that was answered with `status`."""
    meaning = meaning_of(status)
    return meaning.kind(op, subject, meaning.clause, meaning.hint)


def sign_in_error_for(status: int, subject: str) -> ReplicadError:
    """The error for a sign-in that was answered with `status`. Only where the server itself is short of something,
    so that it never looked at the password, may it be tried again."""
    if status == NOT_FOUND:
        # Samba 4.17, while processes of its own that were killed begin again.
        return BusyError("sign in to", subject, "the server lacks a part of its own now", _LATER)
    if status in _SIGN_IN_TABLE:
        clause, hint = _SIGN_IN_TABLE[status]
        return SignInError("sign in to", subject, clause, f"{hint} {_SIGN_IN}")
    known = _TABLE.get(status)
    if known is not None and issubclass(known.kind, BusyError | UnreachableError | TimedOutError):
        return known.kind("sign in to", subject, known.clause, known.hint)
    clause = known.clause if known else f"the server answered with status 0x{status:08X}"
    return SignInError("sign in to", subject, clause, _SIGN_IN)
