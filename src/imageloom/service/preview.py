"""What a recipe makes of a sample image, and what the plan says about it, without a job.

A preview runs on the service's engine, in its sandbox and within its limits. Images are reduced for a screen.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from msgspec.structs import replace

from imageloom import codecs, operators
from imageloom.driver.run import Driver
from imageloom.driver.source import Source
from imageloom.errors import ServerBusy, UnknownName, UnreadableItem, UsageError
from imageloom.model import Item, Job, Output, Plain, Recipe, path_and_page
from imageloom.recipes import plan
from imageloom.recipes.explain import explain
from imageloom.recipes.files import files_of
from imageloom.recipes.pipeline import Pipeline
from imageloom.records.events import Event, Failed
from imageloom.records.faults import blamed_on
from imageloom.records.ledger import Ledger
from imageloom.service.flows import Rules
from imageloom.service.sample import sample as drawn
from imageloom.service.turns import FlowEngine, Turns
from imageloom.stores.names import check_output_name
from imageloom.system.private import private_folder

SIDE = 960
SMALL = 160
"""Longer side of a preview, and of a thumbnail, in pixels."""
PICTURED = {
    "gaussian_blur": "gaussian_blur 3",
    "motion_blur": "motion_blur 15",
    "crop": "crop 120x80+40+60",
    "resize": "resize 120x120 fit=cover",
    "brightness": "brightness 60",
    "contrast": "contrast 1.6",
    "gamma": "gamma 0.5",
    "pad": "pad 20 color=#ffffff",
}
"""What the example picture shows, of operators whose first example shows little of a small picture."""
EXAMPLE_SIDE = 240
"""Longer side of the example picture of an operator."""
MOST_SAMPLES = 24
MOST_PREVIEWS = 4
"""Maximum number of previews at the same time."""
MOST_OUTPUTS = 8
"""Maximum number of outputs that are shown."""
MOST_WAITING = 12
"""Maximum number of previews that are made or wait."""


class Shown(Plain, frozen=True, forbid_unknown_fields=False):
    """One output of a sample, reduced for a screen."""

    name: str
    """The output's folder; empty for a recipe with one output."""
    image: bytes
    """WebP."""


class Preview(Plain, frozen=True, forbid_unknown_fields=False):
    """What a recipe makes of a sample."""

    sample: str
    plan: tuple[str, ...]
    """What is done, and why, one line each."""
    before: bytes
    """The sample as WebP."""
    after: tuple[Shown, ...]


