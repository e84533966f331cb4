"""What replication asks of a connection to another broker."""

from typing import Any, Protocol


class PeerLink(Protocol):
    """A connection to one broker, or to whoever is controller. Satisfied by `net.peer`'s classes,
    and by fakes that hand the message to another broker's parts."""

    async def request(self, message: Any, *, timeout_ms: float | None = None) -> Any:
        """The response to `message`, connecting first if need be. Errors: `PeerUnreachable`.

        `timeout_ms`: None is the link's own; infinite for a caller that has a cancel scope anyway.
        """

    async def aclose(self) -> None:
        """Drop the connection; the next request connects anew."""
