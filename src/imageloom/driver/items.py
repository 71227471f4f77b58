"""What a run needs to know of each item beside its header: the fields that names and steps of its recipe use."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from imageloom.driver.naming import is_plain, item_facts, output_name, output_names
from imageloom.model import Header, Item, Job
from imageloom.recipes import fields
from imageloom.recipes.resolving import has_conditions
from imageloom.recipes.resolving import is_plain as has_plain_steps


class ItemNames:
    """The names of the outputs of items, and their headers with the fields that steps need."""

    def __init__(self, job: Job) -> None:
        recipe = job.recipe
        self._job = job
        self._of_steps = {name for output in recipe.outputs for step in output.steps
                          for name in fields.step_fields(step)} - {"width", "height", "format"}  # fmt: skip
        names = [output.name or job.name for output in recipe.outputs]
        self._of_names = {field for name in names for field in fields.fields_of(name)}
        self._is_plain = all(map(has_plain_steps, recipe.outputs)) and all(is_plain(name) for name in names)
        self._needs_exif = any(name.startswith("exif.") for name in self._of_steps | self._of_names)
        self.varies = has_conditions(recipe)
        """The number of outputs depends on the item."""
        self.hashed = "hash" in self._of_names
        """The names have digests of the outputs' bytes."""

    def of(self, item: Item, header: Header, exif: Callable[[], bytes]) -> tuple[Header, tuple[str, ...]]:
        """The header of an item with the fields that the steps need, and the names of its outputs.

        Args:
            exif: reads the EXIF block of the item's file.

        Raises:
            ItemError: see `naming.output_names`.
        """
        job = self._job
        if self._is_plain:
            outputs = job.recipe.outputs
            return header, tuple(
                [output_name(item.key, header.format, output, output.name or job.name) for output in outputs]
            )
        block = exif() if self._needs_exif else b""
        if self._of_steps:
            facts = item_facts(item.key, block, self._of_steps)
            header = replace(header, facts=tuple(sorted(facts.items())))
        found = item_facts(item.key, block, self._of_names)
        return header, tuple(output_names(item.key, header, job.recipe, job.name, found))
