"""`imageloom doctor`."""

from __future__ import annotations

import os
import platform
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import click

from imageloom.cli import options
from imageloom.cli.text import say, say_json


@click.command("doctor", short_help="Describe this machine; find and remove leftovers of killed runs.")
@click.argument("folders", nargs=-1, metavar="[FOLDER]...", type=click.Path(file_okay=False))
@click.option("--remove", "remove_", is_flag=True, help="Remove the leftovers that are found.")
@click.option(
    "--sandbox", is_flag=True, help="List the system calls and the paths that a sandboxed process may use."
)
@options.ledger_option
@click.option("--json", "json_", is_flag=True, help="Print one JSON object per leftover to stdout.")
def command(folders: tuple[str, ...], remove_: bool, sandbox: bool, ledger: Path | None, json_: bool) -> int:
    """Describe this machine, and find the leftovers of runs that were killed or lost power.

    Leftovers are temporary files of outputs and pixels, shared memory, and jobs that the ledger still lists as
    running.
    The command searches the sinks and scratch folders of all jobs in the ledger, and each FOLDER. It never
    touches files of a job that is running, nor files that imageloom did not make.

    \b
    imageloom doctor
    imageloom doctor --remove
    imageloom doctor out/ /mnt/other/out --remove

    Exit codes: 0 no leftovers, or all were removed; 1 some leftovers remain; 4 storage or access error.
    """
    import msgspec

    from imageloom.records import doctor
    from imageloom.records.ledger import Ledger

    if not json_:
        for name, text in (*_machine(), *_flushed(folders)):
            say(f"{name:<9} {text}")
        for name, text in _sandbox() if sandbox else ():
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
        return "no leftovers"
    if not left:
        return f"{found} leftovers removed"
    return (
        f"{left} of {found} leftovers could not be removed"
        if asked
        else f"{found} leftovers found; remove them with --remove"
    )


def _machine() -> list[tuple[str, str]]:
    """Names and descriptions of the software and hardware that this program uses."""
    from importlib.metadata import version

    from imageloom import __version__
    from imageloom.system.confinement import state
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
        ("memory", f"{2 * half_of_memory() / 1e9:,.1f} GB; a run uses at most half of it (--memory)"),
        ("sandbox", state()),
        *(("extra", f"{name}: {state}") for name, state in _extras()),
    ]


def _flushed(folders: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """How --durable flushes outputs in these folders."""
    from imageloom.system import disk

    for folder in folders:
        try:
            opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            yield "durable", f"{folder}: {error.strerror}"
            continue
        try:
            how = "many outputs at once" if disk.flushes_at_once(opened) else "each output on its own"
            yield "durable", f"{folder}: {disk.file_system(opened) or 'unknown file system'}, flushed {how}"
        finally:
            os.close(opened)


def _sandbox() -> list[tuple[str, str]]:
    """What a sandboxed process may use. It may also read the files of --operators."""
    import os

    from imageloom.system.confinement import calls, readable

    paths = (path for path in readable() if os.path.exists(path))
    return [*(("call", call) for call in calls()), *(("path", path) for path in paths)]


def _extras() -> list[tuple[str, str]]:
    """Name and state of each optional extra: installed, or the command that installs it."""
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
        (name, f"{', '.join(lacks)} missing: pip install 'imageloom[{name}]'" if lacks else "installed")
        for name, lacks in missing.items()
    ]


def _is_installed(package: str) -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
