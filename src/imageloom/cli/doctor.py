"""`imageloom doctor`."""

from __future__ import annotations

import platform
import re
from collections import defaultdict
from pathlib import Path

import click

from imageloom.cli import options
from imageloom.cli.text import say, say_json


@click.command("doctor", short_help="Find and remove what a power cut left, and describe this machine.")
@click.argument("folders", nargs=-1, metavar="[FOLDER]...", type=click.Path(file_okay=False))
@click.option("--remove", "remove_", is_flag=True, help="Remove what is found.")
@options.ledger_option
@click.option(
    "--json", "json_", is_flag=True, help="One JSON object for each thing that is found, on stdout."
)
def command(folders: tuple[str, ...], remove_: bool, ledger: Path | None, json_: bool) -> int:
    """Describe this machine, and find what a run that was killed has left: staged files and scratch in the
    ledger's sinks and scratch folders and in each FOLDER, jobs that seem to run, shared memory. Nothing that a
    running job uses is touched, and nothing that imageloom has not made.

    \b
    imageloom doctor
    imageloom doctor --remove
    imageloom doctor out/ /mnt/other/out --remove

    Exit codes: 0 nothing is left, or it was removed; 1 something is left; 4 storage or access.
    """
    import msgspec

    from imageloom.records import doctor
    from imageloom.records.ledger import Ledger

    if not json_:
        for name, text in _machine():
            say(f"{name:<9} {text}")
    left = 0
    with Ledger(ledger) as book:
        if not json_:
            say(f"{'ledger':<9} {book.path}", "")
        found = list(doctor.find(book, folders))
        for one in found:
            gone = remove_ and doctor.remove(one, book)
            left += not gone
            if json_:
                line = {**msgspec.to_builtins(one), "removed": gone}
                say_json(line)
            else:
                name = "" if one.kind == "job" else f"{one.name}: "
                size = f", {one.size / 1e6:,.1f} MB" if one.size else ""
                say(f"{'removed' if gone else 'left':<9} {name}{one.what}{size}")
    if not json_:
        say(_summary(len(found), left, remove_))
    return 1 if left else 0


def _summary(found: int, left: int, asked: bool) -> str:
    if not found:
        return "nothing is left over"
    if not left:
        return f"{found} removed"
    return f"{left} of {found} could not be removed" if asked else f"{found} left over: --remove removes them"


def _machine() -> list[tuple[str, str]]:
    """What this program runs on, by name."""
    from importlib.metadata import version

    from imageloom import __version__
    from imageloom.system.machine import available_cores, half_of_memory

    libraries = ", ".join(
        f"{name} {version(package)}"
        for name, package in (
            ("OpenCV", "opencv-python-headless"),
            ("numpy", "numpy"),
            ("Pillow", "pillow"),
            ("simplejpeg", "simplejpeg"),
        )
        if _is_installed(package)
    )
    return [
        ("imageloom", f"{__version__}, Python {platform.python_version()}, {platform.platform()}"),
        ("with", libraries),
        ("cores", f"{available_cores()} of {platform.machine()}"),
        ("memory", f"{2 * half_of_memory() / 1e9:,.1f} GB, of which a run takes at most half (--memory)"),
        *(("extra", f"{name}: {state}") for name, state in _extras()),
    ]


def _extras() -> list[tuple[str, str]]:
    """The optional parts, and whether what they need is installed."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        wanted = requires("imageloom") or []
    except PackageNotFoundError:
        return []
    missing: defaultdict[str, list[str]] = defaultdict(list)
    for requirement in wanted:
        extra = re.search(r"extra\s*==\s*['\"](\w+)['\"]", requirement)
        package = re.match(r"[\w.-]+", requirement)
        if extra and package and extra[1] != "dev":
            is_there = package[0] == "imageloom" or _is_installed(package[0])
            missing[extra[1]] += [] if is_there else [package[0]]
    return [
        (name, f"no {', '.join(lacks)}: pip install 'imageloom[{name}]'" if lacks else "there")
        for name, lacks in missing.items()
    ]


def _is_installed(package: str) -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
