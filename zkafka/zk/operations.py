"""What may be asked of ZooKeeper, and what it answers: the words of the seam.

`zk/session.py` speaks them over kazoo; a test's fake speaks them over a dictionary. Paths are
relative to the chroot.
"""

import enum
from typing import Final, TypeAlias

import attrs

from zkafka.errors import CoordinationError

ANY_VERSION: Final = -1
"""As the version of a write: whatever the node's version is."""

MAX_REQUEST_BYTES: Final = 1_000_000
"""Largest write that is sent. A server with its default jute.maxbuffer (1,048,575) answers a larger
one by dropping the connection, and with it the chance to say why; the difference is room for the
framing that we do not count exactly."""

_FRAMING_BYTES: Final = 96
"""More than the headers, lengths, ACL and flags of one operation take."""


class SessionState(enum.Enum):
    """What the broker may rely on; see the table in `zk/session.py`."""

    CONNECTED = "connected"
    SUSPENDED = "suspended"
    LOST = "lost"


class HintKind(enum.Enum):
    """What a hint is about: a watch that fired, or the session itself."""

    DATA = "data"
    CHILDREN = "children"
    CREATED = "created"
    DELETED = "deleted"
    SUSPENDED = "suspended"
    CONNECTED = "connected"
    EXPIRED = "expired"


@attrs.frozen
class Hint:
    """Something changed: read again. `path` is empty for the session's own kinds.

    `session_id` is set for CONNECTED: the session that is now open, which is another one after
    EXPIRED.
    """

    kind: HintKind
    path: str = ""
    session_id: int = 0

    @property
    def is_session(self) -> bool:
        """Whether it is about the session, after which everything watched is to be read again."""
        return self.kind in (HintKind.SUSPENDED, HintKind.CONNECTED, HintKind.EXPIRED)


@attrs.frozen(kw_only=True)
class NodeStat:
    """A node's bookkeeping. `czxid` is the transaction that created it, unique for ever; `version`
    counts changes of its data; `ephemeral_owner` is a session id, 0 for a persistent node."""

    czxid: int
    mzxid: int
    ctime_ms: int
    mtime_ms: int
    version: int
    cversion: int
    ephemeral_owner: int
    data_length: int
    children_count: int


@attrs.frozen
class Check:
    """Part of a transaction: hold only if the node exists in that version."""

    path: str
    version: int


@attrs.frozen
class Create:
    """Part of a transaction: make a node; answered by its path."""

    path: str
    data: bytes = b""
    ephemeral: bool = False
    sequential: bool = False


@attrs.frozen
class Set:
    """Part of a transaction: replace a node's data; answered by its `NodeStat`."""

    path: str
    data: bytes
    version: int = ANY_VERSION


@attrs.frozen
class Delete:
    """Part of a transaction: remove a childless node."""

    path: str
    version: int = ANY_VERSION


Operation: TypeAlias = Check | Create | Set | Delete
Outcome: TypeAlias = str | NodeStat | bool


class MultiFailed(CoordinationError):
    """A transaction was refused as a whole, for its operation number `index`; `error` says why."""

    def __init__(self, index: int, operation: Operation, error: CoordinationError) -> None:
        super().__init__(f"transaction refused at {operation.path}: {error}")
        self.index = index
        self.operation = operation
        self.error = error


class NotEmpty(CoordinationError):
    """A node to be deleted has children."""


def size_of(operation: Operation) -> int:
    """Bytes that the operation takes in a request, and a little more."""
    data = operation.data if isinstance(operation, Create | Set) else b""
    return len(operation.path.encode()) + len(data) + _FRAMING_BYTES


def check_size(*operations: Operation) -> None:
    """Refuse what ZooKeeper would answer by hanging up. Errors: `CoordinationError`."""
    size = sum(size_of(operation) for operation in operations)
    if size > MAX_REQUEST_BYTES:
        largest = max(operations, key=size_of)
        raise CoordinationError(
            f"a write of {size} bytes is more than ZooKeeper takes ({MAX_REQUEST_BYTES}); "
            f"largest part: {largest.path}"
        )
