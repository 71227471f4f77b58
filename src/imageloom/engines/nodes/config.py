"""Configuration files of clients, servers and nodes: YAML mappings, whose errors name the line."""

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
"""As in the program that this service comes from."""


class Credentials(Plain, frozen=True):
    """Paths of files; empty where there is none."""

    token: str = ""
    """A secret that both sides know, in the file's first line."""
    certificate: str = ""
    """What this side shows who connects to it: PEM, with the chain."""
    key: str = ""
    """The certificate's private key: PEM."""
    authority: str = ""
    """The certificates that this side trusts when it connects: PEM."""


class ClientConfig(Plain, frozen=True):
    """client.yaml"""

    server: str = ""
    """HOST:PORT"""
    root: str = ""
    """Path of the storage that all share: SOURCE and SINK are below it."""
    credentials: Credentials = Credentials()


class NodeConfig(Plain, frozen=True):
    """node.yaml"""

    listen: str = "127.0.0.1:0"
    """HOST:PORT; port 0 for any that is free."""
    advertise: str = ""
    """HOST:PORT where the server reaches this node; empty for the one that it listens on."""
    server: str = ""
    """HOST:PORT of a server to register with; empty: the server has this node in its file."""
    roots: tuple[str, ...] = ()
    """Paths of the folders below which it reads and writes."""
    operators: tuple[str, ...] = ()
    """Paths of the files of operators that it runs."""
    limit: int = 0
    """Tasks at once; 0 for one for each core."""
    acceptance: Acceptance = "mandatory"
    load: float | Literal["auto"] = 0.0
    """0 to 1, or as it is measured."""
    delay: float = 3.0
    """Seconds before an accepted task, with a probability equal to the load, where that is no measured one."""
    seed: int | None = None
    """Of the numbers drawn at random."""
    timeout: float = 600.0
    """Seconds that one item may take."""
    memory: int = 0
    """Bytes that one worker process may take for data; 0 for no bound."""
    credentials: Credentials = Credentials()

    def check(self) -> None:
        if self.load != "auto" and not 0 <= self.load <= 1:
            raise UsageError(f"load = {self.load}: must be from 0 to 1, or auto")
        if self.delay < 0 or self.limit < 0 or self.timeout <= 0:
            raise UsageError("delay and limit must not be negative, timeout must be above 0")


class NodesConfig(Plain, frozen=True):
    """nodes.yaml: the nodes of a server or a run, and how they are chosen."""

    nodes: tuple[str, ...] = ()
    """HOST:PORT of each."""
    choice: str = "least-loaded"
    rejections: int = MOST_REJECTIONS
    """Of one task, after which it fails, or falls back."""
    fallback: Literal["none", "mandatory"] = "none"
    """Whether a task that is rejected so often must then be accepted."""
    stragglers: bool = True
    """Whether the last tasks of slow nodes are given to idle ones too."""
    seed: int | None = None
    """Of the numbers drawn at random."""
    credentials: Credentials = Credentials()

    def check(self) -> None:
        open_choice(self.choice)
        if self.rejections < 0:
            raise UsageError("rejections must not be negative")
        for address in self.nodes:
            check_address(address)


def check_address(address: str) -> None:
    """Refuse what is neither HOST:PORT nor unix:PATH.

    Raises:
        UsageError: names it.
    """
    host, colon, port = address.rpartition(":")
    if address.startswith("unix:") and len(address) > len("unix:"):
        return
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"{address!r} is not an address HOST:PORT, such as 127.0.0.1:7000")


def check_owner(address: str, host: str) -> None:
    """Refuse a node's address that is not the one of the host that registers it.

    Args:
        address: HOST:PORT.
        host: the address that the registration comes from; empty for a socket of this machine that is a file.

    Raises:
        UsageError: names both, and the flag that permits it.
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
    """The configuration in a file.

    Raises:
        UsageError: names the file, the line and what is wrong there.
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
    """A mapping as plain data; each value is checked by itself, so that its line is known."""
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    if not isinstance(node, yaml.MappingNode):
        raise UsageError(f"{_at(path, node)}: expected a mapping with {', '.join(fields)}")
    found: dict[str, Any] = {}
    for key, value in node.value:
        if key.value not in fields:
            raise UsageError(
                f"{_at(path, key)}: there is no field {key.value!r} here; the fields are: {', '.join(fields)}"
            )
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
    """The line of the first entry of a list that is wrong by itself, or of the whole value."""
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
    """Only processes of this machine reach the address."""
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    return address.startswith("unix:") or is_loopback(host)
