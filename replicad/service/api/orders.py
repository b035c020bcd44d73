"""What clients order by the API, and the answers to it, as JSON. Times are in UTC; the texts become the descriptions of
OpenAPI."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field, StrictBool

from .shapes import Shape


class SyncOrder(Shape):
    """What cycle is wanted."""

    resync: StrictBool = Field(default=False)
    """Believe nothing: read both sides, and send what differs."""


class SyncTaken(Shape):
    """A cycle will begin as soon as there is a place for it."""

    vm: str
    requested_at: datetime


class VerifyOrder(Shape):
    """What verification is wanted."""

    repair: StrictBool = Field(default=False)
    """Mend what the source, or the replica itself, still has the bytes for."""


class VerifyTaken(Shape):
    """The replica will be verified as soon as it is its turn; one that has begun counts."""

    vm: str
    requested_at: datetime


class SignInUrl(Shape):
    """Where to sign in."""

    url: str
    """With a code that is good once. It stands behind `#`, which browsers send to nobody."""
    expires_at: datetime


class SignIn(Shape):
    """What to sign in with, where no token is sent."""

    code: str = Field(max_length=100)


class Session(Shape):
    """A sign-in."""

    key: str
    """To be sent as the token is."""
    expires_at: datetime


class SignedIn(Shape):
    """Whether a request is let in."""

    signed_in: bool


class ReloadShape(Shape):
    """The configuration was taken."""

    machines: int


class Alive(Shape):
    """The event loop lives."""

    status: str = "ok"


class Ready(Shape):
    """The machines are kept."""

    status: str = "ready"
    machines: int
