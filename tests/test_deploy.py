"""The chart: linted, rendered for every mode, valid by the Kubernetes API's own schemas, and run as far as may be.

No cluster is at hand. What the pods would run is run here instead: the chart's commands, server and probes.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import helm_python
import kubernetes_validate
import pytest
import yaml

from imageloom import __version__
from imageloom.bench.samples import draw_photos
from imageloom.cli import cli
from imageloom.engines.redis.server import _binary
from imageloom.engines.redis.wire import GROUP, STREAMS
from program import contents, free_port, imageloom, start, wait_until
from test_health import get, scrape

DEPLOY = Path(__file__).parent.parent / "deploy"
CHART = DEPLOY / "chart" / "imageloom"
OLDEST, NEWEST = "1.29", "1.34"
MODES = sorted(path.stem for path in (DEPLOY / "values").glob("*.yaml"))
CUSTOM = ("ScaledObject", "TriggerAuthentication")
"""KEDA's own kinds, of which the API's schemas know nothing."""

Manifest = dict[str, Any]


def values_of(mode: str) -> Manifest:
    found: Manifest = yaml.safe_load((DEPLOY / "values" / f"{mode}.yaml").read_text())
    return found


def render(values: Manifest, name: str = "demo") -> list[Manifest]:
    with helm_python.Chart.load(CHART) as chart:
        files = chart.render(values, name=name, namespace="images")
    texts = [text for path, text in files.items() if path.endswith(".yaml")]
    return [one for text in texts for one in yaml.safe_load_all(text) if one]


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    return [one for one in manifests if one["kind"] in kinds]


def containers(manifests: list[Manifest]) -> Iterator[tuple[Manifest, Manifest]]:
    """Each pod's spec with its one container."""
    for one in of_kind(manifests, "Job", "Deployment", "StatefulSet"):
        spec = one["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        yield spec, container


def ours(manifests: list[Manifest]) -> dict[str, Manifest]:
    """The containers that run imageloom, by their roles."""
    return {c["name"]: c for _, c in containers(manifests) if c["image"].startswith("imageloom:")}


VARIANTS: dict[str, Manifest] = {
    "defaults": {},
    "cpu": {"engine": "redis", "autoscaling": {"by": "cpu"}, "data": {"existingClaim": "images"}},
    "given server": {
        "connect": {"existingSecret": "mine"},
        "data": {"existingClaim": "images"},
        "state": {"persistent": False},
        "networkPolicy": {"enabled": False},
    },
    "buckets": {
        "run": {"source": "s3://photos/2026", "sink": "s3://web", "args": ["--quality", "80"], "keep": 60},
        "envFrom": [{"secretRef": {"name": "aws"}}],
        "env": [{"name": "AWS_REGION", "value": "eu-central-1"}],
        "image": {"pullSecrets": ["mine"], "tag": "2"},
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "images", "operator": "Exists"}],
        "podAnnotations": {"a": "b"},
        "redis": {"storageClass": "fast"},
        "state": {"storageClass": "fast"},
    },
    **{mode: values_of(mode) for mode in MODES},
}


def test_there_are_the_modes() -> None:
    assert MODES == ["d", "dask", "e", "f", "g", "ray", "serve"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == __version__


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_is_linted_and_valid(variant: str) -> None:
    values = VARIANTS[variant]
    lint = helm_python.lint(CHART, values, strict=True)
    assert lint["errors"] == []
    assert [m["error"] for m in lint["messages"]] == ["icon is recommended"]
    manifests = render(values)
    for one in manifests:
        if one["kind"] not in CUSTOM:
            for version in (OLDEST, NEWEST):
                assert kubernetes_validate.validate(one, version, strict=True) == version
    names = [(one["kind"], one["metadata"]["name"]) for one in manifests]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9-]{1,52}", name) for _, name in names), "a Job's pods get 11 more"


