"""Installed packages add operators, codecs, stores and engines, and replace none of imageloom's own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import msgspec
import pytest

import imageloom as package
from imageloom.api import process
from imageloom.errors import UsageError
from imageloom.model import Item, Limits, Output, Recipe, Task, Work
from imageloom.system.registry import Registry
from imageloom.worker.perform import perform
from program import draw, imageloom
from test_imports import loaded_by

OPERATOR = """
from imageloom import Pixels, operator
@operator("point", examples=("darken",))
def darken(image: Pixels) -> Pixels:
    return image // 2
"""
CODEC = '''
import struct
import numpy as np
from imageloom.errors import CorruptImage
from imageloom.codecs.metadata import NO_METADATA
from imageloom.model import Frame, Header

class Raw:
    """Gray pixels behind their width and height."""
    format = written = "raw8"
    magic, suffixes = rb"RAW8", ("r8", "raw8")
    quality = encoder_bytes = 0
    carries = ()
    def header(self, head):
        return Header("raw8", Frame(*struct.unpack(">4xII", head[:12]), 1))
    def cannot_hold(self, frame):
        return None if frame.channels == 1 and frame.dtype == "uint8" else "raw8 holds 8-bit gray"
    def decode(self, data, header, *, luma, scale, damage):
        frame = header.frame
        if len(data) != 12 + frame.pixels:
            raise CorruptImage("it is cut off")
        return np.frombuffer(data, np.uint8, offset=12).reshape(frame.height, frame.width)
    def metadata(self, data):
        return NO_METADATA
    def encode(self, image, encoding, metadata=NO_METADATA):
        return struct.pack(">4sII", b"RAW8", *image.shape[::-1]) + image.tobytes()
'''
STORE = '''
import os
from imageloom.model import Item
from imageloom.stores.remote import RemoteStore, Staging

class Shelf(RemoteStore):
    """A flat folder, reached by whole files alone."""
    creates = False
    def __init__(self, address):
        self.address = address
        self._folder = address.removeprefix("shelf://")
        self._staging = Staging()
    def _path(self, key):
        return os.path.join(self._folder, key)
    def items(self):
        return (self.find(key) for key in sorted(os.listdir(self._folder)))
    def find(self, key):
        path = self._path(key)
        return Item(key, os.path.getsize(path)) if os.path.exists(path) else None
    def read(self, key, limit, planned=None):
        with open(self._path(key), "rb") as file:
            return file.read()
    def head(self, key, length, start=0):
        return self.read(key, 0)[start:][:length]
    def fetch(self, key, path, limit, planned=None):
        raise AssertionError("for large images only")
    def prepare(self, scratch):
        os.makedirs(self._folder, exist_ok=True)
        self._staging.prepare(scratch)
    def tidy(self):
        self._staging.tidy()
    def commit(self, token, key, maker, replace):
        with open(self._path(key), "wb") as file:
            file.write(self._staging.take(token))
    def publish(self, token, key, maker="", replace=True):
        """It has its name since it was committed."""
'''
ENGINE = """
from imageloom.engines.serial import Serial
class Alone(Serial):
    @staticmethod
    def work_for(settings, leaving):
        print("working for", settings.connect, flush=True)
        raise SystemExit(0)
