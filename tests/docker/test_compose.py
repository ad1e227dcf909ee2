"""compose.yaml and what it hands to Prometheus and Grafana."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from stream_server.config import options

DOCKER = Path(__file__).parents[2] / "docker"
CLIP = DOCKER.parent / "tests" / "data" / "digits.opus"
FILES = ("compose.yaml", "compose.cuda.yaml")


def load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DOCKER / name).read_text(encoding="utf-8"))
    return loaded


def lint(dclint: Path, *files: Path) -> tuple[int, str]:
    rules = Path(__file__).parent / "dclint.json"
    done = subprocess.run([dclint, "-c", rules, *files], capture_output=True, text=True, timeout=60)
    return done.returncode, (done.stdout + done.stderr).strip()


def test_the_linter_has_nothing_to_say(dclint: Path, tmp_path: Path) -> None:
    assert lint(dclint, *(DOCKER / name for name in FILES)) == (0, "")
    wrong = tmp_path / "compose.yaml"
    text = (DOCKER / FILES[0]).read_text(encoding="utf-8")
    wrong.write_text(text.replace("read_only: true", "read_onely: true"))
    status, said = lint(dclint, wrong)
    assert status == 1
    assert "additional properties" in said


def test_what_is_mounted_and_built_is_there() -> None:
    for name in FILES:
        for service in load(name)["services"].values():
            if build := service.get("build"):
                dockerfile = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
                assert f" AS {build['target']}\n" in dockerfile
            for volume in service.get("volumes", ()):
                source = volume.split(":")[0]
                assert not source.startswith(".") or (DOCKER / source).exists(), source


def test_the_server_is_locked_up_and_its_options_exist() -> None:
    server = load("compose.yaml")["services"]["server"]
    assert server["read_only"]
    assert server["cap_drop"] == ["ALL"]
    known = {option.variable for option in options()} | {"HF_TOKEN"}
    assert set(server["environment"]) - known == set()
    # Neither starts with a key that everybody knows.
    assert ":?" in server["environment"]["DIFFSCRIBE_API_KEY"]
    grafana = load("compose.yaml")["services"]["grafana"]
    assert ":?" in grafana["environment"]["GF_SECURITY_ADMIN_PASSWORD"]


def test_variables_that_pages_name_are_options() -> None:
    known = {option.variable for option in options()}
    for page in ("README.md", "compose.yaml", "helm/diffscribe/values.yaml"):
        named = set(re.findall(r"DIFFSCRIBE_[A-Z_]+", (DOCKER / page).read_text(encoding="utf-8")))
        assert named, page
        assert named - known == set(), page


def test_grafana_finds_its_dashboards_and_their_source() -> None:
    (source,) = load("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    services = load("compose.yaml")["services"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in services
    (provider,) = load("grafana/provisioning/dashboards/diffscribe.yaml")["providers"]
    place = provider["options"]["path"]
    assert f"./grafana/dashboards:{place}:ro" in services["grafana"]["volumes"]
    for board in (DOCKER / "grafana" / "dashboards").glob("*.json"):
        uids = {
            each["uid"]
            for each in _walk(json.loads(board.read_text(encoding="utf-8")), "datasource")
            if isinstance(each, dict) and each.get("type") == "prometheus"
        }
        assert all(uid == source["uid"] or uid.startswith("$") for uid in uids), board.name


def _walk(node: Any, key: str) -> list[Any]:
    """All values of a key, at any depth."""
    if isinstance(node, dict):
        own = [node[key]] if key in node else []
        return own + [found for each in node.values() for found in _walk(each, key)]
    return [found for each in node for found in _walk(each, key)] if isinstance(node, list) else []


def dashboard_queries() -> list[str]:
    """Every query of the dashboards, with Grafana's variables filled in."""
    boards = (DOCKER / "grafana" / "dashboards").glob("*.json")
    texts = [
        text
        for board in boards
        for text in _walk(json.loads(board.read_text(encoding="utf-8")), "expr")
    ]
    filled = {r"\$\{?__(rate_)?interval\}?": "1m", r"\$\{?__range\}?": "1h", r"\$\{?\w+\}?": ".*"}
    for pattern, value in filled.items():
        texts = [re.sub(pattern, value, text) for text in texts]
    return texts


