"""Rebuilds each state that a power cut may leave of a recorded run, and looks at it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple

from imageloom.testing.power.trace import Flush, Operation, Trace

MOST = 2
"""Maximum number of operations that are missing, except where all of them are."""
NEVER = 1 << 62

Content = tuple[bytes, tuple[bytes, ...]]
"""The bytes of a file, and the changes of its attributes."""
Tree = dict[str, Content]
"""The files of a folder, by their relative paths."""
Look = Callable[[Tree], Hashable]
"""Reads a folder as the program would after a restart: what it finds is compared and remembered."""
Law = Callable[[tuple[Hashable, ...], frozenset[str]], str]
"""What is wrong with what is found in the folders, after the program has written these lines; empty if nothing."""


class Found(NamedTuple):
    """The result of a check."""

    states: int
    """Number of states: of points of the run with sets of missing operations."""
    looked_at: int
    """Number of those that differ."""
    fault: str
    """What is wrong with the first bad state; empty if none is bad."""


class _Disk:
    """Files and folders, as they are on the disk."""

    def __init__(
        self,
        folders: dict[int, dict[str, int]],
        files: dict[int, bytes],
        attributes: dict[int, tuple[bytes, ...]],
    ) -> None:
        self._folders = {node: dict(names) for node, names in folders.items()}
        self._files = dict(files)
        self._attributes = dict(attributes)

    def copy(self) -> _Disk:
        return _Disk(self._folders, self._files, self._attributes)

    def apply(self, one: Operation, data: bytes | None = None) -> None:
        """Apply an operation; a write with other data, if they are given."""
        match one.kind:
            case "enter":
                self._folders.setdefault(one.node, {})[one.name] = one.child
                if one.is_folder:
                    self._folders.setdefault(one.child, {})
            case "leave" | "move":
                names = self._folders.setdefault(one.node, {})
                old = one.old or one.name
                if names.get(old) == one.child:
                    del names[old]
                if one.kind == "move":
                    names[one.name] = one.child
            case "write":
                before = self._files.get(one.node, b"").ljust(one.offset, b"\0")
                new = one.data if data is None else data
                self._files[one.node] = before[: one.offset] + new + before[one.offset + len(new) :]
            case "cut":
                self._files[one.node] = self._files.get(one.node, b"")[: one.offset].ljust(one.offset, b"\0")
            case "attribute":
                self._attributes[one.node] = (*self._attributes.get(one.node, ()), one.data)

    def tree(self, node: int, prefix: str = "") -> Iterator[tuple[str, Content]]:
        for name, child in self._folders.get(node, {}).items():
            if child in self._folders:
                yield from self.tree(child, f"{prefix}{name}/")
            else:
                yield prefix + name, (self._files.get(child, b""), self._attributes.get(child, ()))


class _Choice(NamedTuple):
    """What one folder may look like at one point."""

    counts: list[int]
    """Number of sets of missing operations, by their size."""
    views: list[set[Hashable]]
    """What is found in these states."""
    none: Hashable
    """What is found without all operations that are not kept."""


class _Folder:
    """One of the recorded folders."""

    def __init__(self, trace: Trace, root: int, look: Look) -> None:
        self._trace = trace
        self._root = root
        self._look = look
        self.operations = [one for one in trace.operations if one.root == root]
        self._kept: list[int] = []
        self._views: dict[frozenset[tuple[str, Content]], Hashable] = {}
        self._choices: dict[tuple[int, frozenset[int], bool], _Choice] = {}

    def flush(self, flushes: Iterable[Flush]) -> None:
        """Compute from which line on each operation is kept."""
        devices = self._trace.devices
        self._kept = [
            min((flush.ended for flush in flushes if flush.keeps(one, devices)), default=NEVER)
            for one in self.operations
        ]

    def choice(self, line: int, torn: bool) -> _Choice:
        """What the folder may look like after the call of a line; with the last write in half, or whole."""
        done = sum(1 for one in self.operations if one.at <= line)
        pending = [at for at in range(done) if self._kept[at] > line]
        key = done, frozenset(pending), torn
        if key not in self._choices:
            self._choices[key] = self._choose(done, pending, torn)
        return self._choices[key]

    def _choose(self, done: int, pending: list[int], torn: bool) -> _Choice:
        base = _Disk(self._trace.folders, self._trace.files, {})
        for at in range(done):
            if at not in pending:
                base.apply(self.operations[at])
        last = done - 1 if torn else -1
        free = [at for at in pending if at != last]
        counts, views = [], []
        for size in range(MOST + 1):
            found = {
                self._view(base, pending, missing, last) for missing in itertools.combinations(free, size)
            }
            counts.append(sum(1 for _ in itertools.combinations(free, size)))
            views.append(found)
        return _Choice(counts, views, self._view(base, pending, tuple(pending), -1))

    def _view(self, base: _Disk, pending: list[int], missing: Sequence[int], torn: int) -> Hashable:
        disk = base.copy()
        lost = [self.operations[at] for at in missing]
        for at in pending:
            one = self.operations[at]
            if one not in lost and one.needs not in lost:
                disk.apply(one, one.data[: len(one.data) // 2] if at == torn else None)
        tree = dict(disk.tree(self._root + 1))
        key = frozenset(tree.items())
        if key not in self._views:
            self._views[key] = self._look(tree)
        return self._views[key]

    def final(self) -> Tree:
        """The files at the end of the run."""
        disk = _Disk(self._trace.folders, self._trace.files, {})
        for one in self.operations:
            disk.apply(one)
        return dict(disk.tree(self._root + 1))


class States:
    """The states that a power cut may leave of a run.

    Args:
        looks: one for each of the recorded folders.
        law: applied to what all of them have found in a state.
    """

    def __init__(self, trace: Trace, looks: Sequence[Look], law: Law) -> None:
        self._trace = trace
        self._law = law
        self._folders = [_Folder(trace, root, look) for root, look in enumerate(looks)]
        self._faults: dict[tuple[tuple[Hashable, ...], frozenset[str]], str] = {}

    @staticmethod
    def final(trace: Trace, root: int) -> Tree:
        """The files of a recorded folder at the end of the run."""
        return _Folder(trace, root, lambda tree: None).final()

    def check(self, without: Flush | None = None) -> Found:
        """Look at all states, up to the first bad one.

        Args:
            without: a flush that is treated as if the program had not made it.
        """
        for folder in self._folders:
            folder.flush([flush for flush in self._trace.flushes if flush is not without])
        states, seen = 0, set()
        for line, torn_in in self._points():
            said = frozenset(text for at, text in self._trace.marks if at <= line)
            choices = [folder.choice(line, root == torn_in) for root, folder in enumerate(self._folders)]
            for sizes in itertools.product(range(MOST + 1), repeat=len(choices)):
                if sum(sizes) > MOST:
                    continue
                product = 1
                for choice, size in zip(choices, sizes, strict=True):
                    product *= choice.counts[size]
                states += product
                views = (choice.views[size] for choice, size in zip(choices, sizes, strict=True))
                for found in itertools.product(*views):
                    seen.add((found, said))
                    if fault := self._fault(found, said):
                        return Found(states, len(seen), f"{fault} (a power cut after line {line})")
            states += 1
            found = tuple(choice.none for choice in choices)
            seen.add((found, said))
            if fault := self._fault(found, said):
                return Found(states, len(seen), f"{fault} (a power cut after line {line}, nothing kept)")
        return Found(states, len(seen), "")

    def _points(self) -> Iterator[tuple[int, int]]:
        """The lines after which the power may be cut, each with the folder whose last write is in half, or -1."""
        yield -1, -1
        for line in sorted(
            {one.at for one in self._trace.operations} | {line for line, _ in self._trace.marks}
        ):
            yield line, -1
            for one in self._trace.operations:
                if one.at == line and one.kind == "write":
                    yield line, one.root

    def _fault(self, found: tuple[Hashable, ...], said: frozenset[str]) -> str:
        key = found, said
        if key not in self._faults:
            self._faults[key] = self._law(found, said)
        return self._faults[key]
