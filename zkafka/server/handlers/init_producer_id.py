"""InitProducerId (API key 22, versions 0 to 5): a producer id for an idempotent producer.

Without a transactional id: a producer id that nobody has had, with epoch 0; nothing is kept of it
here. A producer that names the id and epoch it has (version 3 and up) gets a new id all the same,
as from Kafka: only transactional producers have their epochs bumped by the broker. Exactly one of
the two is INVALID_REQUEST. If no id comes within `_PATIENCE_MS` (no controller, or no ZooKeeper),
COORDINATOR_LOAD_IN_PROGRESS: clients wait and ask again.

Where we differ from Kafka: transactions are not served. A transactional id is answered with
TRANSACTIONAL_ID_AUTHORIZATION_FAILED, the one code of this API that means "not with this id,
whatever you try", so that `init_transactions` fails at once and the application hears of it.
COORDINATOR_NOT_AVAILABLE would be nearer the truth, and is retried for ever; UNSUPPORTED_VERSION
invites a client to try another version. An empty id is INVALID_REQUEST and a timeout out of bounds
INVALID_TRANSACTION_TIMEOUT, as in Kafka. Kafka waits for no id, and answers
COORDINATOR_LOAD_IN_PROGRESS at once.

Version history: 0 KIP-98; 1 throttling after the answer; 2 flexible; 3 current id and epoch
(KIP-360); 4 PRODUCER_FENCED; 5 TRANSACTION_ABORTABLE (KIP-890).
"""

from typing import Final

import trio

from zkafka.errors import ErrorCode
from zkafka.model import NO_EPOCH, NO_PRODUCER
from zkafka.protocol.messages.init_producer_id import (
    InitProducerIdRequest,
    InitProducerIdResponse,
)
from zkafka.server.context import RequestContext

_PATIENCE_MS: Final = 1000
"""Long enough for an election of the controller, shorter than any client's request timeout."""


async def handle(request: InitProducerIdRequest, context: RequestContext) -> InitProducerIdResponse:
    """A fresh producer id, or why there is none."""
    refusal = _refusal(request, context.parts.config.transaction_max_timeout_ms)
    if refusal is not None:
        return _failed(refusal)
    with trio.move_on_after(_PATIENCE_MS / 1000):
        producer_id = await context.parts.producer_ids.allocate()
        return InitProducerIdResponse(producer_id=producer_id, producer_epoch=0)
    return _failed(ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)


def _refusal(request: InitProducerIdRequest, timeout_ms_max: int) -> ErrorCode | None:
    if (request.producer_id == NO_PRODUCER) != (request.producer_epoch == NO_EPOCH):
        return ErrorCode.INVALID_REQUEST
    if request.transactional_id is None:
        return None
    if not request.transactional_id:
        return ErrorCode.INVALID_REQUEST
    if not 0 < request.transaction_timeout_ms <= timeout_ms_max:
        return ErrorCode.INVALID_TRANSACTION_TIMEOUT
    return ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED


def _failed(code: ErrorCode) -> InitProducerIdResponse:
    return InitProducerIdResponse(error_code=code, producer_id=NO_PRODUCER, producer_epoch=NO_EPOCH)
