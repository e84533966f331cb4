"""Kafka's messages as values: one module per API, one class per message for all its versions.

Declared with `protocol.fields`, read and written by `protocol.codec`. Names are Kafka's, in
Python's spelling; the oldest version is that of Kafka 4 (KIP-896), the newest that of Kafka 3.9.
Fields of versions we do not speak are left out. `protocol.apis` imports a module when its API is
first used.
"""
