"""More usual mistakes, in all commands: each message names what was given, what is meant, or an example.

They run in this process: none of them gets as far as its work.
"""

from __future__ import annotations

import shlex
import socket
from pathlib import Path

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imageloom import cli
from imageloom.cli.arguments import job_and_engine
from imageloom.errors import ImageloomError
from program import draw

FILES = {
    "notes.txt": "hello",
    "cut.yaml": "steps: [resize: {size: 3x3}\n",
    "key.yaml": "step:\n- flip\n",
    "quality.yaml": "outputs:\n  web: {pipeline: flip, qualty: 80}\n",
    "high.yaml": "outputs:\n  web: {pipeline: flip, quality: high}\n",
    "number.yaml": "outputs:\n  web: 7\n",
    "none.yaml": "outputs: []\n",
    "outside.yaml": "outputs:\n  ../web: flip\n",
    "quick.yaml": "decode: quick\noutputs: {web: flip}\n",
    "nothing.yaml": "- nothing: 5\n",
    "text.yaml": "just some text\n",
    "code.yaml": "operators: my_ops.py\noutputs: {a: flip}\n",
    "config.yaml": "run: {jbs: 3}\n",
    "command.yaml": "ron: {jobs: 3}\n",
    "many.yaml": "run: {jobs: many}\n",
    "flat.yaml": "jobs: 3\n",
    "lots.yaml": "run: {memory: lots}\n",
    "nodes.yaml": "nodes: [here]\n",
    "node.yaml": "node: []\n",
    "bare.py": "from imageloom import operator\n@operator\ndef f(image): return image\n",
    "dot.py": "from imageloom import operator\n@operator('dot')\ndef f(image): return image\n",
    "untyped.py": "from imageloom import operator\n@operator('point')\ndef f(image, by=3): return image\n",
    "halo.py": "from imageloom import operator\n@operator('local')\ndef f(image): return image\n",
    "syntax.py": "def f(:\n",
    "missing.py": "import nothing_here\n",
    "flip.py": "from imageloom import operator\n@operator('point')\ndef flip(image): return image\n",
}
MISTAKES = [
    # arguments
    ("run flip photos", 2, "PIPELINE SOURCE SINK, but 2 are given; for example: 'resize 50%' photos/ out/"),
    ("run --output a=flip flip photos out", 2, "--output replaces PIPELINE"),
    ("run flip photos out --in-place", 2, "--in-place has no SINK"),
    ("rnu flip photos out", 2, "there is no command 'rnu' (did you mean run?)"),
    ("convert photos/a.jpg out", 2, "there is no command 'convert' (did you mean run?)"),
    ("run resize 50% photos out", 2, "(write PIPELINE in quotes), but 4 are given"),
    ("run flip photos/a.jpg notes.txt out", 2, "(for several files, give their folder and --include '*.jpg')"),
    ("run photos/a.jpg photos out", 2, "PIPELINE is 'photos/a.jpg', a file: give steps such as"),
    ("plan photos/a.jpg flip", 2, "PIPELINE is the first argument, and FILE the second: imageloom plan flip"),
    ("plan flip photos", 2, "FILE 'photos' is a folder: give one image"),
    ("look flip photos", 2, "SOURCE is the first argument, and PIPELINE the second: imageloom look photos flip"),
    ("run flip photos out --jsn", 2, "No such option '--jsn'"),
    ("jobs --token t.txt", 2, "--token: credentials are for --server"),
    # values of options
    ("run flip photos out --jobs many", 2, "'--jobs': 'many' is not a whole number from 0 to 1024"),
    ("run flip photos out --timeout 5s", 2, "'--timeout': '5s' is not a number above 0, without a unit"),
    ("run flip photos out --timeout nan", 2, "'--timeout': 'nan' is not a number above 0"),
    ("run flip photos out --quality 101", 2, "'--quality': '101' is not a whole number from 1 to 100"),
    ("run flip photos out --memory lots", 2, "'lots' is not a positive number, such as 512M or 4GB"),
    ("run flip photos out --engine fast", 2, "there is no engine 'fast'; there are: serial, threads"),
    ("run flip photos out --format gifff", 2, "there is no format 'gifff'; there are: jpeg"),
    ("run flip photos out --format gif", 2, "gif files can be read but not written: choose another format"),
    ("run flip photos out --format webp --subsampling 444", 2, "--subsampling: webp has no such option"),
    ("run flip photos out --name {name}.jpg", 2, "unknown field {name}; the fields are: {dir}, {stem}"),
    ("run flip photos out --report no/x.html", 2, "--report no/x.html: there is no folder"),
    ("run --output flip photos out", 2, "an output must be NAME=PIPELINE, such as gray='grayscale'"),
    ("run --output a=flip --output a=invert photos out", 2, "two outputs have the same folder 'a'"),
    ("run flip photos out --engine nodes --nodes nodes.yaml", 2, "'here' is not an address HOST:PORT, such as"),
    ("run flip photos out --engine nodes --nodes node.yaml", 2, "unknown key node; the keys are: nodes, choice"),
    ("run flip photos out --engine redis --connect localhost", 2, "must begin with redis://, or rediss://"),
    ("run flip photos out --connect-file no --engine redis", 4, "cannot read no (--connect-file): No such file"),
    # steps
    ("run 'resize 9x9; flip' photos out", 2, "50%; steps are separated by '|'"),
    ("run 'resize=9x9' photos out", 2, "'resize=9x9' (write 'resize 9x9')"),
    ("run 'resize(9x9)' photos out", 2, "'resize(9x9)' (write 'resize 9x9')"),
    ("run 'resize 9x9>' photos out", 2, "instead of '>' use fit=inside enlarge=false"),
    ("run 'flip | -quality 80' photos out", 2, "'-quality' (it is an option: --quality 80)"),
    ("run 'gaussian_blur 0' photos out", 2, "it must be a number above 0 up to 100"),
    ("run 'flip; grayscale' photos out", 2, "steps are separated by '|'"),
    # recipes
    ("run cut.yaml photos out", 2, "column 1 is not YAML: expected ',' or ']', but got the end of the file"),
    ("run key.yaml photos out", 2, "key.yaml: unknown key step; the keys are: colors"),
    ("run quality.yaml photos out", 2, "quality.yaml: output web: unknown key qualty (did you mean quality?)"),
    ("run high.yaml photos out", 2, "quality = 'high': it must be a whole number from 1 to 100"),
    ("run number.yaml photos out", 2, "web: the pipeline must be a text or a list of steps; for example: web:"),
    ("run none.yaml photos out", 2, "none.yaml: 'outputs' must give each output a name and a pipeline; for"),
    ("run outside.yaml photos out", 2, "the folder of an output must be inside the sink, not '../web'"),
    ("run quick.yaml photos out", 2, "decode = 'quick': it must be one of safe, fast, exact"),
    ("run nothing.yaml photos out", 2, "nothing.yaml: there is no operator 'nothing'"),
    ("run text.yaml photos out", 2, "for example: outputs: {small: resize 50%}"),
    ("run code.yaml photos out", 2, "if you trust this code, add --operators my_ops.py"),
    ("run no.yaml photos out", 2, "cannot read no.yaml: No such file"),
    # configuration files
    ("--config config.yaml run flip photos out", 2, "run has no option 'jbs' (did you mean jobs?)"),
    ("--config command.yaml run flip photos out", 2, "there is no command 'ron' (did you mean run?)"),
    ("--config many.yaml run flip photos out", 2, "'many' is not a whole number"),
    ("--config flat.yaml run flip photos out", 2, "such as 'run: {jobs: 4}'"),
    ("--config lots.yaml run flip photos out", 2, "'lots' is not a positive number"),
    # operators of one's own
    ("run f photos out --operators bare.py", 2, 'bare.py: line 2: @operator got nothing: the first argument is'),
    ("ops --operators dot.py", 2, "@operator got 'dot': the first argument is the kind, one of geometric"),
    ("ops --operators untyped.py", 2, "the parameter 'by' of the operator 'f' (untyped.py, line 2) has no type"),
    ("ops --operators halo.py", 2, "the kind local needs a halo, the number of pixels around each pixel"),
    ("ops --operators syntax.py", 2, "syntax.py: line 1: SyntaxError: invalid syntax"),
    ("ops --operators missing.py", 2, "missing.py: line 1: ModuleNotFoundError: No module named 'nothing_here'"),
    ("ops --operators flip.py", 2, "imageloom has an operator 'flip' already: give the function another name"),
    ("ops --operators notes.txt", 2, "it is not a Python file (*.py)"),
    ("ops cany", 2, "there is no operator 'cany' (did you mean canny?)"),
    ("new operator 9lives", 2, "'9lives' cannot be a function's name in Python; for example: lighten.py"),
    ("new operator flip", 2, "imageloom has an operator 'flip' already"),
    ("new recipe web.txt", 2, "a recipe's name ends in .yaml; for example: web.yaml"),
    ("new recipe key.yaml", 2, "key.yaml exists already: nothing was written"),
    # other commands
    ("look photos flip --to x.jpg", 2, "x.jpg must end in .png or .html"),
    ("jobs show latest", 2, "(--ledger): give a number from `imageloom jobs`, or 'last'"),
    ("jobs last", 2, "there is no command 'last'; to show a job: imageloom jobs show last"),
    ("jobs --ledger no.db", 2, "File 'no.db' does not exist"),
    ("report latest", 2, "'latest' is neither a job's number (see `imageloom jobs`) nor 'last'"),
    ("worker --engine threads --connect x", 2, "`imageloom worker` works for these engines only: zeromq, redis"),
    ("dead drop --connect redis://[::1]:1 x --all", 2, "give the keys of items, or --all, not both"),
    ("node --root photos --server here", 2, "'here' is not an address HOST:PORT, such as 127.0.0.1:7000"),
    ("node --root photos --load 2", 2, "load = 2.0: it must be from 0 to 1, or auto"),
    ("server", 2, "--root FOLDER"),
    ("serve --root nowhere", 2, "--root nowhere: there is no such folder"),
    ("scenario --choice best", 2, "there is no choice 'best'; there are: random, least-loaded"),
    ("chaos flip photos --engine threads", 2, "give at least one fault with a rate such as 2/s: --kill-workers"),
    ("chaos nope photos --engine threads --fill-disk 1/s", 2, "there is no operator 'nope'"),
    ("bench photos --pipeline nope", 2, "there is no operator 'nope'"),
    ("bench photos --workers many", 2, "give numbers from 1 to 1024, separated by commas, such as 1,2,4"),
    ("completion tcsh", 2, "'tcsh' is not one of 'bash', 'zsh', 'fish'"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    draw(tmp_path / "photos/a.jpg", 1, 40, 30)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "listen", lambda: None)
    return tmp_path


def tried(words: list[str]) -> int:
    """Call the program in this process. Returns its exit code; its errors are printed."""
    try:
        code = cli.cli.main(words, "imageloom", standalone_mode=False)
    except Exception as error:
        return cli._say(error)
    return int(code or 0)


@pytest.mark.parametrize(("line", "code", "said"), MISTAKES, ids=[line for line, _, _ in MISTAKES])
def test_a_mistake_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], line: str, code: int, said: str
) -> None:
    before = sorted(folder.rglob("*"))
    assert tried(shlex.split(line)) == code
    printed = capsys.readouterr().err
    assert said in printed
    for wrong in ("Traceback", "<class", "Errno", "(?:", r"\d"):
        assert wrong not in printed
    assert [path for path in sorted(folder.rglob("*")) if "state" not in path.parts] == [
        path for path in before if "state" not in path.parts
    ]


