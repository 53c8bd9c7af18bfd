"""Looking for images: Docker Hub's search and other registries' catalogs, honest ones and others, on loopback."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from hostctl.cli import search as verb
from hostctl.errors import UsageError
from hostctl.image import inquiry, search
from hostctl.image.inquiry import Inquiry, Place
from hostctl.image.refusal import NotThereError, PullError, RateLimitError, UnauthorizedError, UntrustedError
from hostctl.image.registry import DIRECT, Access, Mirror
from hostctl.image.search import Found

CREDENTIAL = base64.b64encode(b"me:secret").decode()
Answer = tuple[int, dict[str, str], bytes]


class Server(ThreadingHTTPServer):
    """Answers what ``answer`` says of a path and an ``Authorization`` header; keeps what it was asked."""

    answer: Callable[[str, str], Answer]
    asked: list[tuple[str, str]]

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server

    def do_GET(self) -> None:
        """Answer."""
        authorization = self.headers.get("Authorization", "")
        self.server.asked.append((self.path, authorization))
        status, headers, body = self.server.answer(self.path, authorization)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    """Return a registry with nothing in it."""
    server = Server(("127.0.0.1", 0), Handler)
    server.asked, server.answer = [], lambda *_: page([])
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def page(names: list[object], after: str = "") -> Answer:
    """Return a page of a catalog."""
    headers = {"Link": f'<{after}>; rel="next"'} if after else {}
    return 200, headers, json.dumps({"repositories": names}).encode()


def look(server: Server, term: str = "site", limit: int = 25, **access: object) -> search.Results:
    """Look through the server's catalog."""
    reach = Access(**{"insecure": True, **access})  # type: ignore[arg-type]  # a test's shorthand
    return search.search(term, server.address, limit, reach)


def test_docker_hub_is_searched(server: Server) -> None:
    entries = [
        {"name": "nginx", "description": "Web\x1b[2J\nserver\u202e", "star_count": 20000, "is_official": True},
        {"name": "some/nginx", "description": None, "star_count": "many", "is_official": "yes"},
        *({"name": name} for name in ("NGINX!", "../x", "a:b", "", None, 3, "x" * 600)),
        "nonsense",
        {"name": "one/too-many"},
    ]
    server.answer = lambda *_: (200, {}, json.dumps({"results": entries}).encode())
    found = search.search("nginx", "docker.io", 2, DIRECT, hub=Place(host=server.address, insecure=True))
    assert found.images == (
        Found(name="nginx", description="Web [2J server", stars=20000, official=True),
        Found(name="some/nginx"),
    )
    assert [path for path, _ in server.asked] == ["/v1/search?q=nginx&n=2"]
    assert found.source == "docker.io"


def test_a_catalog_is_looked_through_page_by_page(server: Server) -> None:
    pages = {"": page(["app", "team/site"], "/v2/_catalog?n=1000&last=x"), "x": page(["SITE", "site", "website"])}
    server.answer = lambda path, _: pages[parse_qs(urlsplit(path).query).get("last", [""])[0]]
    found = look(server)
    names = [image.name.removeprefix(f"{server.address}/") for image in found.images]
    assert (names, found.complete) == (["site", "team/site", "website"], True)
    assert len(look(server, limit=1).images) == 1
    assert look(server, "nothing").images == ()


def test_mirrors_come_first_and_their_part_is_not_in_the_name(server: Server) -> None:
    server.answer = lambda *_: page(["hub/team/site", "other/site"])
    mirror = Mirror(location=f"{server.address}/hub", insecure=True)
    found = search.search("site", "registry.invalid", 25, Access(mirrors=(mirror,)))
    assert [image.name for image in found.images] == ["registry.invalid/team/site"]


def test_a_mirror_stands_in_for_docker_hub(server: Server) -> None:
    server.answer = lambda *_: page(["library/nginx"])
    nobody = Place(host="127.0.0.1:9", insecure=True)
    reach = Access(mirrors=(Mirror(location=server.address, insecure=True),))
    found = search.search("nginx", "docker.io", 25, reach, hub=nobody)
    assert [image.name for image in found.images] == ["library/nginx"]
    with pytest.raises(PullError):
        search.search("nginx", "docker.io", 25, DIRECT, hub=nobody)


def test_passwords_are_given_when_they_are_asked_for(server: Server) -> None:
    def basic(path: str, authorization: str) -> Answer:
        wanted = {"WWW-Authenticate": 'Basic realm="x"'}
        return page(["site"]) if authorization == f"Basic {CREDENTIAL}" else (401, wanted, b"{}")

    server.answer = basic
    assert len(look(server, credentials={server.address: CREDENTIAL}).images) == 1
    with pytest.raises(UnauthorizedError, match="does not let this host look"):
        look(server)

    def token(path: str, authorization: str) -> Answer:
        if path.startswith("/token?service=r&scope=registry%3Acatalog%3A%2A"):
            return 200, {}, b'{"token": "t"}' if authorization else b"{}"
        bearer = f'Bearer realm="http://{server.address}/token",service="r",scope="registry:catalog:*"'
        return page(["site"]) if authorization == "Bearer t" else (401, {"WWW-Authenticate": bearer}, b"{}")

    server.answer = token
    assert len(look(server, credentials={server.address: CREDENTIAL}).images) == 1
    with pytest.raises(UnauthorizedError):
        look(server)


