"""Who leads a partition: Kafka's election rules, as functions of lists of broker ids.

In all of them `replicas` is the assignment, preferred replica first; `isr` is what ZooKeeper
holds; `live` are the replicas that are online: their broker lives, is not shutting down, and the
partition is not on a failed log directory of it. None means that nobody may lead.

Law: a new leader is a member of the new ISR. It was a member of the old ISR too, unless
`Election.unclean` says that records may have been lost.

Source: `PartitionLeaderElectionAlgorithms` and `Election` of Apache Kafka 3.9.
"""

from collections.abc import Collection, Sequence

import attrs

from zkafka.model import BrokerId


@attrs.frozen
class Election:
    """An election's outcome: the new leader and the new ISR."""

    leader: BrokerId
    isr: tuple[BrokerId, ...]
    unclean: bool = False
    """The leader was not in the ISR: what only the ISR had is lost, the partition is recovering."""


def elect_offline(
    replicas: Sequence[BrokerId],
    isr: Sequence[BrokerId],
    live: Collection[BrokerId],
    *,
    unclean_allowed: bool,
) -> Election | None:
    """A leader for a partition that has none alive: the first live assigned replica in the ISR.

    The new ISR is the old one's live members. Without any, and only if `unclean_allowed`, the
    first live replica leads, alone in its ISR.
    """
    for replica in replicas:
        if replica in live and replica in isr:
            return Election(replica, tuple(member for member in isr if member in live))
    if unclean_allowed:
        for replica in replicas:
            if replica in live:
                return Election(replica, (replica,), unclean=True)
    return None


def elect_preferred(
    replicas: Sequence[BrokerId], isr: Sequence[BrokerId], live: Collection[BrokerId]
) -> Election | None:
    """The first assigned replica, if it is live and in the ISR; the ISR stays as it is."""
    preferred = replicas[0]
    if preferred in live and preferred in isr:
        return Election(preferred, tuple(isr))
    return None


def elect_for_shutdown(
    replicas: Sequence[BrokerId],
    isr: Sequence[BrokerId],
    live: Collection[BrokerId],
    shutting_down: Collection[BrokerId],
) -> Election | None:
    """A leader in place of one that asks to leave: the first live ISR member that stays.

    All brokers shutting down leave the ISR with it, so that none of them delays a produce.
    """
    staying = tuple(member for member in isr if member not in shutting_down)
    for replica in replicas:
        if replica in staying and replica in live:
            return Election(replica, staying)
    return None
