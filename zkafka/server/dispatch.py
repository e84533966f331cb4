"""From a request's bytes to its answer's: version, decoding, handler, encoding, and what is left.

Endings, in the order of the house's table of errors:

- An API or a version that we do not serve, or a body that cannot be read, closes the connection
  (`RemoteProtocolError`; the connection writes the line). ApiVersions alone answers a version it
  does not know, in version 0, so that client and broker can agree on another.
- An `ApiError` that a handler let out is the answer to the whole request, in every place where the
  response can carry a code (`refusals`).
- The world's failures, where a handler had no better policy: a log directory's is
  KAFKA_STORAGE_ERROR; ZooKeeper's or a peer's is REQUEST_TIMED_OUT, since it may have been done and
  may be tried again.
- An `AssertionError` leaves, and stops the broker.
- Anything else unforeseen is UNKNOWN_SERVER_ERROR for this request, and a traceback. This is the
  one place that contains exceptions. A response that cannot be written (`LocalProtocolError`)
  counts here too: a client's odd request may lead to one, and must not stop a broker.

Handlers are modules named in `protocol/apis.py`, imported when first asked for.
"""

import importlib
import logging
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

import trio

from zkafka.errors import (
    ApiError,
    CoordinationError,
    ErrorCode,
    LocalProtocolError,
    PeerUnreachable,
    RemoteProtocolError,
    StorageError,
    excerpt,
)
from zkafka.log.segment import LogSlice
from zkafka.protocol import codec, hot, hot_fetch
from zkafka.protocol.apis import APIS, Api, ApiKey
from zkafka.protocol.connection import Answer, CloseConnection, ConnectionInfo, Request
from zkafka.protocol.messages.fetch import FetchRequest, FetchResponse
from zkafka.replication.replicas import Opening
from zkafka.server import lone_fetch
from zkafka.server.context import Parts, RequestContext
from zkafka.server.handlers import api_versions, fetch, produce
from zkafka.server.refusals import codes, error_response
from zkafka.server.requests import ApiCounters

log = logging.getLogger(__name__)

_WAITING = fetch.WaitingFetch | lone_fetch.WaitingLoneFetch

Handler = Callable[[Any, RequestContext], Awaitable[Any]]


