"""zstd frames whose sizes are known before anything is decompressed, with or without a dictionary.

A frame's header is the sender's word. Here it must say exactly what the caller already knows from elsewhere, so that
no header can make this process set memory aside. Source: RFC 8878.
"""

from __future__ import annotations

import zstandard

MAX_WINDOW = 16 << 20
"""Bytes that a frame may ask its reader to keep."""


class FrameError(ValueError):
    """The bytes are no frame, or not the frame that was expected."""


def content_size(frame: bytes | bytearray) -> int:
    """Return how many bytes a frame says that it holds.

    Raises:
        FrameError: it is no frame, does not say, wants a registered dictionary or too large a window.
    """
    try:
        header = zstandard.get_frame_parameters(frame)
    except zstandard.ZstdError as error:
        raise FrameError(f"no zstd frame: {error}") from error
    if header.content_size in (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR):
        raise FrameError("the frame does not say what it holds")
    if header.dict_id:
        raise FrameError(f"the frame asks for dictionary {header.dict_id}")
    if header.window_size > MAX_WINDOW:
        raise FrameError(f"the frame asks for a window of {header.window_size} bytes")
    return header.content_size


def decompress(
    frame: bytes | bytearray, low: int, high: int, dictionary: zstandard.ZstdCompressionDict | None = None
) -> bytes:
    """Return what one frame holds.

    Args:
        frame: the whole frame and nothing after it.
        low: the least bytes that it may hold.
        high: the most.
        dictionary: what it was compressed against, see :func:`raw_dictionary`.

    Raises:
        FrameError: it is broken, followed by something, or holds less or more.
    """
    size = content_size(frame)
    if not low <= size <= high:
        raise FrameError(f"the frame holds {size} bytes, not {low} to {high}")
    try:
        decompressor = zstandard.ZstdDecompressor(dict_data=dictionary)
        plain = decompressor.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FrameError(f"broken zstd frame: {error}") from error
    if len(plain) != size:
        raise FrameError(f"the frame holds {len(plain)} bytes instead of {size}")
    return plain


def raw_dictionary(content: bytes | bytearray) -> zstandard.ZstdCompressionDict:
    """Return ``content`` as a dictionary of plain bytes, which is copied: the caller may drop its own."""
    return zstandard.ZstdCompressionDict(content, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
