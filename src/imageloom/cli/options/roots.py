"""The folders that workers, nodes and servers may use."""

from __future__ import annotations

import os

from imageloom.errors import UsageError


def check_roots(roots: tuple[str, ...]) -> None:
    """Raise a UsageError if a root is a local folder that does not exist."""
    for root in roots:
        if "://" not in root and not os.path.isdir(root):
            raise UsageError(
                f"--root {root}: there is no such folder; give an existing folder, such as --root /data/photos"
            )