class Dispatcher:
    """Answers the requests of all connections of one broker; see `protocol.connection`."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._handlers: dict[int, Handler] = {}
        self._names = {key: _title(api) for key, api in APIS.items()}
        self._attempt = _Attempt()

    def begin(
        self, request: Request, connection: ConnectionInfo
    ) -> "PendingAnswer | PendingFetch | bytes | codec.Parts":
        """Append a Produce, or read for a Fetch, synchronously. Errors: RemoteProtocolError."""
        if request.header.api_key == ApiKey.FETCH:
            return self._begin_fetch(request, connection)
        lone = hot.lone_batch(request.header.api_version, request.body)
        if lone is None:
            return self._begin(request, connection, None)
        answer = None
        attempt = self._attempt
        with attempt:
            answer = self._begin_lone(request, connection, *lone)
        if answer is None:
            return self._begin(request, connection, attempt.take_failure())
        return answer

    def _begin_lone(
        self,
        request: Request,
        connection: ConnectionInfo,
        target: hot.Target,
        records: memoryview,
    ) -> "PendingAnswer | bytes | None":
        """Append the request's only batch, and answer at once if that is all. With nothing appended
        ApiError, or None for what must be opened first: both are left to the general way."""
        started = time.perf_counter()
        parts = self._parts
        tp = target.topic_partition
        result = parts.replicas.append(tp, records, required_acks=target.acks)
        if isinstance(result, Opening):
            return None
        counters = parts.requests.of("Produce")
        counters.came(request.header.api_version, request.size)
        parts.traffic.produced(tp.topic, messages=result.message_count, size=len(records))
        if target.acks == produce.ALL_IN_SYNC or result.flush_to:
            verdict = parts.replicas.verdict(result, target.acks)
            if verdict is not ErrorCode.NONE:
                context = self._context(request, connection)
                pending = produce.appended(target, result, context)
                return PendingAnswer(
                    pending, None, target.acks, context, counters, trio.current_time()
                )
        counters.errors[0] += 1
        counters.took((time.perf_counter() - started) * 1000)
        return target.answer(
            request.header.correlation_id,
            result.base_offset,
            result.log_append_time_ms,
            result.log_start_offset,
        )

    def _begin(
        self, request: Request, connection: ConnectionInfo, failure: Exception | None
    ) -> "PendingAnswer":
        """The same, whatever the request; `failure` is what an attempt so far has led to."""
        started = trio.current_time()
        api = _served(request)
        assert api.key == ApiKey.PRODUCE, api
        message = _decoded(api, request)
        context = self._context(request, connection)
        counters = self._counters(self._names[api.key], request)
        pending: produce.PendingProduce | None = None
        refuse = _Containment(api, message, context)
        with refuse:
            if failure is not None:
                raise failure
            pending = produce.begin(message, context)
        if pending is None or not pending.openings:
            request.release()
        return PendingAnswer(pending, refuse.response, message.acks, context, counters, started)

    def _begin_fetch(
        self, request: Request, connection: ConnectionInfo
    ) -> "PendingFetch | codec.Parts":
        started = trio.current_time()
        api = _served(request)
        context = self._context(request, connection)
        lone = hot_fetch.lone_fetch(context.version, request.body)
        message: Any = lone
        begun: Any = None
        refuse = _Containment(api, message, context)
        if lone is not None:
            with refuse:
                begun = lone_fetch.begin(lone, context)
        if begun is None and refuse.response is None:
            message = _decoded(api, request)
            refuse = _Containment(api, message, context)
            with refuse:
                begun = fetch.begin(message, context)
        request.release()
        title = "FetchFollower" if message is lone else _fetch_title(message)
        counters = self._counters(title, request)
        with refuse:
            if isinstance(begun, _WAITING):
                return PendingFetch(begun, context, counters, started)
            if begun is not None:
                return _fetched(begun, context, counters, started)
        return _encoded(refuse.response, context, counters, started)

    async def handle(self, request: Request, connection: ConnectionInfo) -> Answer:
        """Answer any other API. Errors: RemoteProtocolError."""
        started = trio.current_time()
        header = request.header
        if header.api_key == ApiKey.API_VERSIONS and not APIS[header.api_key].serves(
            header.api_version
        ):
            request.release()
            return codec.encode_response(
                api_versions.unsupported_version(), 0, header.correlation_id
            )
        api = _served(request)
        message = _decoded(api, request)
        # No API but Produce has fields that point into the request's bytes.
        request.release()
        context = self._context(request, connection)
        counters = self._counters(self._names[api.key], request)
        refuse = _Containment(api, message, context)
        with refuse:
            response = await self._handler(api)(message, context)
            return _encoded(response, context, counters, started)
        return _encoded(refuse.response, context, counters, started)

    def _handler(self, api: Api) -> Handler:
        handler = self._handlers.get(api.key)
        if handler is None:
            module = importlib.import_module(f"zkafka.server.handlers.{api.name}")
            handler = self._handlers[api.key] = module.handle
        return handler

    def _context(self, request: Request, connection: ConnectionInfo) -> RequestContext:
        return RequestContext(
            parts=self._parts,
            header=request.header,
            connection_id=connection.connection_id,
            peer_host=connection.peer_host,
            listener_name=connection.listener_name,
        )

    def _counters(self, name: str, request: Request) -> ApiCounters:
        counters = self._parts.requests.of(name)
        counters.came(request.header.api_version, request.size)
        return counters


class PendingAnswer:
    """A Produce that was appended, or refused as a whole; see `protocol.connection.Pending`."""

    __slots__ = ("_acks", "_context", "_counters", "_pending", "_refusal", "_started", "unopened")
    overlaps = True

    def __init__(
        self,
        pending: produce.PendingProduce | None,
        refusal: Any,
        acks: int,
        context: RequestContext,
        counters: ApiCounters,
        started: float,
    ) -> None:
        """Either `pending` is None or `refusal` is."""
        self._pending = pending
        self._refusal = refusal
        self._acks = acks
        self._context = context
        self._counters = counters
        self._started = started
        self.unopened = pending is not None and bool(pending.openings)

    async def open(self) -> None:
        """Append what had to be opened first; see `produce.PendingProduce.open`."""
        pending = self._pending
        assert pending is not None
        self.unopened = False
        refuse = _Containment(APIS[ApiKey.PRODUCE], pending, self._context)
        with refuse:
            await pending.open()
        if refuse.response is not None:
            self._pending, self._refusal = None, refuse.response

    @property
    def ready(self) -> bool:
        """Whether nothing is to be waited for."""
        return self._pending is None or not self._pending.is_waiting

    def when_ready(self, call: Callable[[], None]) -> None:
        """Have it called when the replicas have what was appended, or time is up."""
        assert self._pending is not None
        self._pending.when_over(call)

    def give_up(self) -> None:
        """Wait no longer."""
        if self._pending is not None:
            self._pending.give_up()

    def answer(self) -> Answer:
        """What became of it."""
        pending, refusal = self._pending, self._refusal
        if self._acks == 0:
            failure = "see above" if pending is None else pending.failure
            self._counters.took((trio.current_time() - self._started) * 1000)
            return CloseConnection(f"produce with acks=0 failed: {failure}") if failure else None
        if pending is not None:
            refuse = _Containment(APIS[ApiKey.PRODUCE], pending, self._context)
            with refuse:
                response = pending.answer()
                if isinstance(response, bytes):
                    self._counters.errors[0] += 1
                    self._counters.took((trio.current_time() - self._started) * 1000)
                    return [response]
                return _encoded(response, self._context, self._counters, self._started)
            refusal = refuse.response
        return _encoded(refusal, self._context, self._counters, self._started)


class PendingFetch:
    """A Fetch that found too little; see `protocol.connection.Pending`."""

    __slots__ = ("_context", "_counters", "_fetch", "_started", "ready")
    overlaps = False
    unopened = False

    def __init__(
        self,
        waiting: _WAITING,
        context: RequestContext,
        counters: ApiCounters,
        started: float,
    ) -> None:
        self._fetch = waiting
        self._context = context
        self._counters = counters
        self._started = started
        self.ready = False

    async def open(self) -> None:
        """Never due."""

    def when_ready(self, call: Callable[[], None]) -> None:
        """Have it called when there may be enough, or time is up."""

        def over() -> None:
            self.ready = True
            call()

        self._fetch.when_over(over)

    def give_up(self) -> None:
        """Wait no longer."""
        self._fetch.close()

    def answer(self) -> Answer:
        """What there is now."""
        refuse = _Containment(APIS[ApiKey.FETCH], self._fetch.request, self._context)
        try:
            with refuse:
                response = self._fetch.answer()
                return _fetched(response, self._context, self._counters, self._started)
        finally:
            self._fetch.close()
        return _encoded(refuse.response, self._context, self._counters, self._started)


class _Attempt:
    """Keeps what a lone batch led to, until the general way has the place for it; one for all."""

    __slots__ = ("_failure",)

    def __init__(self) -> None:
        self._failure: Exception | None = None

    def take_failure(self) -> Exception | None:
        """What was not foreseen; None for a refusal."""
        failure, self._failure = self._failure, None
        return failure

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if error is None:
            return False
        if not isinstance(error, Exception) or _must_leave(error):
            return False
        if not isinstance(error, ApiError):
            self._failure = error
        return True


class _Containment:
    """Turns what a handler raised into `response`, or lets it pass: the project's only place that
    catches exceptions it did not name."""

    __slots__ = ("_api", "_asked", "_context", "response")

    def __init__(self, api: Api, asked: Any, context: RequestContext) -> None:
        self._api = api
        self._asked = asked
        self._context = context
        self.response: Any = None

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if error is None or not isinstance(error, Exception) or _must_leave(error):
            return False
        code, message = _verdict(error, self._api, self._context)
        if isinstance(self._asked, produce.PendingProduce):
            self.response = self._asked.refusal(code)
        else:
            self.response = error_response(
                self._api.response_class, self._asked, self._context.version, code, message
            )
        assert self.response is not None, f"no place for a code in {self._api.name}"
        return True


def _must_leave(error: Exception) -> bool:
    """Whether this is nobody's to contain: an assertion that failed, alone or in a group, or a
    connection to be closed."""
    if isinstance(error, ExceptionGroup):
        return error.subgroup((AssertionError, RemoteProtocolError)) is not None
    return isinstance(error, AssertionError | RemoteProtocolError)


def _verdict(error: Exception, api: Api, context: RequestContext) -> tuple[ErrorCode, str]:
    """The code that answers for `error`; logged here, unless it is an ordinary refusal."""
    if isinstance(error, ApiError):
        return error.code, error.message
    if isinstance(error, StorageError):
        log.error("storage failed api=%s path=%s error=%s", api.name, error.path, error)
        return ErrorCode.KAFKA_STORAGE_ERROR, ""
    if isinstance(error, CoordinationError | PeerUnreachable):
        log.warning("could not be decided in time api=%s error=%r", api.name, error)
        return ErrorCode.REQUEST_TIMED_OUT, ""
    log.error(
        "request failed api=%s version=%d client=%s peer=%s",
        api.name,
        context.version,
        excerpt(context.client_id, 100),
        context.peer_host,
        exc_info=error,
    )
    return ErrorCode.UNKNOWN_SERVER_ERROR, ""


def _served(request: Request) -> Api:
    key, version = request.header.api_key, request.header.api_version
    api = APIS.get(key)
    if api is None:
        raise RemoteProtocolError(f"API key {key} is not served")
    if not api.serves(version):
        raise RemoteProtocolError(f"version {version} of {api.name} is not served")
    return api


def _decoded(api: Api, request: Request) -> Any:
    return codec.decode_request(
        api.request_class,
        request.header.api_version,
        request.body,
        element_budget=codec.PEER_ELEMENT_BUDGET if api.inter_broker else codec.ELEMENT_BUDGET,
    )


def _encoded(
    response: Any, context: RequestContext, counters: ApiCounters, started: float
) -> codec.Parts:
    """The response's parts; counts the request as answered. What a response that cannot be written
    owns is released."""
    header = context.header
    try:
        answer = codec.encode_response(response, header.api_version, header.correlation_id)
    except LocalProtocolError:
        if isinstance(response, FetchResponse):
            for topic in response.responses:
                for partition in topic.partitions:
                    if isinstance(partition.records, LogSlice):
                        partition.records.release()
        raise
    counters.errors.update(codes(response))
    counters.took((trio.current_time() - started) * 1000)
    return answer


def _fetched(
    response: FetchResponse | codec.Parts,
    context: RequestContext,
    counters: ApiCounters,
    started: float,
) -> codec.Parts:
    """As `_encoded`; one that was written by hand has no error, in two places."""
    if isinstance(response, FetchResponse):
        return _encoded(response, context, counters, started)
    counters.errors[0] += 2
    counters.took((trio.current_time() - started) * 1000)
    return response


def _title(api: Api) -> str:
    """`OffsetForLeaderEpoch`: as Kafka calls it in its metrics."""
    return "".join(map(str.capitalize, api.name.split("_")))


def _fetch_title(request: FetchRequest) -> str:
    follower = request.replica_id >= 0 or request.replica_state.replica_id >= 0
    return "FetchFollower" if follower else "FetchConsumer"
