"""Opened batches. What is expected here is what Apache Kafka 3.9.1 was seen to answer, but for the
differences that `opening.py` names; tests/integration/test_producers_beside_kafka.py asks it again.
"""

import random
import struct
import tracemalloc

import attrs
import pytest

from zkafka.config import LONG_MAX, LogConfig
from zkafka.errors import ApiError, ErrorCode
from zkafka.protocol.compression import OUTPUT_LIMIT, Codec, compress
from zkafka.protocol.records import (
    Record,
    build_batch,
    iter_records,
    parse_batches,
    put_varint,
    seal,
    verify_crc,
)
from zkafka.replication.opening import (
    MAX_RECORD_ERRORS,
    RecordsRefused,
    is_small,
    must_open,
    opened,
    with_append_time,
    without_append_time,
)

NOW_MS = 1_700_000_000_000
DAY_MS = 86_400_000
PLAIN = LogConfig()
RECORDS = attrs.evolve(PLAIN, record_validation="records")
APPEND_TIME = attrs.evolve(RECORDS, message_timestamp_type="LogAppendTime")
COMPACTED = attrs.evolve(PLAIN, cleanup_policy=("compact",))
WINDOW = attrs.evolve(
    PLAIN, message_timestamp_before_max_ms=DAY_MS, message_timestamp_after_max_ms=3_600_000
)
CODECS = list(Codec)
TYPES = dict(zip(("uncompressed", "gzip", "snappy", "lz4", "zstd"), CODECS, strict=True))


def record(n, timestamp=None, key=b"k"):
    return Record(key, b"v" * 20, NOW_MS + n if timestamp is None else timestamp, [("h", b"x")])


def only(data):
    (batch,) = parse_batches(memoryview(data))
    return batch


def batch(*records, **how):
    return only(build_batch(records or (record(0), record(1)), **how))


def raw(body, count, codec=Codec.NONE):
    """A batch with these bytes, compressed, for records."""
    data = build_batch([record(n) for n in range(count)])
    del data[61:]
    data += compress(codec, body)
    struct.pack_into(">h", data, 21, codec)
    seal(data)
    return only(data)


def patched(sound, form, position, value):
    """With a header field overwritten, and a right checksum."""
    data = bytearray(sound.view)
    struct.pack_into(form, data, position, value)
    seal(data)
    return only(data)


def refusal(sound, config=RECORDS):
    with pytest.raises(ApiError) as refused:
        opened(sound, config, NOW_MS)
    return refused.value


def contents(sound):
    return [(r.key, r.value, r.timestamp, list(r.headers), r.offset) for r in iter_records(sound)]


# --- When ---------------------------------------------------------------------------------------


def test_by_default_nothing_is_opened():
    assert PLAIN.takes_batches_as_sent
    for codec in CODECS:
        assert not must_open(batch(codec=codec), PLAIN, NOW_MS)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (RECORDS, "the setting"),
        (COMPACTED, "keys"),
        (attrs.evolve(PLAIN, compression_type="zstd"), "another codec"),
        (attrs.evolve(PLAIN, message_timestamp_before_max_ms=5), "each record's age"),
        (attrs.evolve(PLAIN, message_timestamp_difference_max_ms=5), "the same, deprecated"),
    ],
)
def test_what_the_header_cannot_tell_has_it_opened(config, why):
    assert not config.takes_batches_as_sent
    assert must_open(batch(), config, NOW_MS), why


def test_a_batch_of_the_topics_codec_stays_closed():
    config = attrs.evolve(PLAIN, compression_type="zstd")
    assert not config.takes_batches_as_sent
    assert not must_open(batch(codec=Codec.ZSTD), config, NOW_MS)
    assert must_open(batch(codec=Codec.GZIP), config, NOW_MS)
    assert not must_open(batch(), attrs.evolve(PLAIN, compression_type="uncompressed"), NOW_MS)


def test_the_future_is_told_by_the_header_so_only_what_breaks_the_rule_is_opened():
    config = attrs.evolve(PLAIN, message_timestamp_after_max_ms=500)
    assert not must_open(batch(record(500)), config, NOW_MS)
    assert must_open(batch(record(501)), config, NOW_MS)


def test_with_the_leaders_time_the_producers_is_no_matter():
    config = attrs.evolve(WINDOW, message_timestamp_type="LogAppendTime")
    assert not must_open(batch(record(10 * DAY_MS)), config, NOW_MS)
    assert must_open(batch(log_append_time=True), config, NOW_MS), "to tell of every record"


