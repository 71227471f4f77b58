"""Flows: files that people write, checked before anything that they name is accessed."""

from __future__ import annotations

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from imageloom.errors import ImageloomError, StorageError, TaskRefused, UsageError
from imageloom.service.flows import BrokenFlow, Flow, FlowFolder, Rules, flow_text
from imageloom.worker.guard import Guard
from serving import flow_of


@pytest.fixture
def rules(tmp_path: Path) -> Rules:
    return Rules(Guard((str(tmp_path / "root"), "s3://photos/web")), (tmp_path / "service",), memory=1 << 30)


def test_a_flow_becomes_a_job(tmp_path: Path, rules: Rules) -> None:
    recipe = {
        "metadata": "strip",
        "outputs": {"small": "resize 50%", "gray": {"pipeline": "grayscale", "format": "png"}},
    }
    text = flow_of(
        tmp_path / "root", recipe=recipe, when="watched", options={"include": ["*.jpg"], "memory": 5}
    )
    flow = rules.flow("web", text)
    assert (flow.when, flow.job.include, flow.job.memory) == ("watched", ("*.jpg",), 5)
    assert [output.folder for output in flow.job.recipe.outputs] == ["small", "gray"]
    assert flow.job.recipe.metadata == "strip"
    assert flow.job.is_durable
    assert flow.job.links == "inside"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": 5}, "source: Expected `str`"),
        ({"recipe": "blurr 3"}, "blurr"),
        ({"recipe": "resize"}, "resize"),
        ({"recipe": 7}, "must contain a list of steps"),
        ({"recipe": {"outputs": {"../x": "grayscale"}}}, "inside the sink"),
        ({"recipe": {"operators": ["evil.py"], "outputs": {"a": "grayscale"}}}, "was not run"),
        ({"recipe": {"outputs": {str(n): "grayscale" for n in range(101)}}}, "the maximum is 100"),
        ({"when": "sometimes"}, "when: Invalid enum value 'sometimes'"),
        ({"options": {"tiel": "auto"}}, "options: Object contains unknown field `tiel`"),
        ({"options": {"links": "follow"}}, "options.links: Invalid enum value 'follow'"),
        ({"options": {"attempts": 0}}, "options.attempts"),
        ({"options": {"name": "{stem"}}, "--name"),
        ({"options": {"name": "../{stem}.{ext}"}}, "inside the sink"),
        ({"extra": 1}, "unknown field `extra`"),
        ({"source": ""}, "source: it is empty"),
        ({"source": "s3://key:secret@photos/web"}, "must not contain a password"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], said: str, tmp_path: Path, rules: Rules) -> None:
    with pytest.raises(ImageloomError, match=None) as raised:
        rules.flow(
            "web", flow_of(tmp_path / "root", **change) if "source" not in change else _text(tmp_path, change)
        )
    assert said in str(raised.value)
    assert "secret" not in str(raised.value)


def _text(tmp_path: Path, change: dict[str, Any]) -> str:
    import yaml

    data = {
        "source": str(tmp_path / "root"),
        "sink": str(tmp_path / "root/out"),
        "recipe": "grayscale",
        **change,
    }
    return yaml.safe_dump(data)


