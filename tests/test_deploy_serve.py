"""The chart's service: `imageloom serve` in place of the job."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

import httpx

from program import free_port, start, wait_until
from test_deploy import end, is_ready, of_kind, ours, render, selects, values_of


def test_a_service_is_one_pod_whose_workers_reach_its_roots() -> None:
    peers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}]
    serve = {"enabled": True, "host": "photos.example.org", "roots": ["/data", "s3://web"], "from": peers}
    manifests = render({"serve": serve})
    found = ours(manifests)
    wanted = ["/data", "s3://web"]
    roots = {
        role: [found[role]["args"][at + 1] for at, one in enumerate(found[role]["args"]) if one == "--root"]
        for role in ("serve", "worker", "assembler")
    }
    assert list(roots.values()) == [wanted] * 3
    assert found["serve"]["args"][found["serve"]["args"].index("--host") + 1] == "photos.example.org"
    (deployment,) = [d for d in of_kind(manifests, "Deployment") if d["metadata"]["name"].endswith("serve")]
    assert (deployment["spec"]["replicas"], deployment["spec"]["strategy"]) == (1, {"type": "Recreate"})
    (claim,) = of_kind(manifests, "PersistentVolumeClaim")
    volumes = {one["name"]: one for one in deployment["spec"]["template"]["spec"]["volumes"]}
    assert volumes["state"]["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}
    (service,) = [s for s in of_kind(manifests, "Service") if s["metadata"]["name"].endswith("serve")]
    assert selects(
        {"matchLabels": service["spec"]["selector"]}, deployment["spec"]["template"]["metadata"]["labels"]
    )
    policy = next(p for p in of_kind(manifests, "NetworkPolicy") if "redis" not in p["metadata"]["name"])
    assert policy["spec"]["ingress"] == [{"from": peers, "ports": [{"port": "http"}]}]
    assert {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]} == {53, "redis", 443}


def test_the_pod_of_the_service_answers_the_probes_of_a_kubelet(tmp_path: Path) -> None:
    """Probes name the pod's address in Host, not that of --host."""
    (tmp_path / "data").mkdir()
    values = values_of("serve") | {"engine": "serial"}
    container = ours(render(values))["serve"]
    port = free_port()
    arguments = [
        part.replace("/data", str(tmp_path / "data")).replace("0.0.0.0:8100", f"127.0.0.1:{port}")
        for part in container["args"]
    ]
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    with ExitStack() as running:
        program = start(*arguments, "--jobs", "1", env=environment, stderr=subprocess.PIPE)
        running.callback(end, program)
        wait_until(lambda: is_ready(f"127.0.0.1:{port}"))
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Host": "10.1.2.3:8100"}) as kubelet:
            for probe in ("startup", "liveness", "readiness"):
                assert kubelet.get(container[f"{probe}Probe"]["httpGet"]["path"]).status_code == 200
            assert kubelet.get("/login").status_code == 421, "pages are for --host only"
        program.send_signal(signal.SIGTERM)
        assert program.wait(60) == 0
