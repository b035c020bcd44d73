"""What the server's answers mean."""

from __future__ import annotations

import pytest

from replicad.model.errors import (
    AccessDeniedError,
    BusyError,
    NotFoundError,
    OutOfSpaceError,
    PermanentError,
    ReplicadError,
    SignInError,
    TransientError,
    UnsupportedError,
)
from replicad.storage.smb import status


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        (0xC0000022, AccessDeniedError, "cannot open disk: access is denied. Give the user rights"),
        (0xC0000043, BusyError, "somebody else has it open"),
        (0xC0000034, NotFoundError, "it is not there"),
        (0xC000007F, OutOfSpaceError, "no space is left on the share"),
        (0xC0000257, UnsupportedError, "the path is a DFS link to another server. Name the server and share"),
        (0xC000035C, TransientError, "the sign-in has expired"),
        (0xC0000234, SignInError, "the account is locked"),
    ],
)
def test_a_status_becomes_a_clause_and_a_hint(code: int, kind: type[ReplicadError], text: str) -> None:
    error = status.error_for(code, "open", "disk")
    assert type(error) is kind or isinstance(error, kind)
    assert text in str(error)


def test_an_unknown_status_is_told_by_its_number_and_not_tried_again() -> None:
    error = status.error_for(0xC0001234, "open", "disk")
    assert type(error) is PermanentError
    assert str(error) == "cannot open disk: the server answered with status 0xC0001234"


@pytest.mark.parametrize("code", sorted(status._SIGN_IN_TABLE))
def test_a_refused_sign_in_is_never_one_to_be_tried_again(code: int) -> None:
    error = status.sign_in_error_for(code, "server nas")
    assert isinstance(error, SignInError)
    assert not isinstance(error, TransientError)
    assert "not tried again by itself" in str(error)


@pytest.mark.parametrize("code", [0xC0000205, 0xC00000D0, status.NOT_FOUND])
def test_a_server_short_of_resources_may_be_asked_again(code: int) -> None:
    assert isinstance(status.sign_in_error_for(code, "server nas"), TransientError)


def test_an_unknown_answer_to_a_sign_in_is_a_refusal() -> None:
    assert isinstance(status.sign_in_error_for(0xC0001234, "server nas"), SignInError)


def test_every_clause_can_stand_in_a_sentence() -> None:
    clauses = [m.clause for m in status._TABLE.values()] + [c for c, _ in status._SIGN_IN_TABLE.values()]
    hints = [m.hint for m in status._TABLE.values() if m.hint] + [h for _, h in status._SIGN_IN_TABLE.values()]
    assert all(clause[0].islower() and not clause.endswith(".") for clause in clauses)
    assert all(hint[0].isupper() and hint.endswith(".") for hint in hints)
