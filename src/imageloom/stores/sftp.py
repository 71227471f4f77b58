"""SFTP with verified host keys: from ssh's known_hosts files, or accepted at the first connection.

A key that differs from the known key is always refused.
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
"""Environment variable: accept the keys of unknown hosts, and save them."""
KNOWN_HOSTS = "IMAGELOOM_KNOWN_HOSTS"
"""Environment variable with the path of the user's known_hosts file."""
_SYSTEM = "/etc/ssh/ssh_known_hosts"


class KnownHostsFileSystem(SFTPFileSystem):  # type: ignore[misc]  # it has no types
    """fsspec's SFTP file system, which connects only to known hosts.

    Raises:
        StorageError: the host's key is unknown, or differs from the known key.
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
    """Accepts or refuses the key of an unknown host."""

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        if os.environ.get(ACCEPT, "0") != "0":
            _remember(hostname, key)
            return
        raise StorageError(
            f"the host key of {hostname} is not known: {_shown(key)}. Compare it with the server's key and add it "
            f"to {_own()} (ssh-keyscan prints such lines), or accept it now with --accept-host-keys"
        )


def _remember(hostname: str, key: paramiko.PKey) -> None:
    """Save a host's key, unless another key of the host was saved meanwhile."""
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
    """Whether a known_hosts file has this key of a host.

    Raises:
        StorageError: the file has only other keys of the host.
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
    except Exception as error:  # the library raises undocumented exceptions
        raise StorageError(f"cannot read the known hosts in {path}: {error}") from None


def _changed(hostname: str, key: paramiko.PKey, known: list[paramiko.PKey]) -> StorageError:
    return StorageError(
        f"the host key of {hostname} has changed: {_shown(key)}, known is {', '.join(map(_shown, known))}. "
        f"The connection may be intercepted. If the server's key was really changed, remove the old key: "
        f"ssh-keygen -R '{hostname}'"
    )


def _own() -> str:
    return os.environ.get(KNOWN_HOSTS) or os.path.expanduser("~/.ssh/known_hosts")


def _name(host: str, settings: dict[str, Any]) -> str:
    """A host's name as in known_hosts files."""
    port = settings.get("port") or 22
    return host if port == 22 else f"[{host}]:{port}"


def _shown(key: paramiko.PKey) -> str:
    return f"{key.get_name()} {key.fingerprint}"
