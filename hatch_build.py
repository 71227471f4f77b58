"""Puts a software bill of materials into the wheel (PEP 770): the file that IMAGELOOM_SBOM names, if it is set."""

from __future__ import annotations

import os
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class SbomHook(BuildHookInterface[Any]):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name == "wheel" and (path := os.environ.get("IMAGELOOM_SBOM")):
            build_data["sbom_files"].append(os.path.relpath(path, self.root))
