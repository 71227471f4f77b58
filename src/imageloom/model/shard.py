"""A share of a source, so that several runs work on it together."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta

from imageloom.errors import UsageError
from imageloom.model.image import Plain

MOST_SHARDS = 65_536


class Shard(Plain, frozen=True):
    """One of several shares of the items of a source. An item belongs to one of them, by its key alone."""

    number: Annotated[int, Meta(ge=1, le=MOST_SHARDS)]
    """From 1 to `count`."""
    count: Annotated[int, Meta(ge=1, le=MOST_SHARDS)]

    @classmethod
    def of(cls, text: str) -> Shard:
        """The shard of a text such as 3/16.

        Raises:
            UsageError: the text is not one of that form, or its numbers are out of range.
        """
        found = re.fullmatch(r"([0-9]{1,5})/([0-9]{1,5})", text.strip())
        if not found or not 1 <= int(found[1]) <= int(found[2]) <= MOST_SHARDS:
            raise UsageError(
                f"{text!r} is not a shard: give NUMBER/COUNT, such as 3/16, with 1 <= NUMBER <= COUNT <= "
                f"{MOST_SHARDS:,}"
            )
        return cls(int(found[1]), int(found[2]))

    def has(self, key: str) -> bool:
        """Whether the item with this key belongs to the shard. The answer is the same on all machines and in all
        versions, for it decides which run processes an item."""
        import hashlib  # few runs have shards

        digest = hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest) % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"