def test_the_validation_sees_what_is_wrong() -> None:
    (job,) = of_kind(render({}), "Job")
    job["spec"]["template"]["spec"]["restartPolcy"] = "Never"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, NEWEST, strict=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_pod_has_few_rights_and_is_probed(variant: str) -> None:
    manifests = render(VARIANTS[variant])
    for pod, container in containers(manifests):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert pod["terminationGracePeriodSeconds"] > 0
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"requests", "limits"} == set(container["resources"])
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        places = {volume["name"] for volume in pod["volumes"]}
        assert mounts["tmp"] == "/tmp"
        if container["name"] != "redis":
            assert set(mounts) == places
            option, port = ("--listen", "http") if container["name"] == "serve" else ("--health", "health")
            address = container["args"][container["args"].index(option) + 1]
            assert container["ports"] == [
                {"name": port, "containerPort": int(address.removeprefix("0.0.0.0:"))}
            ]
            for probe, path in (("startup", "health"), ("liveness", "health"), ("readiness", "ready")):
                assert container[f"{probe}Probe"]["httpGet"] == {"path": f"/{path}", "port": port}
    for one in of_kind(manifests, "Deployment", "StatefulSet"):
        selected = one["spec"]["selector"]["matchLabels"].items()
        assert selected <= one["spec"]["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize("variant", VARIANTS)
def test_our_own_command_line_takes_the_arguments(variant: str) -> None:
    for container in ours(render(VARIANTS[variant])).values():
        name, *arguments = container["args"]
        command = cli.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        environment = {one["name"]: one.get("value", "redis://x") for one in container["env"]}
        with pytest.MonkeyPatch.context() as patch:
            for variable, value in environment.items():
                patch.setenv(variable, value)
            context = command.make_context(name, list(arguments))
        if container["name"] == "serve":
            assert context.params["listen"] == "0.0.0.0:8100"
            assert context.params["connect"]
            assert (context.params["hosts"], context.params["behind_proxy"]) == (("localhost:8100",), True)
        else:
            assert context.params["health"] == "0.0.0.0:8080"
        if container["name"] in ("worker", "assembler"):
            assert context.params["role"] == container["name"]
            assert context.params["connect"]
            assert context.params["roots"] != ()


@pytest.mark.parametrize(
    ("mode", "roles"),
    [
        ("d", {"run"}),
        ("e", {"coordinator", "worker", "assembler"}),
        ("f", {"coordinator", "worker", "assembler"}),
        ("g", {"coordinator", "worker", "assembler"}),
        ("dask", {"coordinator"}),
        ("ray", {"coordinator"}),
        ("serve", {"serve", "worker", "assembler"}),
    ],
)
def test_each_mode_has_its_roles(mode: str, roles: set[str]) -> None:
    manifests = render(values_of(mode))
    found = ours(manifests)
    assert set(found) == roles
    assert len(of_kind(manifests, "StatefulSet")) == ("worker" in roles)
    coordinator = found[next(role for role in ("coordinator", "run", "serve") if role in found)]
    engine = coordinator["args"][coordinator["args"].index("--engine") + 1]
    assert engine == {"d": "serial", "dask": "dask", "ray": "ray"}.get(mode, "redis")
    for server in of_kind(manifests, "StatefulSet"):
        assert ("volumeClaimTemplates" in server["spec"]) == (mode != "e")
    connect = [one for one in coordinator["env"] if one["name"] == "IMAGELOOM_CONNECT"]
    if mode in ("dask", "ray"):
        assert connect[0]["value"].startswith({"dask": "tcp://", "ray": "ray://"}[mode])
    elif mode == "d":
        assert not connect
    else:
        assert "secretKeyRef" in connect[0]["valueFrom"]


def test_a_scaler_watches_the_stream_that_workers_read() -> None:
    manifests = render(values_of("g"))
    (scaled,), (authentication,) = (
        of_kind(manifests, "ScaledObject"),
        of_kind(manifests, "TriggerAuthentication"),
    )
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["type"] == "redis-streams"
    assert trigger["metadata"]["stream"] == STREAMS["worker"]
    assert trigger["metadata"]["consumerGroup"] == GROUP
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    (secret,), (service,) = of_kind(manifests, "Secret"), of_kind(manifests, "Service")
    (target,) = authentication["spec"]["secretTargetRef"]
    assert (target["name"], target["parameter"]) == (secret["metadata"]["name"], "password")
    assert target["key"] in secret["stringData"]
    assert trigger["metadata"]["address"] == f"{service['metadata']['name']}.images.svc:6379"
    deployments = {one["metadata"]["name"]: one["spec"] for one in of_kind(manifests, "Deployment")}
    assert "replicas" not in deployments[scaled["spec"]["scaleTargetRef"]["name"]], "they are the scaler's"
    (hpa,) = of_kind(render(VARIANTS["cpu"]), "HorizontalPodAutoscaler")
    assert hpa["spec"]["scaleTargetRef"]["name"] == "demo-imageloom-worker"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"engine": "dask"}, "give connect.address or connect.existingSecret"),
        ({"engine": "sparkle"}, "engine"),
        ({"workers": {"replica": 3}}, "replica"),
        ({"data": {"hostPath": "/a", "existingClaim": "b"}}, "not both"),
        (
            {"connect": {"address": "redis://x"}, "autoscaling": {"by": "keda"}},
            "the chart's own Redis server",
        ),
        ({"connect": {"address": "http://x"}}, "connect"),
        ({"health": {"port": 80}}, "1,024"),
        ({"serve": {"enabled": True, "roots": []}}, "roots"),
    ],
)
def test_what_makes_no_sense_is_refused(values: Manifest, reason: str) -> None:
    with pytest.raises(helm_python.HelmError, match=re.escape(reason)):
        render(values)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "given server"])
