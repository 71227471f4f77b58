"""Records the system calls of a program with strace, and reads them as operations on files."""

from __future__ import annotations

import os
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

_CALLS = (
    *("open", "openat", "creat", "lseek", "write", "pwrite64", "writev", "pwritev", "pwritev2"),
    *("ftruncate", "truncate", "fallocate", "copy_file_range", "sendfile"),
    *("rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat"),
    *("unlink", "unlinkat", "rmdir", "mkdir", "mkdirat"),
    *("chmod", "fchmod", "fchmodat", "chown", "fchown", "fchownat", "utimensat"),
    *("setxattr", "fsetxattr", "removexattr", "fremovexattr"),
    *("fsync", "fdatasync", "syncfs", "sync", "sync_file_range"),
    *("clone", "clone3", "fork", "vfork"),
)
FLUSHES = ("fsync", "fdatasync", "syncfs")
_STRANGE = {
    *(
        "open",
        "creat",
        "writev",
        "pwritev",
        "pwritev2",
        "fallocate",
        "truncate",
        "copy_file_range",
        "sendfile",
    ),
    *("link", "linkat", "symlink", "symlinkat"),
}
"""Calls that are not understood. Neither imageloom nor SQLite makes them below the recorded folders."""
_LONGEST = 16 << 20
"""Maximum bytes of one write that are recorded."""
_AT = re.compile(r"(?:AT_FDCWD|(\d+))<([^>]*)>$")

Kind = Literal["enter", "leave", "move", "write", "cut", "attribute"]


@dataclass(eq=False)
class Operation:
    """A change of one file or folder."""

    at: int
    """Number of the line on which the call ended."""
    kind: Kind
    node: int
    """The folder whose names change, or the file whose content or attributes change."""
    root: int
    """Which of the recorded folders it is in."""
    name: str = ""
    child: int = 0
    """What gets or loses the name."""
    is_folder: bool = False
    """Whether that is a new folder."""
    old: str = ""
    offset: int = 0
    data: bytes = b""
    needs: Operation | None = None
    """It is on the disk only if this one is."""

    def __str__(self) -> str:
        what = f"{len(self.data)} bytes at {self.offset}" if self.kind in ("write", "cut") else self.name
        return f"line {self.at}: {self.kind} {what}"


class Flush(NamedTuple):
    """A call that flushes."""

    began: int
    ended: int
    call: str
    node: int
    """The file or folder; 0 for a whole file system."""
    device: int
    path: str

    def keeps(self, one: Operation, devices: Sequence[int]) -> bool:
        if one.at >= self.began:
            return False
        if self.call == "syncfs":
            return devices[one.root] == self.device
        return one.node == self.node and not (self.call == "fdatasync" and one.kind == "attribute")


@dataclass
class Trace:
    """A recorded run."""

    roots: list[str]
    """The recorded folders. Folders above them need no flush."""
    devices: list[int] = field(default_factory=list)
    folders: dict[int, dict[str, int]] = field(default_factory=dict)
    """Before the run: the names in each folder. The folders of `roots` have the numbers 1, 2 and so on."""
    files: dict[int, bytes] = field(default_factory=dict)
    """Before the run: the content of each file."""
    operations: list[Operation] = field(default_factory=list)
    flushes: list[Flush] = field(default_factory=list)
    marks: list[tuple[int, str]] = field(default_factory=list)
    """What the program wrote to its standard output, each with its line."""


def record(command: Sequence[str], roots: Sequence[Path], log: Path, ignore: str = "") -> Trace:
    """Run a program, and record what it does below some folders.

    Args:
        roots: folders that exist.
        log: file for the output of strace.
        ignore: pattern of paths whose content does not matter.

    Raises:
        CalledProcessError: the program failed.
    """
    trace = Trace([os.path.realpath(root) for root in roots])
    reader = _Reader(trace, ignore)
    options = [
        "-f",
        "-qq",
        "-y",
        "-xx",
        "-s",
        str(_LONGEST),
        "-e",
        f"trace={','.join(_CALLS)}",
        "-o",
        str(log),
    ]
    subprocess.run(["strace", *options, *command], check=True, capture_output=True, timeout=120)
    with log.open(encoding="ascii") as lines:
        for call in _calls(lines):
            reader.take(call)
    return trace


class _Call(NamedTuple):
    began: int
    ended: int
    thread: int
    name: str
    arguments: list[str]
    result: str


