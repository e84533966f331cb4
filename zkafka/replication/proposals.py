"""Changes of in-sync sets on their way to the controller (AlterPartition, KIP-497).

One task, one request in flight. A leader's machine has at most one proposal outstanding, so what
waits here is bounded by the partitions led; everything that waits goes out with the next request.

A proposal is kept until the controller has answered it: whether a request that got no answer took
effect is not known, and the controller answers the same proposal again as a success. While the
ZooKeeper session is suspended nothing is sent: who is controller is not known then.
"""

import logging
import uuid
from collections.abc import Callable, Container

import trio

from zkafka.errors import ErrorCode, PeerUnreachable
from zkafka.model import BrokerEpoch, BrokerId
from zkafka.protocol.messages.alter_partition import (
    AlterPartitionRequest,
    AlterPartitionResponse,
    BrokerState,
    PartitionData,
    PartitionResult,
    TopicData,
)
from zkafka.replication.links import PeerLink
from zkafka.replication.partition import IsrConfirmed, IsrRefused, PendingExpand, ProposeIsr
from zkafka.replication.replica import Replica

logger = logging.getLogger(__name__)

RETRY_MS = 50
"""Kafka's pause before an AlterPartition is sent again."""


class IsrProposals:
    """What this broker's leaders propose; `answered` steps the machine with what came back."""

    def __init__(
        self,
        *,
        broker_id: BrokerId,
        broker_epoch: Callable[[], BrokerEpoch],
        controller: PeerLink,
        may_propose: Callable[[], bool],
        alive: Callable[[], Container[BrokerId]],
        answered: Callable[[Replica, IsrConfirmed | IsrRefused], None],
    ) -> None:
        self._broker_id = broker_id
        self._broker_epoch = broker_epoch
        self._controller = controller
        self._may_propose = may_propose
        self._alive = alive
        self._answered = answered
        self._waiting: dict[Replica, ProposeIsr] = {}
        self._arrived = trio.Event()
        self._failures = 0

    def submit(self, replica: Replica, proposal: ProposeIsr) -> None:
        """Have it proposed; an older one of the same replica is of an older epoch, and dropped."""
        self._waiting[replica] = proposal
        self._arrived.set()

    async def run(self) -> None:
        """Send what is submitted, until cancelled."""
        while True:
            await self._arrived.wait()
            if not self._may_propose() or not await self._exchange():
                await trio.sleep(RETRY_MS / 1000)
            if not self._waiting:
                self._arrived = trio.Event()

    async def _exchange(self) -> bool:
        """One request and what its answer means; False to pause before the next."""
        batch = self._outstanding()
        if not batch:
            return True
        request = self._request(batch)
        try:
            response = await self._controller.request(request)
        except PeerUnreachable as error:
            self._put_off(len(batch), str(error))
            return False
        assert isinstance(response, AlterPartitionResponse)
        if response.error_code != ErrorCode.NONE:
            self._put_off(len(batch), ErrorCode.of(response.error_code).name)
            return False
        self._failures = 0
        results = {
            (topic.topic_id, result.partition_index): result
            for topic in response.topics
            for result in topic.partitions
        }
        for replica, proposal in batch.items():
            result = results.get((replica.topic_id, replica.topic_partition.partition))
            if result is not None:
                self._take(replica, proposal, result)
        # What is proposed again was answered with a passing error, or not at all.
        return not any(replica in self._waiting for replica in batch)

    def _put_off(self, count: int, cause: str) -> None:
        """Said once, while a controller is being elected it happens twenty times a second."""
        self._failures += 1
        level = logging.INFO if self._failures == 1 else logging.DEBUG
        logger.log(level, "cannot propose in-sync sets count=%d cause=%s", count, cause)

    def _outstanding(self) -> dict[Replica, ProposeIsr]:
        """What waits and still matters; the rest is forgotten."""
        for replica, proposal in list(self._waiting.items()):
            machine = replica.machine
            if (
                machine.in_sync_set is not proposal.proposal
                or machine.leader_epoch != proposal.leader_epoch
            ):
                del self._waiting[replica]
        return dict(self._waiting)

    def _request(self, batch: dict[Replica, ProposeIsr]) -> AlterPartitionRequest:
        own_epoch = self._broker_epoch()
        topics: dict[uuid.UUID, list[PartitionData]] = {}
        for replica, proposal in batch.items():
            change = proposal.proposal
            isr = sorted(change.proposed)
            states = []
            for broker in isr:
                progress = replica.machine.progress_of(broker)
                epoch = own_epoch if progress is None else progress.broker_epoch
                if isinstance(change, PendingExpand) and broker == change.joining:
                    # Not that of its last fetch: it may have been restarted since it was caught up.
                    epoch = change.joining_epoch
                states.append(BrokerState(broker_id=broker, broker_epoch=epoch))
            topics.setdefault(replica.topic_id, []).append(
                PartitionData(
                    partition_index=replica.topic_partition.partition,
                    leader_epoch=proposal.leader_epoch,
                    new_isr=isr,
                    new_isr_with_epochs=states,
                    leader_recovery_state=0,  # recovered: by leading, see the machine
                    partition_epoch=proposal.partition_epoch,
                )
            )
        return AlterPartitionRequest(
            broker_id=self._broker_id,
            broker_epoch=own_epoch,
            topics=[
                TopicData(topic_id=topic_id, partitions=partitions)
                for topic_id, partitions in topics.items()
            ],
        )

    def _take(self, replica: Replica, proposal: ProposeIsr, result: PartitionResult) -> None:
        if self._waiting.get(replica) is not proposal:
            return  # Another epoch's came while this one was on its way.
        del self._waiting[replica]
        event: IsrConfirmed | IsrRefused
        if result.error_code != ErrorCode.NONE:
            event = IsrRefused(
                proposal.proposal, proposal.leader_epoch, ErrorCode.of(result.error_code)
            )
        elif result.leader_epoch != proposal.leader_epoch:
            # Somebody led meanwhile: a LeaderAndIsr is on its way that says so.
            event = IsrRefused(
                proposal.proposal, proposal.leader_epoch, ErrorCode.FENCED_LEADER_EPOCH
            )
        else:
            event = IsrConfirmed(
                proposal.proposal,
                result.leader_epoch,
                result.partition_epoch,
                frozenset(result.isr),
                recovering=result.leader_recovery_state != 0,
                alive=self._alive(),
            )
        self._answered(replica, event)
