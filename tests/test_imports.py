"""The layers: imports go downwards, and nothing is loaded before it is needed."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import numpy as np
import pytest

import imageloom
from imageloom import codecs
from imageloom.model import Encoding
from program import COMMAND

ROOT = Path(imageloom.__file__).parent
LAYERS = (
    ("errors",),
    ("system",),
    ("model",),
    ("colours",),
    ("operators", "codecs", "stores"),
    ("recipes",),
    ("records",),
    ("tiling",),
    ("worker",),
    ("scheduling",),
    ("engines",),
    ("driver",),
    ("report",),
    ("service",),
    ("bench",),
    ("chaos",),
    ("interface",),
    ("api", "ops"),
    ("testing",),
    ("cli",),
    ("",),
)
"""The modules and folders of the package's root, from the bottom. The package's own file is above all. Those of
one row do not import each other."""
HEIGHTS = {name: height for height, row in enumerate(LAYERS) for name in row}
NAMED = re.compile(r"imageloom\.[a-z_.0-9]+(:\w+)?")


def modules_of(root: Path) -> dict[str, Path]:
    """The files of all modules, by their names."""
    found = {}
    for path in root.rglob("*.py"):
        parts = ["imageloom", *path.relative_to(root).with_suffix("").parts]
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def nodes_of(path: Path, *, deferred: bool, types: bool) -> Iterator[ast.AST]:
    """The nodes of a file.

    Args:
        deferred: with those in functions, which run after the file is loaded.
        types: with those that only a type checker reads.
    """
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not deferred:
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) and not types:
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def imports_of(
    root: Path, *, deferred: bool, types: bool = False, names: bool = False
) -> dict[str, set[str]]:
    """The modules of ours that each module imports.

    Args:
        root: the folder of the package.
        deferred, types: as of `nodes_of`.
        names: with the modules whose names stand in texts, as in `import_module("imageloom.codecs.jpeg")`.
    """
    modules = modules_of(root)
    graph = {}
    for module, path in modules.items():
        found: set[str] = set()
        for node in nodes_of(path, deferred=deferred, types=types):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                named = {f"{node.module}.{alias.name}" for alias in node.names} - {"imageloom.__version__"}
                found |= {name if name in modules else str(node.module) for name in named}
            elif names and isinstance(node, ast.Constant) and NAMED.fullmatch(str(node.value)):
                found.add(str(node.value).partition(":")[0])
        graph[module] = (found & modules.keys()) - {module}
    return graph


def layer_of(module: str) -> str:
    return module.removeprefix("imageloom").removeprefix(".").partition(".")[0]


def upward_imports(root: Path) -> list[str]:
    """Imports of what is not below: in functions, for types and by names in texts too."""
    graph = imports_of(root, deferred=True, types=True, names=True)
    return [
        f"{module} -> {imported}"
        for module, found in sorted(graph.items())
        for imported in sorted(found)
        if layer_of(module) != layer_of(imported)
        and layer_of(module) != "__main__"
        and HEIGHTS[layer_of(imported)] >= HEIGHTS[layer_of(module)]
    ]


def check_no_cycles(root: Path) -> None:
    """A package's own file may gather its modules, which name it only as the parent that they are in.

    Raises:
        CycleError: modules import each other, whether in functions or when they are loaded.
    """
    list(TopologicalSorter(imports_of(root, deferred=True)).static_order())


MODULES = modules_of(ROOT)
IMPORTS = imports_of(ROOT, deferred=False)


def all_imports_of(name: str) -> set[str]:
    """Directly and by way of others, when the module is loaded."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        new = IMPORTS[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def below(layer: str) -> list[str]:
    return [name for name in MODULES if name == layer or name.startswith(f"{layer}.")]


def test_every_module_has_a_layer() -> None:
    assert {layer_of(name) for name in MODULES} - {"__main__"} == HEIGHTS.keys()


def test_imports_go_downwards() -> None:
    assert not upward_imports(ROOT)


