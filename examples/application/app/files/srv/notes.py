"""Notes over HTTP: kept in PostgreSQL, the list of them cached in Redis.

``POST /notes`` adds the body as a note, ``GET /notes`` lists all as JSON; the header ``X-Cache`` says whether the list
came from the cache. ``GET /health`` asks both databases. ``X-Version`` is the version of the image.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg2
import redis

VERSION = Path("/srv/version").read_text(encoding="utf-8").strip()
PASSWORD_FILE = Path("/run/secrets/database")
LIMIT = 64 << 10
CACHED, SECONDS = "notes", 60
Headers = list[tuple[str, str]]
cache = redis.Redis(host=os.environ.get("CACHE_HOST", "cache"), socket_timeout=5)


def database() -> psycopg2.extensions.connection:
    """Return a connection; it commits when it is left without an error."""
    return psycopg2.connect(
        host=os.environ.get("DATABASE_HOST", "database"),
        dbname="notes",
        user="notes",
        password=PASSWORD_FILE.read_text(encoding="utf-8").strip(),
        connect_timeout=5,
    )


def add(text: str) -> int:
    """Store a note and return its number."""
    connection = database()
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE IF NOT EXISTS note (id serial PRIMARY KEY, text text NOT NULL)")
            cursor.execute("INSERT INTO note (text) VALUES (%s) RETURNING id", (text,))
            (number,) = cursor.fetchone()
    finally:
        connection.close()
    cache.delete(CACHED)
    return number


def listed() -> tuple[list[str], bool]:
    """Return the notes and whether they came from the cache."""
    known = cache.get(CACHED)
    if known is not None:
        return json.loads(known), True
    connection = database()
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('note')")
            if cursor.fetchone() == (None,):
                return [], False
            cursor.execute("SELECT text FROM note ORDER BY id")
            found = [text for (text,) in cursor]
    finally:
        connection.close()
    cache.set(CACHED, json.dumps(found), ex=SECONDS)
    return found, False


def answer(environ: dict[str, Any]) -> tuple[str, Headers, object]:
    """Return the status, further headers and the document that answers a request."""
    match environ["REQUEST_METHOD"], environ["PATH_INFO"]:
        case "GET", "/notes":
            found, cached = listed()
            return "200 OK", [("X-Cache", "hit" if cached else "miss")], found
        case "POST", "/notes":
            size = int(environ.get("CONTENT_LENGTH") or 0)
            if not 0 < size <= LIMIT:
                return "400 Bad Request", [], {"error": f"a note has 1 to {LIMIT} bytes"}
            text = environ["wsgi.input"].read(size).decode("utf-8", "replace")
            return "201 Created", [], {"id": add(text)}
        case "GET", "/health":
            cache.ping()
            database().close()
            return "200 OK", [], {"healthy": True}
        case _:
            return "404 Not Found", [], {"error": "GET /notes, POST /notes, GET /health"}


def application(environ: dict[str, Any], start_response: Callable[[str, Headers], object]) -> list[bytes]:
    """Answer a request (PEP 3333)."""
    try:
        status, headers, document = answer(environ)
    except (psycopg2.Error, redis.RedisError, OSError) as error:
        print(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}: {error}", flush=True)
        status, headers, document = "503 Service Unavailable", [], {"error": "a database does not answer"}
    body = json.dumps(document).encode() + b"\n"
    base = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("X-Version", VERSION)]
    start_response(status, base + headers)
    return [body]
