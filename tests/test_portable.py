"""A system without what only Linux has: the program starts, loads all commands, and processes photos."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from program import draw

HIDDEN = {
    "os": "sched_getaffinity sched_setaffinity memfd_create pidfd_open O_PATH O_TMPFILE eventfd splice setns "
    "unshare posix_fadvise posix_fallocate copy_file_range",
    "signal": "SIGRTMAX SIGRTMIN SIGPOLL",
    "select": "epoll EPOLLIN",
    "socket": "SO_PEERCRED AF_NETLINK SOCK_CLOEXEC SOCK_NONBLOCK",
}
CODE = f"""
import importlib, sys
sys.platform = "darwin"
for module, names in {HIDDEN!r}.items():
    for name in names.split():
        vars(importlib.import_module(module)).pop(name, None)
import imageloom.cli
for name in imageloom.cli.COMMANDS:
    importlib.import_module("imageloom.cli." + name)
imageloom.cli.main()
"""


def test_nothing_that_only_linux_has_is_needed(tmp_path: Path) -> None:
    draw(tmp_path / "photos" / "1.jpg", 1)
    ran = subprocess.run(
        [sys.executable, "-c", CODE, "run", "resize 50%", "photos", "out"],
        cwd=tmp_path,
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")},
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "out" / "1.jpg").exists()
