"""What a broker still lacks before clients, or a rolling restart, may rely on it.

Alive is another question: a broker that answers at all is alive, its loop runs. Ready means that it
would do its part if the next one were taken down:

- registered: ZooKeeper has its id, in a session that stands;
- counted: the controller has described the cluster to it, and counts it among the living;
- log directories: all of them online. A broker with a failed one still serves the others, but is
  not fit to let the next restart go ahead.
"""

import json

from zkafka.admin.http import Page
from zkafka.server.context import Parts


def missing(parts: Parts) -> dict[str, str]:
    """What is not there yet, each with a sentence; empty for a broker that is ready."""
    lacks: dict[str, str] = {}
    image = parts.metadata.image
    if parts.broker_epoch() < 0:
        lacks["registered"] = "not registered in ZooKeeper"
    if not image.received:
        lacks["metadata"] = "no controller has described the cluster yet"
    elif not image.is_alive(parts.broker_id):
        lacks["metadata"] = "the controller does not count this broker among the living"
    failed = [str(directory.offline) for directory in parts.log_dirs if directory.offline]
    if failed:
        lacks["log_dirs"] = "; ".join(failed)
    return lacks


async def readyz(parts: Parts) -> Page:
    """200 or 503, and a JSON body that says why."""
    lacks = missing(parts)
    body = json.dumps({"ready": not lacks, "missing": lacks}) + "\n"
    return Page(body.encode(), "application/json", 503 if lacks else 200)


async def healthz() -> Page:
    """Always 200: whoever answers is alive."""
    return Page(b"alive\n")
