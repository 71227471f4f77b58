"""Hosts as namespaces of Linux, joined by a bridge.

The first process of a host reads a pipe of this program and ends with it. Its end ends all processes of the
host, and then the kernel removes the network and the mounts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import IO, Self

import imageloom

HOME, DATA, SHARED = "/home", "/mnt", "/srv"
"""Folders of each host: its user's home, a disk of its own, and the folder that all hosts share."""
PREFIX = "10.77.0."
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
PATIENCE = 60.0
"""Time-out of a command, in seconds."""

_FIRST = """
set -e
exec 2>&1
mount --bind "$1/home" /home
mount --bind "$1/data" /mnt
mount --bind "$2" /srv
mount --bind "$1/hosts" /etc/hosts
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
hostname "$3"
echo ready
exec cat
"""


@cache
def missing() -> str:
    """What is missing here for hosts; empty if they can be started."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "hosts need root on Linux"
    programs = [name for name in ("ip", "iptables", "unshare", "nsenter") if not shutil.which(name)]
    if programs:
        return f"hosts need the programs {', '.join(programs)}"
    if Path(imageloom.__file__).is_relative_to("/tmp"):
        return "each host has a /tmp of its own, and imageloom lies in /tmp"
    tried = subprocess.run(["unshare", "-mnpf", "true"], capture_output=True, text=True, check=False)
    return tried.stderr.strip()


class _Namespace:
    """Namespaces of a first process, which lives until `end`."""

    def __init__(self, kinds: Iterable[str], *command: str) -> None:
        self._unshare = subprocess.Popen(
            ["unshare", *kinds, "--fork", "--kill-child", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what unshare says when its child was killed
            start_new_session=True,
        )
        assert self._unshare.stdout is not None
        said = self._unshare.stdout.readline()
        if said != b"ready\n":
            raise RuntimeError(f"a host does not start: {said.decode(errors='replace')}")
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        self.pid = int(children.read_text().split()[0])

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._unshare.wait(PATIENCE)
        for stream in (self._unshare.stdin, self._unshare.stdout):
            assert stream is not None
            stream.close()


class Network:
    """A bridge and its hosts.

    Args:
        folder: where the disks of the hosts lie. They last longer than a host that is powered off.
    """

    def __init__(self, folder: Path) -> None:
        self.shared = folder / "shared"
        self.shared.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._hosts: list[Host] = []
        self._switch: _Namespace | None = None

    def __enter__(self) -> Self:
        self._switch = _Namespace(["--net"], "sh", "-c", "echo ready; exec cat")
        try:
            self.command("ip", "link", "add", "bridge", "type", "bridge")
            self.command("ip", "link", "set", "bridge", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host in self._hosts:
            host.power_off()
        if self._switch:
            self._switch.end()

    @property
    def pid(self) -> int:
        assert self._switch is not None
        return self._switch.pid

    def command(self, *command: str) -> None:
        """Run a command in the network of the bridge."""
        subprocess.run(["nsenter", "-t", str(self.pid), "-n", *command], check=True, timeout=PATIENCE)

    def host(self, name: str, clock: int = 0, disk: str = "") -> Host:
        """A new host that is powered on.

        Args:
            clock: how far its clock is ahead, in seconds.
            disk: the size of its own disk, as of tmpfs; empty for that of the folder.
        """
        number = len(self._hosts) + 1
        for host in self._hosts:
            host.know(name, f"{PREFIX}{number}")
        made = Host(self, self._folder / name, name, number, clock, disk)
        for host in self._hosts:
            made.know(host.name, host.address)
        self._hosts.append(made)
        made.power_on()
        return made


class Host:
    """One host: see `Network.host`."""

    def __init__(
        self, network: Network, folder: Path, name: str, number: int, clock: int = 0, disk: str = ""
    ) -> None:
        self.name, self.address, self.clock = name, f"{PREFIX}{number}", clock
        self.home, self.data = folder / "home", folder / "data"
        """Its folders as this program reaches them; the host has them as `HOME` and `DATA`."""
        self._network, self._folder, self._disk = network, folder, disk
        self._link, self._mac = f"port{number}", f"02:00:00:00:00:{number:02x}"
        self._space: _Namespace | None = None
        self._processes: list[subprocess.Popen[str]] = []
        for part in (self.home, self.data):
            part.mkdir(parents=True, exist_ok=True)
        (folder / "hosts").write_text("127.0.0.1 localhost\n")
        self.know(name, self.address)

    def know(self, name: str, address: str) -> None:
        """Let it resolve a name."""
        with open(self._folder / "hosts", "a", encoding="utf-8") as file:
            file.write(f"{address} {name}\n")

    @property
    def is_on(self) -> bool:
        return self._space is not None

    # Power

    def power_on(self) -> None:
        assert self._space is None
        kinds = ("--net", "--mount", "--pid", "--uts", "--ipc", "--mount-proc")
        arguments = (str(self._folder), str(self._network.shared), self.name)
        self._space = _Namespace(kinds, "sh", "-c", _FIRST, "sh", *arguments)
        link, switch, own = self._link, str(self._network.pid), str(self._space.pid)
        ip = ("ip", "link", "add", "dev", link, "netns", switch, "type", "veth")
        subprocess.run(
            [*ip, "peer", "name", "eth0", "address", self._mac, "netns", own], check=True, timeout=PATIENCE
        )
        self._network.command("ip", "link", "set", link, "master", "bridge", "up")
        for command in (
            "ip link set lo up",
            f"ip addr add {self.address}/24 dev eth0",
            "ip link set eth0 up",
        ):
            self.run(*command.split())
        if self._disk:
            self.run("mount", "-t", "tmpfs", "-o", f"size={self._disk}", "tmpfs", DATA)

    def power_off(self) -> None:
        """End it without a word to the others: first its link, then all its processes."""
        if self._space is None:
            return
        self.cut()
        self._space.end()
        self._space = None
        for process in self._processes:
            process.wait(PATIENCE)
        self._processes.clear()
        gone = ["nsenter", "-t", str(self._network.pid), "-n", "ip", "link", "del", self._link]
        subprocess.run(gone, check=False, capture_output=True, timeout=PATIENCE)  # or the kernel did it

    # Links

    def cut(self) -> None:
        """Cut its link, both ways. Connections stay, and nothing says that the link is gone."""
        self._network.command("ip", "link", "set", self._link, "nomaster")

    def cut_incoming(self) -> None:
        """Drop all that arrives; what it sends still reaches the others."""
        self.run("iptables", "-A", "INPUT", "-i", "eth0", "-j", "DROP")

    def cut_outgoing(self) -> None:
        """Drop all that it sends; what others send still arrives."""
        self.run("iptables", "-A", "OUTPUT", "-o", "eth0", "-j", "DROP")

    def mend(self) -> None:
        self._network.command("ip", "link", "set", self._link, "master", "bridge")
        for chain in ("INPUT", "OUTPUT"):
            self.run("iptables", "-F", chain)

    # Processes

    def start(
        self,
        *command: object,
        env: Mapping[str, str] | None = None,
        output: IO[str] | int = subprocess.DEVNULL,
    ) -> subprocess.Popen[str]:
        """Start a process. Both of its outputs go to `output`, which is closed here. It ends with the host."""
        process = subprocess.Popen(
            self._entering(command),
            env=self._environment(env),
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        if not isinstance(output, int):
            output.close()
        self._processes.append(process)
        return process

    def run(self, *command: object, env: Mapping[str, str] | None = None) -> str:
        """Run a command to its end, and return what it has written.

        Raises:
            RuntimeError: it fails.
        """
        ran = subprocess.run(
            self._entering(command),
            env=self._environment(env),
            text=True,
            capture_output=True,
            check=False,
            timeout=PATIENCE,
        )
        if ran.returncode:
            raise RuntimeError(f"{self.name}: {command}: {ran.returncode} {ran.stdout}{ran.stderr}")
        return ran.stdout

    @staticmethod
    def kill(process: subprocess.Popen[str], number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a process of a host, which is the child of what has entered the host."""
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        for child in children.read_text().split():
            os.kill(int(child), number)

    def _entering(self, command: Iterable[object]) -> list[str]:
        assert self._space is not None, f"{self.name} is off"
        words = [str(word) for word in command]
        inside = ("-n", "-m", "-p", "-u", "-i", "--wd=/home")
        return ["nsenter", "-t", str(self._space.pid), *inside, *self._clocked(), *words]

    def _environment(self, more: Mapping[str, str] | None) -> dict[str, str]:
        left_out = ("XDG_", "AWS_", "IMAGELOOM_", "TMPDIR", "PYTEST_")
        own = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        own |= {"HOME": HOME, "PYTHONPATH": str(Path(imageloom.__file__).parent.parent)}
        return own | dict(more or {})

    def _clocked(self) -> list[str]:
        """What sets the clock of a command. nsenter itself must not have it: it would leave shared memory here."""
        if not self.clock:
            return []
        own = (f"LD_PRELOAD={FAKETIME}", f"FAKETIME={self.clock:+d}", "FAKETIME_DONT_FAKE_MONOTONIC=1")
        return ["env", *own, "FAKETIME_DONT_RESET=1"]

    # Its disk

    def fill(self) -> None:
        """Leave no room on its own disk."""
        assert self._space is not None
        file = f"/proc/{self._space.pid}/root{DATA}/filling"
        with open(file, "wb", buffering=0) as filling, contextlib.suppress(OSError):
            while filling.write(bytes(1 << 12)):
                pass

    def make_room(self) -> None:
        assert self._space is not None
        os.unlink(f"/proc/{self._space.pid}/root{DATA}/filling")