def test_every_pod_is_closed_but_for_what_it_needs(variant: str) -> None:
    """One policy selects each pod, for both directions."""
    manifests = render(VARIANTS[variant])
    policies = of_kind(manifests, "NetworkPolicy")
    for one in of_kind(manifests, "Job", "Deployment", "StatefulSet"):
        labels = one["spec"]["template"]["metadata"]["labels"]
        (policy,) = [p["spec"] for p in policies if selects(p["spec"]["podSelector"], labels)]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        for rule in policy["ingress"]:
            assert rule["from"], "none lets everybody in"
            assert rule["ports"] == [{"port": "redis"}]
        if labels["app.kubernetes.io/component"] == "redis":
            assert policy["egress"] == []
            assert policy["ingress"]
        else:
            assert policy["ingress"] == []
            assert all(rule["ports"] for rule in policy["egress"])


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        (labels.get(one["key"]) in one["values"]) == (one["operator"] == "In")
        for one in selector.get("matchExpressions", [])
    )


@pytest.mark.parametrize(
    ("values", "ports"),
    [
        ({"engine": "serial"}, set()),
        ({}, {"redis"}),
        ({"run": {"source": "s3://a", "sink": "sftp://b/c"}}, {"redis", 443, 22}),
        ({"connect": {"existingSecret": "mine"}}, {6379}),
        ({"connect": {"address": "rediss://there:6390/0"}}, {6390}),
        ({"connect": {"address": "rediss://there/0"}}, {6379}),
        ({"engine": "dask", "connect": {"address": "tcp://scheduler.dask.svc:8786"}}, {8786}),
        ({"engine": "ray", "connect": {"existingSecret": "mine"}}, {10001}),
        ({"networkPolicy": {"to": [{"ports": [{"port": 9000}]}]}}, {"redis", 9000}),
    ],
)
def test_pods_reach_their_server_and_their_stores(values: Manifest, ports: set[int | str]) -> None:
    policy = next(p for p in of_kind(render(values), "NetworkPolicy") if "redis" not in p["metadata"]["name"])
    assert {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]} == {53, *ports}


def test_who_scrapes_is_let_in_where_it_is_named() -> None:
    peers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    policy = of_kind(render({"networkPolicy": {"metrics": peers}}), "NetworkPolicy")[0]
    assert policy["spec"]["ingress"] == [{"from": peers, "ports": [{"port": "health"}]}]


def test_a_digest_names_an_image_in_place_of_its_tag() -> None:
    digest = f"sha256:{'0a' * 32}"
    values: Manifest = {
        "image": {"repository": "registry:5000/imageloom", "tag": "1", "digest": digest},
        "redis": {"digest": digest},
    }
    images = {container["image"] for _, container in containers(render(values))}
    assert images == {f"registry:5000/imageloom@{digest}", f"valkey/valkey@{digest}"}
    for wrong in ("latest", "sha256:12", digest.upper()):
        with pytest.raises(helm_python.HelmError, match="digest"):
            render({"image": {"digest": wrong}})


def test_nothing_secret_is_in_a_pods_command() -> None:
    manifests = render({"redis": {"password": "p@ss word/1"}})
    texts = [yaml.safe_dump(one) for one in manifests if one["kind"] != "Secret"]
    assert not any("p@ss" in text for text in texts)
    (secret,) = of_kind(manifests, "Secret")
    address = urlsplit(secret["stringData"]["address"])
    assert unquote(address.password or "") == "p@ss word/1"
    assert address.hostname == of_kind(manifests, "Service")[0]["metadata"]["name"]
    made_up = [of_kind(render({}), "Secret")[0]["stringData"]["password"] for _ in range(2)]
    assert len(set(made_up)) == 2
    assert all(len(password) >= 32 for password in made_up)


