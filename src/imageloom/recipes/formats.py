"""The formats that users name."""

from __future__ import annotations

from imageloom import codecs
from imageloom.errors import PipelineError
from imageloom.model import Format


def parse_format(name: str) -> Format:
    """The format with this name or file suffix.

    Raises:
        PipelineError: there is no such format (the message lists the known formats), or it can only be read.
        UsageError: its plug-in cannot be loaded.
    """
    found = codecs.format_of(f".{name.lower()}")
    if found is None and name.lower() in codecs.CODECS:
        found = codecs.get(name.lower()).format
    if found is None:
        known = ", ".join(codecs.CODECS.names())
        raise PipelineError(f"there is no format {name!r}; there are: {known}")
    if codecs.get(found).written != found:
        raise PipelineError(f"{found} files can be read but not written: choose another format, such as png")
    return found