def test_small_is_what_is_plain_and_short():
    assert is_small(batch())
    assert not is_small(batch(codec=Codec.GZIP))
    assert not is_small(batch(*map(record, range(33))))
    assert not is_small(batch(record(0)._replace(value=bytes(5000))))


# --- Codecs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", CODECS)
@pytest.mark.parametrize("wanted", TYPES)
def test_the_codec_is_changed_and_nothing_else(source, wanted):
    sent = batch(
        record(0), record(1, key=None), record(-5), codec=source, producer_id=7,
        producer_epoch=3, base_sequence=9,
    )  # fmt: skip
    config = attrs.evolve(PLAIN, compression_type=wanted)
    stored = opened(sent, config, NOW_MS)
    assert stored.codec == TYPES[wanted]
    assert verify_crc(stored)
    assert contents(stored) == contents(sent)
    for field in (
        "base_timestamp", "max_timestamp", "producer_id", "producer_epoch", "base_sequence",
        "record_count", "last_offset_delta",
    ):  # fmt: skip
        assert getattr(stored, field) == getattr(sent, field), field
    if stored.codec == source:
        assert stored is sent, "not even copied"


@pytest.mark.parametrize(
    ("wanted", "key", "low", "high"),
    [
        ("gzip", "compression_gzip_level", 1, 9),
        ("lz4", "compression_lz4_level", 9, 12),
        ("zstd", "compression_zstd_level", -1000, 19),
    ],
)
def test_the_level_is_the_topics(wanted, key, low, high):
    sent = batch(*(record(n, key=b"key-%d" % (n * n % 97)) for n in range(500)))
    sizes = [
        opened(sent, attrs.evolve(PLAIN, compression_type=wanted, **{key: level}), NOW_MS).size
        for level in (low, high)
    ]
    assert sizes[0] > sizes[1]


def test_the_limit_holds_for_what_is_stored():
    sent = batch(record(0)._replace(value=bytes(5000)), codec=Codec.GZIP)
    config = attrs.evolve(PLAIN, compression_type="uncompressed", max_message_bytes=1000)
    assert sent.size < 1000
    assert refusal(sent, config).code is ErrorCode.MESSAGE_TOO_LARGE


def test_linked_lz4_blocks_which_java_cannot_read_are_not_stored():
    sent = batch(codec=Codec.LZ4)
    assert opened(sent, RECORDS, NOW_MS) is sent
    data = bytearray(build_batch([record(0), record(1)]))
    body = bytes(data[61:])
    linked = bytearray(compress(Codec.LZ4, body))
    linked[4:7] = bytes.fromhex("404000")  # the same frame, said to be linked
    linked[6] = xxh32_byte(bytes(linked[4:6]))
    del data[61:]
    data += linked
    struct.pack_into(">h", data, 21, Codec.LZ4)
    seal(data)
    stored = opened(only(data), RECORDS, NOW_MS)
    assert stored.view[61 + 4] & 0x20
    assert contents(stored) == contents(sent)


def xxh32_byte(data):
    """The second byte of xxHash32 of fewer than four bytes. Source: the xxHash specification."""
    mask = 0xFFFFFFFF
    value = (374761393 + len(data)) & mask
    for byte in data:
        value = (value + byte * 374761393) & mask
        value = ((value << 11 | value >> 21) * 2654435761) & mask
    value = ((value ^ value >> 15) * 2246822519) & mask
    value = ((value ^ value >> 13) * 3266489917) & mask
    return (value ^ value >> 16) >> 8 & 0xFF


# --- Timestamps ---------------------------------------------------------------------------------


def test_the_leaders_time_is_stamped_in_place():
    for codec in CODECS:
        sent = batch(codec=codec)
        stamped = with_append_time(sent, NOW_MS + 77)
        assert stamped.view is sent.view
        assert verify_crc(stamped)
        assert {r.timestamp for r in iter_records(stamped)} == {NOW_MS + 77}
        assert (stamped.codec, stamped.base_timestamp) == (codec, NOW_MS)


def test_a_client_cannot_keep_the_leaders_bit():
    cleared = without_append_time(batch(log_append_time=True))
    assert not cleared.is_log_append_time
    assert verify_crc(cleared)
    assert [r.timestamp for r in iter_records(cleared)] == [NOW_MS, NOW_MS + 1]
    assert not opened(batch(log_append_time=True), RECORDS, NOW_MS).is_log_append_time


@pytest.mark.parametrize(
    ("config", "timestamp"), [(APPEND_TIME, NOW_MS), (APPEND_TIME, -1), (RECORDS, -1)]
)
def test_a_client_that_sets_the_leaders_bit_is_told_for_every_record(config, timestamp):
    sent = batch(record(0, timestamp), record(1, timestamp), log_append_time=True)
    assert must_open(sent, attrs.evolve(config, record_validation="header"), NOW_MS)
    refused = refusal(sent, config)
    assert refused.code is ErrorCode.INVALID_TIMESTAMP
    assert [index for index, _ in refused.record_errors] == [0, 1]
    assert "should not set timestamp type" in refused.record_errors[0][1]


