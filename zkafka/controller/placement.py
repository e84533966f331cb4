"""Where the replicas of new partitions go, spread over brokers and racks.

Goals, in this order: leaders evenly over brokers; the other replicas of each broker's partitions
over all the other brokers; each partition's replicas over as many racks as there are.

Brokers stand in a list (by id; with racks, taking one of each rack in turn). Partition p's first
replica is the broker at p + start; the others follow at a shift that grows by one with every full
round of the list, so that two partitions led by one broker have different followers.

Source: `AdminUtils.assignReplicasToBrokers` of Apache Kafka 3.9, whose outcomes the tests compare;
KIP-36 for racks.
"""

import random
from collections.abc import Mapping, Sequence

from zkafka.errors import ApiError, ErrorCode
from zkafka.model import BrokerId


def place(
    brokers: Mapping[BrokerId, str | None],
    *,
    partitions: int,
    replication_factor: int,
    rng: random.Random,
    first_partition: int = 0,
    start_index: int | None = None,
) -> dict[int, tuple[BrokerId, ...]]:
    """Assign partitions `first_partition`.. to `brokers` (id to rack, or None without racks).

    `start_index` fixes both the start and the shift, for partitions that continue others and for
    tests; else `rng` chooses them.

    Errors: ApiError INVALID_PARTITIONS, INVALID_REPLICATION_FACTOR; UNKNOWN_SERVER_ERROR when only
    some of the brokers have a rack, as Kafka's answer is.
    """
    if partitions <= 0:
        raise ApiError(ErrorCode.INVALID_PARTITIONS, "Number of partitions must be larger than 0.")
    if replication_factor <= 0:
        raise ApiError(
            ErrorCode.INVALID_REPLICATION_FACTOR, "Replication factor must be larger than 0."
        )
    if replication_factor > len(brokers):
        raise ApiError(
            ErrorCode.INVALID_REPLICATION_FACTOR,
            f"Replication factor: {replication_factor} larger than available brokers: "
            f"{len(brokers)}.",
        )
    racks = {broker: rack for broker, rack in brokers.items() if rack is not None}
    if racks and len(racks) < len(brokers):
        raise ApiError(
            ErrorCode.UNKNOWN_SERVER_ERROR,
            "Not all brokers have rack information for replica rack aware assignment.",
        )
    line = alternate_racks(racks) if racks else sorted(brokers)
    start = rng.randrange(len(line)) if start_index is None else start_index
    shift = rng.randrange(len(line)) if start_index is None else start_index
    rack_count = len(set(racks.values()))

    placed: dict[int, tuple[BrokerId, ...]] = {}
    for partition in range(first_partition, first_partition + partitions):
        if partition > 0 and partition % len(line) == 0:
            shift += 1
        first = (partition + start) % len(line)
        if racks:
            placed[partition] = _over_racks(
                line, racks, rack_count, first, shift, replication_factor
            )
        else:
            placed[partition] = (
                line[first],
                *(
                    line[_follower_index(first, shift, j, len(line))]
                    for j in range(replication_factor - 1)
                ),
            )
    assert all(len(set(replicas)) == replication_factor for replicas in placed.values())
    return placed


def alternate_racks(racks: Mapping[BrokerId, str]) -> list[BrokerId]:
    """The brokers, one of each rack in turn: racks by name, brokers of a rack by id."""
    by_rack: dict[str, list[BrokerId]] = {}
    for broker in sorted(racks):
        by_rack.setdefault(racks[broker], []).append(broker)
    names = sorted(by_rack)
    line: list[BrokerId] = []
    turn = 0
    while len(line) < len(racks):
        waiting = by_rack[names[turn % len(names)]]
        if waiting:
            line.append(waiting.pop(0))
        turn += 1
    return line


def start_index_for(existing_first: BrokerId, brokers: Mapping[BrokerId, str | None]) -> int:
    """Where added partitions start: at partition 0's first replica, or the next id alive."""
    for index, broker in enumerate(sorted(brokers)):
        if broker >= existing_first:
            return index
    return 0


def _follower_index(first: int, shift: int, j: int, count: int) -> int:
    """Place of the j-th follower: never the leader's, for any shift."""
    return (first + 1 + (shift + j) % (count - 1)) % count


def _over_racks(
    line: Sequence[BrokerId],
    racks: Mapping[BrokerId, str],
    rack_count: int,
    first: int,
    shift: int,
    replication_factor: int,
) -> tuple[BrokerId, ...]:
    """One partition's replicas: a rack is used twice only when all are used."""
    replicas = [line[first]]
    used = {racks[line[first]]}
    k = 0
    while len(replicas) < replication_factor:
        broker = line[_follower_index(first, shift * rack_count, k, len(line))]
        k += 1
        fresh_rack = racks[broker] not in used or len(used) == rack_count
        if fresh_rack and broker not in replicas:
            replicas.append(broker)
            used.add(racks[broker])
    return tuple(replicas)
