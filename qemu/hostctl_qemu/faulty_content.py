"""The ways in which a server of static files sends what is not the file: status, length, place, bytes, or direction."""

from __future__ import annotations

import zlib

from hostctl_qemu.faulty_answer import CHUNK, Answer, Mode, honest, register

PAGE = b"<!DOCTYPE html><html><head><title>Welcome</title></head><body>Please log in to the network.</body></html>"
MODES: dict[str, Mode] = {}
mode = register(MODES)


@mode
def truncated(answer: Answer) -> None:
    """The connection ends after half of what was announced."""
    answer.fitting()
    answer.body(answer.part[0], answer.half)
    answer.end()


@mode
def truncated_silently(answer: Answer) -> None:
    """Half of the file, with no length announced."""
    answer.head(200, {"Connection": "close"})
    answer.body(0, answer.source.size // 2)
    answer.end()


def _more(answer: Answer) -> None:
    for _ in range(128):
        answer.write(bytes(CHUNK))


@mode
def longer(answer: Answer) -> None:
    """A larger file than it should be, announced as such."""
    answer.head(200, {"Content-Length": str(answer.source.size + 128 * CHUNK)})
    answer.body(0, answer.source.size)
    _more(answer)


@mode
def longer_silently(answer: Answer) -> None:
    """A larger file, with no length announced."""
    answer.head(200, {"Connection": "close"})
    answer.body(0, answer.source.size)
    _more(answer)
    answer.end()


@mode
def shorter(answer: Answer) -> None:
    """A smaller file than it should be, whole in itself."""
    answer.head(200, {"Content-Length": str(answer.source.size // 2)})
    answer.body(0, answer.source.size // 2)


@mode
def bit_flip(answer: Answer) -> None:
    """One bit is another."""
    answer.fitting()
    position, place = answer.part[0], answer.half
    for chunk in answer.chunks(*answer.part):
        altered = bytearray(chunk)
        if position <= place < position + len(chunk):
            altered[place - position] ^= 4
        position += len(chunk)
        answer.write(bytes(altered))


@mode
def other_content(answer: Answer) -> None:
    """Another file of the same size."""
    answer.fitting()
    for chunk in answer.chunks(*answer.part):
        answer.write(b"x" * len(chunk))


@mode
def missing(answer: Answer) -> None:
    """HTTP status 404."""
    answer.head(404, {"Content-Length": "0"})


@mode
def forbidden(answer: Answer) -> None:
    """HTTP status 403."""
    answer.head(403, {"Content-Length": "0"})


@mode
def broken(answer: Answer) -> None:
    """HTTP status 500."""
    answer.head(500, {"Content-Length": "0"})


@mode
def busy(answer: Answer) -> None:
    """HTTP status 503, and a wish to be asked again in a second."""
    answer.head(503, {"Content-Length": "0", "Retry-After": "1"})


@mode
def busy_for_a_day(answer: Answer) -> None:
    """HTTP status 503, and a wish to be asked again tomorrow."""
    answer.head(503, {"Content-Length": "0", "Retry-After": "86400"})


@mode
def redirect_loop(answer: Answer) -> None:
    """A redirect to the same place."""
    answer.head(302, {"Content-Length": "0", "Location": answer.handler.path})


@mode
def redirect_endless(answer: Answer) -> None:
    """Redirects that never lead to the same place twice."""
    answer.head(302, {"Content-Length": "0", "Location": f"{answer.handler.path}?x"})


@mode
def redirect_metadata_service(answer: Answer) -> None:
    """A redirect to a cloud's metadata service."""
    answer.head(302, {"Content-Length": "0", "Location": "http://169.254.169.254/latest/meta-data/"})


@mode
def redirect_disguised(answer: Answer) -> None:
    """The same, with the address written as one number."""
    answer.head(307, {"Content-Length": "0", "Location": "http://2852039166/latest/meta-data/"})


@mode
def redirect_file(answer: Answer) -> None:
    """A redirect to a local file."""
    answer.head(302, {"Content-Length": "0", "Location": "file:///etc/passwd"})


@mode
def moved(answer: Answer) -> None:
    """A redirect to the file elsewhere on the same server, which is no fault."""
    if answer.handler.path.endswith("?moved"):
        honest(answer)
    else:
        answer.head(301, {"Content-Length": "0", "Location": f"{answer.handler.path}?moved"})


@mode
def gzipped(answer: Answer) -> None:
    """The file compressed, although nobody asked for that."""
    answer.head(200, {"Content-Encoding": "gzip", "Connection": "close"})
    packer = zlib.compressobj(level=1, wbits=31)
    for chunk in answer.chunks(0, answer.source.size):
        answer.write(packer.compress(chunk))
    answer.write(packer.flush())
    answer.end()


@mode
def range_ignored(answer: Answer) -> None:
    """The whole file, whatever part was asked for."""
    answer.head(200, {"Content-Length": str(answer.source.size)})
    answer.body(0, answer.source.size)


@mode
def range_wrong(answer: Answer) -> None:
    """Another part than was asked for, and it says so."""
    size = answer.source.size
    answer.head(206, {"Content-Length": str(size - 1), "Content-Range": f"bytes 1-{size - 1}/{size}"})
    answer.body(1, size)


@mode
def range_shifted(answer: Answer) -> None:
    """Another part than was asked for, and it says that it is the right one."""
    answer.fitting()
    start, end = answer.part
    answer.body(start + 1, end)
    answer.write(answer.source.read(0, 1))


@mode
def range_nonsense(answer: Answer) -> None:
    """A part whose place cannot be read."""
    answer.head(206, {"Content-Length": str(answer.source.size), "Content-Range": "lines 1-2/3"})
    answer.body(0, answer.source.size)


@mode
def range_refused(answer: Answer) -> None:
    """HTTP status 416."""
    answer.head(416, {"Content-Length": "0", "Content-Range": f"bytes */{answer.source.size}"})


@mode
def range_short(answer: Answer) -> None:
    """Half of the part that was asked for, which a server may do."""
    (start, end), size = answer.part, answer.source.size
    if answer.span is None or end - start < CHUNK:
        honest(answer)
        return
    half = answer.half
    answer.head(206, {"Content-Length": str(half - start), "Content-Range": f"bytes {start}-{half - 1}/{size}"})
    answer.body(start, half)


@mode
def portal(answer: Answer) -> None:
    """A login page in place of the file."""
    answer.head(200, {"Content-Length": str(len(PAGE)), "Content-Type": "text/html; charset=utf-8"})
    answer.write(PAGE)


@mode
def portal_same_size(answer: Answer) -> None:
    """A login page, padded to the size that was announced for the file."""
    answer.head(200, {"Content-Length": str(answer.source.size), "Content-Type": "text/html"})
    answer.write(PAGE.ljust(answer.source.size)[: answer.source.size])


@mode
def length_too_small(answer: Answer) -> None:
    """More bytes than announced; the rest would be taken for the next answer."""
    answer.fitting(max(1, (answer.part[1] - answer.part[0]) // 2))
    answer.body(*answer.part)


@mode
def length_nonsense(answer: Answer) -> None:
    """A length that is no number."""
    answer.head(200, {"Content-Length": "many"})
    answer.body(0, answer.source.size)
    answer.end()


@mode
def growing(answer: Answer) -> None:
    """The file has another size than the first answer said, as one that is written to."""
    (start, end), size = answer.part, answer.source.size + 1000
    if answer.span is None:
        answer.head(200, {"Content-Length": str(size)})
        answer.body(0, answer.source.size)
        answer.write(bytes(1000))
        return
    answer.head(206, {"Content-Length": str(end - start), "Content-Range": f"bytes {start}-{end - 1}/{size}"})
    answer.body(start, end)


@mode
def changing(answer: Answer) -> None:
    """Half of the file; whoever comes for the rest finds another file of the same size."""
    if answer.part[0] > 0:
        other_content(answer)
    else:
        truncated(answer)
