"""The four codecs that a batch's records may be compressed with, and what they cost at most.

Compressed bytes come from strangers: whatever they are, `decompress` gives the data or raises
`ApiError(CORRUPT_MESSAGE)`, and never makes more than `limit` bytes of them. The sizes announced
inside (snappy's length, zstd's content size) are believed only below that limit.

A broker keeps batches as their producer compressed them, unless the topic's compression.type asks
for another codec; else records are opened only where their values matter (the coordinators' logs,
look-ups by time, tools, tests).

What we write, Apache Kafka's Java client reads: snappy in xerial's frames, lz4 in frames of
independent 64 KiB blocks. What we read is wider: bare snappy blocks, as C and Go clients send them,
and any lz4 frame.

Source: KIP-57 (lz4 framing), KIP-110 (zstd).
"""

import enum
import struct
from typing import Any

import cramjam

from zkafka.errors import ApiError, ErrorCode


class Codec(enum.IntEnum):
    """The lowest three bits of a batch's attributes."""

    NONE = 0
    GZIP = 1
    SNAPPY = 2
    LZ4 = 3
    ZSTD = 4


OUTPUT_LIMIT = 64 * 1024 * 1024
"""Ours: Kafka has no limit. A batch of the default 1 MiB, compressed sixty-fold."""

_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER = _XERIAL_MAGIC + struct.pack(">ii", 1, 1)
_XERIAL_BLOCK = 32 * 1024

# Magic; FLG: version 1, independent blocks, no checksums, no size; BD: 64 KiB blocks; HC, the
# second byte of xxHash32 over FLG and BD.
_LZ4_HEADER = bytes.fromhex("04224d18604082")
_LZ4_BLOCK = 64 * 1024
_LZ4_STORED = 0x8000_0000
_LZ4_FAST = 9
"""Kafka's default level, which there too means the fast compressor."""
_LZ4_THOROUGH_MAX = 12
_UINT32_LE = struct.Struct("<I")
_INT32 = struct.Struct(">i")

Bytes = bytes | bytearray | memoryview


def compress(codec: int, data: Bytes, level: int | None = None) -> bytes:
    """`data` as one stream of `codec`, as it follows a batch's header.

    `level` as in Kafka's compression.*.level; None for Kafka's default. Snappy has none.
    """
    match codec:
        case Codec.NONE:
            return bytes(data)
        case Codec.GZIP:
            # -1 is the library's own.
            return bytes(cramjam.gzip.compress(data, 6 if level in (None, -1) else level))
        case Codec.SNAPPY:
            return _compress_snappy(memoryview(data))
        case Codec.LZ4:
            return _compress_lz4(memoryview(data), _LZ4_FAST if level is None else level)
        case Codec.ZSTD:
            return bytes(cramjam.zstd.compress(data, 3 if level is None else level))
    raise ApiError(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, f"no codec {codec}")


def decompress(codec: int, data: Bytes, *, limit: int = OUTPUT_LIMIT) -> Bytes:
    """The records of a batch compressed with `codec`; at most `limit` bytes.

    Errors: CORRUPT_MESSAGE where `data` is no such stream or holds more than `limit` bytes,
    UNSUPPORTED_COMPRESSION_TYPE for an unknown codec.
    """
    match codec:
        case Codec.NONE:
            return data
        case Codec.GZIP:
            return _decompress_stream(cramjam.gzip.decompress_into, data, limit)
        case Codec.SNAPPY:
            return _decompress_snappy(memoryview(data), limit)
        case Codec.LZ4:
            return _decompress_stream(cramjam.lz4.decompress_into, data, limit)
        case Codec.ZSTD:
            return _decompress_stream(cramjam.zstd.decompress_into, data, limit)
    raise ApiError(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, f"no codec {codec}")