@pytest.mark.parametrize("codec", CODECS)
def test_records_outside_the_window_are_told_one_by_one(codec):
    times = [NOW_MS, NOW_MS - DAY_MS, NOW_MS - DAY_MS - 1, -1, NOW_MS + 3_600_001, 0]
    refused = refusal(batch(*(record(0, t) for t in times), codec=codec), WINDOW)
    assert refused.code is ErrorCode.INVALID_TIMESTAMP
    assert [index for index, _ in refused.record_errors] == [2, 4, 5]
    assert refused.record_errors[2][1] == (
        f"Timestamp 0 of message with offset 5 is out of range. The timestamp should be within"
        f" [{NOW_MS - DAY_MS}, {NOW_MS + 3_600_000}]"
    )
    assert refused.message == "One or more records have been rejected due to invalid timestamp"
    inside = batch(*(record(0, t) for t in (times[0], times[1], times[3])), codec=codec)
    assert opened(inside, WINDOW, NOW_MS) is inside


def test_the_window_of_a_batch_with_the_leaders_bit_is_about_its_one_time():
    sent = patched(batch(record(0, 5), log_append_time=True), ">q", 35, NOW_MS)
    stored = opened(sent, WINDOW, NOW_MS)
    assert (stored.max_timestamp, stored.is_log_append_time) == (5, False)


@pytest.mark.parametrize("lie", [NOW_MS - 9, NOW_MS + 9 * DAY_MS])
@pytest.mark.parametrize("codec", CODECS)
def test_the_headers_largest_timestamp_is_put_right(codec, lie):
    for config in (RECORDS, WINDOW):
        stored = opened(patched(batch(codec=codec), ">q", 35, lie), config, NOW_MS)
        assert stored.max_timestamp == NOW_MS + 1
        assert verify_crc(stored)


def test_a_timestamp_that_no_header_can_hold_is_refused():
    refused = refusal(patched(batch(), ">q", 27, LONG_MAX))
    assert (refused.code, refused.message) == (
        ErrorCode.INVALID_RECORD, f"timestamp {LONG_MAX + 1}",
    )  # fmt: skip


# --- Keys ---------------------------------------------------------------------------------------


def test_compacted_topics_take_no_record_without_key():
    sent = [record(0), record(1, key=None), record(2, key=b""), record(3, key=None)]
    for codec in CODECS:
        refused = refusal(batch(*sent, codec=codec), COMPACTED)
        assert refused.code is ErrorCode.INVALID_RECORD
        assert refused.record_errors == [
            (1, "Compacted topic cannot accept message without key."),
            (3, "Compacted topic cannot accept message without key."),
        ]
        assert "2 record errors in total" in refused.message
        assert opened(batch(*sent, codec=codec), RECORDS, NOW_MS)


def test_where_both_are_wrong_the_code_is_the_timestamps():
    config = attrs.evolve(COMPACTED, message_timestamp_before_max_ms=DAY_MS)
    refused = refusal(batch(record(0, 0), record(1, key=None), record(2)), config)
    assert refused.code is ErrorCode.INVALID_TIMESTAMP
    assert [index for index, _ in refused.record_errors] == [0, 1]


def test_no_more_than_a_thousand_records_are_told_of():
    sent = batch(*(record(0, key=None) for _ in range(MAX_RECORD_ERRORS + 5)))
    refused = refusal(sent, COMPACTED)
    assert isinstance(refused, RecordsRefused)
    assert len(refused.record_errors) == MAX_RECORD_ERRORS
    assert "1005 record errors" in refused.message


# --- Lies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [RECORDS, attrs.evolve(PLAIN, compression_type="zstd")])
@pytest.mark.parametrize("codec", [Codec.NONE, Codec.GZIP])
@pytest.mark.parametrize("count", [1, 3, 2**31 - 1])
def test_a_count_that_is_not_the_records_is_refused(config, codec, count):
    sent = patched(batch(codec=codec), ">i", 57, count)
    assert refusal(patched(sent, ">i", 23, count - 1), config).code is ErrorCode.INVALID_RECORD