class Previewer:
    """Makes previews and thumbnails.

    Args:
        folder: a private folder for temporary files. It must be below a root of the engine's guard.
    """

    def __init__(self, rules: Rules, turns: Turns, folder: Path, roots: tuple[str, ...]) -> None:
        self._rules, self._folder, self._roots = rules, folder, roots
        self._engine = FlowEngine(turns, "preview", is_urgent=True)
        self._places = threading.BoundedSemaphore(MOST_PREVIEWS)
        self._waiting = threading.BoundedSemaphore(MOST_WAITING)
        self._examples: dict[str, bytes] = {}
        shutil.rmtree(folder, ignore_errors=True)  # of a service that was killed
        private_folder(folder)

    def samples(self, source: str) -> tuple[str, ...]:
        """Some images of a source.

        Raises:
            TaskRefused, StorageError: the source is not below a root, or cannot be listed.
        """
        self._rules.check_places(source, source)
        found = islice(iter(Source(source, links="inside", roots=self._roots)), 4 * MOST_SAMPLES)
        return tuple(entry.key for entry in found if isinstance(entry, Item))[:MOST_SAMPLES]

    def preview(self, source: str, recipe: Recipe, sample: str = "") -> Preview:
        """A preview.

        Args:
            sample: the key of the image; empty for the first one of the source.

        Raises:
            UnknownName: there is no such image, or none at all.
            ImageloomError: the image cannot be processed.
        """
        key = sample or next(iter(self.samples(source)), "")
        if not key:
            raise UnknownName("the source has no image yet")
        lines = self._explain(source, recipe, key)
        outputs = recipe.outputs[:MOST_OUTPUTS]
        found = self._make(self._source(source, key), recipe, outputs, SIDE)
        shown = tuple(Shown(output.folder, image) for output, image in zip(outputs, found[1:], strict=True))
        return Preview(key, lines, found[0], shown)

    def thumbnail(self, source: str, key: str) -> bytes:
        """A thumbnail as WebP, also of a damaged image, if it can be decoded in part.

        Raises:
            ImageloomError: it cannot.
        """
        return self._make(self._source(source, key), Recipe((), damage="salvage"), (), SMALL)[0]

    def picture(self, address: str, key: str) -> bytes:
        """An input or an output as WebP, reduced for a screen.

        Raises:
            ImageloomError: it cannot be decoded.
        """
        return self._make(self._source(address, key), Recipe(()), (), SIDE)[0]

    def example(self, name: str) -> bytes:
        """What an operator makes of a drawn landscape, as WebP; without a name, the landscape itself.

        Raises:
            UsageError: there is no such operator, or it has no example.
            ImageloomError: it cannot be run.
        """
        found = self._examples.get(name)
        if found is None:
            place = self._folder / "sample.png"
            if not place.exists():
                place.write_bytes(drawn())
            source = Source(str(place), links="inside", roots=(str(self._folder),))
            recipe = self._rules.recipe(pictured(name)) if name else Recipe(())
            found = self._make(source, recipe, recipe.outputs, EXAMPLE_SIDE)[-1]
            self._examples[name] = found
        return found

    def _explain(self, address: str, recipe: Recipe, key: str) -> tuple[str, ...]:
        source = self._source(address, key)
        with blamed_on(key):
            (item,) = source
            if not isinstance(item, Item):
                raise UnreadableItem(item.failure.message)
            head = source.store.head
            header = codecs.read_header(
                lambda length: head(item.key, length), item.size, lambda at, n: head(item.key, n, at)
            )
            plan.check_limits(header, Job("", "", recipe).limits, item.size)
            return tuple(explain(header, recipe, item.size))

    def _source(self, address: str, key: str) -> Source:
        """The source with one image.

        Raises:
            UnknownName: there is no such image.
        """
        self._rules.check_places(address, address)
        key = path_and_page(key)[0]
        check_output_name(key)
        whole = Source(address, links="inside", roots=self._roots)
        if whole.is_file or whole.store.find(key) is None:
            raise UnknownName(f"there is no image {key!r:.200}")
        place = f"{whole.root.rstrip('/')}/{key}"
        self._rules.check_places(place, place)
        return Source(place, links="inside", roots=self._roots)

    def _make(self, source: Source, recipe: Recipe, outputs: tuple[Output, ...], side: int) -> list[bytes]:
        """The image itself, and what each output makes of it, all reduced."""
        last = Pipeline.parse(f"resize {side}x{side} fit=inside enlarge=false").steps
        made = tuple(
            Output((*steps, *last), str(number), "webp", 85)
            for number, steps in enumerate(((), *(output.steps for output in outputs)))
        )
        with self._place() as folder:
            job = Job(
                source.place,
                str(folder / "out"),
                replace(recipe, outputs=made, metadata="strip", gain_map="drop", pages="first"),
                name="{stem}.{ext}",
                links="inside",
                attempts=1,
                sandbox=self._rules.guard.sandbox,
            )
            failures: list[str] = []

            def note(event: Event) -> None:
                if isinstance(event, Failed) and event.result.failure:
                    failures.append(event.result.failure.message)

            with Ledger(folder / "none.db", scratch=True) as ledger:
                Driver(job, self._engine, ledger, "preview", [note], source).run()
            if failures:
                raise UnreadableItem(failures[0])
            files = [next((folder / "out" / str(number)).iterdir()) for number in range(len(made))]
            return [file.read_bytes() for file in files]

    @contextmanager
    def _place(self) -> Iterator[Path]:
        """A temporary folder, for one preview of few.

        Raises:
            ServerBusy: too many are made at the same time.
        """
        if not self._waiting.acquire(blocking=False):
            raise ServerBusy(f"{MOST_WAITING} previews are made or wait, the maximum: try again later")
        try:
            with self._places:
                folder = Path(tempfile.mkdtemp(prefix="preview-", dir=self._folder))
                try:
                    yield folder
                finally:
                    shutil.rmtree(folder, ignore_errors=True)
        finally:
            self._waiting.release()


def pictured(name: str) -> str:
    """The step of which the example picture of an operator is made.

    Raises:
        UsageError: there is no such operator, or it has no example.
    """
    found = next((one for one in operators.operators() if one.name == name), None)
    if found is None or not found.examples:
        raise UsageError(f"there is no operator {name!r:.80} with an example")
    text = PICTURED.get(name, found.examples[0])
    if any(files_of(Recipe((Output(Pipeline.parse(text).steps),)))):
        raise UsageError(f"the example of {name} needs a file: it has no picture")
    return text