def _calls(lines: Iterator[str]) -> Iterator[_Call]:
    """The calls that succeeded, in the order in which they ended."""
    unfinished: dict[int, tuple[int, str]] = {}
    for number, line in enumerate(lines):
        thread_, _, text = line.rstrip("\n").partition(" ")
        thread, text, began = int(thread_), text.lstrip(), number
        if text.endswith("<unfinished ...>"):
            unfinished[thread] = number, text.removesuffix("<unfinished ...>").rstrip()
            continue
        if resumed := re.match(r"<\.\.\. \w+ resumed>(.*)", text):
            began, begin = unfinished.pop(thread)
            text = begin + resumed[1]
        found = re.match(r"(\w+)\((.*)\)\s+= (.*)", text)
        if found and not found[3].startswith(("-1", "?")):
            yield _Call(began, number, thread, found[1], found[2].split(", "), found[3])


class _Reader:
    """Turns calls into operations."""

    def __init__(self, trace: Trace, ignore: str) -> None:
        self._trace = trace
        self._ignored = re.compile(ignore or r"(?!)")
        self._nodes: dict[str, int] = {}
        """The files and folders by their current paths."""
        self._roots: dict[int, int] = {}
        self._places: defaultdict[tuple[int, int], int] = defaultdict(int)
        """Positions in open files, by process and descriptor."""
        self._processes: dict[int, int] = {}
        for number, root in enumerate(trace.roots):
            trace.devices.append(os.stat(root).st_dev)
            self._begin(root, number)
        for number, root in enumerate(trace.roots):
            self._fill(root, number)

    def _begin(self, path: str, root: int) -> int:
        node = self._nodes[path] = len(self._roots) + 1
        self._roots[node] = root
        return node

    def _fill(self, folder: str, root: int) -> None:
        """Read what is there before the run."""
        names = self._trace.folders[self._nodes[folder]] = {}
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if self._ignored.search(entry.path):
                continue
            names[entry.name] = node = self._begin(entry.path, root)
            if entry.is_dir(follow_symlinks=False):
                self._fill(entry.path, root)
            else:
                self._trace.files[node] = Path(entry.path).read_bytes()

    def take(self, call: _Call) -> None:
        if call.name in ("clone", "clone3", "fork", "vfork"):
            self._fork(call)
        elif call.name in FLUSHES:
            self._flush(call)
        elif call.name == "sync" or call.name == "sync_file_range":
            raise ValueError(f"{call.name} is not understood")
        elif handle := getattr(self, f"_{call.name.removesuffix('64')}", None):
            handle(call)
        elif call.name in _STRANGE and any(self._is_wanted(_decoded(one)) for one in call.arguments):
            raise ValueError(f"{call.name} is not understood: {call.arguments}")
        elif call.name in _ATTRIBUTES:
            self._attribute(call)

    def _process(self, thread: int) -> int:
        return self._processes.get(thread, thread)

    def _fork(self, call: _Call) -> None:
        child, parent = int(call.result.split()[0]), self._process(call.thread)
        if "CLONE_THREAD" in ", ".join(call.arguments):
            self._processes[child] = parent
        else:
            for (process, file), place in list(self._places.items()):
                if process == parent:
                    self._places[child, file] = place

    def _is_wanted(self, path: str) -> bool:
        inside = any(path == root or path.startswith(f"{root}/") for root in self._trace.roots)
        return inside and not self._ignored.search(path)

    def _flush(self, call: _Call) -> None:
        path = _opened(call.arguments[0])
        device = next(
            (d for r, d in zip(self._trace.roots, self._trace.devices, strict=True) if _is_in(path, r)), 0
        )
        node = 0 if call.name == "syncfs" else self._nodes.get(path, 0)
        if device and (node or call.name == "syncfs"):
            self._trace.flushes.append(Flush(call.began, call.ended, call.name, node, device, path))

    # Names

    def _names(
        self, call: _Call, path: str, kind: Kind, child: int, needs: Operation | None = None
    ) -> Operation:
        folder, name = os.path.split(path)
        node = self._nodes[folder]
        return self._add(Operation(call.ended, kind, node, self._roots[node], name, child, needs=needs))

    def _add(self, one: Operation) -> Operation:
        self._trace.operations.append(one)
        return one

    def _make(self, call: _Call, path: str, is_folder: bool = False) -> None:
        folder = self._nodes[os.path.dirname(path)]
        node = self._begin(path, self._roots[folder])
        self._names(call, path, "enter", node).is_folder = is_folder

    def _openat(self, call: _Call) -> None:
        path, (file, _, _) = _at(call.arguments[0], call.arguments[1]), call.result.partition("<")
        self._places[self._process(call.thread), int(file)] = 0
        if not self._is_wanted(path):
            return
        if "O_CREAT" in call.arguments[2] and path not in self._nodes:
            self._make(call, path)
        elif "O_TRUNC" in call.arguments[2] and path in self._nodes:
            self._change(call, path, "cut")

    def _mkdirat(self, call: _Call) -> None:
        if self._is_wanted(path := _at(*call.arguments[:2])):
            self._make(call, path, is_folder=True)

    def _mkdir(self, call: _Call) -> None:
        if self._is_wanted(path := _text(call.arguments[0])):
            self._make(call, path, is_folder=True)

    def _unlinkat(self, call: _Call) -> None:
        self._remove(call, _at(*call.arguments[:2]))

    def _unlink(self, call: _Call) -> None:
        self._remove(call, _text(call.arguments[0]))

    _rmdir = _unlink

    def _remove(self, call: _Call, path: str) -> None:
        if self._is_wanted(path):
            self._names(call, path, "leave", self._nodes.pop(path))

    def _rename(self, call: _Call) -> None:
        self._move(call, _text(call.arguments[0]), _text(call.arguments[1]))

    def _renameat(self, call: _Call) -> None:
        self._move(call, _at(*call.arguments[:2]), _at(*call.arguments[2:4]))

    _renameat2 = _renameat

    def _move(self, call: _Call, old: str, new: str) -> None:
        if not (self._is_wanted(old) or self._is_wanted(new)):
            return
        node = self._nodes[old]
        if os.path.dirname(old) == os.path.dirname(new):
            self._names(call, new, "move", node).old = os.path.basename(old)
        else:
            entered = self._names(call, new, "enter", node)
            self._names(call, old, "leave", node, entered)
        for path in [path for path in self._nodes if _is_in(path, old)]:
            self._nodes[new + path.removeprefix(old)] = self._nodes.pop(path)

    # Content

    def _change(self, call: _Call, path: str, kind: Kind, offset: int = 0, data: bytes = b"") -> None:
        node = self._nodes.get(path, 0)  # 0: a file that was deleted while it is open
        if node:
            self._add(Operation(call.ended, kind, node, self._roots[node], path, offset=offset, data=data))

    def _write(self, call: _Call) -> None:
        file, path = int(call.arguments[0].partition("<")[0]), _opened(call.arguments[0])
        data, place = _bytes(call.arguments[1])[: int(call.result)], (self._process(call.thread), file)
        if file == 1:
            self._trace.marks += [(call.ended, line) for line in data.decode().splitlines() if line]
        self._change(call, path, "write", self._places[place], data)
        self._places[place] += len(data)

    def _pwrite(self, call: _Call) -> None:
        data = _bytes(call.arguments[1])[: int(call.result)]
        self._change(call, _opened(call.arguments[0]), "write", int(call.arguments[3]), data)

    def _lseek(self, call: _Call) -> None:
        file = int(call.arguments[0].partition("<")[0])
        self._places[self._process(call.thread), file] = int(call.result)

    def _ftruncate(self, call: _Call) -> None:
        self._change(call, _opened(call.arguments[0]), "cut", int(call.arguments[1]))

    def _attribute(self, call: _Call) -> None:
        first = call.arguments[0]
        path = _text(first) if first.startswith('"') else _opened(first)
        if call.name.endswith("at") and call.arguments[1].startswith('"'):
            path = _at(*call.arguments[:2])
        self._change(call, path, "attribute", data=f"{call.name} {call.arguments[1:]}".encode())


_ATTRIBUTES = {
    *("chmod", "fchmod", "fchmodat", "chown", "fchown", "fchownat", "utimensat"),
    *("setxattr", "fsetxattr", "removexattr", "fremovexattr"),
}


def _bytes(argument: str) -> bytes:
    return bytes.fromhex(argument.strip('"').replace("\\x", ""))


def _text(argument: str) -> str:
    return os.fsdecode(_bytes(argument))


def _decoded(argument: str) -> str:
    return _text(argument) if argument.startswith('"') else _opened(argument) if "<" in argument else ""


def _opened(argument: str) -> str:
    """The path of an open file: `3<path>`."""
    found = _AT.search(argument)
    try:
        return os.fsdecode(bytes.fromhex(found[2].replace("\\x", ""))) if found else ""
    except ValueError:
        return ""  # a pipe or a socket


def _at(folder: str, path: str) -> str:
    return os.path.normpath(os.path.join(_opened(folder), _text(path)))


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")
