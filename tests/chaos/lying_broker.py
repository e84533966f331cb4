"""A broker with a planted defect: it acknowledges acks=all before anybody has replicated.

Run like `python -m zkafka`. The chaos tests would be worth nothing if they let it pass.
"""

import sys
from collections.abc import Iterable

from zkafka.__main__ import main
from zkafka.errors import ErrorCode
from zkafka.replication.replicas import AppendResult, Replicas


async def wait_for_nobody(
    _: Replicas, results: Iterable[AppendResult], deadline_ms: int
) -> list[ErrorCode]:
    return [ErrorCode.NONE for _ in results]


if __name__ == "__main__":
    Replicas.wait_replicated = wait_for_nobody
    sys.exit(main())