@pytest.mark.parametrize("claimed", CODECS)
@pytest.mark.parametrize("real", CODECS)
@pytest.mark.parametrize("config", [RECORDS, attrs.evolve(PLAIN, compression_type="zstd")])
def test_a_codec_that_is_not_the_records_is_refused(claimed, real, config):
    sent = patched(batch(codec=real), ">h", 21, claimed)
    if claimed == real:
        assert contents(opened(sent, config, NOW_MS)) == contents(batch())
    elif config is RECORDS or claimed != Codec.ZSTD:
        assert refusal(sent, config).code is ErrorCode.INVALID_RECORD
    else:
        assert not must_open(sent, config, NOW_MS), "nothing to do, so nothing is opened"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("0e 00 00 00 01 01 00 00", "a byte left over in the record"),
        ("0c 00 00 00 01 01 00 00", "a byte left over after it"),
        ("0a 00 00 00 01 01 00", "a record longer than it says"),
        ("0c 00 00 00 01 01 02", "a header announced that is not there"),
        ("0c 00 00 00 01 01 01", "minus one headers"),
        ("0c 00 00 00 01 01 ff ff ff ff 0f", "headers without end"),
        ("0c 00 00 00 03 01 00", "a key of minus two bytes"),
        ("0c 00 00 00 01 03 00", "a value of minus two bytes"),
        ("0c 00 00 00 40 01 00", "a key beyond the record"),
        ("40 00 00 00 01 01 00", "a record beyond the batch"),
        ("0b 00 00 00 01 01 00", "a record of negative length"),
        ("10 00 00 00 01 01 02 01 01", "a header with a null key"),
        ("10 00 00 00 01 01 02 00 03", "a header value of minus two bytes"),
        ("ff ff ff ff ff ff ff ff ff ff 01 00 00", "a length of more than 64 bits"),
        ("ff ff ff ff ff ff ff", "a length that does not end"),
        ("00 00 00 00 00 00 00", "zeros"),
    ],
)
@pytest.mark.parametrize("codec", [Codec.NONE, Codec.LZ4])
def test_bytes_that_cannot_be_records_are_refused(body, why, codec):
    assert refusal(raw(bytes.fromhex(body), 1, codec)).code is ErrorCode.INVALID_RECORD, why


def test_the_least_record_and_any_header_name_are_taken():
    for body in ("0c 00 00 00 01 01 00", "12 00 00 00 01 01 02 02 ff 01"):
        sent = patched(raw(bytes.fromhex(body), 1), ">q", 35, NOW_MS)
        assert opened(sent, RECORDS, NOW_MS) is sent


@pytest.mark.parametrize("deltas", [(0, 5), (0, 0), (-1, 0), (1, 2), (70, 7000)])
@pytest.mark.parametrize("codec", CODECS)
def test_offsets_that_do_not_count_up_have_the_batch_rebuilt(deltas, codec):
    """As Kafka does for compressed batches of old clients."""
    sound = batch()
    body = bytearray()
    for delta in deltas:
        one = bytearray(b"\0")
        put_varint(one, 1)
        put_varint(one, delta)
        one += b"\x02k\x02v\x02\x02h\x01"
        put_varint(body, len(one))
        body += one
    stored = opened(raw(bytes(body), 2, codec), RECORDS, NOW_MS)
    assert stored.codec == codec
    assert verify_crc(stored)
    assert contents(stored) == [
        (b"k", b"v", NOW_MS + 1, [("h", None)], offset) for offset in (0, 1)
    ]
    assert contents(sound) == contents(opened(sound, RECORDS, NOW_MS))


@pytest.mark.parametrize("codec", [Codec.GZIP, Codec.LZ4, Codec.ZSTD])
def test_a_bomb_is_refused_and_costs_no_more_than_the_limit(codec):
    sent = raw(bytes(OUTPUT_LIMIT + 1_000_000), 2, codec)
    assert sent.size < 1_000_000
    tracemalloc.start()
    try:
        assert refusal(sent).code is ErrorCode.INVALID_RECORD
        assert tracemalloc.get_traced_memory()[1] < 2.5 * OUTPUT_LIMIT
    finally:
        tracemalloc.stop()


def test_mutations_end_in_a_batch_or_in_a_refusal():
    rng = random.Random(7)
    sound = bytes(batch(*map(record, range(5))).view[61:])
    codes = set()
    for _ in range(2000):
        body = bytearray(sound)
        for _ in range(rng.choice((1, 2, 10))):
            body[rng.randrange(len(body))] = rng.randrange(256)
        try:
            stored = opened(raw(bytes(body), 5), RECORDS, NOW_MS)
        except ApiError as error:
            codes.add(error.code)
        else:
            assert verify_crc(stored)
            assert [r.offset for r in iter_records(stored)] == [0, 1, 2, 3, 4]
    assert codes == {ErrorCode.INVALID_RECORD}
