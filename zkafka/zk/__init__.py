"""ZooKeeper: where the cluster agrees.

Kafka 3.9's layout, byte for byte in JSON's sense: the same paths, keys, types and fences, so that
operators' tools, and one day a Kafka broker, find what they expect. Nothing of ours is kept there.

- `znodes.py` knows the paths, and what each node's data says: bytes to values and back.
- `operations.py` names what may be asked of ZooKeeper and what it answers, for everybody who is
  not kazoo.
- `session.py` is the bridge: kazoo's threads on one side, trio's loop on the other. The only
  module that imports kazoo. It knows paths and bytes, no meaning.
- `store.py` is what the rest of the broker talks to: typed reads, conditional writes,
  transactions fenced by the controller's epoch, and the one place where a request is tried again.
- `registration.py` keeps this broker registered from one session to the next.

Three rules run through all of it. A watch is a hint to read again, never data. A lost reply is not
a failed write: read back before deciding. A write that matters names the version it replaces.

Source: `KafkaZkClient`, `ZkData` and `ZooKeeperClient` of Apache Kafka 3.9, for what is written;
how it is written is ours.
"""