class Pods:
    """The pods of a rendered chart as processes of this machine: one of each kind, the folders below `root`."""

    def __init__(self, manifests: list[Manifest], root: Path) -> None:
        self._root, self._secret = root, of_kind(manifests, "Secret")[0]["stringData"]
        self._by_role = ours(manifests)
        self.redis_port = free_port()
        (pod, server) = next((pod, c) for pod, c in containers(manifests) if c["name"] == "redis")
        for item in next(v["secret"]["items"] for v in pod["volumes"] if v["name"] == "secret"):
            place = root / "etc" / "imageloom" / item["path"]
            place.parent.mkdir(parents=True)
            place.write_text(self._secret[item["key"]])
        (root / "var" / "lib" / "imageloom").mkdir(parents=True)
        self._server = [self._here(part) for part in server["args"]]
        self._server[self._server.index("--port") + 1] = str(self.redis_port)
        self._server[self._server.index("--bind") + 1] = "127.0.0.1"

    def _here(self, text: str) -> str:
        return re.sub(r"^/(data|etc|var|state)", rf"{self._root}/\1", text)

    def serve(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([_binary(), *self._server], stdout=subprocess.DEVNULL)

    def start(self, role: str) -> tuple[subprocess.Popen[str], str]:
        """The process of a role, and where it answers probes."""
        container = self._by_role[role]
        port = free_port()
        arguments = [
            self._here(part).replace("0.0.0.0:8080", f"127.0.0.1:{port}") for part in container["args"]
        ]
        environment = dict(os.environ)
        for one in container["env"]:
            if "value" in one:
                environment[one["name"]] = self._here(one["value"])
            else:
                value = self._secret[one["valueFrom"]["secretKeyRef"]["key"]]
                environment[one["name"]] = re.sub(r"@.*?/", f"@127.0.0.1:{self.redis_port}/", value)
        return start(*arguments, env=environment, stderr=subprocess.PIPE), f"127.0.0.1:{port}"


def test_the_pods_do_the_job(tmp_path: Path) -> None:
    """A server, two workers, an assembler and a coordinator, as the chart has them; a worker is let go amid it."""
    data = tmp_path / "data"
    draw_photos(data / "photos", 30)
    assert (
        imageloom("run", "resize 512x512 | grayscale", data / "photos", tmp_path / "serial").returncode == 0
    )
    values = values_of("f") | {"redis": {"password": "a b&c"}}
    values["run"] = {"args": ["--tile", "always"]}
    pods = Pods(render(values), tmp_path)
    with ExitStack() as running:
        server = pods.serve()
        running.callback(end, server)
        places = {}
        for name, role in (("first", "worker"), ("second", "worker"), ("third", "assembler")):
            places[name] = pods.start(role)
            running.callback(end, places[name][0])
        for _, address in places.values():
            wait_until(partial(is_ready, address))
        coordinator, asked = pods.start("coordinator")
        running.callback(end, coordinator)
        wait_until(lambda: any((data / "out").glob("*.jpg")) or coordinator.poll() is not None)
        assert scrape(asked)["stream_lag", STREAMS["worker"]] >= 0
        places["first"][0].send_signal(signal.SIGTERM)
        assert places["first"][0].wait(60) == 0, "it drains"
        assert coordinator.wait(60) == 0, coordinator.stderr and coordinator.stderr.read()
        numbers = [scrape(places[name][1])["items_total", "done"] for name in ("second", "third")]
        assert all(numbers), "each role has done its part"
    assert contents(data / "out") == contents(tmp_path / "serial")


def is_ready(address: str) -> bool:
    try:
        return get(address, "/ready")[0] == 200
    except OSError:
        return False


def end(process: subprocess.Popen[Any]) -> None:
    process.kill()
    process.wait()
    if process.stderr:
        process.stderr.close()


def test_the_readmes_commands_name_what_there_is() -> None:
    text = (DEPLOY / "README.md").read_text()
    for mode in re.findall(r"deploy/values/(\w+)\.yaml", text):
        assert mode in MODES
    keys = set(re.findall(r"--set ([\w.]+)=", text))
    with helm_python.Chart.load(CHART) as chart:
        defaults = chart.values
    for key in keys:
        place: Any = defaults
        for part in key.split("."):
            assert part in place, key
            place = place[part]
    assert "not tried on a live cluster" in text.replace("\n", " ")
