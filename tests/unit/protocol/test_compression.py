"""The codecs: what we write others read, what others write we read, and no more than the limit."""

import gzip
import random
import struct
import tracemalloc

import cramjam
import pytest

from zkafka.errors import ApiError, ErrorCode
from zkafka.protocol.compression import Codec, compress, decompress

REAL = [codec for codec in Codec if codec is not Codec.NONE]
SAMPLES = {
    "nothing": b"",
    "a byte": b"x",
    "text": b"key=value " * 500,
    "random": random.Random(1).randbytes(100_000),
    "zeros": bytes(300_000),
    "a block": b"ab" * 16384,
    "a block and a byte": b"ab" * 32768 + b"c",
}


def corrupt(codec, data, **options):
    with pytest.raises(ApiError) as caught:
        decompress(codec, data, **options)
    assert caught.value.code is ErrorCode.CORRUPT_MESSAGE


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("sample", SAMPLES)
def test_round_trip(codec, sample):
    data = SAMPLES[sample]
    assert bytes(decompress(codec, compress(codec, data))) == data
    assert bytes(decompress(codec, memoryview(compress(codec, memoryview(data))))) == data


@pytest.mark.parametrize("sample", SAMPLES)
def test_what_we_write_is_read_by_the_formats_own_readers(sample):
    data = SAMPLES[sample]
    assert gzip.decompress(compress(Codec.GZIP, data)) == data
    assert bytes(cramjam.lz4.decompress(compress(Codec.LZ4, data))) == data
    assert bytes(cramjam.zstd.decompress(compress(Codec.ZSTD, data))) == data


def test_lz4_frames_have_independent_blocks_and_no_checksums():
    """Java's reader refuses linked blocks; this is the header that its own writer makes."""
    data = compress(Codec.LZ4, SAMPLES["zeros"])
    assert data[:7] == bytes.fromhex("04224d18 6040 82")
    assert data[-4:] == bytes(4)


def test_lz4_stores_what_does_not_shrink():
    data = compress(Codec.LZ4, SAMPLES["random"])
    (block,) = struct.unpack_from("<I", data, 7)
    assert block == 0x8000_0000 | 65536


@pytest.mark.parametrize(
    ("codec", "levels"),
    [(Codec.GZIP, (1, -1, 9)), (Codec.LZ4, (9, 1, 17)), (Codec.ZSTD, (-131072, 3, 22))],
)
def test_a_level_trades_time_for_size(codec, levels):
    """From the least to the most thorough; the default is Kafka's."""
    rng = random.Random(2)
    data = b"".join(b"key-%d=%d;" % (n % 97, rng.randrange(1000)) for n in range(20_000))
    sizes = [len(compress(codec, data, level)) for level in levels]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]
    default = {Codec.GZIP: 6, Codec.LZ4: 9, Codec.ZSTD: 3}[codec]
    assert compress(codec, data) == compress(codec, data, default)
    for level in levels:
        assert bytes(decompress(codec, compress(codec, data, level))) == data


@pytest.mark.parametrize("level", [1, 12, 17])
@pytest.mark.parametrize("sample", SAMPLES)
def test_thorough_lz4_has_the_same_frames(sample, level):
    data = compress(Codec.LZ4, SAMPLES[sample], level)
    assert data[:7] == bytes.fromhex("04224d18 6040 82")
    assert bytes(decompress(Codec.LZ4, data)) == SAMPLES[sample]


def test_lz4_frames_of_other_makers_are_read():
    data = SAMPLES["text"]
    assert bytes(decompress(Codec.LZ4, bytes(cramjam.lz4.compress(data)))) == data


def test_snappy_is_written_in_xerial_frames():
    data = compress(Codec.SNAPPY, SAMPLES["a block and a byte"])
    assert data[:16] == b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1)
    sizes, position = [], 16
    while position < len(data):
        (size,) = struct.unpack_from(">i", data, position)
        block = data[position + 4 : position + 4 + size]
        sizes.append(cramjam.snappy.decompress_raw_len(block))
        position += 4 + size
    assert sizes == [32768, 32768, 1]


@pytest.mark.parametrize("sample", SAMPLES)
def test_bare_snappy_blocks_are_read(sample):
    """As librdkafka and other clients in C and Go send them."""
    data = SAMPLES[sample]
    assert bytes(decompress(Codec.SNAPPY, bytes(cramjam.snappy.compress_raw(data)))) == data


@pytest.mark.parametrize("codec", REAL)
def test_the_limit_is_exact(codec):
    data = SAMPLES["zeros"]
    compressed = compress(codec, data)
    assert bytes(decompress(codec, compressed, limit=len(data))) == data
    corrupt(codec, compressed, limit=len(data) - 1)


@pytest.mark.parametrize("codec", REAL)
def test_a_bomb_costs_no_more_than_the_limit(codec):
    """30 MB out of little; the limit is 1 MB, and so is what Python is asked for, with some slack
    for the buffers on the way there."""
    bomb = compress(codec, bytes(30_000_000))
    tracemalloc.start()
    try:
        corrupt(codec, bomb, limit=1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_a_snappy_block_that_announces_4_gib_is_refused_unread():
    corrupt(Codec.SNAPPY, b"\xff\xff\xff\xff\x0f" + b"x" * 50)
    corrupt(Codec.SNAPPY, b"\xff\xff\x3f" + b"x" * 50)  # 1 MiB of 53 bytes cannot be


@pytest.mark.parametrize("codec", REAL)
def test_garbage_and_streams_cut_short_are_corrupt(codec):
    compressed = compress(codec, SAMPLES["text"])
    for size in range(len(compressed)):
        if codec is Codec.SNAPPY and size == 16:
            continue  # xerial's header alone: a stream of no blocks
        corrupt(codec, compressed[:size], limit=10_000)
    rng = random.Random(codec)
    for _ in range(50):
        corrupt(codec, b"\xf7" + rng.randbytes(rng.randrange(200)), limit=10_000)


@pytest.mark.parametrize("codec", REAL)
def test_mutations_end_in_data_or_in_a_refusal(codec):
    compressed = compress(codec, SAMPLES["text"])
    rng = random.Random(codec)
    for _ in range(200):
        mutated = bytearray(compressed)
        for _ in range(3):
            mutated[rng.randrange(len(mutated))] = rng.randrange(256)
        codes = []
        try:
            assert len(decompress(codec, mutated, limit=10_000)) <= 10_000
        except ApiError as error:
            codes.append(error.code)
        assert set(codes) <= {ErrorCode.CORRUPT_MESSAGE}


def test_unknown_codecs():
    for use in (compress, decompress):
        with pytest.raises(ApiError) as caught:
            use(5, b"")
        assert caught.value.code is ErrorCode.UNSUPPORTED_COMPRESSION_TYPE
