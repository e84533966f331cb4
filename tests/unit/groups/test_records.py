"""Keys and values of `__consumer_offsets`, against bytes laid out by hand after Kafka's schemas."""

import struct

import pytest

from zkafka.errors import RemoteProtocolError
from zkafka.groups.records import (
    GroupKey,
    GroupValue,
    MemberValue,
    OffsetKey,
    OffsetValue,
    decode_key,
    decode_value,
    encode_key,
    encode_value,
    java_string_hash,
    partition_for,
    stamped,
    subscribed_topics,
)

OFFSET_KEY = OffsetKey(group="g", topic="t", partition=3)
GROUP_KEY = GroupKey(group="g")


def short(value):
    return value.to_bytes(2, signed=True)


def int32(value):
    return value.to_bytes(4, signed=True)


def int64(value):
    return value.to_bytes(8, signed=True)


def text(value):
    return short(-1) if value is None else short(len(value)) + value.encode()


def data(value):
    return int32(len(value)) + value


def compact(value):
    """A string or bytes in a flexible version; None is null."""
    if value is None:
        return b"\0"
    encoded = value.encode() if isinstance(value, str) else value
    return bytes([len(encoded) + 1]) + encoded


# Keys.


@pytest.mark.parametrize(
    ("key", "laid_out"),
    [
        (OFFSET_KEY, short(1) + text("g") + text("t") + int32(3)),
        (GROUP_KEY, short(2) + text("g")),
        (GroupKey(group=""), short(2) + text("")),
    ],
)
def test_keys_are_laid_out_as_kafka_does(key, laid_out):
    assert encode_key(key) == laid_out
    assert decode_key(laid_out) == key


def test_the_oldest_offset_key_is_read():
    assert decode_key(short(0) + text("g") + text("t") + int32(3)) == OFFSET_KEY


@pytest.mark.parametrize("version", [3, 4, 8, 12, -1])
def test_keys_of_other_protocols_are_passed_over(version):
    assert decode_key(short(version) + b"whatever") is None


@pytest.mark.parametrize("bad", [b"", b"\0", b"\0\1", b"\0\1\0\5g", b"\0\2\0\1gX", b"\0\2\0\1\xff"])
def test_a_key_that_is_none_is_the_peers_fault(bad):
    with pytest.raises(RemoteProtocolError):
        decode_key(bad)


# Offset values.

OFFSET_VALUES = {
    0: short(0) + int64(5) + text("m") + int64(100),
    1: short(1) + int64(5) + text("m") + int64(100) + int64(200),
    2: short(2) + int64(5) + text("m") + int64(100),
    3: short(3) + int64(5) + int32(7) + text("m") + int64(100),
    4: short(4) + int64(5) + int32(7) + compact("m") + int64(100) + b"\0",
}


@pytest.mark.parametrize("version", OFFSET_VALUES)
def test_every_version_of_a_committed_offset_is_read(version):
    assert decode_value(OFFSET_KEY, OFFSET_VALUES[version]) == OffsetValue(
        offset=5,
        leader_epoch=7 if version >= 3 else -1,
        metadata="m",
        commit_timestamp=100,
        expire_timestamp=200 if version == 1 else -1,
    )


def test_an_offset_is_written_in_version_3():
    value = decode_value(OFFSET_KEY, OFFSET_VALUES[3])
    assert encode_value(value) == OFFSET_VALUES[3]


def test_an_offset_with_a_retention_of_its_own_is_written_in_version_1():
    value = decode_value(OFFSET_KEY, OFFSET_VALUES[1])
    assert encode_value(value) == OFFSET_VALUES[1]


def test_a_tombstone_has_no_value():
    assert encode_value(None) is None


@pytest.mark.parametrize(
    "bad", [b"", b"\0\3", short(5) + b"later", short(-1), OFFSET_VALUES[3] + b"more"]
)
def test_a_value_that_is_none_is_the_peers_fault(bad):
    with pytest.raises(RemoteProtocolError):
        decode_value(OFFSET_KEY, bad)


# Group values.


