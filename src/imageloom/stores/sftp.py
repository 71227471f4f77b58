"""SFTP whose servers are known: by the files of known hosts that ssh uses, or accepted at the first visit.

A key that differs from a known one is refused in any case.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from typing import Any

import paramiko
from fsspec.implementations.sftp import SFTPFileSystem

from imageloom.errors import StorageError

ACCEPT = "IMAGELOOM_ACCEPT_HOST_KEYS"
"""The variable of the environment that accepts keys of hosts that are not known, and writes them down."""
KNOWN_HOSTS = "IMAGELOOM_KNOWN_HOSTS"
"""The variable of the environment with the path of the user's file of known hosts."""
_SYSTEM = "/etc/ssh/ssh_known_hosts"


class KnownHostsFileSystem(SFTPFileSystem):  # type: ignore[misc]  # it has no types
    """fsspec's file system over SFTP, which connects to known hosts only.

    Raises:
        StorageError: the host's key is not known, or is another one.
    """

    def _connect(self) -> None:
        self.client = paramiko.SSHClient()
        for path in (_own(), _SYSTEM):
            if os.path.exists(path):
                _read(path, self.client.load_system_host_keys)
        self.client.set_missing_host_key_policy(_Unknown())
        try:
            self.client.connect(self.host, **self.ssh_kwargs)
            self.ftp = self.client.open_sftp()
        except paramiko.BadHostKeyException as error:
            self.client.close()
            raise _changed(_name(self.host, self.ssh_kwargs), error.key, [error.expected_key]) from None
        except BaseException:
            self.client.close()
            raise


class _Unknown(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]  # likewise
    """What becomes of the key of a host of which no key is known."""

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        if os.environ.get(ACCEPT, "0") != "0":
            _remember(hostname, key)
            return
        raise StorageError(
            f"the host key of {hostname} is not known: {_shown(key)}. Compare it with the server's key and add it "
            f"to {_own()} (ssh-keyscan prints such lines), or accept it now with --accept-host-keys"
        )


def _remember(hostname: str, key: paramiko.PKey) -> None:
    """Write a key down, unless another one of the host has been written down meanwhile."""
    path = _own()
    try:
        os.makedirs(os.path.dirname(path) or ".", 0o700, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _refuse_changed(hostname, key, path):
                size = os.fstat(file).st_size
                ends = not size or os.pread(file, 1, size - 1) == b"\n"
                line = f"{hostname} {key.get_name()} {key.get_base64()}\n"
                os.write(file, (line if ends else f"\n{line}").encode())
        finally:
            os.close(file)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"cannot write the host key of {hostname} into {path}: {error.strerror}") from None


def _refuse_changed(hostname: str, key: paramiko.PKey, path: str) -> bool:
    """Whether a file has the key of a host.

    Raises:
        StorageError: it has other keys of the host, of whatever type.
    """
    keys = paramiko.HostKeys()
    _read(path, keys.load)
    found: Any = keys.lookup(hostname)
    if not found:
        return False
    known = list(found.values())
    if key not in known:
        raise _changed(hostname, key, known)
    return True


def _read(path: str, load: Callable[[str], None]) -> None:
    try:
        load(path)
    except Exception as error:  # the library raises what it likes
        raise StorageError(f"cannot read the known hosts in {path}: {error}") from None


def _changed(hostname: str, key: paramiko.PKey, known: list[paramiko.PKey]) -> StorageError:
    return StorageError(
        f"the host key of {hostname} has changed: {_shown(key)}, known is {', '.join(map(_shown, known))}. "
        f"Somebody may be between; where the change is right, remove the old key (ssh-keygen -R '{hostname}')"
    )


def _own() -> str:
    return os.environ.get(KNOWN_HOSTS) or os.path.expanduser("~/.ssh/known_hosts")


def _name(host: str, settings: dict[str, Any]) -> str:
    """A host as files of known hosts have it."""
    port = settings.get("port") or 22
    return host if port == 22 else f"[{host}]:{port}"


def _shown(key: paramiko.PKey) -> str:
    return f"{key.get_name()} {key.fingerprint}"
