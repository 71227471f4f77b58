"""Writes the manifests of a run that has ended."""

from __future__ import annotations

import os
from collections.abc import Sequence

from imageloom.driver.manifest import as_html, as_json, check_manifest
from imageloom.driver.run import Driver
from imageloom.errors import UsageError
from imageloom.interface import files


def check_manifests(paths: Sequence[str]) -> None:
    """Check the files of the manifests before the run.

    Raises:
        UsageError: a name has another suffix than .json and .html, or its folder does not exist.
    """
    for path in paths:
        check_manifest(path)
        folder = os.path.dirname(os.path.abspath(path))
        if not os.path.isdir(folder):
            raise UsageError(f"--manifest {path}: there is no folder {folder}")


def write_manifests(driver: Driver, paths: Sequence[str], sizes: str) -> None:
    """Write the manifests of a run.

    Args:
        sizes: the attribute `sizes` of the pictures in HTML.

    Raises:
        StorageError: a file cannot be written.
    """
    if not paths:
        return
    found = driver.manifest()
    for path in paths:
        is_html = path.lower().endswith(".html")
        files.write(path, as_html(found, sizes) if is_html else as_json(found))