def member_bytes(version):
    member = text("m")
    if version >= 3:
        member += text("i")
    member += text("client") + text("/10.0.0.1")
    if version >= 1:
        member += int32(60)
    return member + int32(10) + data(b"sub") + data(b"ass")


def group_bytes(version):
    group = short(version) + text("consumer") + int32(8) + text("range") + text("m")
    if version >= 2:
        group += int64(99)
    return group + int32(1) + member_bytes(version)


GROUP_4 = (
    short(4)
    + compact("consumer")
    + int32(8)
    + compact("range")
    + compact("m")
    + int64(99)
    + b"\2"
    + compact("m")
    + compact("i")
    + compact("client")
    + compact("/10.0.0.1")
    + int32(60)
    + int32(10)
    + compact(b"sub")
    + compact(b"ass")
    + b"\0"
    + b"\0"
)


def group_value(version):
    return GroupValue(
        protocol_type="consumer",
        generation=8,
        protocol="range",
        leader="m",
        current_state_timestamp=99 if version >= 2 else -1,
        members=[
            MemberValue(
                member_id="m",
                group_instance_id="i" if version >= 3 else None,
                client_id="client",
                client_host="/10.0.0.1",
                rebalance_timeout=60 if version >= 1 else -1,
                session_timeout=10,
                subscription=b"sub",
                assignment=b"ass",
            )
        ],
    )


@pytest.mark.parametrize("version", range(4))
def test_every_version_of_a_group_is_read(version):
    assert decode_value(GROUP_KEY, group_bytes(version)) == group_value(version)


def test_the_flexible_version_of_a_group_is_read():
    assert decode_value(GROUP_KEY, GROUP_4) == group_value(4)


def test_a_group_is_written_in_version_3():
    assert encode_value(group_value(3)) == group_bytes(3)


def test_an_empty_group_has_neither_protocol_nor_leader():
    value = GroupValue(protocol_type="consumer", generation=3, current_state_timestamp=4)
    laid_out = short(3) + text("consumer") + int32(3) + text(None) * 2 + int64(4) + int32(0)
    assert encode_value(value) == laid_out
    assert decode_value(GROUP_KEY, laid_out) == GroupValue(
        protocol_type="consumer", generation=3, current_state_timestamp=4, members=[]
    )


def test_a_stamp_changes_the_timestamp_only():
    value = group_value(3)
    assert stamped(value, 1234).current_state_timestamp == 1234
    assert stamped(stamped(value, 1234), 99) == value


# Subscriptions.


@pytest.mark.parametrize("version", [0, 1, 2, 3, 9])
def test_topics_are_read_from_a_subscription_of_any_version(version):
    later = b"\xff\xff\xff\xff" + b"later fields" * version
    subscription = short(version) + int32(2) + text("orders") + text("bills") + later
    assert subscribed_topics(subscription) == {"orders", "bills"}


def test_a_subscription_may_be_to_nothing():
    assert subscribed_topics(short(0) + int32(0) + int32(-1)) == frozenset()


@pytest.mark.parametrize(
    "nonsense",
    [
        b"",
        short(0),
        short(-1) + int32(0),
        short(0) + int32(-1),
        short(0) + int32(2**31 - 1),
        short(0) + int32(1) + short(5) + b"abc",
        short(0) + int32(1) + short(-1),
        short(0) + int32(2) + short(0) + b"\0",
        short(0) + int32(1) + short(1) + b"\xff",
    ],
)
def test_what_is_no_subscription_is_unknown(nonsense):
    assert subscribed_topics(nonsense) is None


# Partitions.


@pytest.mark.parametrize(
    ("group", "value", "partition"),
    [
        ("my-group", -1906497762, 12),
        ("test", 3556498, 48),
        ("polygenelubricants", -2147483648, 0),
        ("", 0, 0),
    ],
)
def test_groups_hash_as_java_strings(group, value, partition):
    assert java_string_hash(group) == value
    assert partition_for(group, 50) == partition


def test_hashes_are_over_utf_16_as_java_has_them():
    high, low = struct.unpack(">HH", "\U0001f600".encode("utf-16-be"))
    assert java_string_hash("\U0001f600") == java_string_hash(chr(high) + chr(low))
