"""Configuration files of clients, servers and nodes: YAML mappings. Errors have the line."""

from __future__ import annotations

import socket
from typing import Any, Literal, TypeVar

import msgspec
import yaml

from imageloom.errors import UsageError
from imageloom.model import Plain
from imageloom.scheduling.policies import Acceptance, open_choice
from imageloom.system.machine import is_loopback

C = TypeVar("C", bound=Plain)

MOST_REJECTIONS = 40
"""The default of the program that this service replaces."""


class Credentials(Plain, frozen=True):
    """Paths of the files of credentials; empty for none."""

    token: str = ""
    """File with the token in its first line: a secret that both sides share."""
    certificate: str = ""
    """This side's certificate with its chain, in PEM."""
    key: str = ""
    """The certificate's private key, in PEM."""
    authority: str = ""
    """The certificates that this side trusts when it connects, in PEM."""


class ClientConfig(Plain, frozen=True):
    """client.yaml"""

    server: str = ""
    """HOST:PORT"""
    root: str = ""
    """Path of the shared storage. SOURCE and SINK are below it."""
    credentials: Credentials = Credentials()


class NodeConfig(Plain, frozen=True):
    """node.yaml"""

    listen: str = "127.0.0.1:0"
    """HOST:PORT to listen on. Port 0 is any free port."""
    advertise: str = ""
    """HOST:PORT at which the server reaches this node; empty for the address that it listens on."""
    server: str = ""
    """HOST:PORT of a server to register with; empty if the server has this node in its configuration file."""
    roots: tuple[str, ...] = ()
    """Paths of folders. The node reads and writes only below them."""
    operators: tuple[str, ...] = ()
    """Paths of the operators files that it may execute."""
    limit: int = 0
    """Maximum number of tasks at the same time; 0 for one per core."""
    acceptance: Acceptance = "mandatory"
    load: float | Literal["auto"] = 0.0
    """Load from 0 to 1, or "auto" to measure it."""
    delay: float = 3.0
    """Delay before an accepted task in seconds, with a probability equal to the load, if the load is fixed."""
    seed: int | None = None
    """Seed of the random numbers."""
    timeout: float = 600.0
    """Time-out of one item, in seconds."""
    memory: int = 0
    """Maximum memory for data of one worker process, in bytes; 0 for no limit."""
    credentials: Credentials = Credentials()

    def check(self) -> None:
        if self.load != "auto" and not 0 <= self.load <= 1:
            raise UsageError(f"load = {self.load}: it must be from 0 to 1, or auto")
        if self.delay < 0 or self.limit < 0 or self.timeout <= 0:
            raise UsageError("delay and limit must not be negative, timeout must be above 0")


class NodesConfig(Plain, frozen=True):
    """nodes.yaml: the nodes of a server or a run, and the policy that chooses between them."""

    nodes: tuple[str, ...] = ()
    """HOST:PORT of each node."""
    choice: str = "least-loaded"
    rejections: int = MOST_REJECTIONS
    """Maximum number of rejections of one task. After it, the task fails or falls back."""
    fallback: Literal["none", "mandatory"] = "none"
    """Whether a task with the maximum number of rejections must then be accepted."""
    stragglers: bool = True
    """Whether the last tasks of slow nodes are copied to idle nodes."""
    seed: int | None = None
    """Seed of the random numbers."""
    credentials: Credentials = Credentials()

    def check(self) -> None:
        open_choice(self.choice)
        if self.rejections < 0:
            raise UsageError("rejections must not be negative")
        for address in self.nodes:
            check_address(address)


def check_address(address: str) -> None:
    """Check that an address is HOST:PORT or unix:PATH.

    Raises:
        UsageError: it is not. The message has the address.
    """
    host, colon, port = address.rpartition(":")
    if address.startswith("unix:") and len(address) > len("unix:"):
        return
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"{address!r} is not an address HOST:PORT, such as 127.0.0.1:7000")


def check_owner(address: str, host: str) -> None:
    """Check that the address of a node belongs to the host that registers it.

    Args:
        address: HOST:PORT.
        host: the address of the client that registers it; empty for a unix socket of this machine.

    Raises:
        UsageError: it does not. The message has both, and the option that permits it.
    """
    name = address.rpartition(":")[0].strip("[]")
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(name, None)} if name != "unix" else set()
    except OSError:
        found = set()
    if host not in found and (host or not is_local(address)):
        raise UsageError(
            f"{host or 'this machine'} cannot register {address}, an address of another host: a node must "
            "register its own "
            "address (--advertise), or the server must allow its host (--node-host)"
        )


def read_config(path: str, kind: type[C]) -> C:
    """Read the configuration in a file.

    Raises:
        UsageError: it is invalid. The message has the file, the line and the reason.
    """
    try:
        with open(path, "rb") as file:
            root = yaml.compose(file, Loader=yaml.SafeLoader)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{path}:{mark.line + 1}" if mark else path
        raise UsageError(f"{line}: {getattr(error, 'problem', None) or 'it is not YAML'}") from None
    if root is None:
        return kind()
    config: C = _convert(path, root, kind)
    return config


def _convert(path: str, node: yaml.Node, kind: type[C]) -> C:
    """Convert a mapping to plain data. Each value is checked separately, so that errors have its line."""
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    if not isinstance(node, yaml.MappingNode):
        raise UsageError(f"{_at(path, node)}: expected a mapping with {', '.join(fields)}")
    found: dict[str, Any] = {}
    for key, value in node.value:
        if key.value not in fields:
            raise UsageError(f"{_at(path, key)}: unknown key {key.value}; the keys are: {', '.join(fields)}")
        if key.value in found:
            raise UsageError(f"{_at(path, key)}: {key.value} is given twice")
        wanted = fields[key.value].type
        if isinstance(wanted, type) and issubclass(wanted, Plain):
            found[key.value] = _convert(path, value, wanted)
            continue
        try:
            found[key.value] = msgspec.convert(_plain(value), wanted)
            _check(kind(**{key.value: found[key.value]}))
        except (msgspec.ValidationError, UsageError) as error:
            raise UsageError(f"{_line_of(path, value, kind, key.value)}: {key.value}: {error}") from None
    return kind(**found)


def _line_of(path: str, value: yaml.Node, kind: type[Plain], key: str) -> str:
    """The line of the first invalid entry of a list, or of the whole value."""
    wanted = {field.name: field for field in msgspec.structs.fields(kind)}[key].type
    if isinstance(value, yaml.SequenceNode):
        for entry in value.value:
            try:
                _check(kind(**{key: msgspec.convert([_plain(entry)], wanted)}))
            except (msgspec.ValidationError, UsageError):
                return _at(path, entry)
    return _at(path, value)


def _check(config: Plain) -> None:
    if isinstance(config, (NodeConfig, NodesConfig)):
        config.check()


def _plain(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    except yaml.YAMLError as error:
        raise UsageError(f"{getattr(error, 'problem', error)}") from None
    finally:
        loader.dispose()


def _at(path: str, node: yaml.Node) -> str:
    return f"{path}:{node.start_mark.line + 1}"


def is_local(address: str) -> bool:
    """Whether only processes on this machine can reach the address."""
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    return address.startswith("unix:") or is_loopback(host)
