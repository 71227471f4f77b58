"""Optional libraries of codecs."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from imageloom.errors import MissingExtra


def library(name: str, what: str, extra: str) -> Any:
    """Import an optional library.

    Args:
        name: the module's name.
        what: the feature that needs it, for the message.
        extra: the extra of imageloom that installs it.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtra(what, extra) from None


def installed(name: str, what: str, extra: str) -> None:
    """Check that an optional library is installed, without importing it.

    Raises:
        MissingExtra: it is not.
    """
    if importlib.util.find_spec(name) is None:
        raise MissingExtra(what, extra)