def _decompress_stream(decompress_into: Any, data: Bytes, limit: int) -> Bytes:
    """Into a buffer of fixed size, a larger one where that was too small.

    The library raises the same exception for a full buffer and for corrupt bytes, with a text
    for people. So corrupt bytes cost every size up to the limit; they get here only with a
    CRC that is right, that is, made on purpose, and cost what a legal batch may cost.
    """
    size = min(limit, max(4096, 4 * len(data)))
    while True:
        out = bytearray(size)
        try:
            produced = decompress_into(data, out)
        except cramjam.DecompressionError as error:
            if size >= limit:
                raise ApiError(ErrorCode.CORRUPT_MESSAGE, f"bad compressed data: {error}") from None
            size = min(limit, 8 * size)
            continue
        return memoryview(out)[:produced]


def _compress_snappy(data: memoryview) -> bytes:
    out = [_XERIAL_HEADER]
    for start in range(0, len(data), _XERIAL_BLOCK):
        block = bytes(cramjam.snappy.compress_raw(data[start : start + _XERIAL_BLOCK]))
        out += (_INT32.pack(len(block)), block)
    return b"".join(out)


def _decompress_snappy(data: memoryview, limit: int) -> bytes:
    if data[: len(_XERIAL_MAGIC)] != _XERIAL_MAGIC:
        return _decompress_snappy_block(data, limit)
    if len(data) < len(_XERIAL_HEADER):
        raise ApiError(ErrorCode.CORRUPT_MESSAGE, "snappy header cut short")
    out = []
    position = len(_XERIAL_HEADER)
    while position < len(data):
        if position + 4 > len(data):
            raise ApiError(ErrorCode.CORRUPT_MESSAGE, "snappy block length cut short")
        (size,) = _INT32.unpack_from(data, position)
        position += 4
        if size < 0 or size > len(data) - position:
            raise ApiError(ErrorCode.CORRUPT_MESSAGE, "snappy block cut short")
        block = _decompress_snappy_block(data[position : position + size], limit)
        limit -= len(block)
        out.append(block)
        position += size
    return b"".join(out)


def _decompress_snappy_block(data: memoryview, limit: int) -> bytes:
    try:
        # A block's data is at most 64 times its own size (copies of 64 bytes from 3), so the
        # announced length is checked against both.
        announced = cramjam.snappy.decompress_raw_len(data)
        if announced > limit or announced > 64 * len(data):
            raise ApiError(ErrorCode.CORRUPT_MESSAGE, f"snappy block announces {announced} bytes")
        return bytes(cramjam.snappy.decompress_raw(data))
    except cramjam.DecompressionError as error:
        raise ApiError(ErrorCode.CORRUPT_MESSAGE, f"bad compressed data: {error}") from None


def _compress_lz4(data: memoryview, level: int) -> bytes:
    out = [_LZ4_HEADER]
    for start in range(0, len(data), _LZ4_BLOCK):
        plain = data[start : start + _LZ4_BLOCK]
        block = _lz4_block(plain, level)
        if len(block) < len(plain):
            out += (_UINT32_LE.pack(len(block)), block)
        else:
            out += (_UINT32_LE.pack(len(plain) | _LZ4_STORED), bytes(plain))
    out.append(b"\0\0\0\0")
    return b"".join(out)


def _lz4_block(plain: memoryview, level: int) -> bytes:
    """One block, or as much as `plain` has where it does not shrink."""
    if level == _LZ4_FAST:
        return bytes(cramjam.lz4.compress_block(plain, store_size=False))
    # The library knows levels for whole frames only, and its frames link their blocks, which Java
    # refuses: so a frame of this block alone, and the block out of it.
    frame = bytes(cramjam.lz4.compress(plain, min(level, _LZ4_THOROUGH_MAX)))
    (size,) = _UINT32_LE.unpack_from(frame, len(_LZ4_HEADER))
    start = len(_LZ4_HEADER) + 4
    return frame[start : start + (size & ~_LZ4_STORED)]
