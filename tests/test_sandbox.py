"""Hostile operators and decoders, crashes and hangs in sandboxed processes: each fails its own item only."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from imageloom.codecs import get
from imageloom.model import Encoding
from imageloom.system.confinement import missing
from program import draw

restricted = pytest.mark.skipif(bool(missing()), reason=f"this kernel has no {' and no '.join(missing())}")

ACTIONS = """
import ctypes, gc, mmap, os, signal, socket, subprocess, sys, time
LIBC = ctypes.CDLL(None, use_errno=True)

def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "a system call was refused")

def fill():
    hoard = []
    while True:
        hoard.append(bytearray(64 << 20))

def fill_shared():
    hoard = []
    while True:
        hoard.append(mmap.mmap(-1, 64 << 20))
        hoard[-1][:] = bytes(64 << 20)

def peek():
    found = [one for one in gc.get_objects() if isinstance(one, dict) and "pixels of an item" in one]
    found += [] if not hasattr(sys, "kept") else [sys.kept]
    if not found:
        raise PermissionError("nothing is there")

def hang():
    while True:
        time.sleep(60)

def spin():
    while True:
        pass

ACTIONS = {
    "read": lambda: open(SECRET).read(),
    "list": lambda: os.listdir(os.path.dirname(SECRET)),
    "write": lambda: open(TARGET, "w").close(),
    "remove": lambda: os.unlink(SECRET),
    "connect": lambda: socket.create_connection(("127.0.0.1", PORT), 5),
    "exec": lambda: os.execv(sys.executable, [sys.executable, "-c", f"open({TARGET!r}, 'w')"]),
    "spawn": lambda: subprocess.run([sys.executable, "-c", f"open({TARGET!r}, 'w')"], check=True),
    "fork": lambda: os.fork() or time.sleep(60),
    "ptrace": lambda: checked(LIBC.ptrace(16, VICTIM, None, None)),
    "peek": lambda: open(f"/proc/{VICTIM}/mem", "rb").read(1),
    "environ": lambda: open(f"/proc/{VICTIM}/environ", "rb").read(1),
    "variables": lambda: os.environ["IMAGELOOM_TEST_SECRET"],
    "kill": lambda: os.kill(VICTIM, signal.SIGKILL),
    "kill_parent": lambda: os.kill(os.getppid(), signal.SIGKILL),
    "limit": lambda: __import__("resource").setrlimit(7, (1 << 16, 1 << 16)),
    "fill": fill,
    "fill_shared": fill_shared,
    "abort": os.abort,
    "null": lambda: ctypes.string_at(0),
    "exit": lambda: os._exit(0),
    "hang": hang,
    "spin": spin,
}
"""
REFUSED = (
    *("read", "list", "write", "remove", "connect", "exec", "spawn", "fork", "ptrace", "peek", "environ"),
    *("variables", "kill", "kill_parent", "limit", "fill", "fill_shared"),
)
KINDS = {
    "abort": "WorkerLost",
    "null": "WorkerLost",
    "exit": "WorkerLost",
    "hang": "ItemTimeout",
    "spin": "ItemTimeout",
}
OPERATOR = """
import numpy as np
from imageloom.operators import operator
NAMES = list(ACTIONS)
@operator("point", examples=("harm",))
def harm(image):
    number = int(image.flat[0])
    if number < len(NAMES):
        ACTIONS[NAMES[number]]()
    return image
"""
CODEC = '''
import numpy as np
from imageloom.codecs.metadata import NO_METADATA
from imageloom.model import Frame, Header
class Evil:
    """Gray images whose decoder does what they say."""
    format = "evil"
    written = "png"
    magic, suffixes = rb"EVIL\\0", ("evil",)
    quality = encoder_bytes = 0
    carries = ()
    def header(self, head):
        return Header("evil", Frame(20, 10, 1))
    def cannot_hold(self, frame):
        return "it is only read"
    def decode(self, data, header, *, luma, scale, damage=None):
        ACTIONS[bytes(data[5:]).decode()]()
        return np.zeros((10, 20), np.uint8)
    def metadata(self, data):
        return NO_METADATA
    def encode(self, image, encoding, metadata=NO_METADATA):
        raise NotImplementedError
'''
RUN = """
import json, sys
from pathlib import Path
from imageloom.driver.run import Driver
from imageloom.engines import Settings, open_engine
from imageloom.model import Job, Output, Recipe
from imageloom.recipes.pipeline import Pipeline
from imageloom.recipes.recipe import with_operators
from imageloom.records.events import Done, Failed
from imageloom.records.ledger import Ledger
from imageloom.system.sandbox import Sandbox
from msgspec.structs import replace

def main():
    name, source, sink, ledger, operators, tile, sandbox = json.loads(sys.argv[1])
    sandbox = Sandbox(**sandbox)
    recipe = with_operators(Recipe(()), operators)
    recipe = replace(recipe, outputs=(Output(Pipeline("harm" if operators else "invert").steps),))
    job = Job(source, sink, recipe, include=("*",), tile=tile, attempts=1, sandbox=sandbox)
    engine = open_engine(name, Settings(jobs=2, timeout=sandbox.timeout or 600, sandbox=sandbox))
    found = {}
    def listen(event):
        if isinstance(event, Done):
            found[event.result.key] = "", ""
        elif isinstance(event, Failed):
            found[event.result.key] = event.result.failure.kind, event.result.failure.message
    with Ledger(Path(ledger)) as book:
        Driver(job, engine, book, name, [listen]).run()
    engine.close()
    print(json.dumps(found))

