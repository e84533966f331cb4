"""Consumer groups: who is a member, who reads what, and how far each group has read.

A group lives on one broker, the leader of the `__consumer_offsets` partition that its id hashes
to. That partition's log is the group's only memory: a commit or an assignment is acknowledged when
the log has it on all in-sync replicas, and whoever leads the partition next reads it from there.

`group.py` is the machine of one group: members, generations and the states of a rebalance (the
classic protocol); `events.py` is what it is told and what it asks for. `offsets.py` holds what a
group committed, and says what has expired. `records.py` is how both are written in the log.
`shard.py` is one partition of it: the groups and offsets that its records amount to, by the same
`replay` whether a record was just written here or read back after a failover. These decide;
nothing in them waits.

`runtime.py` drives them: loads the partitions that this broker comes to lead, keeps time, appends,
and waits for the replicas. `coordinator.py` answers requests out of it; handlers call it and
nothing else here.

The designs followed are Kafka's classic group coordinator (KIP-134, KIP-345, KIP-394, KIP-814),
and for the life of a write (state and request make records and a response; records are applied
when replicated) its newer coordinator runtime.
"""
