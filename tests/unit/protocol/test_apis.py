"""The table of APIs against the message classes."""

from zkafka.protocol import apis
from zkafka.protocol.apis import APIS, ApiKey


def test_the_table_agrees_with_the_message_classes():
    apis.check()


def test_every_key_has_an_api_and_the_order_is_theirs():
    assert list(APIS) == sorted(ApiKey)


def test_produce_is_advertised_lower_than_served():
    """Released librdkafka versions compress only if version 0 is on offer."""
    produce = APIS[ApiKey.PRODUCE]
    assert produce.advertised_min == 0
    assert [v for v in range(-1, 14) if produce.serves(v)] == list(range(3, 12))
    assert all(api.advertised_min == api.min_version for api in APIS.values() if api != produce)


def test_names_are_those_of_modules():
    assert APIS[ApiKey.OFFSET_FOR_LEADER_EPOCH].name == "offset_for_leader_epoch"


def test_what_only_brokers_send():
    inter_broker = {api.name for api in APIS.values() if api.inter_broker}
    assert inter_broker == {
        "leader_and_isr",
        "stop_replica",
        "update_metadata",
        "controlled_shutdown",
        "alter_partition",
        "allocate_producer_ids",
    }
