"""A run with workers that lie, and what must hold of it whatever they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from imageloom.testing import lies
from program import contents, draw, imageloom

IN_TWOS = [
    sys.executable,
    "-c",
    "from imageloom.recipes import plan; plan.BATCH_ITEMS = 2; from imageloom.cli import main; main()",
]
"""The program with two items in each task."""
PIPELINE = "resize 48x"


class Case:
    """Photos, honest ones and those that are lied about, and files beside the sink that nobody may touch."""

    def __init__(
        self,
        folder: Path,
        honest: int,
        told: Iterable[tuple[str, str]] = (),
        pipeline: str = PIPELINE,
        expected: str = PIPELINE,
    ) -> None:
        self.folder, self.photos, self.out = folder, folder / "photos", folder / "out"
        names = [lies.name_of(field, value, once=n % 5 == 0) for n, (field, value) in enumerate(told)]
        self.honest = [f"honest-{number}.jpg" for number in range(honest)]
        self.lies = len(names)
        for number, name in enumerate([*self.honest, *names]):
            draw(self.photos / name, number, 64, 48)
        self.pipeline = expected
        self.run("serial", "expected")
        self.pipeline = pipeline
        canaries = ("canary/beside.jpg", "beside.jpg", "other/.imageloom/2-1-1-0123456789ab-0")
        for name in canaries:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"nobody touches it")
        self._before = {path: path.read_bytes() for path in self._untouched(canaries)}

    def _untouched(self, canaries: Iterable[str]) -> list[Path]:
        return [*(self.folder / name for name in canaries), *self.photos.iterdir()]

    def run(self, engine: str, out: str = "out", *flags: object, bound: float = 60.0) -> None:
        """Run the program over the photos; it is to end by itself."""
        began = time.monotonic()
        command = [
            *IN_TWOS,
            "run",
            self.pipeline,
            self.photos,
            self.folder / out,
            "--engine",
            engine,
            "--json",
        ]
        command += ["--ledger", self.folder / f"{engine}.db", *flags]
        self.ran = subprocess.run(
            [str(word) for word in command],
            env={**os.environ, "IMAGELOOM_CANARY": str(self.folder / "canary"), "IMAGELOOM_LIES": engine},
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=bound,
            check=False,
        )
        self.seconds = time.monotonic() - began

    def check(self) -> None:
        """Each item is published right or has failed by name, and nothing else was touched."""
        ran = self.ran
        assert ran.returncode in (0, 1), ran.stderr
        said = [json.loads(line) for line in ran.stdout.splitlines()]
        self.check_files({one["item"] for one in said if one.get("event") == "failed"})
        assert "Traceback" not in ran.stderr, ran.stderr
        assert "\x1b" not in ran.stderr, ran.stderr

    def check_files(self, failed: set[str]) -> None:
        """What is on the disk, where those items have failed."""
        assert {path: path.read_bytes() for path in self._before} == self._before
        assert not (self.out / ".imageloom").exists()
        made, right = contents(self.out), contents(self.folder / "expected")
        assert made == {name: right[name] for name in made}
        assert made.keys() | failed == right.keys()
        assert not made.keys() & failed
        jobs = imageloom("jobs", "--ledger", next(self.folder.glob("*.db")))
        assert jobs.returncode == 0, jobs.stderr

    @property
    def published(self) -> set[str]:
        return set(contents(self.out))
