"""The sink: how outputs are named, who may write them, and how they are published.

A name belongs to the item that claims it first. A file that imageloom did not make is not touched unless it
was said so. One run at a time writes into a sink.
"""

from __future__ import annotations

import fcntl
import os
from string import Formatter

from imageloom import codecs
from imageloom.errors import DuplicateOutput, OutputExists, SinkBusy, StorageError, UsageError
from imageloom.ledger import Ledger
from imageloom.model import Format, IfExists, Item, Output, Result
from imageloom.stores.local import LocalStore

FIELDS = ("dir", "stem", "ext")


def check_template(template: str) -> None:
    """Refuse a template of output names that makes no sense.

    Raises:
        UsageError: names what is wrong and what there is.
    """
    try:
        fields = [field for _, field, spec, _ in Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise UsageError(f"--name {template!r}: {error}") from None
    unknown = [field for field in fields if field not in FIELDS]
    if unknown or "stem" not in fields:
        wrong = f"there is no {{{unknown[0]}}}" if unknown else "it needs {stem}, or all names are equal"
        raise UsageError(f"--name {template!r}: {wrong}; there are: {{dir}}, {{stem}}, {{ext}}")
    if ".." in template.split("/"):
        raise UsageError(f"--name {template!r}: outputs lie below the sink")


def output_name(key: str, header_format: Format, output: Output, template: str = "{dir}/{stem}.{ext}") -> str:
    """The name of an output below the sink.

    Args:
        template: with {dir}, the item's folder; {stem}, its name without suffix; {ext}, the suffix: the item's
            own where it is one of the format that is written, else that format's usual one.
    """
    folder, _, name = key.rpartition("/")
    stem, dot, suffix = name.rpartition(".")
    if not dot or not stem:
        stem, suffix = name, ""
    suffixes = codecs.suffixes(codecs.written_as(output.format, header_format))
    ext = suffix if suffix.lower() in suffixes else suffixes[0]
    made = template.format(dir=folder, stem=stem, ext=ext).lstrip("/")
    return f"{output.folder}/{made}" if output.folder else made


class Sink:
    """A folder that a run writes into, while it is open.

    Args:
        address: path of the folder; made where there is none.
        source: path of the folder that items are read from.
        protected: path of the folder or the file that is the input.

    Raises:
        UsageError: the sink is the source, or lies in it.
        SinkBusy: another run writes into it.
        StorageError: it cannot be made or written to.
    """

    def __init__(
        self, address: str, source: str, protected: str, ledger: Ledger, if_exists: IfExists
    ) -> None:
        self.store = LocalStore(address)
        self.address = self.store.address
        self._source = source
        self._ledger = ledger
        self._if_exists = if_exists
        self._protected = os.path.realpath(protected)
        self._real_folders: dict[str, str] = {}
        self._lock = -1
        self._is_new = not ledger.knows(self.address)
        self._check()

    def _check(self) -> None:
        if self._is_protected(os.path.realpath(self.address)):
            raise UsageError(
                f"the sink {self.address} lies in the source: imageloom never writes into its input"
            )

    def open(self) -> None:
        try:
            os.makedirs(self.address, exist_ok=True)
            self._lock = os.open(self.address, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._unlock()
            holder = next(
                (j for j in self._ledger.jobs() if j.sink == self.address and j.state == "running"), None
            )
            who = f"job {holder.id} (process {holder.pid})" if holder else "another run"
            raise SinkBusy(f"{who} is writing into {self.address}: one run at a time") from None
        except OSError as error:
            raise StorageError(f"cannot use the sink {self.address}: {error.strerror}") from None
        try:
            self.store.prepare()
        except StorageError:
            self._unlock()
            raise

    def close(self) -> None:
        if self._lock >= 0:
            self.store.tidy()
            self._unlock()

    def _unlock(self) -> None:
        os.close(self._lock)
        self._lock = -1

    def is_done(self, item: Item, recipe: str, outputs: int) -> bool:
        """Whether all outputs of the item as it is now are there, made by this recipe, in their sizes."""
        if self._is_new:
            return False
        found = self._ledger.done(self._source, self.address, item, recipe)
        return len(found) == outputs and all(self.store.size(name) == size for name, size in found)

    def claim(self, job: int, item: Item, recipe: str, names: tuple[str, ...]) -> bool:
        """Make the names the item's; False where a file is there already and is to be left alone.

        Raises:
            DuplicateOutput: another item of the source has a name.
            OutputExists: a file has a name that imageloom did not make, or it is the input itself.
        """
        for name in names:
            self._spare_input(name, item)
            if not self._may_write(name, item):
                return False
        for name in names:
            self._ledger.claim(job, self._source, self.address, item, recipe, name)
        return True

    def _spare_input(self, name: str, item: Item) -> None:
        """Refuse an output that would take the place of the file that the item is a link to."""
        path = os.path.join(self._source, item.key)
        if os.path.islink(path) and os.path.realpath(path) == self._real(os.path.join(self.address, name)):
            raise OutputExists(f"its output {name} is the file that it is read from")

    def _may_write(self, name: str, item: Item) -> bool:
        claim = self._ledger.claim_of(self.address, name)
        if claim is not None and claim.source == self._source:
            if claim.key == item.key:
                return True
            if os.path.lexists(os.path.join(self._source, claim.key)):
                raise DuplicateOutput(f"its output {name} is that of {claim.key} already")
        path = os.path.join(self.address, name)
        if self._is_protected(self._real(path)):
            raise OutputExists(f"its output {name} lies in the source, which is never written to")
        if not os.path.lexists(path):
            return True
        if self._if_exists == "error":
            whose = f"was made from {claim.source}/{claim.key}" if claim else "was not made by imageloom"
            raise OutputExists(f"{name} is there and {whose} (--if-exists skip or overwrite)")
        return self._if_exists == "overwrite"

    def _is_protected(self, real: str) -> bool:
        return real == self._protected or real.startswith(self._protected + os.sep)

    def _real(self, path: str) -> str:
        """The path with its folder's links resolved; a link at the path itself would be replaced."""
        folder, name = os.path.split(path)
        if folder not in self._real_folders:
            self._real_folders[folder] = os.path.realpath(folder)
        return os.path.join(self._real_folders[folder], name)

    def publish(self, job: int, item: Item, recipe: str, result: Result) -> None:
        """Give all staged outputs of an item their names.

        Raises:
            UnwritableOutput: one of them could not be published; none is counted as done then.
        """
        if self._ledger.has_claims:
            self._ledger.flush()
        for written in result.written:
            self.store.publish(written.staged, written.name)

    def discard(self, result: Result) -> None:
        for written in result.written:
            self.store.discard(written.staged)


class InPlace(Sink):
    """A sink that is its own source: each output takes the place of its input.

    What is written down, before the rename, is the fingerprint of the output: an item that has it is done, and
    is not done twice, whenever the program is killed.
    """

    def _check(self) -> None:
        """The input is what is written to."""

    def _spare_input(self, name: str, item: Item) -> None:
        if name != item.key:
            raise OutputExists(f"in place its output must keep its name, not be {name} (--in-place)")
        if os.path.islink(os.path.join(self.address, name)):
            raise OutputExists("it is a link: in place it would cease to be one (--in-place)")

    def claim(self, job: int, item: Item, recipe: str, names: tuple[str, ...]) -> bool:
        if len(names) > 1:
            raise OutputExists("in place there is one output for each item (--in-place)")
        self._spare_input(names[0], item)
        return True

    def publish(self, job: int, item: Item, recipe: str, result: Result) -> None:
        (written,) = result.written
        made = self.store.staged(written.staged, item.key)
        self._ledger.claim(job, self._source, self.address, made, recipe, written.name, made.size)
        self._ledger.flush()
        self.store.publish(written.staged, written.name)