@pytest.fixture
async def server_port(free_port: Callable[[], int]) -> AsyncIterator[int]:
    """A server with the key "sesame"."""
    port = free_port()
    main = "from stream_server.cli import main; main()"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", main, "serve", "--model", "fake", "--port", str(port),
        "--api-key", "sesame", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    yield port
    process.terminate()
    await process.wait()


async def test_prometheus_scrapes_the_server_with_its_key(
    server_port: int, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """Debian's Prometheus, with our file: only the address and the place of the key are others."""
    if shutil.which("prometheus") is None:
        pytest.skip("Prometheus is not installed; on Debian: apt-get install prometheus")
    text = (DOCKER / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    key, config, port = tmp_path / "key", tmp_path / "prometheus.yml", free_port()
    key.write_text("sesame\n")
    for ours, here in (
        ("/run/secrets/api_key", str(key)),
        ("server:8000", f"127.0.0.1:{server_port}"),
        ("scrape_interval: 5s", "scrape_interval: 1s"),
    ):
        assert ours in text
        text = text.replace(ours, here)
    config.write_text(text)
    process = await asyncio.create_subprocess_exec(
        "prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
    )  # fmt: skip
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            assert await query(http, 'up{job="diffscribe"}') == "1"
            assert await query(http, "diffscribe_sessions") == "0"
            for expression in dashboard_queries():
                answer = await http.get("/api/v1/query", params={"query": expression})
                assert answer.json()["status"] == "success", (expression, answer.text)
    finally:
        process.terminate()
        await process.wait()


async def test_caddy_puts_https_in_front(
    server_port: int, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """Debian's Caddy, with our file: a client streams through it, and trusts its certificate."""
    if shutil.which("caddy") is None:
        pytest.skip("Caddy is not installed; on Debian: apt-get install caddy")
    text = (DOCKER / "Caddyfile").read_text(encoding="utf-8")
    assert "server:8000" in text
    config, port = tmp_path / "Caddyfile", free_port()
    # Nothing of this machine is changed: no other port, no trust in its authority.
    options = "{\n admin off\n skip_install_trust\n auto_https disable_redirects\n}\n"
    config.write_text(options + text.replace("server:8000", f"127.0.0.1:{server_port}"))
    environ = {
        "DOMAIN": f"localhost:{port}", "XDG_DATA_HOME": str(tmp_path), "HOME": str(tmp_path)
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        shutil.which("caddy") or "", "run", "--config", config, env=environ,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    root = tmp_path / "caddy" / "pki" / "authorities" / "local" / "root.crt"
    try:
        async with asyncio.timeout(30):
            while not root.exists():  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        trusted = ssl.create_default_context(cafile=str(root))
        async with httpx.AsyncClient(verify=trusted) as http:
            assert await ready(http, f"https://localhost:{port}/readyz")
        main = "from stream_client.cli import main; main()"
        client = await asyncio.create_subprocess_exec(
            sys.executable, "-c", main, "file", CLIP, "--pace", "max", "--api-key", "sesame",
            "--url", f"wss://localhost:{port}/v1/stream",
            env={"SSL_CERT_FILE": str(root), "PYTHONPATH": ":".join(sys.path)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        out, err = await client.communicate()
        assert (client.returncode, err) == (0, b"")
        assert len(out.splitlines()) == 3
    finally:
        process.terminate()
        await process.wait()


async def ready(http: httpx.AsyncClient, url: str) -> bool:
    """Wait until a server is ready."""
    async with asyncio.timeout(60):
        while True:
            try:
                if (await http.get(url)).status_code == 200:
                    return True
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)


async def query(http: httpx.AsyncClient, expression: str) -> str:
    """Return the value of a query, as soon as it has one other than "not up"."""
    async with asyncio.timeout(60):
        while True:
            try:
                answer = await http.get("/api/v1/query", params={"query": expression})
                found = answer.json()["data"]["result"]
                if found and (not expression.startswith("up") or found[0]["value"][1] == "1"):
                    return str(found[0]["value"][1])
            except (httpx.TransportError, ValueError, KeyError):
                pass
            await asyncio.sleep(0.2)
