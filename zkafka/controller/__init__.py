"""The broker that decides for the cluster.

One broker at a time is the controller: it won the election on /controller, and every znode it
writes carries a check on /controller_epoch, so that a deposed one can write nothing. It decides
who leads each partition, which topics exist where, and tells the brokers by LeaderAndIsr,
UpdateMetadata and StopReplica requests. It speaks to all brokers by requests, its own included.

- `context.py` (pure) is the cluster as the controller knows it: live brokers, topics, partition
  and replica states, topics being deleted.
- `election.py` (pure) holds the rules for a leader, `placement.py` (pure) those for where a new
  partition's replicas go.
- `events.py` (pure) lists what can happen and what can be done about it.
- `announcements.py` (pure) gathers what brokers must be told, and makes the requests of it.
- `machine.py` (pure) turns events into effects: znode writes, and requests in their order. What a
  write brought comes back as an event; only what was written is announced.
- `controller.py` stands for election, keeps the one queue of events and carries out the effects.
- `channels.py` keeps a queue and a connection per live broker.
- `suspicion.py` (pure) judges which brokers have died before their sessions ended, `sentinels.py`
  holds the connections that tell; every broker has them, the controller or not.

A controller may die between any two effects. The next one reads everything afresh and goes on
from what ZooKeeper holds: a topic without partition states is created, a deletion with its marker
still there is repeated, a broker half shut down asks again.

Follows `KafkaController`, `PartitionStateMachine`, `ReplicaStateMachine` and
`TopicDeletionManager` of Apache Kafka 3.9 in what is decided, and departs from them in how: the
decisions for one event are one batch of writes, and no decision waits inside the machine.
"""
