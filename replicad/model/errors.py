"""Every error that replicad raises on purpose.

::

    ReplicadError                 op, subject, answer, hint
    ├── ConfigError               exit 2   what the user wrote is wrong
    ├── TransientError            exit 5   may go well when tried again
    │   ├── UnreachableError               no connection, or the connection was lost
    │   ├── TimedOutError                  no answer in time
    │   │   └── StuckError                 and what was asked for may still be going on
    │   └── BusyError                      in use by somebody else just now
    ├── PermanentError            exit 1   the same request will fail again
    │   ├── AccessDeniedError     exit 12  rights are missing
    │   ├── SignInError           exit 12  the server refused the sign-in (never retried)
    │   ├── NotFoundError         exit 10
    │   ├── AlreadyExistsError
    │   ├── OutOfSpaceError
    │   ├── InvalidNameError
    │   └── UnsupportedError               the other side can't do this
    ├── IntegrityError            exit 3   bytes are not what they must be
    │   ├── FormatVersionError             written by a newer replicad
    │   └── NeedsResyncError               a resynchronisation makes it right
    └── ConflictError             exit 1
        ├── LockedError           exit 11  another writer holds the lock
        ├── StaleGenerationError           this host's role is over
        └── DivergedError                  the replica was made from another source
            └── OtherMachineError          the replica is another virtual machine's

Adapters translate NTSTATUS and errno into these once, by number and never by message text. What is tried again by
itself, and where, is a lost connection (`was_lost`): the reading of a file goes on where it was (storage/retrying.py),
and a cycle begins again from its lock (workflows/retries.py). Everything else is told at once.
"""

from __future__ import annotations


class ReplicadError(Exception):
    """What was attempted (`op`), on what (`subject`), what came back (`answer`) and what to do next (`hint`).

    `op` is a verb phrase in the infinitive ("write", "sign in to"); `subject` names the thing as the user
    knows it; `answer` is a clause without a final full stop; `hint` is a sentence, or empty.
    The text never holds a secret.
    """

    exit_code = 1

    def __init__(self, op: str, subject: str, answer: str, hint: str = "") -> None:
        super().__init__(op, subject, answer, hint)
        self.op = op
        self.subject = subject
        self.answer = answer
        self.hint = hint

    def __str__(self) -> str:
        sentence = f"cannot {self.op} {self.subject}: {self.answer}"
        return f"{sentence}. {self.hint}" if self.hint else sentence


class ConfigError(ReplicadError):
    """The configuration, or what was typed, is wrong. Nothing was attempted."""

    exit_code = 2


class TransientError(ReplicadError):
    """May go well when tried again later."""

    exit_code = 5


class UnreachableError(TransientError):
    """No connection could be made, or it was lost."""


class TimedOutError(TransientError):
    """The other side gave no answer in time."""


class StuckError(TimedOutError):
    """The same, and the call could not be ended: it may take effect later, and what was given to it must not be used
    again."""


class BusyError(TransientError):
    """Somebody else uses the thing just now, in a way that ours does not go with."""


def was_lost(error: BaseException) -> bool:
    """Whether this is how a lost connection shows, so that trying again soon may help.

    Not so for what somebody else keeps busy, for the limits of this machine, for what is stuck (it may still take
    effect), and for any error that is not transient: a sign-in that was refused, above all.
    """
    return isinstance(error, UnreachableError | TimedOutError) and not isinstance(error, StuckError)


class PermanentError(ReplicadError):
    """The same request will fail again until somebody changes something."""


class AccessDeniedError(PermanentError):
    """Rights are missing."""

    exit_code = 12


class SignInError(PermanentError):
    """The server refused the sign-in. Trying again may lock the account, so nobody does."""

    exit_code = 12


class NotFoundError(PermanentError):
    """It is not there."""

    exit_code = 10


class AlreadyExistsError(PermanentError):
    """It is there already."""


class OutOfSpaceError(PermanentError):
    """No room is left on the share. `missing_bytes` is how much more of it what was attempted needs; 0: not known."""

    def __init__(self, op: str, subject: str, answer: str, hint: str = "", *, missing_bytes: int = 0) -> None:
        super().__init__(op, subject, answer, hint)
        self.missing_bytes = missing_bytes


class InvalidNameError(PermanentError):
    """A name that can't be used safely on every share, or that would leave its directory."""


class NoConvergenceError(PermanentError):
    """What is to be copied is written faster than it can be sent."""


class UnsupportedError(PermanentError):
    """The other side can't do this; the caller may have another way."""


class IntegrityError(ReplicadError):
    """Bytes are not what they must be: a hash differs, a structure is corrupt, tracking can't be trusted."""

    exit_code = 3


class FormatVersionError(IntegrityError):
    """The replica was written in a format that this version does not know."""


class NeedsResyncError(IntegrityError):
    """The replica is not what its records say, and a resynchronisation makes it so again."""


class ConflictError(ReplicadError):
    """Somebody else's claim stands against ours."""


class LockedError(ConflictError):
    """Another writer holds the replica."""

    exit_code = 11


class StaleGenerationError(ConflictError):
    """The replica's record has moved on: this writer's role is over."""


class DivergedError(ConflictError):
    """The replica belongs to another virtual machine or source, or both sides have changed."""


class OtherMachineError(DivergedError):
    """The replica is that of another virtual machine: no resynchronisation makes it this one's."""
