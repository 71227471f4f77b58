"""How an image is made from its file or its pixels: the plan, the pixels and the encoded file.

Steps are planned together with the decoder and the encoder, by the functions that workers use. So an image that is
opened, processed and saved has the bytes that a job writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from imageloom import codecs
from imageloom.codecs.metadata import NO_METADATA, Metadata
from imageloom.codecs.stated import colours_of
from imageloom.errors import ImageloomError, LimitExceeded, UnsupportedImage, UsageError
from imageloom.model import Format, Frame, Header, Item, Limits, Output, Pixels, Recipe, Step, Task, Work
from imageloom.recipes.plan import Plan, check_limits, make_plan
from imageloom.records.faults import blamed_on
from imageloom.system.machine import half_of_memory
from imageloom.worker import items


@dataclass(frozen=True, eq=False)
class Origin:
    """What an image is made from: a file in memory, or pixels."""

    name: str
    """For messages; empty if it has none."""
    header: Header
    recipe: Recipe
    """How a file is decoded. It has no outputs."""
    limits: Limits
    data: bytes = b""
    pixels: Pixels | None = None
    """Not of a file: these pixels, with this metadata."""
    metadata: Metadata = NO_METADATA

    @classmethod
    def of_file(
        cls, name: str, data: bytes, page: int = 1, recipe: Recipe | None = None, limits: Limits | None = None
    ) -> Origin:
        """The origin of an image in a file.

        Args:
            page: number of the page, from 1.

        Raises:
            CorruptImage, UnsupportedImage: it is no image that can be decoded.
            LimitExceeded: the image is over a limit.
        """
        recipe, limits = recipe or Recipe(()), limits or Limits()
        with blamed(name):
            header = codecs.header_of(data, page - 1, recipe.density)
            check_limits(header, limits, len(data))
        return cls(name, header, recipe, limits, data)

    @classmethod
    def of_pixels(cls, pixels: Pixels, metadata: Metadata) -> Origin:
        """The origin of an image in memory."""
        flat = pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
        frame = Frame.of(flat)
        header = Header("tiff", frame, colours=colours_of(metadata, frame.channels))
        return cls("", header, Recipe(()), Limits(), pixels=flat.copy(), metadata=metadata)

    def recipe_for(self, steps: tuple[Step, ...], format: Format | None = None, **output: Any) -> Recipe:
        """The recipe that makes one output of the image.

        Args:
            format: None: the format of its file.
            output: other fields of the `Output`.
        """
        return replace(self.recipe, outputs=(Output(steps, format=format, **output),))

    def recipe_to_show(self, steps: tuple[Step, ...]) -> Recipe:
        """The recipe that makes the pixels: for the format of the file, or for TIFF if that cannot hold them.

        Raises:
            OperatorRefused: a step does not accept its input.
            UnsupportedImage: no format can hold them.
        """
        recipe = self.recipe_for(steps)
        try:
            self.plan(recipe)
        except UnsupportedImage:
            recipe = self.recipe_for(steps, "tiff")
            self.plan(recipe)
        return recipe

    def plan(self, recipe: Recipe) -> Plan:
        """The plan of a recipe of this image.

        Raises:
            OperatorRefused: a step does not accept its input.
            UnsupportedImage: the format cannot hold the pixels.
        """
        with blamed(self.name):
            return make_plan(self.header, recipe)

    def stored_metadata(self) -> Metadata:
        """The metadata of the file.

        Raises:
            ItemError: it is damaged.
        """
        if self.pixels is not None:
            return self.metadata
        return codecs.read_metadata(self.data, self.header.format, self.header.page)

    def make(self, recipe: Recipe) -> items.Chunk:
        """The pixels of the output of a recipe, with what belongs to them.

        Raises:
            ItemError: the file cannot be decoded, or an operator failed.
            LimitExceeded: there is not enough memory.
        """
        plan = self.plan(recipe)
        needs, most = plan.bytes + len(self.data), half_of_memory()
        if needs > most:
            raise LimitExceeded(
                f"it needs {needs:,} bytes of memory, over the limit of {most:,}, half of this machine's memory: "
                "imageloom.process works in tiles"
            )
        task = self._task(recipe)
        if self.pixels is None:
            chunk = items.load(task, task.work[0], self.data, _no_lap)
        else:
            metadata = NO_METADATA if recipe.metadata == "strip" else self.metadata
            profile = self.metadata.icc if plan.needs_profile else b""
            chunk = items.Chunk((self.pixels,), self.header, metadata, profile=profile)
        return items.run_filters(task, chunk, _no_lap)

    def encode(self, recipe: Recipe, chunk: items.Chunk) -> tuple[bytes | dict[str, bytes], items.About]:
        """The file of the output of a recipe, or a folder as a mapping of relative paths to contents.

        Args:
            chunk: what `make` returns.

        Raises:
            MetadataLost: the recipe is strict, and the format cannot hold something.
            ItemError: the pixels cannot be encoded.
        """
        encoded, about = items.encode(self._task(recipe), chunk, _no_lap)
        assert isinstance(about, items.About)
        assert not isinstance(encoded, items.About)
        return encoded if isinstance(encoded, bytes) else dict(encoded), about

    def _task(self, recipe: Recipe) -> Task:
        work = Work(Item(self.name, len(self.data)), (), 1, header=self.header)
        return Task(0, "", "", "", recipe, self.limits, (work,))


@contextmanager
def blamed(name: str) -> Iterator[None]:
    """Convert exceptions to errors of imageloom whose messages name the file.

    Args:
        name: of the file; empty if it has none.
    """
    try:
        with blamed_on(name or "the image"):
            yield
    except ImageloomError as error:
        text = str(error)
        if not name or isinstance(error, UsageError) or text.startswith(f"{name}: "):
            raise
        named = error.__class__.__new__(error.__class__)
        named.args = (f"{name}: {text}",)
        raise named from error


def _no_lap(stage: str) -> None:
    pass
