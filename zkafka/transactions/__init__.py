"""Idempotence, and one day atomic writes.

An idempotent producer numbers its batches under a producer id, so that a partition can tell a
retry from a new batch (KIP-98; the log's side of it is `zkafka/log/producers.py`). What is here is
where those ids come from: `producer_ids.py` takes them in blocks of a thousand from the controller,
which keeps count in ZooKeeper.

Transactions themselves (a coordinator per transactional id, its log, and the markers it has
written) are not served yet; `server/handlers/init_producer_id.py` says how that is answered.
"""
