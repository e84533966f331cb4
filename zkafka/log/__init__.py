"""One partition's data on one disk.

A `LogDirectory` is one entry of `log.dirs`: locked while we run, loaded and if need be recovered at
start. It holds a `PartitionLog` for each partition directory. A partition log is a row of
`Segment`s, of which the last is active and is appended to; a segment is one `.log` file with an
`OffsetIndex`, a `TimeIndex` and a `TransactionIndex`. Beside them stand the `EpochCache` (which
leader wrote from which offset) and the `ProducerStates` (who wrote last, in which sequence).

Everything here is synchronous and knows nothing of leaders, ZooKeeper or requests; bytes reach the
disk through `files.Files` alone, of which a test or a simulation may supply another. What is on
disk is Apache Kafka 3.9's data directory, byte for byte: its tools read what we write, and we open
what it wrote.

Laws, for each partition:

- `log_start_offset <= log_end_offset` and `recovery_point <= log_end_offset`. What lies between the
  log start and the recovery point survives a power cut; the point may stay below the log start
  until a flush has made a truncation or a deletion durable.
- Offsets rise from batch to batch. Without compaction they are dense.
- A batch that was acknowledged to the caller is whole in the file; a batch whose append raised
  `StorageError` is not in the file at all, or the whole directory is offline.

Threads: one thread (the broker's loop) changes the structure: append, roll, truncate, delete,
close. `flush`, the look-ups by time, `LogDirectory.load`, the checkpoints and `purge_deleted` may
run in worker threads beside it; what they share with the loop is immutable, or guarded by a short
lock that is never held across an fsync. (The one wait of the loop for a worker's fsync: a
truncation below a log start that was checkpointed, or below where the log was compacted, rewrites
that checkpoint. And one for an fsync of its own: where something was flushed of a log in the moment
before another takes its place.)

Compaction is one `Cleaning` (`cleaner.py`) of one log at a time: `cleaner_choice.py` says which log
and which segments, `cleaner_records.py` what survives of a batch. It writes beside the segments in
worker threads; the loop puts what was written in their place.

A log moves to another directory by a `Relocation`: a future log is filled there, and takes its
place by a rename when it holds all that the log does.

Transactions are read, and only their markers written: what is open and what was aborted
(`transactions.py`) is told from the batches that Apache Kafka left, or that a leader sent.
"""
