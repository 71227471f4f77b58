"""The sink of a run that replaces its inputs."""

from __future__ import annotations

from imageloom.driver.sink import Sink
from imageloom.errors import MetadataLost, OutputExists, UsageError
from imageloom.model import Item, Recipe, Result, Thing, Work
from imageloom.stores.local import LocalStore

_PAGES: frozenset[Thing] = frozenset(("animation", "pages"))


class InPlace(Sink):
    """The sink of a run with --in-place: each output replaces its input.

    The fingerprint of the output is recorded before the rename. A file with this fingerprint is done and never
    processed twice, even if the program is killed at any moment.
    """

    def _check(self) -> None:
        """Check that the sink is a local folder. It may be the source."""
        if not isinstance(self.store, LocalStore):
            raise UsageError(f"--in-place needs a local folder, not {self.address}: give a sink instead")
        self._folder = self.store
        self._seen: dict[str, int] = {}
        """For each output to be renamed, when the file that it replaces was last changed."""

    def check_recipe(self, recipe: Recipe, template: str) -> None:
        super().check_recipe(recipe, template)
        self._first_only = recipe.pages == 1

    def _spare_input(self, name: str, item: Item) -> None:
        if name != item.key:
            raise OutputExists(f"--in-place: its output must keep the input's name, not be named {name}")
        self._folder.check_alone(name)

    def taken(self, names: tuple[str, ...]) -> frozenset[str]:
        return frozenset()

    def claim(
        self, job: int, item: Item, recipe: str, names: tuple[str, ...], taken: frozenset[str] | None = None
    ) -> bool | None:
        if len(names) > 1:
            raise OutputExists("--in-place allows only one output per item")
        self._spare_input(names[0], item)
        return True

    def prepare(self, job: int, work: Work, recipe: str, result: Result) -> None:
        """Give the staged output the attributes of the input, and record its fingerprint.

        Raises:
            MetadataLost: the input has other pages, and the job does not ask for the first one.
        """
        lost = sorted(_PAGES.intersection(result.dropped))
        if lost and not self._first_only:
            raise MetadataLost(
                f"--in-place would remove all but its first picture ({lost[0]}): give a sink, or --pages 1"
            )
        if not result.written:  # left out: the file stays
            item, key = work.item, work.item.key
            self._ledger.claim(job, self._source, self.address, item, recipe, key, item.size)
            return
        (written,) = result.written
        made, self._seen[written.staged] = self._folder.take_over(written.staged, work.item)
        self._ledger.claim(job, self._source, self.address, made, recipe, work.item.key, made.size)

    def rename(self, work: Work, result: Result) -> None:
        """Replace the input, if it is still as it was when its attributes were copied."""
        if not result.written:
            return
        (written,) = result.written
        self._folder.check_unchanged(work.item.key, self._seen.pop(written.staged))
        self.store.publish(written.staged, work.item.key)

    def discard(self, result: Result) -> None:
        super().discard(result)
        for written in result.written:
            self._seen.pop(written.staged, None)
