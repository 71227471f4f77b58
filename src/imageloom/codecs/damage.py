"""Damage of a file that does not prevent its decoding, and whether it is accepted."""

from __future__ import annotations

from collections.abc import Iterable

from imageloom.errors import CorruptImage
from imageloom.model import MISSING, MOST_WARNINGS, Damage


class DamageLog:
    """Collects the damage that a decoder finds in one file.

    Args:
        policy: which damage is accepted, see `model.Damage`.
    """

    def __init__(self, policy: Damage = "warn") -> None:
        self.policy = policy
        self._found: dict[str, None] = {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """The damage that was accepted, each once, in the order in which it was found."""
        return tuple(self._found)[:MOST_WARNINGS]

    def add(self, warnings: Iterable[str]) -> None:
        """Add the warnings about another part of the file."""
        self._found.update(dict.fromkeys(warnings))

    def repaired(self, what: str) -> None:
        """Report damage that leaves all pixels as they are: "a stray byte between segments".

        Raises:
            CorruptImage: the policy is "refuse".
        """
        if self.policy == "refuse":
            raise CorruptImage(f"the file is damaged: {what} (--damage refuse)")
        self._found[what] = None

    def missing(self, what: str) -> None:
        """Report damage by which pixels are missing or wrong: "the last 12 of 480 rows are missing".

        Raises:
            CorruptImage: the policy is not "salvage".
        """
        if self.policy != "salvage":
            raise CorruptImage(f"the file is damaged: {what} (--damage salvage accepts it)")
        self._found[f"{MISSING}{what}"] = None