if __name__ == "__main__":
    main()
"""
GOOD = 6
TIMEOUT = 2.0


class Scene:
    """A folder with hostile and with good images, and with what the hostile ones want."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.photos, self.out = folder / "photos", folder / "out"
        self.secret, self.target = folder / "secrets" / "key", folder / "secrets" / "made"
        self.secret.parent.mkdir()
        self.secret.write_text("secret")
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.settimeout(0)
        self.victim = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        known = {"SECRET": str(self.secret), "TARGET": str(self.target), "VICTIM": self.victim.pid}
        known["PORT"] = self.server.getsockname()[1]
        self.actions = "\n".join(f"{name} = {value!r}" for name, value in known.items()) + ACTIONS
        names: dict[str, object] = {}
        exec(self.actions, names)
        self.names = list(names["ACTIONS"])  # type: ignore[call-overload]
        self.operators = folder / "hostile.py"
        self.operators.write_text(self.actions + OPERATOR)
        self.package = folder / "packages"
        self.package.mkdir()
        (self.package / "evil_codec.py").write_text(self.actions + CODEC)
        about = self.package / "evil_codec-1.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: evil-codec\nVersion: 1\n")
        (about / "entry_points.txt").write_text("[imageloom.codecs]\nevil = evil_codec:Evil\n")
        self.good = {f"good-{number}" for number in range(GOOD)}
        for number, name in enumerate(self.good):
            draw(self.photos / f"{name}.jpg", number, 60, 40)

    def add(self, action: str, way: str) -> None:
        """Add an image on which a decoder or an operator does something."""
        if way == "decoder":
            (self.photos / f"{action}.evil").write_bytes(b"EVIL\0" + action.encode())
        else:
            image = np.full((10, 20), self.names.index(action), np.uint8)
            (self.photos / f"{action}.png").write_bytes(get("png").encode(image, Encoding(90)))

    def run(
        self, engine: str, way: str, tile: str = "never", **sandbox: object
    ) -> dict[str, tuple[str, str]]:
        """Run the job. Returns kind and message of the failure of each item, empty for those that are done."""
        operators = [str(self.operators)] if way == "operator" else []
        places = [str(self.photos), str(self.out), str(self.folder / "ledger.db")]
        wanted = json.dumps(
            [engine, *places, operators, tile, {"mode": "auto", "memory": 300_000_000} | sandbox]
        )
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(self.package), *sys.path[1:]]),
            "IMAGELOOM_TEST_SECRET": "secret",
        }
        command = [sys.executable, "-c", RUN, wanted]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=240, check=False, env=environment
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        return {Path(key).stem: (kind, message) for key, (kind, message) in found.items()}

    def check(self) -> None:
        """Check that nothing was touched."""
        assert self.secret.read_text() == "secret"
        assert not self.target.exists()
        assert self.victim.poll() is None
        with pytest.raises(BlockingIOError):
            self.server.accept()

    def close(self) -> None:
        self.server.close()
        self.victim.kill()
        self.victim.wait()
        assert self.victim.stdin is not None
        self.victim.stdin.close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.close()


ENGINES = ("threads", "processes", "serial", "zeromq", "redis", "nodes", "pipeline", "mpi", "dask", "ray")
WAYS = ("operator", "decoder")
TILES = ("never", "always")
EVERY = [pytest.param(*one, marks=pytest.mark.long) for one in itertools.product(ENGINES, WAYS, TILES)]


@restricted
@pytest.mark.parametrize(
    ("engine", "way", "tile"),
    [
        ("threads", "operator", "never"),
        ("processes", "decoder", "never"),
        ("processes", "operator", "always"),
        *EVERY,
    ],
)
def test_what_is_not_allowed_is_refused(scene: Scene, engine: str, way: str, tile: str) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    for action in REFUSED:
        scene.add(action, way)
    found = scene.run(engine, way, tile)
    scene.check()
    assert {name for name, (kind, _) in found.items() if not kind} == {f"good-{n}" for n in range(GOOD)}, (
        found
    )
    kinds = {name: kind for name, (kind, _) in found.items() if kind}
    assert set(kinds) == set(REFUSED)
    filled = {kinds.pop("fill"), kinds.pop("fill_shared")}
    assert filled <= {"MemoryError", "OperatorFailed", "WorkerLost", "CorruptImage"}
    assert set(kinds.values()) == {"OperatorFailed" if way == "operator" else "CorruptImage"}, found
    assert "--sandbox off" in found["read"][1]


@pytest.mark.parametrize(
    ("engine", "way", "tile"),
    [("threads", "decoder", "always"), ("processes", "operator", "never"), *EVERY],
)
def test_a_crash_or_a_hang_fails_one_item(scene: Scene, engine: str, way: str, tile: str) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    for action in KINDS:
        scene.add(action, way)
    found = scene.run(engine, way, tile, timeout=TIMEOUT)
    assert {name: kind for name, (kind, _) in found.items()} == KINDS | {
        f"good-{n}": "" for n in range(GOOD)
    }, found
    assert "SIGABRT" in found["abort"][1]
    assert "SIGSEGV" in found["null"][1]
