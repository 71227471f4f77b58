"""Who may do what: tokens, logins in browsers, and attempts that are slowed down.

There are two roles: an operator may do all, a reader sees all and changes nothing. A program sends the token of
its role with each request. A browser exchanges a token, or the one-time code of the printed link, for a cookie.
Only digests of cookies are stored.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Literal

from imageloom.errors import ImageloomError, StorageError, UsageError
from imageloom.service.state import ServiceState
from imageloom.system.private import private_folder

Role = Literal["operator", "reader", "notifier"]
"""`notifier`: a store that may name new objects of one flow, and nothing else. It has no login."""
LIFETIME = 30 * 86400
"""Seconds for which a login is valid."""
SHORTEST = 20
"""Minimum length of a token."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds for which a host is refused after a wrong token. The pause doubles each time."""
FORGOTTEN = 600.0
"""Seconds after which the wrong tokens of a host are forgotten."""
MOST_HOSTS = 1000
MOST_WRONG = 100
"""Maximum number of wrong tokens of all hosts together in a minute."""


class TooManyAttempts(ImageloomError):
    """Attempts are slowed down.

    Args:
        seconds: until the next attempt is accepted.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"too many wrong tokens: try again in {seconds:.0f} s")
        self.seconds = seconds


class Brake:
    """Slows down attempts to log in. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hosts: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """For each host: the number of wrong tokens, and the time of the last one."""
        self._minute, self._wrong = 0, 0

    def check(self, host: str) -> None:
        """Check that a host may try.

        Raises:
            TooManyAttempts: it must wait.
        """
        now = time.monotonic()
        with self._lock:
            if self._minute == int(now // 60) and self._wrong >= MOST_WRONG:
                raise TooManyAttempts(60 - now % 60)
            count, last = self._hosts.get(host, (0, 0.0))
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(count - 1, 10)) if count else 0.0
            if now < last + pause:
                raise TooManyAttempts(last + pause - now)
            if count and now > last + FORGOTTEN:
                del self._hosts[host]

    def wrong(self, host: str) -> None:
        """Record a wrong token."""
        now = time.monotonic()
        with self._lock:
            count, _ = self._hosts.pop(host, (0, 0.0))
            self._hosts[host] = count + 1, now
            while len(self._hosts) > MOST_HOSTS:
                self._hosts.popitem(last=False)
            if self._minute != int(now // 60):
                self._minute, self._wrong = int(now // 60), 0
            self._wrong += 1

    def right(self, host: str) -> None:
        with self._lock:
            self._hosts.pop(host, None)


class Access:
    """The tokens and the logins.

    Args:
        state: where logins are kept.
        tokens: the token of each role.
    """

    def __init__(self, state: ServiceState, tokens: dict[Role, str]) -> None:
        self._state, self._tokens = state, {role: token.encode() for role, token in tokens.items()}
        self._code = secrets.token_urlsafe(24).encode()
        self._lock = threading.Lock()
        self.brake = Brake()
        self._notify_brake = Brake()

    def take_code(self) -> str:
        """The one-time code of the printed link. It is that of an operator."""
        return self._code.decode()

    def role_of_token(self, token: str, host: str) -> Role | None:
        """The role of a token; None if it is wrong.

        Raises:
            TooManyAttempts: the host has sent wrong ones, and must wait.
        """
        self.brake.check(host)
        given, found = token.encode(errors="replace"), None
        for role, known in self._tokens.items():
            if hmac.compare_digest(given, known):
                found = role
        if found is None:
            self.brake.wrong(host)
        else:
            self.brake.right(host)
        return found

    def role_of_code(self, code: str, host: str) -> Role | None:
        """The role of the link's code, which is accepted once; None if it is wrong, or was used.

        Raises:
            TooManyAttempts: see `role_of_token`.
        """
        self.brake.check(host)
        with self._lock:
            if self._code and hmac.compare_digest(code.encode(errors="replace"), self._code):
                self._code = b""
                return "operator"
        self.brake.wrong(host)
        return None

    def new_secret(self, flow: str) -> str:
        """A new secret with which a store may notify a flow. The one before is no longer valid."""
        secret = secrets.token_urlsafe(32)
        self._state.set_secret(flow, _digest(secret))
        return secret

    def may_notify(self, flow: str, secret: str, host: str) -> bool:
        """Whether a caller may notify a flow: it has the flow's secret, or the operator's token.

        Wrong secrets do not slow down logins: a store may go on to send one that was replaced.

        Raises:
            TooManyAttempts: the host has sent wrong ones for this flow, and must wait.
        """
        who = f"{host} {flow}"
        self._notify_brake.check(who)
        is_its = hmac.compare_digest(_digest(secret), self._state.secret(flow))
        is_operator = hmac.compare_digest(secret.encode(errors="replace"), self._tokens["operator"])
        if is_its or is_operator:
            self._notify_brake.right(who)
            return True
        self._notify_brake.wrong(who)
        return False

    def log_in(self, role: Role) -> str:
        """A new login. Returns the cookie's value."""
        session = secrets.token_urlsafe(32)
        self._state.add_session(_digest(session), role, time.time() + LIFETIME)
        return session

    def role_of_session(self, session: str) -> Role | None:
        """The role of a cookie's value; None if it is not known."""
        if not 20 <= len(session) <= 100:
            return None
        found = self._state.session(_digest(session))
        return found if found in ("operator", "reader") else None  # type: ignore[return-value]

    def log_out(self, session: str) -> None:
        self._state.remove_session(_digest(session))


def _digest(session: str) -> str:
    return hashlib.sha256(session.encode(errors="replace")).hexdigest()


def tokens_of(folder: Path, operator: str, reader: str) -> dict[Role, str]:
    """The tokens in files. Without a file's name, the token is in `folder`, and is made if there is none.

    Args:
        folder: the private folder for tokens that are made.
        operator, reader: paths of files, whose first lines are the tokens; empty for those in the folder.

    Raises:
        UsageError: a token is too short, or both are equal.
        StorageError: a file cannot be read or written.
    """
    paths: dict[Role, str] = {"operator": operator, "reader": reader}
    found: dict[Role, str] = {}
    for role, path in paths.items():
        token = _read(Path(path) if path else _made(folder, role))
        if len(token) < SHORTEST:
            raise UsageError(
                f"the token of the {role} has {len(token)} characters: it needs {SHORTEST} at least"
            )
        found[role] = token
    if found["operator"] == found["reader"]:
        raise UsageError(
            "the tokens of the operator and of the reader are equal: readers would change things"
        )
    return found


def token_path(folder: Path, role: Role) -> Path:
    return folder / f"{role}.token"


def _made(folder: Path, role: Role) -> Path:
    path = token_path(folder, role)
    try:
        private_folder(folder)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(file, "w", encoding="ascii") as opened:
            opened.write(f"{secrets.token_urlsafe(32)}\n")
    except FileExistsError:
        pass
    except OSError as error:
        raise StorageError(f"cannot write {path} (--state): {error.strerror}") from None
    return path


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"cannot read the token in {path}: {error}") from None
