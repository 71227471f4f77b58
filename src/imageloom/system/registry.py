"""Tables of names: those of imageloom itself, and those that installed packages add by entry points.

A package declares what it adds in its pyproject.toml:

    [project.entry-points."imageloom.engines"]
    mine = "my_package.my_engine:Mine"

Nothing is loaded before it is asked for. Installed packages are searched only for a name that imageloom itself
does not have, once in a process: the search takes longer than the rest of the start.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from imageloom.errors import UsageError, message_of

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

log = logging.getLogger(__name__)


def load(target: str) -> Any:
    """What "module:attribute" stands for."""
    module, _, attribute = target.partition(":")
    return attrgetter(attribute)(importlib.import_module(module))


class Registry:
    """The names of one kind.

    Args:
        kind: in the singular; the group of the entry points is `imageloom.<kind>s`.
        built_in: what each of imageloom's own names stands for, as "module:attribute". No plug-in replaces one.
        check: called with a plug-in's name and what it has loaded; raises where that cannot be used.
        labels: the names of entry points mean nothing: several packages may use the same one.
    """

    def __init__(
        self,
        kind: str,
        built_in: Mapping[str, str],
        check: Callable[[str, Any], object] = lambda name, loaded: None,
        labels: bool = False,
    ) -> None:
        self.kind = kind
        self.built_in = dict(built_in)
        self._check = check
        self._labels = labels
        self._added: dict[str, str] = {}
        self._found: dict[str, EntryPoint] | None = None
        self._searching = threading.Lock()

    def __contains__(self, name: str) -> bool:
        return name in self.built_in or name in self._added or name in self._plugins()

    def names(self) -> list[str]:
        """All names, those of plug-ins too, whether they can be loaded or not."""
        return [*self.built_in, *self._added, *self._plugins()]

    def add(self, name: str, target: str) -> None:
        """Add a name in this process alone: its worker processes do not know it.

        Args:
            target: "module:attribute".

        Raises:
            UsageError: imageloom has that name.
        """
        if name in self.built_in:
            raise UsageError(f"the {self.kind} {name!r} is {self.built_in[name]}: {target} cannot replace it")
        self._added[name] = target

    def load(self, name: str) -> Any:
        """What a name stands for.

        Raises:
            UsageError: nobody has that name (the message lists the known ones), or its plug-in cannot be loaded.
            ImportError: a library that imageloom's own module needs is not installed.
        """
        if target := self.built_in.get(name) or self._added.get(name):
            return load(target)
        if name not in self._plugins():
            raise UsageError(f"there is no {self.kind} {name!r}; there are: {', '.join(self.names())}")
        return self._load_plugin(name)

    def plugins(self) -> Iterator[tuple[str, Any]]:
        """The names of plug-ins with what they stand for. Those that cannot be loaded are logged and left out."""
        for name in self._plugins():
            try:
                yield name, self._load_plugin(name)
            except UsageError as error:
                log.warning("%s", error)

    def _load_plugin(self, name: str) -> Any:
        point = self._plugins()[name]
        try:
            loaded = point.load()
            self._check(name, loaded)
        except Exception as error:
            reason = f"{type(error).__name__}: {message_of(error)}"
            raise UsageError(
                f"cannot load the {self.kind} {point.name!r} ({_origin(point)}): {reason}"
            ) from error
        return loaded

    def _plugins(self) -> dict[str, EntryPoint]:
        """The entry points by name."""
        with self._searching:
            if self._found is None:
                self._found = self._search()
            return self._found

    def _search(self) -> dict[str, EntryPoint]:
        from importlib.metadata import entry_points

        found: dict[str, EntryPoint] = {}
        for point in entry_points(group=f"imageloom.{self.kind}s"):
            key = point.value if self._labels else point.name
            if key in self.built_in:
                kept = f"imageloom's own ({self.built_in[key]})"
            elif key in found:
                kept = f"that of {_origin(found[key])}"
            else:
                found[key] = point
                continue
            log.warning(
                "the %s %r of %s is ignored: %s keeps the name", self.kind, point.name, _origin(point), kept
            )
        return found


def _origin(point: EntryPoint) -> str:
    return f"{point.value} of the package {point.dist.name if point.dist else 'unknown'}"
