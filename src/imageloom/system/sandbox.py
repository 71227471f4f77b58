"""The settings of sandboxed decoding. Plain data."""

from __future__ import annotations

import sys
from typing import Literal

import msgspec

Mode = Literal["require", "auto", "off"]
"""Whether items are decoded in sandboxed processes: always, and the kernel must be able to restrict them; always,
with the restrictions that the kernel has; or never."""


class Sandbox(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the items of a job are decoded. It changes no result."""

    mode: Mode = "off"
    untrusted: bool = False
    """The files may be hostile: each is decoded in a new process."""
    shortcut: bool = False
    """Formats whose codec allows it are decoded in the worker's own process if there is no file of operators. For
    the engines `threads`, `serial` and `pipeline`."""
    timeout: float = 0.0
    """Time-out of one item in its process, in seconds; 0 for none."""
    memory: int = 0
    """Maximum memory of one item in bytes, beyond what a process needs; 0: half of the machine's memory."""

    @property
    def is_on(self) -> bool:
        return self.mode != "off" and sys.platform == "linux"

    def stricter(self, other: Sandbox) -> Sandbox:
        """The stricter of two settings, item by item."""
        order: tuple[Mode, ...] = ("off", "auto", "require")
        limits = [limit for limit in (self.memory, other.memory) if limit]
        times = [time for time in (self.timeout, other.timeout) if time]
        return Sandbox(
            max(self.mode, other.mode, key=order.index),
            self.untrusted or other.untrusted,
            self.shortcut and (other.shortcut or not other.is_on),
            min(times, default=0.0),
            min(limits, default=0),
        )