@pytest.mark.parametrize(
    "place",
    [
        "/etc",
        "file:///etc",
        "file:///proc/self",
        "{root}/../elsewhere",
        "{root}/link",
        "{root}x",
        "relative/path",
        "http://169.254.169.254/latest/meta-data",
        "http://127.0.0.1:{port}/x",
        "s3://photos/other",
        "s3://photos/web/../other",
        "s3://photos/web%2f..",
        "memory://x",
        "github://user:repo@/",
        "zip://x::http://127.0.0.1:{port}/a.zip",
        "{service}",
        "{service}/flows",
        "{above}",
    ],
)
@pytest.mark.parametrize("what", ["source", "sink"])
def test_places_elsewhere_are_refused_before_they_are_touched(
    what: str, place: str, tmp_path: Path, rules: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to("/etc")
    monkeypatch.setattr("imageloom.driver.source.open_bounded", _never)
    monkeypatch.setattr("imageloom.stores.open_store", _never)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        given = place.format(root=root, port=port, service=tmp_path / "service", above=tmp_path)
        places = {"source": str(root), "sink": str(root / "out"), what: given}
        with pytest.raises((TaskRefused, UsageError)):
            rules.flow("web", flow_text(places["source"], places["sink"], "grayscale", "once"))
        with pytest.raises(BlockingIOError):
            listener.accept()


def _never(*_: object) -> None:
    raise AssertionError("a place was opened")


def test_a_place_below_a_prefix_is_accepted(tmp_path: Path, rules: Rules) -> None:
    text = flow_text("s3://photos/web/in", str(tmp_path / "root/out"), "grayscale", "watched")
    assert rules.flow("web", text).job.source == "s3://photos/web/in"


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "-x", "a" * 64, "a b", "ä", "a.yaml"])
def test_names_are_file_names(name: str, tmp_path: Path, rules: Rules) -> None:
    folder = FlowFolder(tmp_path / "service/flows", rules)
    with pytest.raises(UsageError, match="name"):
        folder.write(name, flow_of(tmp_path / "root"), replace=False)
    assert os.listdir(tmp_path / "service/flows") == []


def test_people_may_write_the_files(tmp_path: Path, rules: Rules) -> None:
    folder = FlowFolder(tmp_path / "flows", rules)
    file = tmp_path / "flows" / "web.yaml"
    file.write_text("source: [")
    os.utime(file, ns=(1, 1))
    (tmp_path / "flows" / "notes.txt").write_text("not a flow")
    assert folder.names() == ["web"]
    broken = folder.flow("web")
    assert isinstance(broken, BrokenFlow)
    assert "is not YAML" in broken.error
    file.write_text(flow_of(tmp_path / "root"))
    os.utime(file, ns=(1, 1))  # as if it was written in two steps within one tick of the clock
    assert isinstance(folder.flow("web"), Flow)
    file.unlink()
    assert folder.flow("web") is None
    assert folder.names() == []


def test_a_file_that_is_not_valid_is_not_written(tmp_path: Path, rules: Rules) -> None:
    folder = FlowFolder(tmp_path / "flows", rules)
    folder.write("web", flow_of(tmp_path / "root"), replace=False)
    with pytest.raises(UsageError):
        folder.write("web", flow_of(tmp_path / "root", recipe="nothing_known"), replace=True)
    with pytest.raises(FileExistsError):
        folder.write("web", flow_of(tmp_path / "root"), replace=False)
    assert isinstance(folder.flow("web"), Flow)
    with pytest.raises(UsageError, match="bytes"):
        folder.write("big", "#" * 70_000, replace=False)


def test_a_recipe_of_a_flow_reads_no_file(tmp_path: Path, rules: Rules) -> None:
    (tmp_path / "r.yaml").write_text("- grayscale\n")
    with pytest.raises(UsageError):
        rules.flow("web", flow_of(tmp_path / "root", recipe=str(tmp_path / "r.yaml")))


def test_a_file_that_cannot_be_deleted_is_said(tmp_path: Path, rules: Rules) -> None:
    folder = FlowFolder(tmp_path / "flows", rules)
    (tmp_path / "flows" / "web.yaml").mkdir()
    with pytest.raises(StorageError, match=r"cannot use .*web\.yaml"):
        folder.delete("web")


def test_of_several_who_make_a_flow_one_does(tmp_path: Path, rules: Rules) -> None:
    folder = FlowFolder(tmp_path / "flows", rules)
    texts = [flow_of(tmp_path / "root", recipe=f"resize {number + 1}%") for number in range(8)]

    def write(text: str) -> str:
        try:
            folder.write("web", text, replace=False)
        except FileExistsError:
            return ""
        return text

    with ThreadPoolExecutor(8) as pool:
        written = [text for text in pool.map(write, texts) if text]
    assert written == [folder.text("web")]
