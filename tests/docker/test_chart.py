"""The Helm chart, linted and rendered by Helm's own library, its objects against the schemas."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stream_server.config import options

ROOT = Path(__file__).parents[2]
CHART = ROOT / "docker" / "helm" / "diffscribe"
RENDER = Path(__file__).parent / "render_chart.py"

Render = Callable[..., dict[str, Any]]


@pytest.fixture
def render(linters: Path) -> Render:
    """Renders the chart with values; gives its objects by their kind."""

    def run(error: str = "", **values: Any) -> dict[str, Any]:
        done = subprocess.run(
            [linters / "bin" / "python", RENDER, CHART],
            input=json.dumps([values]), capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (found,) = json.loads(done.stdout)
        if error:
            assert error in found["error"]
        else:
            assert "error" not in found, found["error"]
            assert found["lint"] == []
        return {each["kind"]: each for each in found["objects"]}

    return run


def pod_of(objects: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = objects["Deployment"]["spec"]["template"]["spec"]
    return spec


def container_of(objects: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod_of(objects)["containers"]
    result: dict[str, Any] = container
    return result


def test_on_cpus(render: Render) -> None:
    objects = render(apiKeys=["one", "two"])
    assert set(objects) == {
        "Deployment", "PodDisruptionBudget", "Secret", "Service", "ServiceAccount",
    }  # fmt: skip
    secret = objects["Secret"]["data"]
    assert base64.b64decode(secret["api-keys"]) == b"one,two"
    container = container_of(objects)
    assert container["image"] == "diffscribe:0.1.0-cpu"
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert objects["Service"]["spec"]["selector"].items() <= labels.items()


def test_what_is_promised_of_a_pod(render: Render) -> None:
    objects = render(apiKeys=["k"], drain={"beforeSeconds": 7, "seconds": 90})
    pod, container = pod_of(objects), container_of(objects)
    # Probes, and a drain that the pod is given the time for.
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "7"]
    assert pod["terminationGracePeriodSeconds"] > 7 + 90
    # Nobody in particular, who can write to two folders.
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert {each["mountPath"] for each in container["volumeMounts"]} == {"/models", "/tmp"}
    # Kubernetes would set DIFFSCRIBE_PORT=tcp://... for a service of that name.
    assert pod["enableServiceLinks"] is False


def test_environment_variables_are_options_of_the_server(render: Render) -> None:
    known = {option.variable for option in options()} | {"HF_TOKEN"}
    given = render(existingSecret="s", hubTokenSecret="h", env={"DIFFSCRIBE_STEPS": "4"})
    names = [each["name"] for each in container_of(given)["env"]]
    assert set(names) - known == set()
    assert len(set(names)) == len(names) == 6


def test_on_gpus_autoscaled_and_watched(render: Render) -> None:
    objects = render(
        existingSecret="mine",
        gpu={"count": 1},
        image={"tag": "0.1.0-cuda"},
        autoscaling={"enabled": True, "targetSessions": 12},
        serviceMonitor={"enabled": True, "labels": {"release": "prometheus"}},
        ingress={"enabled": True, "host": "talk.example.org", "tlsSecret": "tls"},
    )
    container = container_of(objects)
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["resources"]["limits"]["memory"] == "4Gi", "beside it"
    assert "Secret" not in objects
    assert container["env"][0]["valueFrom"]["secretKeyRef"] == {"name": "mine", "key": "api-keys"}
    scaler = objects["HorizontalPodAutoscaler"]["spec"]
    assert scaler["metrics"][0]["pods"]["metric"]["name"] == "diffscribe_sessions"
    assert scaler["metrics"][0]["pods"]["target"]["averageValue"] == "12"
    assert "replicas" not in objects["Deployment"]["spec"], "or each upgrade would reset them"
    monitor = objects["ServiceMonitor"]["spec"]["endpoints"][0]
    assert monitor["authorization"]["credentials"]["name"] == "mine"
    assert objects["Ingress"]["spec"]["tls"][0]["hosts"] == ["talk.example.org"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "clients need a key"),
        ({"apiKeys": ["with space"]}, "apiKeys"),
        ({"apiKeys": ["k"], "replica": 2}, "replica"),
        ({"apiKeys": ["k"], "gpu": {"count": -1}}, "gpu"),
        ({"apiKeys": ["k"], "ingress": {"enabled": True}}, "ingress.host"),
    ],
)
def test_wrong_values_are_refused(render: Render, values: dict[str, Any], said: str) -> None:
    render(error=said, **values)
