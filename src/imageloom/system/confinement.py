"""What a sandboxed process has: the paths that it may read, and its environment variables."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import sysconfig
import threading
from collections.abc import Mapping

from imageloom.system import landlock, seccomp

KEPT = ("LANG", "LANGUAGE", "LD_LIBRARY_PATH", "LOGNAME", "MALLOC_ARENA_MAX", "PATH", "TZ", "VIRTUAL_ENV")
KEPT_PREFIXES = ("LC_", "PYTHON", "OMP_", "OPENBLAS_", "MKL_", "OPENCV_")
"""The environment variables of a sandboxed process. Others may have credentials."""
_LIBRARIES = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")
_FONTS = ("/usr/share/fonts", "/usr/local/share/fonts", "/etc/fonts")
"""For the text of SVG files."""
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")


_confined = threading.Event()


def is_confined() -> bool:
    """Whether this process is sandboxed."""
    return _confined.is_set()


def mark_confined() -> None:
    """Note that this process is sandboxed."""
    _confined.set()


def missing() -> list[str]:
    """What this kernel lacks to restrict a process."""
    found = [] if landlock.version() else ["Landlock"]
    return found if seccomp.is_available() else [*found, "seccomp"]


def state() -> str:
    """What this kernel can restrict, as text."""
    if sys.platform != "linux":
        return "none: the sandbox needs Linux"
    version = landlock.version()
    network = "" if version >= 4 else ", without its rules for TCP" if version else ""
    found = [f"Landlock {version}{network}"] if version else []
    found += ["seccomp"] if seccomp.is_available() else []
    lacking = f"; missing: {', '.join(missing())}" if missing() else ""
    return (" and ".join(found) or "separate processes without restrictions") + lacking


def readable() -> list[str]:
    """The files and folders that a sandboxed process may read: Python, its packages, and shared libraries."""
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    script = os.path.dirname(os.path.abspath(sys.argv[0])) if sys.argv and sys.argv[0] else ""
    unwanted = {"", os.getcwd(), script} - {os.path.abspath(path) for path in named if path}
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    found = [path for kind in kinds if (path := sysconfig.get_paths().get(kind))]
    found += [path for path in sys.path if path not in unwanted]
    found.append(os.path.join(sys.base_prefix, "lib"))
    found += filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep))
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return list(dict.fromkeys([*map(os.path.abspath, found), package, *_LIBRARIES, *_FONTS, *_DEVICES]))


def is_kept(name: str) -> bool:
    """Whether a sandboxed process has an environment variable."""
    return name in KEPT or name.startswith(KEPT_PREFIXES)


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Those of the environment variables that a sandboxed process has."""
    return {name: value for name, value in variables.items() if is_kept(name)}


def wipe_environment() -> None:
    """Remove the other environment variables from this process's memory. It must have one thread."""
    values: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]
    wiped = [value for name, value in values.items() if not is_kept(os.fsdecode(name)) and len(value) > 1]
    for name in [name for name in os.environ if not is_kept(name)]:
        del os.environ[name]
    for value in wiped:  # the memory of an object that is freed may be read later
        ctypes.memset(id(value) + bytes.__basicsize__ - 1, 0, len(value))
    with contextlib.suppress(OSError, IndexError, ValueError):
        _wipe_start()


def _wipe_start() -> None:
    """Overwrite the environment that this program was started with, see proc(5): env_start and env_end."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[47]), int(fields[48])
    kept = dict(os.environ)
    if 0 < start < end:
        for name in kept:
            del os.environ[name]
        ctypes.memset(start, 0, end - start)
        os.environ.update(kept)


def calls() -> list[str]:
    """The system calls that a sandboxed process may use, each with its limits."""
    some = (
        f"{name}: {call.what}" for name, call in seccomp.limited(os.getpid()).items() if call.what != "never"
    )
    return sorted([*seccomp.CALLS, *some])
