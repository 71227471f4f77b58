"""The layers: data flows one way, and nothing is loaded before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import imageloom
from program import COMMAND

ROOT = Path(imageloom.__file__).parent
MODULES = {
    ".".join(["imageloom", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}


def imports_of(path: Path) -> set[str]:
    """Our modules that a file imports when it is loaded: not inside functions, not for types alone."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
        waiting += ast.iter_child_nodes(node)
    return found & MODULES.keys()


IMPORTS = {name: imports_of(path) - {name} for name, path in MODULES.items()}


def all_imports_of(name: str) -> set[str]:
    """Directly and by way of others."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        new = IMPORTS[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def below(layer: str) -> list[str]:
    return [name for name in MODULES if name == layer or name.startswith(f"{layer}.")]


def test_modules_have_no_cycles() -> None:
    """A package's own file may gather its modules, which name it only as the parent that they are in."""
    list(TopologicalSorter(IMPORTS).static_order())


@pytest.mark.parametrize(
    ("layer", "allowed"),
    [
        ("imageloom.errors", []),
        ("imageloom.model", ["imageloom.errors"]),
        ("imageloom.records.events", ["imageloom.model", "imageloom.errors"]),
        ("imageloom.operators", ["imageloom.model", "imageloom.errors"]),
        ("imageloom.codecs", ["imageloom.model", "imageloom.errors"]),
        ("imageloom.stores.names", ["imageloom.errors"]),
        ("imageloom.system.beneath", []),
        ("imageloom.system.folders", ["imageloom.system.beneath"]),
        (
            "imageloom.stores",
            [
                "imageloom.model",
                "imageloom.stores.names",
                "imageloom.system.beneath",
                "imageloom.system.folders",
                "imageloom.errors",
                "imageloom.system.machine",
            ],
        ),
        ("imageloom.recipes.pipeline", ["imageloom.operators", "imageloom.model", "imageloom.errors"]),
        ("imageloom.recipes.rewrite", ["imageloom.operators", "imageloom.model", "imageloom.errors"]),
        ("imageloom.records.ledger", ["imageloom.model", "imageloom.errors", "imageloom.system.private"]),
        ("imageloom.records.timeline", ["imageloom.model", "imageloom.errors"]),
    ],
)
def test_each_layer_stands_on_those_below_it(layer: str, allowed: list[str]) -> None:
    ground = {name for each in (layer, *allowed) for name in below(each)}
    assert below(layer)
    for name in below(layer):
        assert all_imports_of(name) <= ground, name


@pytest.mark.parametrize(
    ("layer", "forbidden"),
    [
        ("imageloom.recipes.plan", ["run", "ledger", "cli", "engines", "sink", "stores", "work"]),
        ("imageloom.worker.perform", ["run", "ledger", "cli", "engines", "sink"]),
        ("imageloom.engines", ["run", "ledger", "cli", "sink", "api"]),
        ("imageloom.driver.run", ["cli", "api"]),
        ("imageloom.driver.watch", ["run", "ledger", "cli", "engines", "sink", "api", "work"]),
        ("imageloom.engines.nodes.node", ["run", "ledger", "cli", "sink", "api"]),
        ("imageloom.service.server", ["cli", "api"]),
        ("imageloom.service.client", ["run", "ledger", "cli", "engines", "sink", "api"]),
        ("imageloom.api", ["cli", "report"]),
        ("imageloom.service.health", ["run", "ledger", "cli", "api", "report"]),
        ("imageloom.chaos", ["run", "ledger", "cli", "api", "report"]),
        ("imageloom.records.recorder", ["run", "ledger", "cli", "api", "engines", "sink", "work", "report"]),
        ("imageloom.report", ["cli", "api", "run", "engines", "work", "bench"]),
        ("imageloom.bench", ["cli", "api", "run", "engines"]),
    ],
)
def test_no_layer_reaches_upwards(layer: str, forbidden: list[str]) -> None:
    above = {name for each in forbidden for name in below(f"imageloom.{each}")}
    for name in below(layer):
        assert not all_imports_of(name) & above, name


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
        _ = imageloom.nothing


def test_the_version_is_told() -> None:
    done = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"imageloom {imageloom.__version__}\n"


def test_files_are_short() -> None:
    tests = Path(__file__).parent.glob("*.py")
    assert {path.name: count for path in (*MODULES.values(), *tests)
            if (count := len(path.read_text().splitlines())) > 440} == {}  # fmt: skip