def test_modules_have_no_cycles() -> None:
    check_no_cycles(ROOT)


def test_few_modules_are_in_no_folder() -> None:
    assert len(list(ROOT.glob("*.py"))) <= 8


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package."""
    return shutil.copytree(ROOT, tmp_path / "imageloom", ignore=shutil.ignore_patterns("__pycache__"))


@pytest.mark.parametrize(
    "planted",
    [
        "def late():\n    from imageloom.recipes import pipeline",
        "def late():\n    from imageloom import Pipeline",
        "def late():\n    import imageloom.cli.text",
        "if TYPE_CHECKING:\n    from imageloom.driver.run import Run",
        "def late():\n    importlib.import_module('imageloom.engines.serial')",
    ],
)
def test_an_import_upwards_is_found(planted: str, copy: Path) -> None:
    with (copy / "model" / "image.py").open("a") as file:
        file.write(f"\n{planted}\n")
    (found,) = upward_imports(copy)
    assert found.startswith("imageloom.model.image -> imageloom")


def test_an_import_within_a_row_is_found(copy: Path) -> None:
    with (copy / "codecs" / "png.py").open("a") as file:
        file.write("\ndef late():\n    from imageloom import operators\n")
    assert upward_imports(copy) == ["imageloom.codecs.png -> imageloom.operators"]


def test_a_deferred_cycle_is_found(copy: Path) -> None:
    with (copy / "worker" / "items.py").open("a") as file:
        file.write("\ndef late():\n    from imageloom.worker import parts\n")
    with pytest.raises(CycleError, match=r"imageloom\.worker\.parts"):
        check_no_cycles(copy)


@pytest.mark.parametrize(
    ("layer", "others"),
    [
        ("imageloom.recipes.plan", ["stores"]),
        ("imageloom.worker", ["records.ledger"]),
        ("imageloom.driver.watch", ["driver.run", "records.ledger", "engines", "driver.sink", "worker"]),
        ("imageloom.service.client", ["driver", "records.ledger"]),
        ("imageloom.service.health", ["driver.run", "records.ledger", "report"]),
        ("imageloom.chaos", ["driver.run", "records.ledger", "report"]),
        ("imageloom.records.recorder", ["records.ledger"]),
        ("imageloom.report", ["driver.run", "engines", "worker"]),
        ("imageloom.bench", ["driver.run"]),
    ],
)
def test_what_is_below_is_not_all_needed(layer: str, others: list[str]) -> None:
    assert below(layer)
    assert all(below(f"imageloom.{other}") for other in others)
    unneeded = {name for other in others for name in below(f"imageloom.{other}")}
    for name in below(layer):
        assert not all_imports_of(name) & unneeded, name


def test_nothing_but_tests_needs_the_shipped_tests() -> None:
    ours = set(MODULES) - set(below("imageloom.testing"))
    assert not [name for name in ours if IMPORTS[name] & set(below("imageloom.testing"))]


def loaded_by(code: str) -> set[str]:
    code = f"import sys\n{code}\nsys.stderr.write(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "code",
    [
        "import imageloom",
        "import imageloom.cli",
        "sys.argv = ['imageloom', '--version']\nfrom imageloom.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass",
        "sys.argv = ['imageloom', '--help']\nfrom imageloom.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass",
    ],
    ids=["import imageloom", "import imageloom.cli", "--version", "--help"],
)
def test_numpy_and_opencv_are_loaded_only_when_they_are_needed(code: str) -> None:
    modules = loaded_by(code)
    assert "imageloom" in modules
    assert not modules & {"numpy", "cv2", "simplejpeg", "sqlite3", "yaml", "tqdm", "multiprocessing"}


def ours(modules: set[str]) -> set[str]:
    return {name for name in modules if name.partition(".")[0] == "imageloom"}


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_version_and_help_load_little(option: str) -> None:
    needed = {"imageloom", "imageloom.errors", "imageloom.cli", "imageloom.cli.text", "imageloom.system"}
    needed |= {"imageloom.cli.signals", "imageloom.system.machine", "imageloom.system.printable"}
    modules = loaded_by(
        f"sys.argv = ['imageloom', {option!r}]\nfrom imageloom.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass"
    )
    assert ours(modules) <= needed
    assert "msgspec" not in modules


UNUSUAL = """
    cli.pruning codecs.adapt codecs.exif codecs.jpegmetadata codecs.notes codecs.packets
    codecs.photoshop codecs.pictures codecs.repair codecs.stated codecs.tags codecs.xmp colours driver.pruning
    engines.executor scheduling.scheduler stores.made stores.remote tiling worker.fork_server worker.parts
    worker.process worker.zygote report service
