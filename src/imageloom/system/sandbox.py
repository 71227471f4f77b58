"""The settings of sandboxed decoding. Plain data.

A child process can do nothing but decode, run operators and encode. This is what is processed where:

| setting                            | in the worker's own process           | in a child                   |
|------------------------------------|---------------------------------------|------------------------------|
| `--sandbox auto`, the default      | JPEG, PNG, BMP and PNM (see below)    | other items                  |
| `--sandbox auto` of a server       | nothing                               | each item                    |
| `--sandbox require`                | nothing                               | each item                    |
| `--untrusted`                      | nothing                               | each item in a new child     |
| `--sandbox off`                    | each item                             | nothing                      |

It is the same on all engines. An item of the short list is processed in a child too if there are files of
operators, if LittleCMS converts from a profile in the file, or if an attempt at it has failed. The workers of most
engines are processes that are supervised in any case; with a child, a hostile file cannot use their rights. A
codec is on the list (`in_process = True`) if its decoder is simple, or has been fuzzed for years by others:

- JPEG: libjpeg-turbo, the decoder of the browsers, fuzzed all the time by OSS-Fuzz;
- PNG: libpng or libspng, as OpenCV has it, fuzzed all the time by OSS-Fuzz too;
- BMP and PNM: our own decoders, in Python and NumPy, where each access is checked.
"""

from __future__ import annotations

import sys
from typing import Literal

import msgspec

Mode = Literal["require", "auto", "off"]
"""Whether items are decoded in sandboxed processes: always, and the kernel must be able to restrict them; with the
restrictions that the kernel has, except for formats of a short list; or never."""


class Sandbox(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the items of a job are decoded. It changes no result."""

    mode: Mode = "off"
    untrusted: bool = False
    """The files may be hostile: each is decoded in a new process."""
    shortcut: bool = False
    """Items whose codec allows it are processed in the worker's own process: see above."""
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
        mode = max(self.mode, other.mode, key=order.index)
        return Sandbox(
            mode,
            self.untrusted or other.untrusted,
            mode == "auto" and all(one.shortcut for one in (self, other) if one.mode != "off"),
            min(times, default=0.0),
            min(limits, default=0),
        )
