"""One module per API, named as in `protocol/apis.py`; the listing is the list of what we support.

Each has `async def handle(request, context) -> response`. Produce alone has
`begin(request, context)` instead, which appends at once and leaves the waiting to `finish()`, so
that a connection's produces overlap while their order in the log is the order of arrival.

A module begins with its key and versions, its behaviour in a few lines, where we differ from
Kafka, and what each version added. Silence means: as Kafka does.
"""
