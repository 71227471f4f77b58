"""The compose file: its commands are ours, its containers have few rights, and it names what there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from imageloom import __version__
from imageloom.cli import cli

FILE = Path(__file__).parent.parent / "deploy" / "compose.yaml"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(FILE.read_text())["services"]
    return found


def test_there_are_a_service_two_workers_and_a_server(services: dict[str, Any]) -> None:
    assert set(services) == {"serve", "worker", "valkey"}
    assert services["worker"]["deploy"]["replicas"] == 2
    for name in ("serve", "worker"):
        assert services[name]["image"] == f"imageloom:{__version__}"
        assert (FILE.parent / ".." / services[name]["build"]["dockerfile"]).exists()


def test_extras_of_the_image_are_ours(services: dict[str, Any]) -> None:
    text = (FILE.parent.parent / "pyproject.toml").read_text()
    for extra in services["serve"]["build"]["args"]["EXTRAS"].split(","):
        assert re.search(rf"^{extra} = \[", text, re.MULTILINE), extra


@pytest.mark.parametrize("name", ["serve", "worker"])
def test_our_own_command_line_takes_the_commands(
    name: str, services: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGELOOM_CONNECT", "redis://:x@valkey:6379/0")
    command = cli.get_command(None, services[name]["command"][0])  # type: ignore[arg-type]
    assert command is not None
    found = command.make_context(name, list(services[name]["command"][1:])).params
    assert found["engine"] == "redis"
    assert found["connect"] == "redis://:x@valkey:6379/0"
    assert found["roots"] == ("/data",)
    if name == "serve":
        assert services[name]["ports"] == ["127.0.0.1:8100:8100"], "only this machine reaches it without TLS"
        assert found["hosts"] == ("localhost:8100",)
        assert "localhost:8100" in services[name]["healthcheck"]["test"][-1], "other hosts are refused"


def test_containers_have_few_rights_and_no_password_is_in_the_file(services: dict[str, Any]) -> None:
    for one in services.values():
        assert one["read_only"]
        assert one["cap_drop"] == ["ALL"]
        assert one["security_opt"] == ["no-new-privileges:true"]
        assert one["user"].split(":")[0] != "0"
        assert "privileged" not in one
    assert all(
        "${REDIS_PASSWORD:?" in line for line in re.findall(r".*redis://.*", FILE.read_text()) if "@" in line
    )
