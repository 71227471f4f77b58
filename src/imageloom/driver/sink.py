"""The sink: the names of outputs, the claims on names, and publication.

A name belongs to the item that claims it first. A file that imageloom did not make is never changed, except with
--if-exists overwrite. Only one run at a time writes into a sink.
"""

from __future__ import annotations

import os

from imageloom import codecs
from imageloom.driver import locking
from imageloom.driver.namefilter import NameFilter
from imageloom.driver.naming import check_below
from imageloom.driver.sharding import ShardLock, check_claimed, share
from imageloom.driver.source import Source
from imageloom.errors import (
    DuplicateOutput,
    OutputExists,
    SinkBusy,
    StorageError,
    UsageError,
)
from imageloom.model import IfExists, Item, Output, Recipe, Result, Shard, Work, Written, path_and_page
from imageloom.recipes.fields import fields_of
from imageloom.records.ledger import Ledger
from imageloom.records.schema import Claim
from imageloom.stores import Store, is_remote, local_path, open_store
from imageloom.stores.local import LocalStore
from imageloom.stores.staging import ScratchFolder
from imageloom.system import disk


class Sink:
    """The folder that a run writes into.

    Args:
        address: address of the folder; it is created if it does not exist.
        source: the source of the items; nothing is written into it.
        scratch: path of a folder for temporary pixel files; empty: the store chooses one.
        adopt: an existing file with the bytes of an output becomes this output. Object stores do so anyway.
        shard: the shard of the run, which others run beside; None: it is the only run.

    Raises:
        UsageError: the sink is the source, or lies inside it; or it cannot adopt files.
        SinkBusy: another run writes into the sink.
        StorageError: the sink cannot be created or written to.
    """

    def __init__(
        self,
        address: str,
        source: Source,
        ledger: Ledger,
        if_exists: IfExists,
        scratch: str = "",
        adopt: bool = False,
        shard: Shard | None = None,
    ) -> None:
        self.store: Store = open_store(address) if is_remote(address) else LocalStore(local_path(address))
        self.address = self.store.address
        self._origin = source.store
        self._source = source.root
        self._ledger = ledger
        self._if_exists = if_exists
        self._scratch = scratch
        self._scratch_folder: ScratchFolder | None = None
        self._protected = source.place
        self._adopt = adopt
        self._compared: dict[str, str] = {}
        """The item of each existing file that is compared with an output."""
        self._times: dict[str, int] = {}
        """Modification times of published local files, in nanoseconds, until they are recorded."""
        self._real_folders: dict[str, str] = {}
        self._lock = -1
        self._shard = shard
        self._shard_lock: ShardLock | None = None
        self._is_new = shard is None and not ledger.knows(self.address)
        self._claimed = NameFilter()
        """The names that this run has claimed in a new sink."""
        self._job = 0
        self._named: set[str] = set()
        """Names that this run has given to outputs of items that are not done."""
        self._lossy: frozenset[str] = frozenset()
        """The items whose outputs do not count as done, because they lack something (--strict-metadata)."""
        self._check()
        if adopt:
            self._check_adopts()

    def _check_adopts(self) -> None:
        if self._if_exists != "error":
            raise UsageError(
                f"--adopt excludes --if-exists {self._if_exists}: it compares the files that exist"
            )
        if not (self.store.is_local or self.store.creates):
            raise UsageError(
                f"--adopt needs a sink in a local folder, an object store or Google Drive, not {self.address}"
            )

    def _check(self) -> None:
        if self._is_protected(self.store.place("")):
            raise UsageError(
                f"the sink {self.address} lies in the source, where imageloom never writes: give another sink"
            )

    def check_recipe(self, recipe: Recipe, template: str) -> None:
        """Check the outputs of a recipe before the run starts.

        Args:
            template: that of the names of outputs which have none of their own.

        Raises:
            UsageError: an output is a folder and the sink is not local, or an output's folder is outside the sink.
            MissingExtra: the library of an output's format is not installed.
        """
        if recipe.metadata == "strict" and not self._is_new:
            self._lossy = self._ledger.lossy(self._source, self.address)
        for output in recipe.outputs:
            if output.format:
                codecs.get(output.format)
            if output.folder:
                check_below(output.folder, f"the folder {output.folder!r} of an output")
        places = [_place(output, template) for output in recipe.outputs]
        if twice := next((place for place in places if places.count(place) > 1), None):
            raise UsageError(
                f"two outputs have the same folder {twice[0]!r}: give each --output another name"
            )
        if not self.store.is_local and any(
            "hash" in fields_of(output.name or template) for output in recipe.outputs
        ):
            raise UsageError(
                f"{{hash}} in names needs a local sink: in {self.address}, an output is published before its "
                "bytes are known here"
            )
        if not self.store.is_local and any(output.format == "zarr" for output in recipe.outputs):
            raise UsageError(
                f"--format zarr needs a local sink: an output is a folder, and {self.address} has no folders"
            )

    def open(self) -> None:
        try:
            if self._scratch and self.store.is_local:
                self._scratch_folder = ScratchFolder(self._scratch)
            self._lock = locking.open_lock(self.store, self._ledger.path)
            locking.take(self._lock, is_shared=bool(self._shard))
            self._shard_lock = share(self.store, self._ledger, self._shard) if self._shard else None
            # From now on, only other shards claim names in it.
            self._is_new = self._shard is None and not self._ledger.knows(self.address)
            self.store.prepare(self._scratch)
        except BlockingIOError:
            self._release()
            running = (job for job in self._ledger.jobs() if job.state == "running")
            holder = next((job for job in running if job.sink == self.address), None)
            who = f"job {holder.id} (process {holder.pid})" if holder else "another run"
            raise SinkBusy(
                f"{who} is writing into {self.address}: wait until it ends, a sink takes one run at a time"
            ) from None
        except StorageError:
            self._release()
            raise
        except OSError as error:
            self._release()
            raise StorageError(f"cannot use the sink {self.address}: {error.strerror}") from None

    @property
    def scratch(self) -> str:
        """Path of this run's folder for temporary pixel files. Valid only while the sink is open."""
        return self._scratch_folder.path if self._scratch_folder else self.store.staging("")

    @property
    def scratch_is_here(self) -> bool:
        """Whether `scratch` is the system's temporary folder, which other machines do not share."""
        return not (self.store.is_local or self._scratch)

    def close(self) -> None:
        if self._lock >= 0:
            self.store.tidy()
        self._release()

    def _release(self) -> None:
        if self._scratch_folder:
            self._scratch_folder.remove()
        self._scratch_folder = None
        if self._shard_lock:
            self._shard_lock.close()
        self._shard_lock = None
        if isinstance(self.store, LocalStore):
            self.store.close()
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def made_of(self, item: Item, recipe: str, outputs: int) -> list[tuple[str, int]]:
        """Names and sizes of the outputs that this recipe made of this version of the item; empty if one is
        missing in the ledger.

        Args:
            outputs: the number of outputs; 0 if it is not known yet.
        """
        if self._is_new or item.key in self._lossy:
            return []
        found = self._ledger.done(self._source, self.address, item, recipe)
        return found if not outputs or len(found) == outputs else []

    def holds(self, made: list[tuple[str, int]]) -> bool:
        """Whether all these outputs exist with these sizes. One of the size 0 was left out. Thread-safe."""
        return bool(made) and all(not size or self.store.size(name) == size for name, size in made)

    def taken(self, names: tuple[str, ...]) -> frozenset[str]:
        """Those of the names that exist in the sink, if that must be known before the processing. Thread-safe."""
        if self.store.creates and self._if_exists == "error":
            return frozenset()
        return frozenset(name for name in names if self.store.exists(name))

    def claim(
        self, job: int, item: Item, recipe: str, names: tuple[str, ...], taken: frozenset[str] | None = None
    ) -> bool | None:
        """Claim the names of outputs for an item.

        Args:
            taken: result of `taken` for the names; None to look now.

        Returns:
            Whether outputs may replace existing files, because these were made from the same item. None if the
            item is skipped, because a file exists (--if-exists skip).

        Raises:
            DuplicateOutput: another item of the source has claimed a name.
            OutputExists: imageloom did not make the file with one of the names, or the file is the input.
        """
        claims = [self._claim_of(name) for name in names]
        for name, claim in zip(names, claims, strict=True):
            if not self._may_write(name, claim, item, taken):
                return None
        for name, claim in zip(names, claims, strict=True):
            if name not in self._compared:
                self._claim(job, item, recipe, name, claim)
        self._job = job
        if self._if_exists == "overwrite":
            return True
        if not any(claims):
            return False
        own = [c is not None and (c.source, c.key) == (self._source, item.key) for c in claims]
        return all(own) and (self.store.is_local or all(c and c.is_filled for c in claims))

    def _claim(self, job: int, item: Item, recipe: str, name: str, seen: Claim | None = None) -> None:
        self._ledger.claim(job, self._source, self.address, item, recipe, name, seen=seen)
        if self._is_new:
            self._claimed.add(name)

    def _claim_of(self, name: str) -> Claim | None:
        """The claim on a name. The ledger is not asked where there can be none."""
        if self._is_new and not self._claimed.may_have(name):
            return None
        return self._ledger.claim_of(self.address, name)

    def _spare_input(self, name: str, item: Item) -> None:
        """Refuse an output that would replace the file that the item links to."""
        target = self._origin.link(item.path)
        if target is not None and target == self._real(name):
            raise OutputExists(f"its output {name} would replace the file that it is read from")

    def _may_write(self, name: str, claim: Claim | None, item: Item, taken: frozenset[str] | None) -> bool:
        is_own = claim is not None and (claim.source, claim.key) == (self._source, item.key)
        exists = is_own or (self.store.exists(name) if taken is None else name in taken)
        if exists or taken is not None:
            self._spare_input(name, item)
        real = self._real(name)
        if self.store.is_local and real != f"{self._real('')}{name}":
            raise OutputExists(
                f"its output {name} would be written to {real}, because a folder of the sink is a "
                "symbolic link: outputs are not written through links"
            )
        if is_own:
            return True
        if claim is not None and self._is_wanted(claim):
            raise DuplicateOutput(f"its output {name} is already the output of {claim.key} (see --name)")
        if self._is_protected(real):
            raise OutputExists(f"its output {name} lies in the source, where imageloom never writes")
        if not exists:
            return True
        if self._adopt:
            if self._compared.setdefault(name, item.key) != item.key:
                raise DuplicateOutput(
                    f"its output {name} is already that of {self._compared[name]} (see --name)"
                )
            return True
        if self._if_exists == "error":
            whose = f"was made from {claim.source}/{claim.key}" if claim else "was not made by imageloom"
            raise OutputExists(f"its output {name} exists and {whose} (--if-exists skip or overwrite)")
        return self._if_exists == "overwrite"

    def _is_wanted(self, claim: Claim) -> bool:
        """Whether another item's claim holds, because its input exists or another shard is processing it."""
        if claim.source == self._source:
            return self._origin.exists(path_and_page(claim.key)[0])
        return self._shard is not None and self._ledger.is_running(claim.job)

    def _is_protected(self, real: str) -> bool:
        return real == self._protected or real.startswith(self._protected.rstrip("/") + "/")

    def _real(self, key: str) -> str:
        """The real path of a name, with links in its folder resolved, but not a link at the name itself."""
        folder, _, name = key.rpartition("/")
        if folder not in self._real_folders:
            self._real_folders[folder] = self.store.place(folder)
        return f"{self._real_folders[folder].rstrip('/')}/{name}"

    def begin(self) -> None:
        """Write the claims into the ledger before a worker can publish an output."""
        if not self.store.is_local and self._ledger.has_claims:
            self._ledger.flush()

    def publish(self, job: int, work: Work, recipe: str, result: Result) -> None:
        """Publish all staged outputs of an item under their names.

        Raises:
            UnwritableOutput: an output could not be published; the item is then not done.
        """
        self.prepare(job, work, recipe, result)
        if self._ledger.has_claims:
            self._ledger.flush()
        self.rename(work, result)

    def prepare(self, job: int, work: Work, recipe: str, result: Result) -> None:
        """Do what must be done with the staged outputs of an item before the ledger is written.

        Raises:
            OutputExists: an existing file differs from an output that it should equal (`Job.adopt`), or a name
                with a digest belongs to somebody else.
            DuplicateOutput: such a name is that of an output of another item.
        """
        if work.hashed:
            self._claim_made(job, work, recipe, result)
        if not self._compared or not isinstance(self.store, LocalStore):
            return
        from imageloom.stores.made import equal_file  # few runs need it

        adopted = [written for written in result.written if written.name in self._compared]
        for written in adopted:
            written_at = equal_file(self.store, written.staged, written.name)
            if written_at is None:
                raise OutputExists(
                    f"its output {written.name} exists, and differs from what this run would write: it is not "
                    "adopted (--if-exists skip or overwrite, without --adopt)"
                )
            self._times[written.name] = written_at
        for written in adopted:
            self._claim(job, work.item, recipe, written.name)

    def _claim_made(self, job: int, work: Work, recipe: str, result: Result) -> None:
        """Claim names that are known only now, because they have digests. A file of such a name that is there has
        the same bytes."""
        names = tuple(written.name for written in result.written)
        if self.claim(job, work.item, recipe, names, taken=frozenset()) is None:
            raise OutputExists(f"its output {names[0]} exists (--if-exists)")

    def rename(self, work: Work, result: Result) -> None:
        """Give all outputs of an item their names. Their claims are in the ledger.

        Raises:
            OutputExists: somebody else has made a file of that name meanwhile.
            DuplicateOutput: an item of another shard has claimed a name meanwhile.
            UnwritableOutput: an output could not be published; the item is then not done.
        """
        if self._shard:
            check_claimed(self._ledger, self.address, self._source, work, result)
        named = list[str]()
        try:
            for written in result.written:
                if written.name in self._compared:
                    self.store.discard(written.staged)
                    continue
                time = self._publish(work, written)
                named.append(written.name)
                if time is not None:
                    self._times[written.name] = time
        except BaseException:
            self._named.update(named)
            raise

    def _publish(self, work: Work, written: Written) -> int | None:
        maker, may_replace = self.maker(work.item.key), work.replace or written.name in self._named
        try:
            return self.store.publish(written.staged, written.name, maker, may_replace)
        except OutputExists:
            claim = self._ledger.claim_of(self.address, written.name)
            if not self.store.is_local or claim is None or claim.job == self._job:
                raise
        return self.store.publish(written.staged, written.name, maker)  # claimed before this run

    def note_named(self, result: Result) -> None:
        """Note that the outputs of an item that is not done have their names."""
        self._named.update(written.name for written in result.written)

    def maker(self, key: str) -> str:
        """The text that identifies an item in the marks of its outputs; see `Store.commit`."""
        return f"{self._source}/{key}"

    def times_of(self, result: Result) -> dict[str, int]:
        """The modification times of an item's published outputs by name, in nanoseconds, as far as they are known.
        They can be asked for once."""
        return {w.name: self._times.pop(w.name) for w in result.written if w.name in self._times}

    def survive_power_cuts(self) -> None:
        """Flush all outputs and the ledger to the disk, in the rounds of a run. Only while the sink is open.

        The outputs in a remote store are durable by its own protocol: an upload that was confirmed is stored.

        Raises:
            StorageError: the disk reported an error.
        """
        self._ledger.survive_power_cuts()
        folder = os.path.dirname(os.path.abspath(self._ledger.path))  # SQLite flushes the names in it
        try:
            if not (isinstance(self.store, LocalStore) and self.store.flushes_all_at(folder)):
                disk.flush_names(folder)
        except OSError as error:
            raise StorageError(f"cannot flush {folder} to the disk: {error.strerror}") from None

    def flush(self, staged: list[Result], renamed: list[Result]) -> None:
        """Flush the content of staged outputs and the names of renamed ones to the disk.

        Raises:
            UnwritableOutput: the disk reported an error, so none of them may be relied on.
        """
        if isinstance(self.store, LocalStore):
            tokens = [written.staged for result in staged for written in result.written]
            self.store.flush(tokens, [written.name for result in renamed for written in result.written])

    def discard(self, result: Result) -> None:
        for written in result.written:
            self.store.discard(written.staged)


def _place(output: Output, template: str) -> tuple[str, ...]:
    """What tells the names of an output from those of another one."""
    name = output.name or template
    width = str(output.width) if "width" in fields_of(name) else ""
    return output.folder, output.format or "", name, width, output.when