"""
"""Modules that only some files, engines and options need."""
UNUSUAL_LIBRARIES = {
    "_hashlib",
    "asyncio",
    "dataclasses",
    "email",
    "hashlib",
    "http",
    "multiprocessing",
    "random",
}
UNUSUAL_LIBRARIES |= {"imagecodecs", "PIL", "pyexpat", "selectors", "socket", "ssl", "subprocess", "tempfile"}


@pytest.mark.parametrize("engine", ["serial", "threads"])
def test_a_run_over_plain_photos_loads_only_what_they_need(engine: str, tmp_path: Path) -> None:
    """Each module more delays every run: import it in the function that needs it."""
    photo, out, ledger = tmp_path / "in" / "a.jpg", tmp_path / "out", tmp_path / "ledger.db"
    photo.parent.mkdir()
    photo.write_bytes(codecs.get("jpeg").encode(np.zeros((40, 60, 3), np.uint8), Encoding(85)))
    arguments = ["imageloom", "run", "resize 20x20", str(photo.parent), str(out), "--engine", engine]
    modules = loaded_by(
        f"sys.argv = {[*arguments, '-q', '--ledger', str(ledger)]!r}\nfrom imageloom.cli import main\n"
        "try:\n    main()\nexcept SystemExit as exit:\n    assert exit.code == 0"
    )
    assert (out / "a.jpg").exists()
    unusual = tuple(f"imageloom.{name}" for name in UNUSUAL.split())
    assert not {name for name in ours(modules) if f"{name}.".startswith(tuple(f"{one}." for one in unusual))}
    assert modules & UNUSUAL_LIBRARIES == set()


def test_no_process_is_forked_from_one_that_has_loaded_grpc() -> None:
    """A node's worker processes, and a run's local nodes, come from a server that loads these."""
    code = "import imageloom.cli.run, imageloom.cli.node, imageloom.worker.process, imageloom.engines.nodes.local"
    modules = loaded_by(code)
    assert "imageloom.engines.nodes.local" in modules
    assert "grpc" not in modules


def test_local_runs_load_no_library_of_other_stores(photos: Path, out: Path) -> None:
    modules = loaded_by(f"from imageloom import process\nprocess('grayscale', {str(photos)!r}, {str(out)!r})")
    assert "cv2" in modules
    ours = {"imageloom.stores.object", "imageloom.stores.fsspec", "imageloom.stores.credentials"}
    ours |= {"imageloom.stores.drive", "imageloom.stores.driveapi", "imageloom.stores.drivefeed"}
    assert not modules & ({"obstore", "fsspec", "configparser", "google.auth", "requests"} | ours)


def test_public_names_resolve_and_others_do_not() -> None:
    for name in imageloom.__all__:
        assert getattr(imageloom, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = imageloom.nothing  # type: ignore[attr-defined]


def test_the_version_is_told() -> None:
    done = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"imageloom {imageloom.__version__}\n"


def test_files_are_short() -> None:
    tests = Path(__file__).parent.glob("*.py")
    assert {path.name: count for path in (*MODULES.values(), *tests)
            if (count := len(path.read_text().splitlines())) > 440} == {}  # fmt: skip
