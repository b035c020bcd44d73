"""Posting to the URL of a hook, with the standard library's client on a thread."""

from __future__ import annotations

import asyncio
import base64
import itertools
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import quote, unquote, urlsplit

from replicad import __version__

from .hook_result import MAX_OUTPUT_BYTES, HookResult

_PATH_CHARACTERS = "/%:@!$&'()*+,;=~-._"
_numbers = itertools.count(1)


async def post(url: str, document: bytes, timeout_s: float, tls: ssl.SSLContext | None = None) -> HookResult:
    """Post JSON to an http or https URL; it goes well if the answer is 2xx within `timeout_s`.

    Redirects are not followed, and no proxy is used. At most 4 KiB of an answer's body are read. Nothing of the URL
    but its host is in the result. When the time is over, or the caller cancelled, the connection is cut, which ends
    the thread; only the look-up of a name may take it longer.
    """
    call = _Call(url, document, timeout_s, tls)
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"hook-{next(_numbers)}")
    try:
        async with asyncio.timeout(timeout_s):
            return await asyncio.get_running_loop().run_in_executor(executor, call.run)
    except TimeoutError:
        return HookResult(f"there was no answer within {timeout_s:g} s")
    finally:
        call.abort()
        executor.shutdown(wait=False)


class _Call:
    """One post. `run` blocks and belongs on a thread; `abort` may come from any other at any time."""

    def __init__(self, url: str, document: bytes, timeout_s: float, tls: ssl.SSLContext | None) -> None:
        self._parts = urlsplit(url)
        self._document = document
        self._tls = tls
        self._deadline_s = time.monotonic() + timeout_s
        self._guard = threading.Lock()
        self._socket: socket.socket | None = None
        self._aborted = False

    def abort(self) -> None:
        """Cut the connection, or see to it that none is made. Fine after the end, too."""
        with self._guard:
            self._aborted = True
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def run(self) -> HookResult:
        try:
            reached = self._connected()
        except (OSError, ValueError) as error:
            return HookResult(f"no connection could be made ({_reason(error)})")
        try:
            return self._posted(reached)
        except (OSError, HTTPException, ValueError) as error:
            return HookResult(f"there was no answer ({_reason(error)})")
        finally:
            with self._guard:
                self._socket = None
                reached.close()

    def _connected(self) -> socket.socket:
        host, is_tls = self._parts.hostname or "", self._parts.scheme == "https"
        port = self._parts.port or (443 if is_tls else 80)
        answer = OSError("the name has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            try:
                reached = socket.socket(family, kind, protocol)
            except OSError as error:
                answer = error
                continue
            try:
                self._use(reached)
                reached.connect(address)
                return self._protected(reached, host) if is_tls else reached
            except OSError as error:
                reached.close()
                answer = error
        raise answer

    def _protected(self, reached: socket.socket, host: str) -> socket.socket:
        context = self._tls or ssl.create_default_context()
        wrapped = context.wrap_socket(reached, server_hostname=host, do_handshake_on_connect=False)
        try:
            self._use(wrapped)
            wrapped.do_handshake()
        except BaseException:
            wrapped.close()
            raise
        return wrapped

    def _use(self, one: socket.socket) -> None:
        """From now on this is what `abort` cuts."""
        with self._guard:
            left_s = self._deadline_s - time.monotonic()
            if self._aborted or left_s <= 0:
                raise TimeoutError("timed out")
            one.settimeout(left_s)
            self._socket = one

    def _posted(self, reached: socket.socket) -> HookResult:
        host, port = self._parts.hostname or "", self._parts.port
        client = (HTTPSConnection if self._parts.scheme == "https" else HTTPConnection)(host, port)
        client.sock = reached
        target = quote(self._parts.path or "/", safe=_PATH_CHARACTERS)
        if self._parts.query:
            target += "?" + quote(self._parts.query, safe=_PATH_CHARACTERS + "?")
        client.request("POST", target, self._document, self._headers())
        response = client.getresponse()
        if 200 <= response.status < 300:
            return HookResult(None)
        body = response.read(MAX_OUTPUT_BYTES).decode("utf-8", "replace")
        what = f"it answered {response.status}"
        if 300 <= response.status < 400:
            what += ", and redirects are not followed"
        return HookResult(what, self._without_secrets(body))

    def _headers(self) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json", "User-Agent": f"replicad/{__version__}", "Connection": "close",
        }  # fmt: skip
        if self._parts.username is not None:
            pair = f"{unquote(self._parts.username)}:{unquote(self._parts.password or '')}"
            headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        return headers

    def _without_secrets(self, text: str) -> str:
        """What a server says of a request may repeat it."""
        headers = self._headers().get("Authorization", "").removeprefix("Basic ")
        parts = (self._parts.username, self._parts.password, self._parts.query, self._parts.path.strip("/"), headers)
        for part in sorted({one for secret in parts if secret for one in (secret, unquote(secret))}, key=len)[::-1]:
            text = text.replace(part, "***")
        return text


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPException):
        return f"it is no HTTP: {type(error).__name__}"  # whose text may repeat what we sent
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
