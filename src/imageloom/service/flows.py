"""Flows: what to process, how, into what, and when. Each flow is a YAML file in a folder that people may edit.

    source: /data/inbox                # a folder, or an address of a store
    sink: /data/web
    recipe: resize 1600x1600 fit=inside
    when: watched                      # or once
    options:
      include: ['*.jpg']
      workers: 2

The name of a flow is the name of its file, without `.yaml`. A recipe is a pipeline as text, a list of steps, or a
mapping as in a recipe's file. A flow is checked completely before anything of it is accessed.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from imageloom.driver.naming import check_template
from imageloom.driver.places import checked
from imageloom.driver.validation import validated
from imageloom.errors import ImageloomError, PipelineError, StorageError, TaskRefused, UsageError
from imageloom.model import IfExists, Job, Limits, Pages, Plain, Recipe
from imageloom.recipes.checking import checked as complete
from imageloom.recipes.pipeline import read_yaml
from imageloom.recipes.recipe import from_data, output_of
from imageloom.stores import check_address, is_remote, local_path
from imageloom.system import disk
from imageloom.system.private import private_folder
from imageloom.worker.guard import Guard

NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}"
"""The pattern of a flow's name."""
MOST_FLOWS = 200
MOST_TEXT = 64 << 10
"""Maximum size of a flow's file, in bytes."""
MOST_OUTPUTS = 100
When = Literal["once", "watched"]
_Count = Annotated[int, Meta(ge=0)]


class Options(Plain, frozen=True):
    """The options of a flow. They have the defaults of `imageloom run`, but for links."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    name: str = "{dir}/{stem}.{ext}"
    """Template of the output names, relative to the sink or to the output's folder."""
    if_exists: IfExists = "error"
    links: Literal["inside", "refuse"] = "inside"
    tile: Literal["auto", "always", "never"] = "auto"
    attempts: Annotated[int, Meta(ge=1, le=10)] = 3
    memory: _Count = 0
    """Maximum memory of the flow's items in progress, in bytes; 0: the flow's share of the service's memory."""
    workers: _Count = 0
    """Maximum number of workers that process the flow at the same time; 0: all."""
    poll: Annotated[float, Meta(ge=0, le=86400)] = 0.0
    """Seconds between two listings of a watched source; 0: change notifications, where there are any."""
    pages: Pages = "first"
    """Which pages of a file are processed; `all` needs {page} in `name` if a file has several."""
    max_pixels: Annotated[int, Meta(ge=1)] = Limits().max_pixels
    max_file_size: Annotated[int, Meta(ge=1)] = Limits().max_file_size
    max_expansion: Annotated[int, Meta(ge=1)] = Limits().max_expansion


class FlowFile(Plain, frozen=True):
    """The content of a flow's file."""

    source: str
    sink: str
    recipe: Any
    when: When = "once"
    options: Options = Options()


class Flow(Plain, frozen=True):
    """A flow that was checked."""

    name: str
    when: When
    job: Job
    options: Options


class BrokenFlow(Plain, frozen=True):
    """A flow whose file is not valid."""

    name: str
    error: str
    """What is wrong, with the name of the field."""


