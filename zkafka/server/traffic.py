"""What clients and followers brought and took, per topic: Kafka's BrokerTopicMetrics.

Counted by the Produce and Fetch handlers, per batch and per partition, never per record; read by
`admin.metrics`. A topic's counters go when the topic does.
"""

from collections.abc import Mapping

import attrs

from zkafka.model import BrokerId


@attrs.define
class TopicTraffic:
    """Totals since the start. `..._in` is what was appended, `..._out` what was sent."""

    messages_in: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    bytes_rejected: int = 0
    replication_bytes_out: int = 0
    produce_requests: int = 0
    fetch_requests: int = 0
    failed_produce_requests: int = 0
    failed_fetch_requests: int = 0
    """Requests here are partitions of requests, as Kafka counts them."""


class Traffic:
    """The counters of one broker."""

    def __init__(self) -> None:
        self._topics: dict[str, TopicTraffic] = {}

    def produced(self, topic: str, *, messages: int, size: int) -> None:
        """A batch was appended."""
        counters = self._of(topic)
        counters.produce_requests += 1
        counters.messages_in += messages
        counters.bytes_in += size

    def produce_failed(self, topic: str, *, size: int) -> None:
        """A batch was refused."""
        counters = self._of(topic)
        counters.produce_requests += 1
        counters.failed_produce_requests += 1
        counters.bytes_rejected += size

    def fetched(self, topic: str, *, size: int, replica_id: BrokerId) -> None:
        """`size` bytes are being sent to a consumer (replica -1) or a follower."""
        counters = self._of(topic)
        counters.fetch_requests += 1
        if replica_id >= 0:
            counters.replication_bytes_out += size
        else:
            counters.bytes_out += size

    def fetch_failed(self, topic: str) -> None:
        """A partition was answered with an error."""
        counters = self._of(topic)
        counters.fetch_requests += 1
        counters.failed_fetch_requests += 1

    def forget(self, topic: str) -> None:
        """The topic is gone."""
        self._topics.pop(topic, None)

    def statistics(self) -> Mapping[str, TopicTraffic]:
        """The counters by topic."""
        return dict(self._topics)

    def _of(self, topic: str) -> TopicTraffic:
        counters = self._topics.get(topic)
        if counters is None:
            counters = self._topics[topic] = TopicTraffic()
        return counters
