"""Other programs that resize photos, with their usual command lines, if they are installed."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

from imageloom.bench import programs
from imageloom.bench.records import Peer
from imageloom.bench.rounds import Say, warmed
from imageloom.bench.work import Work

SCRIPTS = Path(__file__).parent / "scripts"
QUALITY = 85
"""Quality for all programs, the same as imageloom's default."""
_BATCH = 32
"""Number of files per process, for programs that accept several files."""
_TOOLS = {
    "vipsthumbnail": "vipsthumbnail --size {width}x{height}! -o {out}/%s.jpg[Q={quality}]",
    "mogrify": "mogrify -path {out} -resize {width}x{height}! -quality {quality}",
    "gm": "gm mogrify -output-directory {out} -resize {width}x{height}! -quality {quality}",
}
_SCRIPTS = {
    "OpenCV script": "opencv_threads.py",
    "simplejpeg script": "simplejpeg_threads.py",
    "Pillow script": "pillow_draft.py",
}


def run_peers(work: Work, workers: int, repeats: int, say: Say) -> tuple[list[Peer], dict[str, str]]:
    """Run the programs in turn, in several rounds. Returns the results, and by name why a program was not run."""
    size = re.fullmatch(r"resize (\d+)x(\d+)", work.pipeline.strip())
    if size is None:
        return [], {"peers": f"they only do 'resize WIDTHxHEIGHT', not {work.pipeline!r}"}
    commands, missing = _commands(work, int(size[1]), int(size[2]), workers)
    taken: dict[str, list[programs.Taken]] = {name: [] for name in commands}
    for number in warmed(repeats):
        for name in list(commands):
            say(f"peers, round {number} of {repeats}: {name}")
            work.clear()
            work.out.mkdir()
            once = programs.take(commands[name])
            made = sum(1 for _ in work.out.iterdir())
            if once.code or made != work.count:
                missing[name] = f"it failed: {once.errors.strip()[-200:] or f'it made {made} files'}"
                del commands[name]
            elif number:
                taken[name].append(once)
    peers = [
        Peer(name, workers, [t.seconds for t in taken[name]], [t.cpu for t in taken[name]])
        for name in commands
    ]
    return peers, missing


def _commands(
    work: Work, width: int, height: int, workers: int
) -> tuple[dict[str, list[str]], dict[str, str]]:
    found: dict[str, list[str]] = {}
    missing: dict[str, str] = {}
    for name, script in _SCRIPTS.items():
        arguments = [str(work.photos), str(work.out), f"{width}x{height}", str(workers)]
        found[name] = [sys.executable, str(SCRIPTS / script), *arguments]
    for name, line in _TOOLS.items():
        if shutil.which(name) is None:
            missing[name] = "it is not installed"
            continue
        tool = line.format(out=shlex.quote(str(work.out)), width=width, height=height, quality=QUALITY)
        names = f"find {shlex.quote(str(work.photos))} -type f -print0"
        found[name] = ["sh", "-c", f"{names} | xargs -0 -n {_BATCH} -P {workers} {tool}"]
    return found, missing
