"""A broker with a planted defect: it acknowledges acks=all before anybody has replicated.

Run like `python -m zkafka`. The chaos tests would be worth nothing if they let it pass.
"""

import sys

from zkafka.__main__ import main
from zkafka.errors import ErrorCode
from zkafka.replication.replicas import AppendResult, Replicas


def all_is_well(_: Replicas, result: AppendResult, required_acks: int = -1) -> ErrorCode:
    return ErrorCode.NONE


if __name__ == "__main__":
    Replicas.verdict = all_is_well
    sys.exit(main())
