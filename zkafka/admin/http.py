"""A few pages over HTTP/1.1, for machines that watch the broker.

h11 does the protocol, trio the sockets; there is nothing to configure and nothing to route. GET and
HEAD only. A connection is kept alive, and closed when it sends nothing for `IDLE_S` or something
that is not HTTP. Requests carry no body worth reading: one that does is answered and closed.

A page is computed anew each time, in the broker's loop, where the parts' state is; what is costly
about it can be moved by the page itself, which may wait.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping

import attrs
import h11
import trio

log = logging.getLogger(__name__)

IDLE_S = 60.0
"""Longer than Prometheus' usual scrape interval, so that its connection survives between two."""
RECEIVE_BYTES = 8 * 1024
CONNECTIONS_MAX = 64
"""Watchers are few; whoever opens more waits until one is done."""


@attrs.frozen
class Page:
    """One answer: its status, type and bytes."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200


Pages = Mapping[str, Callable[[], Awaitable[Page]]]
"""What is served, by path."""


class AdminServer:
    """Serves `pages` at `host:port` (port 0: any free one) until cancelled."""

    def __init__(self, host: str, port: int, pages: Pages) -> None:
        self._host = host
        self._port = port
        self._pages = pages
        self._room = trio.Semaphore(CONNECTIONS_MAX)

    async def run(self, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and answer; `started` with the port. Errors: OSError if it cannot be bound."""
        listeners = await trio.open_tcp_listeners(self._port, host=self._host)
        port = listeners[0].socket.getsockname()[1]
        log.info("admin pages served host=%s port=%d", self._host, port)
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, self.serve, listeners)
            task_status.started(port)

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Answer one connection until it ends, is idle for too long, or breaks the protocol."""
        connection = h11.Connection(h11.SERVER)
        async with self._room, stream:
            try:
                while await self._exchange(connection, stream):
                    connection.start_next_cycle()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                log.debug("admin connection lost")

    async def _exchange(self, connection: h11.Connection, stream: trio.abc.Stream) -> bool:
        """One request and its answer; whether another may follow."""
        try:
            request: h11.Request | None = None
            with trio.move_on_after(IDLE_S):
                request = await _next_request(connection, stream)
            if request is None:
                return False
            page = await self._page(request)
            head_only = request.method == b"HEAD"
        except h11.RemoteProtocolError as error:
            if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
                return False
            page = Page(f"{error}\n".encode(), status=error.error_status_hint)
            head_only = False
        headers = [
            ("content-type", page.content_type),
            ("content-length", str(len(page.body))),
            ("cache-control", "no-store"),
        ]
        await _send(connection, stream, h11.Response(status_code=page.status, headers=headers))
        if not head_only:
            await _send(connection, stream, h11.Data(data=page.body))
        await _send(connection, stream, h11.EndOfMessage())
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE

    async def _page(self, request: h11.Request) -> Page:
        if request.method not in (b"GET", b"HEAD"):
            return Page(b"only GET and HEAD\n", status=405)
        path = request.target.split(b"?", 1)[0].decode("ascii", "replace")
        page = self._pages.get(path)
        if page is None:
            known = "".join(f"{known}\n" for known in sorted(self._pages))
            return Page(f"not here; here are:\n{known}".encode(), status=404)
        return await page()


async def _next_request(connection: h11.Connection, stream: trio.abc.Stream) -> h11.Request | None:
    """The next request, its end included; None when the peer has closed."""
    request: h11.Request | None = None
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if request is not None and connection.they_are_waiting_for_100_continue:
                return request
            connection.receive_data(bytes(await stream.receive_some(RECEIVE_BYTES)))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.EndOfMessage):
            return request
        elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
            return None
        # What remains is a body, which no page wants.


async def _send(connection: h11.Connection, stream: trio.abc.Stream, event: h11.Event) -> None:
    data = connection.send(event)
    if data:
        await stream.send_all(data)
