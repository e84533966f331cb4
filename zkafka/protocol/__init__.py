"""Kafka's wire language: bytes to values and back, and nothing else.

`fields.py` is how a message declares itself, `messages/` has one module per API, `codec.py`
compiles a reader and a writer from each declaration, bounded against hostile bytes. `apis.py` is
the table of what we serve; ApiVersions, the dispatcher and the README read it. `records.py` sees
record batches by their headers and stamps them in place; `compression.py` opens one where a record
must really be read. `connection.py` is one connection without its socket: a buffer to receive into,
requests out, under one budget for the whole broker.

All of it is pure. Bytes from outside can raise `RemoteProtocolError` (frames, messages) or
`ApiError` (batches), and no other exception.

Source: Kafka's protocol guide and message definitions as of 3.9; KIP-482 (flexible versions).
"""