def test_a_server_that_is_not_there_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    assert tried(["submit", "flip", "photos", "out", "--server", address]) == 4
    assert f"cannot reach the server {address}: Connection refused (is `imageloom" in capsys.readouterr().err


def test_one_pattern_in_a_configuration_is_one_pattern(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "include.yaml").write_text("run: {include: '*.png'}\n")
    assert cli._defaults(str(folder / "include.yaml")) == {"run": {"include": ["*.png"]}}


JUNK = st.one_of(
    st.sampled_from(["", " ", "-1", "0", "nan", "inf", "1e999", "99999999999999999999", "x" * 3000, "a/../b",
                     "tcp://", "[", "{stem", "{0}", "{stem.x}", "//", "::", "é", "$HOME", "--", "http://x/y", "s3:///"]),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
)  # fmt: skip
NEEDED = {
    "run": ["flip", "photos", "out"], "watch": ["flip", "photos", "out"], "plan": ["flip", "photos/a.jpg"],
    "look": ["photos", "flip"], "worker": ["--engine", "zeromq", "--connect", "tcp://[::1]:1"], "keys": ["k"],
    "submit": ["flip", "photos", "out"], "chaos": ["flip", "photos", "--engine", "threads"], "report": ["last"],
    "completion": ["bash"],
}  # fmt: skip
OPTIONS = [
    (name, option.opts[-1])
    for name in cli.COMMANDS
    for option in cli.cli.get_command(click.Context(cli.cli), name).params  # type: ignore[union-attr]
    if isinstance(option, click.Option) and not option.is_flag and not option.count
]


@settings(max_examples=120, suppress_health_check=list(HealthCheck))
@given(place=st.sampled_from(OPTIONS), value=JUNK)
def test_junk_in_an_option_is_a_usage_error(folder: Path, place: tuple[str, str], value: str) -> None:
    name, option = place
    command = cli.cli.get_command(click.Context(cli.cli), name)
    assert command is not None
    try:
        context = command.make_context(name, [*NEEDED.get(name, []), f"{option}={value}"])
        if name in ("run", "watch"):
            given = dict(context.params)
            given.pop("health", None)
            job_and_engine(given.pop("arguments"), given.pop("engine"), given)
    except (click.UsageError, ImageloomError) as error:
        found: Exception | None = error
    else:
        found = None  # it is a valid value
    assert "<class" not in str(found)
    assert getattr(found, "exit_code", 2) in (2, 4)