class Rules:
    """What the flows of a service may do.

    Args:
        guard: the folders and stores that flows read and write, the files of operators, and the sandbox.
        private: folders of the service itself. No flow reads or writes there.
        memory: maximum memory of one flow's items in progress, in bytes.
        operators: a recipe with the loaded files of operators, and no outputs.
    """

    def __init__(
        self,
        guard: Guard,
        private: tuple[Path, ...] = (),
        memory: int = 0,
        operators: Recipe = Recipe(()),  # noqa: B008 frozen
    ) -> None:
        self.guard, self._private = guard, private
        self._memory, self._operators = memory, operators

    def flow(self, name: str, text: str) -> Flow:
        """The flow with this text, checked. Nothing that it names is accessed before the check of its places.

        Raises:
            UsageError: it is not valid; the message names the field.
            TaskRefused: a place is not below a root.
        """
        check_name(name)
        if len(text.encode(errors="replace")) > MOST_TEXT:
            raise UsageError(f"a flow has at most {MOST_TEXT:,} bytes")
        file = _file_of(read_yaml(text, f"the flow {name}"), name)
        self.check_places(file.source, file.sink)
        given = file.options
        recipe = replace(self.recipe(file.recipe), pages=given.pages)
        check_template(given.name)
        job = Job(
            source=file.source,
            sink=file.sink,
            recipe=recipe,
            limits=Limits(given.max_pixels, given.max_file_size, given.max_expansion),
            include=given.include,
            exclude=given.exclude,
            if_exists=given.if_exists,
            memory=min(filter(None, (given.memory, self._memory)), default=0),
            name=given.name,
            tile=given.tile,
            attempts=given.attempts,
            links=given.links,
            sandbox=self.guard.sandbox,
            durable=True,
        )
        job = replace(checked(validated(job)), sink=file.sink.rstrip("/") or "/")
        return Flow(name, file.when, job, given)

    def recipe(self, data: object) -> Recipe:
        """The recipe from a text, a list of steps, or a mapping. Files that its steps name are below the roots.

        Raises:
            UsageError: it is not valid, or needs a file of operators that the service does not have.
            TaskRefused: a step names a file that is not below a root.
        """
        if isinstance(data, str):
            return self._checked(replace(self._operators, outputs=(output_of(data),)))
        found = from_data(data, Path("recipe"), self._operators)
        if len(found.outputs) > MOST_OUTPUTS:
            raise UsageError(f"recipe: it has {len(found.outputs)} outputs, the maximum is {MOST_OUTPUTS}")
        return self._checked(found)

    def _checked(self, recipe: Recipe) -> Recipe:
        self.guard.check_files(recipe)
        return complete(validated(recipe))

    def check_places(self, source: str, sink: str) -> None:
        """Check that places are below the roots, and outside of the service's own folders.

        Raises:
            TaskRefused: one is not.
            UsageError: an address is not valid.
        """
        for what, address in (("source", source), ("sink", sink)):
            if not address.strip():
                raise UsageError(f"{what}: it is empty: give a folder or an address")
            if is_remote(address):
                check_address(address)
            elif self._is_private(address):
                raise TaskRefused(f"{what}: {address} is in, or contains, a folder of the service itself")
            try:
                self.guard.check_address(address)
            except TaskRefused as error:
                raise TaskRefused(f"{what}: {error}") from None

    def _is_private(self, address: str) -> bool:
        real = os.path.realpath(local_path(address))
        own = [os.path.realpath(folder) for folder in self._private]
        return any(_is_within(real, folder) or _is_within(folder, real) for folder in own)


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def _file_of(data: object, name: str) -> FlowFile:
    if not isinstance(data, dict):
        raise UsageError(f"the flow {name} must be a mapping with source, sink and recipe")
    try:
        return msgspec.convert(data, FlowFile)
    except msgspec.ValidationError as error:
        said, _, where = str(error).partition(" - at `$")
        field = where.rstrip("`").lstrip(".")
        raise UsageError(f"{field}: {said}" if field else said) from None


def check_name(name: str) -> None:
    """Check the name of a flow.

    Raises:
        UsageError: it is not valid.
    """
    if not re.fullmatch(NAME, name):
        raise UsageError(
            "name: a flow's name is 1 to 63 letters, digits, '-' and '_', with no '-' at its start"
        )


