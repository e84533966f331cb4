"""zkafka: a Kafka-wire-compatible, replicated broker cluster in Python, beside a real ZooKeeper."""

__version__ = "0.1.0"
