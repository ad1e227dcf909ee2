"""The page is found, and only by those who want a page."""

from __future__ import annotations

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response

from stream_server.transports.page import folder, prefers_html, routes

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.fixture
def http() -> httpx.AsyncClient:
    async def index(_: object) -> Response:
        return PlainTextResponse("the index")

    transport = httpx.ASGITransport(Starlette(routes=routes(index)))
    return httpx.AsyncClient(transport=transport, base_url="http://test")


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("application/json, text/html", False),
        ("application/xml", False),
    ],
)
def test_who_wants_a_page(accept: str, is_page: bool) -> None:
    assert prefers_html(accept) is is_page


async def test_the_root_is_a_page_for_browsers(http: httpx.AsyncClient) -> None:
    page = await http.get("/", headers={"Accept": BROWSER})
    assert page.text == (folder() / "index.html").read_text()
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["vary"] == "Accept"
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert (await http.get("/")).text == "the index"


async def test_every_file_is_served_with_its_type(http: httpx.AsyncClient) -> None:
    types = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}
    names = [path.name for path in folder().iterdir()]
    assert {"index.html", "overlay.html"} <= set(names)
    for name in names:
        answer = await http.get(f"/web/{name}")
        suffix = name[name.rindex(".") :]
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(types.get(suffix, "image/")), name
        assert answer.headers["cache-control"] == "no-cache"
    overlay = await http.get("/overlay?session=x")
    assert overlay.text == (folder() / "overlay.html").read_text()


@pytest.mark.parametrize("path", ["/web/no.js", "/web/..%2f__init__.py", "/web/../client.py"])
async def test_nothing_else_is_served(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.get(path)).status_code == 404