class FlowFolder:
    """The files of the flows. People and other programs may change them at any time.

    Raises:
        StorageError: the folder cannot be used.
    """

    def __init__(self, path: Path, rules: Rules) -> None:
        self.path, self.rules = path, rules
        self._read: dict[str, tuple[tuple[int, int, int], Flow | BrokenFlow]] = {}
        self._writing = threading.Lock()
        try:
            private_folder(path)
        except OSError as error:
            raise _unusable(path, error) from None

    def names(self) -> list[str]:
        """The names of all flows, sorted, at most `MOST_FLOWS`."""
        try:
            found = [entry.name.removesuffix(".yaml") for entry in os.scandir(self.path)
                     if entry.name.endswith(".yaml")]  # fmt: skip
        except OSError as error:
            raise _unusable(self.path, error) from None
        return sorted(name for name in found if re.fullmatch(NAME, name))[:MOST_FLOWS]

    def versions(self) -> dict[str, tuple[int, int, int]]:
        """For each flow, by name: a value that changes when its file changes."""
        found = {}
        for name in self.names():
            with suppress(FileNotFoundError):
                found[name] = _version(os.stat(self._file(name)))
        return found

    def flow(self, name: str) -> Flow | BrokenFlow | None:
        """The flow with this name; None if there is none. It is read again only if its file has changed."""
        try:
            version = _version(os.stat(self._file(name)))
            known = self._read.get(name)
            if known is None or known[0] != version:
                known = self._read[name] = version, self._load(name)
        except FileNotFoundError:
            self._read.pop(name, None)
            return None
        except OSError as error:
            return BrokenFlow(name, f"cannot read its file: {error.strerror}")
        return known[1]

    def _load(self, name: str) -> Flow | BrokenFlow:
        try:
            return self.rules.flow(name, self.text(name))
        except ImageloomError as error:
            return BrokenFlow(name, str(error))

    def text(self, name: str) -> str:
        """The text of a flow's file.

        Raises:
            OSError: it cannot be read.
        """
        with open(self._file(name), "rb") as file:
            return file.read(MOST_TEXT + 1).decode(errors="replace")

    def write(self, name: str, text: str, replace: bool) -> Flow:
        """Write a flow's file, if the flow is valid.

        Raises:
            UsageError, TaskRefused: see `Rules.flow`.
            FileExistsError: there is such a flow, and `replace` is False.
            StorageError: the file cannot be written.
        """
        flow = self.rules.flow(name, text)
        with self._writing:
            self._write(self._file(name), text, replace)
        return flow

    def _write(self, path: Path, text: str, replace: bool) -> None:
        if not replace and path.exists():
            raise FileExistsError(path)
        if not path.exists() and len(self.names()) >= MOST_FLOWS:
            raise UsageError(f"there are {MOST_FLOWS} flows, the maximum")
        beside = path.with_suffix(".part")
        try:
            with open(beside, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
            disk.flush_names(os.path.abspath(self.path))
        except OSError as error:
            raise _unusable(path, error) from None

    def delete(self, name: str) -> None:
        """Delete a flow's file.

        Raises:
            FileNotFoundError: there is no such flow.
            StorageError: the file cannot be deleted.
        """
        try:
            self._file(name).unlink()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _unusable(self._file(name), error) from None
        self._read.pop(name, None)

    def _file(self, name: str) -> Path:
        check_name(name)
        return self.path / f"{name}.yaml"


def flow_text(source: str, sink: str, recipe: str, when: str, options: Mapping[str, Any] = {}) -> str:
    """The YAML text of a flow.

    Args:
        recipe: see `recipe_data`.

    Raises:
        PipelineError: the recipe is not YAML, if it has several lines.
    """
    import yaml

    data: dict[str, Any] = {"source": source, "sink": sink, "when": when, "recipe": recipe_data(recipe)}
    if options:
        data["options"] = dict(options)
    text: str = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    return text


def recipe_data(text: str) -> object:
    """A recipe from a form: one line is a pipeline, several lines are YAML.

    Raises:
        PipelineError: it is not YAML.
    """
    return read_yaml(text, "the recipe") if "\n" in text.strip() else text.strip()


def recipe_text(data: object) -> str:
    """A recipe as people edit it: one line of text, or YAML."""
    import yaml

    if isinstance(data, str):
        return data
    text: str = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    return text


def data_of(text: str) -> dict[str, Any]:
    """The fields in a flow's text, as far as they can be read. For a form that corrects them."""
    try:
        data = read_yaml(text, "the flow")
    except PipelineError:
        return {}
    return data if isinstance(data, dict) else {}


def _version(stat: os.stat_result) -> tuple[int, int, int]:
    """A value that changes with the file. One that is written in two steps may keep its time, not its size."""
    return stat.st_mtime_ns, stat.st_ino, stat.st_size


def _unusable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"cannot use {path}: {error.strerror or error}")