"""


class Site:
    """A folder of installed packages, for subprocesses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = os.pathsep.join([str(folder), str(Path(package.__file__).parent.parent)])

    def install(self, name: str, group: str, point: str, source: str) -> None:
        """A package of one module, as an installer leaves it."""
        info = self.folder / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[imageloom.{group}]\n{point}\n")
        (self.folder / f"{name}.py").write_text(source)

    def imageloom(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return imageloom(*arguments, env={**os.environ, "PYTHONPATH": self.path})


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(3):
        draw(tmp_path / "photos" / f"{number}.png", number)
    return tmp_path / "photos"


def done(ran: subprocess.CompletedProcess[str], out: Path, *names: str) -> None:
    assert ran.returncode == 0, ran.stderr
    assert sorted(os.listdir(out)) == sorted(names)


@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_an_operator(site: Site, photos: Path, tmp_path: Path, engine: str) -> None:
    site.install("loom_dark", "operators", "any_name = loom_dark", OPERATOR)
    ran = site.imageloom("run", "darken | invert", photos, tmp_path / "out", "--engine", engine)
    done(ran, tmp_path / "out", "0.png", "1.png", "2.png")
    assert "darken" in site.imageloom("ops").stdout
    assert "darken" in site.imageloom("ops", "darken").stdout


@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_a_codec_writes_and_reads(site: Site, photos: Path, tmp_path: Path, engine: str) -> None:
    site.install("loom_raw", "codecs", "raw8 = loom_raw:Raw", CODEC)
    raw, out = tmp_path / "raw", tmp_path / "out"
    ran = site.imageloom("run", "grayscale", photos, raw, "--format", "raw8", "--engine", engine)
    done(ran, raw, "0.r8", "1.r8", "2.r8")
    assert (raw / "0.r8").read_bytes()[:12] == b"RAW8\0\0\0\x78\0\0\0\x5a"
    (raw / "1.r8").write_bytes((raw / "1.r8").read_bytes()[:-5])
    ran = site.imageloom("run", "flip", raw, out, "--format", "png", "--engine", engine)
    assert ran.returncode == 1
    assert "it is cut off" in ran.stderr
    assert sorted(os.listdir(out)) == ["0.png", "2.png"]
    without = imageloom("run", "flip", raw, tmp_path / "none")
    assert without.returncode == 3, "nobody knows such files without the package"


@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_a_store(site: Site, photos: Path, tmp_path: Path, engine: str) -> None:
    site.install("loom_shelf", "stores", "shelf = loom_shelf:Shelf", STORE)
    ran = site.imageloom("run", "flip", f"shelf://{photos}", f"shelf://{tmp_path}/out", "--engine", engine)
    done(ran, tmp_path / "out", "0.png", "1.png", "2.png")


def test_an_engine_and_its_workers(site: Site, photos: Path, tmp_path: Path) -> None:
    site.install("loom_alone", "engines", "alone = loom_alone:Alone", ENGINE)
    ran = site.imageloom("run", "flip", photos, tmp_path / "out", "--engine", "alone")
    done(ran, tmp_path / "out", "0.png", "1.png", "2.png")
    worker = site.imageloom("worker", "--engine", "alone", "--connect", "here", "-j1")
    assert worker.returncode == 0, worker.stderr
    assert worker.stdout == "working for here\n"
    missing = site.imageloom("run", "flip", photos, tmp_path / "out", "--engine", "nobody")
    assert missing.returncode == 2
    assert "there is no engine 'nobody'; there are: serial, " in missing.stderr
    assert "ray, alone" in missing.stderr


@pytest.mark.parametrize("group", ["operators", "codecs", "stores", "engines"])
def test_a_broken_one_is_named_and_breaks_nothing_else(
    site: Site, photos: Path, tmp_path: Path, group: str
) -> None:
    site.install("loom_broken", group, "broken = loom_broken:Broken", "import nothing_of_that_name")
    asked: dict[str, list[object]] = {
        "operators": ["broken", photos, tmp_path / "out"],
        "codecs": ["flip", photos, tmp_path / "out", "--format", "broken"],
        "stores": ["flip", photos, "broken://out"],
        "engines": ["flip", photos, tmp_path / "out", "--engine", "broken"],
    }
    ran = site.imageloom("run", *asked[group])
    assert ran.returncode == 2
    assert f"the {group[:-1]} 'broken' (loom_broken:Broken of the package loom_broken)" in ran.stderr
    assert "No module named 'nothing_of_that_name'" in ran.stderr
    assert "Traceback" not in ran.stderr
    site.install("loom_dark", "operators", "dark = loom_dark", OPERATOR)
    site.install("loom_raw", "codecs", "raw8 = loom_raw:Raw", CODEC)
    site.install("loom_shelf", "stores", "shelf = loom_shelf:Shelf", STORE)
    site.install("loom_alone", "engines", "alone = loom_alone:Alone", ENGINE)
    out = f"shelf://{tmp_path}/out"
    ran = site.imageloom("run", "darken | grayscale", photos, out, "--format", "raw8", "--engine", "alone")
    done(ran, tmp_path / "out", "0.r8", "1.r8", "2.r8")


@pytest.mark.parametrize(
    ("group", "point", "source", "ours"),
    [
        (
            "operators",
            "mine = loom_thief",
            OPERATOR.replace("darken", "invert"),
            "imageloom has an operator 'invert' already",
        ),
        ("codecs", "png = loom_thief:Raw", CODEC, "imageloom.codecs.png:Png"),
        ("codecs", "raw8 = loom_thief:Raw", CODEC.replace('"r8"', '"png"'), "imageloom.codecs.png:Png"),
        ("stores", "s3 = loom_thief:Shelf", STORE, "imageloom.stores.object:ObjectStore"),
        ("engines", "serial = loom_thief:Alone", ENGINE, "imageloom.engines.serial:Serial"),
    ],
)
def test_one_that_wants_a_name_of_imageloom_does_not_get_it(
    site: Site, photos: Path, tmp_path: Path, group: str, point: str, source: str, ours: str
) -> None:
    site.install("loom_thief", group, point, source)
    asked: dict[str, list[object]] = {
        "operators": ["darken", photos, tmp_path / "out"],
        "codecs": ["flip", photos, tmp_path / "out", "--format", "unknown"],
        "stores": ["flip", photos, "unknown://out"],
        "engines": ["flip", photos, tmp_path / "out", "--engine", "unknown"],
    }
    ran = site.imageloom("run", *asked[group])
    assert ran.returncode == 2
    assert "loom_thief" in ran.stderr
    assert ours in ran.stderr
    out = tmp_path / "out"
    ran = site.imageloom("run", "invert", photos, out, "--format", "png", "--engine", "serial")
    done(ran, out, "0.png", "1.png", "2.png")
    assert "loom_thief" not in ran.stderr, "no package is asked for a name of imageloom's own"


def test_a_name_that_two_packages_have_is_the_first_ones(site: Site, photos: Path, tmp_path: Path) -> None:
    site.install("loom_a", "engines", "alone = loom_a:Alone", ENGINE)
    site.install("loom_b", "engines", "alone = loom_b:Alone", ENGINE)
    ran = site.imageloom("run", "flip", photos, tmp_path / "out", "--engine", "alone")
    done(ran, tmp_path / "out", "0.png", "1.png", "2.png")
    assert "loom_a:Alone" in ran.stderr
    assert "loom_b:Alone" in ran.stderr


def test_entry_points_of_operators_may_have_equal_names(site: Site, photos: Path, tmp_path: Path) -> None:
    site.install("loom_a", "operators", "mine = loom_a", OPERATOR)
    site.install("loom_b", "operators", "mine = loom_b", OPERATOR.replace("darken", "dim"))
    ran = site.imageloom("run", "darken | dim", photos, tmp_path / "out", "--engine", "serial")
    done(ran, tmp_path / "out", "0.png", "1.png", "2.png")


def test_what_is_added_in_a_process_replaces_nothing() -> None:
    registry = Registry("engine", {"serial": "imageloom.engines.serial:Serial"})
    registry.add("mine", "pathlib:Path")
    assert registry.load("mine") is Path
    assert "mine" in registry.names()
    with pytest.raises(UsageError, match=r"'serial' is imageloom\.engines\.serial:Serial: a:B cannot"):
        registry.add("serial", "a:B")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["run", "invert", "IN", "OUT", "--engine", "serial"],
        ["run", "invert", "IN", "OUT", "--engine", "threads", "--format", "jpg"],
        ["run", "invert", "IN", "OUT", "--engine", "processes"],
    ],
)
def test_no_package_is_searched_for_names_of_imageloom(
    photos: Path, tmp_path: Path, arguments: list[str]
) -> None:
    places = {"IN": str(photos), "OUT": str(tmp_path / "out")}
    line = ["imageloom", *(places.get(argument, argument) for argument in arguments)]
    code = (
        f"sys.argv = {line!r}\nfrom imageloom.cli import main\ntry:\n    main()\nexcept SystemExit:\n    pass"
    )
    modules = loaded_by(code)
    assert "imageloom.cli" in modules
    assert "importlib.metadata" not in modules
    if "OUT" in arguments:
        assert len(os.listdir(tmp_path / "out")) == 3


def test_a_format_that_nobody_has_is_refused_wherever_it_comes_from(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no format 'exr'; there are: jpeg, png"):
        process("flip", photos, tmp_path / "out", format="exr", ledger=tmp_path / "ledger.db")
    recipe = Recipe((Output((), format="exr"),))
    with pytest.raises(UsageError, match="there is no format 'exr'; there are: jpeg, png"):
        process(recipe, photos, tmp_path / "out", ledger=tmp_path / "ledger.db")
    work = (Work(Item("0.png"), ("0.exr",), 1),)
    task = Task(1, "1", str(photos), str(tmp_path / "out"), recipe, Limits(), work)
    (result,) = perform(msgspec.json.decode(msgspec.json.encode(task), type=Task)).results
    assert result.failure is not None
    assert "there is no codec 'exr'" in result.failure.message
