"""Who may do what: there is no authorizer yet, so everybody may do everything.

What remains is to say so: a client that asks for its authorized operations gets, as from Kafka
without `authorizer.class.name`, every operation that the resource knows. Operations travel as a
bit field, bit n for the operation numbered n. Source: KIP-430, `AclOperation` of Apache Kafka 3.9.
"""

import enum
from collections.abc import Iterable

NOT_ASKED = -(2**31)
"""In place of the bit field when the client did not ask."""


class Operation(enum.IntEnum):
    """What may be done to a resource, as Kafka numbers it."""

    READ = 3
    WRITE = 4
    CREATE = 5
    DELETE = 6
    ALTER = 7
    DESCRIBE = 8
    CLUSTER_ACTION = 9
    DESCRIBE_CONFIGS = 10
    ALTER_CONFIGS = 11
    IDEMPOTENT_WRITE = 12


def bit_field(operations: Iterable[Operation]) -> int:
    """The operations as a response carries them."""
    return sum(1 << operation for operation in set(operations))


TOPIC_OPERATIONS = bit_field(
    {
        Operation.READ, Operation.WRITE, Operation.CREATE, Operation.DELETE, Operation.ALTER,
        Operation.DESCRIBE, Operation.DESCRIBE_CONFIGS, Operation.ALTER_CONFIGS,
    }
)  # fmt: skip
CLUSTER_OPERATIONS = bit_field(
    {
        Operation.CREATE, Operation.ALTER, Operation.DESCRIBE, Operation.CLUSTER_ACTION,
        Operation.DESCRIBE_CONFIGS, Operation.ALTER_CONFIGS, Operation.IDEMPOTENT_WRITE,
    }
)  # fmt: skip
