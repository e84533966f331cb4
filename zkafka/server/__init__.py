"""From a request to its answer.

`dispatch.py` checks the version, decodes, finds the handler named in `protocol/apis.py` and turns
what a handler could not foresee into an error code. `handlers/` has one module per API; its
listing is the list of what is supported. `context.py` is what a handler is given: the broker's
parts and who asked.

Two machines live here as well: `metadata.py`, the picture of the cluster that the controller sends
us and clients ask for, and `fetch_sessions.py`, incremental fetch (KIP-227). `topics.py` and
`configs.py` carry out what several handlers share.

Handlers stay thin: what is difficult belongs to the part that owns the state. The design is
Kafka's request layer (KafkaApis), with its one class cut along the APIs.
"""