def test_a_password_goes_nowhere_else(server: Server) -> None:
    """A token is fetched by HTTPS, or from the very place that may be spoken to in clear; redirects get nothing."""
    for realm in ("http://localhost:1/token", "ftp://x/", "", f"http://{server.address}.evil.invalid/"):
        bearer = {"WWW-Authenticate": f'Bearer realm="{realm}"'}
        server.answer = lambda path, _, bearer=bearer: (401, bearer, b"{}")  # type: ignore[misc]
        with pytest.raises(UnauthorizedError):
            look(server, credentials={server.address: CREDENTIAL})
    assert not any(authorization for _, authorization in server.asked)

    def leads(path: str, authorization: str) -> Answer:
        if authorization:
            return 302, {"Location": "/elsewhere"}, b""
        return 401, {"WWW-Authenticate": 'Basic realm="x"'}, b"{}"

    server.answer = leads
    with pytest.raises(PullError):
        look(server, credentials={server.address: CREDENTIAL})
    assert not any(path == "/elsewhere" for path, _ in server.asked)


@pytest.mark.parametrize(
    ("status", "kind"), [(404, NotThereError), (405, NotThereError), (403, UnauthorizedError), (429, RateLimitError)]
)
def test_refusals_say_what_to_do(server: Server, status: int, kind: type[PullError]) -> None:
    server.answer = lambda *_: (status, {"Retry-After": "7"}, b"{}")
    with pytest.raises(kind) as caught:
        look(server)
    assert caught.value.hint
    assert caught.value.exit_code == 69


def test_endless_pages_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    count = iter(range(10**6))
    server.answer = lambda *_: page([f"site{next(count)}"], f"/v2/_catalog?last={next(count)}")
    monkeypatch.setattr(search, "PAGES", 5)
    found = look(server)
    assert (len(found.images), found.complete) == (5, False)
    for nonsense in ("/v2/_catalog?n=1000", "http://127.0.0.1:1/v2/_catalog", "//[", "/v2/other", "file:///etc/passwd"):
        server.asked.clear()
        server.answer = lambda path, _, after=nonsense: page(["site"], after)  # type: ignore[misc]
        assert len(look(server).images) == 1
        assert len(server.asked) <= 2
    server.answer = lambda path, _: page(["site"], f"{path}0")
    assert len(look(server).images) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b"{}",
        b'{"repositories": {"a": 1}}',
        b'{"repositories": 3}',
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"repositories": ["site"',
    ],
    ids=lambda body: body[:12].hex(),
)
def test_what_is_no_list_is_refused(server: Server, body: bytes) -> None:
    server.answer = lambda *_: (200, {}, body)
    with pytest.raises(PullError):
        look(server)
    with pytest.raises(PullError):
        search.search("x", "docker.io", 5, DIRECT, hub=Place(host=server.address, insecure=True))


def test_odd_names_are_left_out(server: Server) -> None:
    server.answer = lambda *_: page(["site", None, 3, "", "site\x1b[31m", "Site", "../site", "site:1", "x" * 5000])
    assert [image.name for image in look(server).images] == [f"{server.address}/site"]
    server.answer = lambda *_: (200, {}, b'{"repositories": null}')
    assert look(server).images == ()


def test_a_huge_answer_is_not_read(server: Server) -> None:
    server.answer = lambda *_: (200, {}, b" " * (inquiry.ANSWER_BYTES + (1 << 20)))
    with pytest.raises(PullError) as caught:
        look(server)
    assert "more than" in caught.value.details
    server.answer = lambda *_: (200, {"Content-Encoding": "gzip"}, b"\x1f\x8b")
    with pytest.raises(PullError):
        look(server)


def test_silence_ends(server: Server) -> None:
    def late(path: str, authorization: str) -> Answer:
        time.sleep(3)
        return page([])

    server.answer = late
    asking = Inquiry(Place(host=server.address), seconds=0.5)
    began = time.monotonic()
    with pytest.raises(PullError):
        asking.get(f"http://{server.address}/v2/_catalog")
    assert time.monotonic() - began < 2.5


def test_plain_http_only_where_it_is_declared(server: Server) -> None:
    with pytest.raises(UntrustedError):
        look(server, insecure=False)
    assert server.asked == []
    assert Place(host="r.example").addresses == ("https://r.example",)
    assert Place(host="docker.io").addresses == ("https://registry-1.docker.io",)


def test_what_is_asked_for_is_checked() -> None:
    for term in ("", " ", "a\nb", "\x1b", "x" * 300):
        with pytest.raises(UsageError):
            search.check_term(term)
    for limit in ("0", "101", "-1", "x", "", "9" * 40, "٣"):
        with pytest.raises(UsageError):
            search.check_limit(limit)
    assert (search.check_term(" site "), search.check_limit("100")) == ("site", 100)


def test_the_verb_reads_and_prints_as_docker() -> None:
    assert verb.where("nginx", None) == ("docker.io", "nginx")
    assert verb.where("team/nginx", None) == ("docker.io", "team/nginx")
    assert verb.where("r.example:5000/site", None) == ("r.example:5000", "site")
    assert verb.where("r.example/site", "q.example") == ("q.example", "r.example/site")
    image = {"name": "nginx", "description": "x" * 80, "stars": 3, "official": True}
    shown = verb.text([image], whole=False).splitlines()
    assert shown[0].split() == ["NAME", "DESCRIPTION", "STARS", "OFFICIAL"]
    assert shown[1].split() == ["nginx", f"{'x' * 56}…", "3", "[OK]"]
    assert "x" * 80 in verb.text([image], whole=True)
