"""Every way in which a server fails its clients: which error, how long, how much memory, and what was taken as true."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hostctl_qemu.faulty_http import MODES, FaultyServer
from hostctl_qemu.faulty_tls import Authority

from hostctl.errors import HostctlError
from hostctl.repository.errors import EncodingError, RepositoryUnavailableError, SlowError, TooLongError
from hostctl.repository.fetch import Fetcher
from hostctl.repository.patience import Limits

LIMITS = Limits(
    connect=2.0,
    silence=0.6,
    patience=1.5,
    rate=20_000.0,
    attempts=3,
    backoff=0.01,
    longest_pause=0.05,
    metadata=4.0,
    redirects=3,
)
SECONDS = 10.0  # what any failure may take here, on a busy machine
FLAT = 3 << 20  # bytes of Python's memory; the payload is larger
SIZE = 5 << 20
SEGMENT = 1 << 19
PAYLOAD = b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(SIZE // 32))
DOCUMENT = b'{"signed": {"_type": "timestamp"}}' + b" " * 5000
DOCUMENT_MOST = 16_384

# What is told of a document whose content is not known yet: an error's id, or what arrives in place of it.
DOCUMENTS = {
    "truncated": "repository-truncated",
    "truncated-silently": DOCUMENT[: len(DOCUMENT) // 2],
    "longer": "repository-too-long",
    "longer-silently": "repository-too-long",
    "shorter": DOCUMENT[: len(DOCUMENT) // 2],
    "bit-flip": None,
    "other-content": b"x" * len(DOCUMENT),
    "missing": "repository-status",
    "forbidden": "repository-status",
    "broken": "repository-status",
    "busy": "repository-status",
    "busy-for-a-day": "repository-status",
    "redirect-loop": "repository-redirect",
    "redirect-endless": "repository-redirect",
    "redirect-metadata-service": "repository-redirect",
    "redirect-disguised": "repository-redirect",
    "redirect-file": "repository-redirect",
    "moved": DOCUMENT,
    "gzipped": "repository-encoding",
    "range-ignored": DOCUMENT,
    "range-wrong": "repository-range",
    "range-shifted": None,
    "range-nonsense": "repository-range",
    "range-refused": "repository-range",
    "range-short": DOCUMENT,
    "slow": "repository-slow",
    "stall-half": "repository-slow",
    "stall-end": "repository-slow",
    "slow-headers": "repository-slow",
    "silent": "repository-slow",
    "endless": "repository-too-long",
    "endless-headers": "repository-protocol",
    "endless-continue": "repository-protocol",
    "endless-trailer": "repository-too-long",
    "reset": "repository-truncated",
    "closed": "repository-unreachable",
    "flapping": "repository-truncated",
    "portal": "repository-portal",
    "portal-same-size": "repository-portal",
    "length-too-small": DOCUMENT[: len(DOCUMENT) // 2],
    "length-nonsense": DOCUMENT,
    "growing": DOCUMENT + bytes(1000),
    "changing": "repository-truncated",
    "not-http": "repository-protocol",
}

# What is told of a payload, whose size and hashes are known: an error's id, or none if it arrives all the same.
PAYLOADS = {
    "truncated": "repository-truncated",
    "truncated-silently": "repository-truncated",
    "longer": "repository-changed",
    "longer-silently": None,
    "shorter": "repository-changed",
    "bit-flip": "payload-mismatch",
    "other-content": "payload-mismatch",
    "missing": "repository-status",
    "forbidden": "repository-status",
    "broken": "repository-status",
    "busy": "repository-status",
    "busy-for-a-day": "repository-status",
    "redirect-loop": "repository-redirect",
    "redirect-endless": "repository-redirect",
    "redirect-metadata-service": "repository-redirect",
    "redirect-disguised": "repository-redirect",
    "redirect-file": "repository-redirect",
    "moved": None,
    "gzipped": "repository-encoding",
    "range-ignored": None,
    "range-wrong": "repository-range",
    "range-shifted": "payload-mismatch",
    "range-nonsense": "repository-range",
    "range-refused": "repository-range",
    "range-short": None,
    "slow": "repository-slow",
    "stall-half": "repository-slow",
    "stall-end": "repository-slow",
    "slow-headers": "repository-slow",
    "silent": "repository-slow",
    "endless": "payload-mismatch",
    "endless-headers": "repository-protocol",
    "endless-continue": "repository-protocol",
    "endless-trailer": None,
    "reset": "repository-truncated",
    "closed": "repository-unreachable",
    "flapping": None,
    "portal": "repository-portal",
    "portal-same-size": "payload-mismatch",
    "length-too-small": "repository-range",
    "length-nonsense": None,
    "growing": "repository-changed",
    "changing": "payload-mismatch",
    "not-http": "repository-protocol",
}


class Target:
    """A place to write to, as a slot is: a segment at a time, each checked before it is written."""

    def __init__(self, fetcher: Fetcher, urls: list[str]) -> None:
        self.fetcher = fetcher
        self.urls = urls
        self.written = bytearray(SIZE)
        self.places: set[int] = set()

    def fill(self) -> None:
        for start in range(0, SIZE, SEGMENT):
            if start not in self.places:
                self.segment(start, start + SEGMENT)

    def segment(self, start: int, end: int) -> None:
        held = b"".join(self.fetcher.ranges(self.urls, SIZE, start, end))
        if held != PAYLOAD[start:end]:
            raise MismatchError(f"bytes {start} to {end}")
        self.written[start:end] = held
        self.places.add(start)

    def require_untouched_elsewhere(self) -> None:
        for start in range(0, SIZE, SEGMENT):
            wanted = PAYLOAD[start : start + SEGMENT] if start in self.places else bytes(SEGMENT)
            assert self.written[start : start + SEGMENT] == wanted


class MismatchError(HostctlError):
    id = "payload-mismatch"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    served = tmp_path / "served"
    served.mkdir()
    (served / "document.json").write_bytes(DOCUMENT)
    (served / "payload").write_bytes(PAYLOAD)
    return served


@pytest.fixture
def server(folder: Path) -> Iterator[FaultyServer]:
    with FaultyServer(folder, tick=0.02) as made:
        yield made


@pytest.fixture
def fetcher() -> Fetcher:
    return Fetcher(LIMITS)


def test_every_mode_is_tried() -> None:
    assert set(MODES) == set(DOCUMENTS) == set(PAYLOADS)
    assert len(MODES) >= 25


def document(fetcher: Fetcher, url: str) -> bytes:
    return fetcher.whole(url, DOCUMENT_MOST, fetcher.meter(LIMITS.metadata))


@pytest.mark.parametrize("mode", sorted(MODES))
def test_document(server: FaultyServer, fetcher: Fetcher, mode: str) -> None:
    url = f"{server.url}document.json"
    server.fail("document", mode)
    expected = DOCUMENTS[mode]
    started = time.monotonic()
    tracemalloc.start()
    try:
        if isinstance(expected, str):
            with pytest.raises(RepositoryUnavailableError) as caught:
                document(fetcher, url)
            assert caught.value.id == expected, caught.value.render()
        elif expected is None:
            assert document(fetcher, url) != DOCUMENT
        else:
            assert document(fetcher, url) == expected
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.monotonic() - started < SECONDS
    assert peak < FLAT
    server.heal()
    assert document(fetcher, url) == DOCUMENT


@pytest.mark.parametrize("mode", sorted(MODES))
def test_payload(server: FaultyServer, fetcher: Fetcher, mode: str) -> None:
    target = Target(fetcher, [f"{server.url}payload"])
    server.fail("payload", mode)
    started = time.monotonic()
    expected = PAYLOADS[mode]
    if expected is None:
        with suppress(TooLongError):  # what comes after the file is noticed only if it comes with its end
            target.fill()
        assert target.written == PAYLOAD or mode == "longer-silently"
    else:
        with pytest.raises(HostctlError) as caught:
            target.fill()
        assert caught.value.id == expected, caught.value.render()
        assert isinstance(caught.value, MismatchError) or caught.value.exit_code == 69
    target.require_untouched_elsewhere()
    assert time.monotonic() - started < SECONDS * 2
    server.heal()
    target.fill()
    assert target.written == PAYLOAD


@pytest.mark.parametrize(
    "mode",
    ["missing", "bit-flip", "changing", "endless", "not-http", "portal", "range-refused", "stall-half", "truncated"],
)
def test_a_mirror_helps(server: FaultyServer, folder: Path, fetcher: Fetcher, mode: str) -> None:
    server.fail("payload", mode)
    with FaultyServer(folder) as mirror:
        target = Target(fetcher, [f"{server.url}payload", f"{mirror.url}payload"])
        try:
            target.fill()
        except MismatchError:
            fetcher.turn_away()
            target.fill()
        assert target.written == PAYLOAD


def test_the_mirror_that_answers_is_asked_first_from_then_on(
    server: FaultyServer, folder: Path, fetcher: Fetcher
) -> None:
    server.fail("payload", "missing")
    with FaultyServer(folder) as mirror:
        Target(fetcher, [f"{server.url}payload", f"{mirror.url}payload"]).fill()
    assert len(server.requests) == 1


def test_large_payload_costs_no_memory(folder: Path, fetcher: Fetcher) -> None:
    size = 48 << 20
    with (folder / "large").open("wb") as file:
        file.truncate(size)
    with FaultyServer(folder) as server:
        tracemalloc.start()
        try:
            total = sum(map(len, fetcher.ranges([f"{server.url}large"], size, 0, size)))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert total == size
    assert peak < 1 << 20


def test_a_server_without_ranges_sends_the_file_once(server: FaultyServer, fetcher: Fetcher) -> None:
    server.fail("payload", "range-ignored")
    Target(fetcher, [f"{server.url}payload"]).fill()
    assert len(server.requests) == 1


def test_a_broken_answer_is_resumed_where_it_broke(server: FaultyServer, fetcher: Fetcher) -> None:
    server.fail("payload", "truncated", times=1)
    assert b"".join(fetcher.ranges([f"{server.url}payload"], SIZE, 0, SIZE)) == PAYLOAD
    assert [request.range for request in server.requests] == ["", f"bytes={SIZE // 2}-{SIZE - 1}"]


def test_small_file_is_checked_and_taken_from_the_mirror_that_has_it(
    server: FaultyServer, folder: Path, fetcher: Fetcher
) -> None:
    digest = hashlib.sha256(DOCUMENT).hexdigest()
    server.fail("document", "other-content")
    with pytest.raises(HostctlError) as caught:
        fetcher.small([f"{server.url}document.json"], len(DOCUMENT), digest)
    assert caught.value.id == "payload-mismatch"
    with FaultyServer(folder) as mirror:
        urls = [f"{server.url}document.json", f"{mirror.url}document.json"]
        assert fetcher.small(urls, len(DOCUMENT), digest) == DOCUMENT


def test_a_login_page_is_recognised_by_its_hash(server: FaultyServer, fetcher: Fetcher) -> None:
    server.fail("document", "portal-same-size")
    with pytest.raises(HostctlError) as caught:
        fetcher.small([f"{server.url}document.json"], len(DOCUMENT), hashlib.sha256(DOCUMENT).hexdigest())
    assert caught.value.id == "repository-portal"


def test_what_a_busy_server_wishes_is_honoured_within_a_cap(server: FaultyServer) -> None:
    pauses: list[float] = []
    fetcher = Fetcher(Limits(longest_pause=20.0, attempts=3), pause=pauses.append)
    server.fail("document", "busy-for-a-day", times=1)
    server.fail("document", "busy", times=1)
    assert fetcher.whole(f"{server.url}document.json", DOCUMENT_MOST, fetcher.meter()) == DOCUMENT
    assert pauses == [20.0, 1.0]


def test_pauses_grow_and_differ(server: FaultyServer) -> None:
    server.fail("document", "broken")
    pauses: list[float] = []
    fetcher = Fetcher(Limits(attempts=6, backoff=1.0), pause=pauses.append)
    for _ in range(20):
        with pytest.raises(RepositoryUnavailableError):
            fetcher.whole(f"{server.url}document.json", DOCUMENT_MOST, fetcher.meter())
    for place, most in enumerate((1, 2, 4, 8, 16)):
        column = pauses[place::5]
        assert 0 <= min(column) < most / 3
        assert most / 2 < max(column) <= most
        assert len(set(column)) > 10


def test_compressed_answers_are_not_asked_for_again(server: FaultyServer, fetcher: Fetcher) -> None:
    server.fail("document", "gzipped")
    with pytest.raises(EncodingError):
        document(fetcher, f"{server.url}document.json")
    assert len(server.requests) == 1


def test_one_byte_a_second_ends_in_time(server: FaultyServer) -> None:
    # The clock of the product's own limits, sped up: each look at it is a second later.
    ticks = iter(range(1 << 30))
    fetcher = Fetcher(Limits(silence=5.0), clock=lambda: float(next(ticks)), pause=lambda _: None)
    server.fail("payload", "slow")
    with pytest.raises(SlowError):
        list(fetcher.ranges([f"{server.url}payload"], SIZE, 0, SIZE))
    assert next(ticks) < 240  # two looks a wait, so 120 s at most


def test_nobody_listens(fetcher: Fetcher) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(RepositoryUnavailableError) as caught:
            document(fetcher, f"http://127.0.0.1:{port}/document.json")
    assert caught.value.id == "repository-unreachable"


def test_unknown_name(fetcher: Fetcher) -> None:
    with pytest.raises(RepositoryUnavailableError) as caught:
        document(fetcher, "http://nobody.invalid/document.json")
    assert caught.value.id == "repository-unreachable"


NOW = datetime.now(UTC)


@pytest.mark.parametrize(
    ("start", "end", "address", "dates", "expected"),
    [
        (-10, 10, "127.0.0.1", True, None),
        (-10, -1, "127.0.0.1", True, "repository-tls"),
        (1, 10, "127.0.0.1", True, "repository-tls"),
        (-10, 10, "192.0.2.1", True, "repository-tls"),
        (-10, -1, "127.0.0.1", False, None),
        (1, 10, "127.0.0.1", False, None),
        (-10, 10, "192.0.2.1", False, "repository-tls"),
    ],
    ids=["good", "expired", "future", "other-name", "expired-no-clock", "future-no-clock", "other-name-no-clock"],
)
def test_tls(
    folder: Path, tmp_path: Path, start: int, end: int, address: str, dates: bool, expected: str | None
) -> None:
    authority = Authority.new()
    days = {"start": NOW + timedelta(days=start), "end": NOW + timedelta(days=end)}
    fetcher = Fetcher(LIMITS, tls=authority.client(), dates=dates)
    with FaultyServer(folder, tls=authority.server(tmp_path, address=address, **days)) as server:
        if expected is None:
            assert document(fetcher, f"{server.url}document.json") == DOCUMENT
            return
        with pytest.raises(RepositoryUnavailableError) as caught:
            document(fetcher, f"{server.url}document.json")
    assert caught.value.id == expected


def test_foreign_authority(folder: Path, tmp_path: Path) -> None:
    tls = Authority.new().server(tmp_path, start=NOW - timedelta(days=1), end=NOW + timedelta(days=1))
    fetcher = Fetcher(LIMITS, tls=Authority.new().client())
    with FaultyServer(folder, tls=tls) as server, pytest.raises(RepositoryUnavailableError) as caught:
        document(fetcher, f"{server.url}document.json")
    assert caught.value.id == "repository-tls"


class Proxy:
    """Notes what is asked of it, and says no."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.asked: list[bytes] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self.asked.append(connection.recv(4096).split(b"\r\n")[0])
                connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("http://updates.example/x", b"GET http://updates.example/x HTTP/1.1"),
        ("https://updates.example/x", b"CONNECT updates.example:443 HTTP/1."),
    ],
)
def test_proxy_is_used_and_its_no_is_told(url: str, line: bytes) -> None:
    proxy = Proxy()
    try:
        with pytest.raises(RepositoryUnavailableError) as caught:
            document(Fetcher(LIMITS, proxy=proxy.url), url)
    finally:
        proxy.close()
    assert caught.value.id in ("repository-status", "repository-unreachable")
    assert proxy.asked[0].startswith(line)


def test_environment_names_no_proxy(server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert document(Fetcher(LIMITS), f"{server.url}document.json") == DOCUMENT
