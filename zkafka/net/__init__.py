"""Sockets: the clients' connections to us, and ours to other brokers.

`listener` binds, accepts and counts; each connection it accepts becomes a `conversation`: requests
read and begun in order, answers sent in the same order, over a `transport` (a real socket, or any
trio stream where a test or a simulation stands in for the network). Those that rest are watched by
one `poller`, which has a small request answered before any task has run. What answers is handed in
as a `protocol.connection.Dispatcher`; nothing here knows an API beyond Produce, the only one that
may overlap with its like.

`peer` is the other direction: one connection to one broker, requests pipelined, answers matched by
correlation id, every failure a `PeerUnreachable`.

What a connection costs: while it rests, a task, a socket and no buffer. While it works, a
64 KiB buffer or what its frames need (`protocol.connection`), under one budget. An answer from the
log goes by sendfile where the page cache has it, and in 1 MiB pieces through a worker thread
where it has not. A client that takes nothing of its answer for 30 s is dropped; one that falls
silent, after connections.max.idle.ms.

Follows Kafka's `SocketServer` in limits and closing rules, not in its threads; KIP-402 for the
limit of connections.
"""
