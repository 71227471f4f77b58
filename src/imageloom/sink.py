"""The sink: how outputs are named, who may write them, and how they are published.

A name belongs to the item that claims it first. A file that imageloom did not make is not touched unless it
was said so. One run at a time writes into a sink.
"""

from __future__ import annotations

import fcntl
import os

from imageloom import codecs
from imageloom.errors import DuplicateOutput, OutputExists, SinkBusy, StorageError, UsageError
from imageloom.ledger import Ledger
from imageloom.model import Format, IfExists, Item, Output, Result
from imageloom.stores.local import LocalStore


def output_name(key: str, header_format: Format, output: Output) -> str:
    """The name of an output below the sink: the item's key, with the suffix of the format that is written."""
    format = codecs.written_as(output.format, header_format)
    stem, _, suffix = key.rpartition(".")
    suffixes = codecs.suffixes(format)
    if not stem or "/" in suffix:
        name = f"{key}.{suffixes[0]}"
    else:
        name = key if suffix.lower() in suffixes else f"{stem}.{suffixes[0]}"
    return f"{output.folder}/{name}" if output.folder else name


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
        if self._is_protected(os.path.realpath(self.address)):
            raise UsageError(f"the sink {address} lies in the source: imageloom never writes into its input")

    def open(self) -> None:
        try:
            os.makedirs(self.address, exist_ok=True)
            self._lock = os.open(self.address, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            holder = next(
                (j for j in self._ledger.jobs() if j.sink == self.address and j.state == "running"), None
            )
            who = f"job {holder.id} (process {holder.pid})" if holder else "another run"
            raise SinkBusy(f"{who} is writing into {self.address}: one run at a time") from None
        except OSError as error:
            raise StorageError(f"cannot use the sink {self.address}: {error.strerror}") from None
        self.store.prepare()

    def close(self) -> None:
        if self._lock >= 0:
            self.store.tidy()
            os.close(self._lock)
            self._lock = -1

    def is_done(self, item: Item, recipe: str, outputs: int) -> bool:
        """Whether all outputs of the item as it is now are there, made by this recipe, in their sizes."""
        found = self._ledger.done(self._source, self.address, item, recipe)
        return len(found) == outputs and all(self.store.size(name) == size for name, size in found)

    def claim(self, job: int, item: Item, recipe: str, names: tuple[str, ...]) -> bool:
        """Make the names the item's; False where a file is there already and is to be left alone.

        Raises:
            DuplicateOutput: another item of the source has a name.
            OutputExists: a file has a name that imageloom did not make.
        """
        for name in names:
            if not self._may_write(name, item):
                return False
        for name in names:
            self._ledger.claim(job, self._source, self.address, item, recipe, name)
        return True

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

    def publish(self, result: Result) -> None:
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
