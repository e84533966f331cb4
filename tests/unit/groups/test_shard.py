"""One partition's state as a fold over its log below the high watermark."""

import random

import pytest

from zkafka.groups.events import GroupState
from zkafka.groups.group import GroupSettings
from zkafka.groups.records import GroupKey, GroupValue, MemberValue, OffsetKey, OffsetValue
from zkafka.groups.shard import EndedTransaction, Entry, Phase, Shard, UnreplicatedWrite
from zkafka.model import TopicPartition

A0 = TopicPartition("a", 0)
A1 = TopicPartition("a", 1)
WEEK = 7 * 86_400_000


def commit(group, tp, offset):
    key = OffsetKey(group=group, topic=tp.topic, partition=tp.partition)
    return Entry(key, OffsetValue(offset=offset, metadata="", commit_timestamp=0))


def forget(group, tp):
    return Entry(OffsetKey(group=group, topic=tp.topic, partition=tp.partition), None)


def group_entry(group, *members, generation=1, at=-1):
    value = GroupValue(
        protocol_type="consumer",
        generation=generation,
        protocol="range" if members else None,
        leader=members[0] if members else None,
        current_state_timestamp=at,
        members=[
            MemberValue(member_id=m, session_timeout=10_000, rebalance_timeout=60_000)
            for m in members
        ],
    )
    return Entry(GroupKey(group=group), value)


def loaded(*entries):
    shard = Shard(0, 1, GroupSettings())
    for offset, entry in enumerate(entries):
        shard.replay(entry, offset)
    shard.finish_loading(0)
    shard.check()
    return shard


def append(shard, base_offset, *entries, deadline_ms=1_000):
    shard.appended(UnreplicatedWrite(base_offset, entries, deadline_ms))
    shard.check()


def test_what_is_appended_counts_when_the_replicas_have_all_of_it():
    shard = loaded()
    append(shard, 5, commit("g", A0, 1), commit("g", A1, 2))
    shard.apply(6)
    assert shard.committed("g", A0) is None
    shard.apply(7)
    assert shard.committed("g", A0).offset == 1
    assert shard.committed_partitions("g") == [A0, A1]
    assert not shard.unreplicated


def test_groups_are_made_of_what_was_read():
    shard = loaded(group_entry("stable", "m"), group_entry("empty", at=50), commit("simple", A0, 1))
    assert shard.phase is Phase.ACTIVE
    assert {name: group.state for name, group in shard.groups.items()} == {
        "stable": GroupState.STABLE,
        "empty": GroupState.EMPTY,
        "simple": GroupState.EMPTY,
    }
    assert shard.groups["simple"].protocol_type is None


def test_what_was_deleted_is_not_there():
    shard = loaded(
        group_entry("g"), commit("g", A0, 1), forget("g", A0), Entry(GroupKey(group="g"), None)
    )
    assert not shard.groups
    assert not shard.offsets


def test_an_offset_is_unstable_while_somebody_waits_for_a_newer_one():
    shard = loaded(commit("g", A0, 1))
    append(shard, 5, commit("g", A0, 2), deadline_ms=100)
    assert shard.is_unstable("g", A0, 99)
    assert not shard.is_unstable("g", A1, 99)
    assert not shard.is_unstable("other", A0, 99)
    assert not shard.is_unstable("g", A0, 100)
    shard.apply(6)
    assert not shard.is_unstable("g", A0, 99)


def test_an_offset_is_unstable_while_a_transaction_is_undecided():
    shard = Shard(0, 1, GroupSettings())
    shard.replay(commit("g", A0, 2), 0, producer_id=7)
    shard.finish_loading(0)
    assert shard.is_unstable("g", A0, 0)
    assert "g" in shard.groups
    shard.end_transaction(7, committed=True)
    assert shard.committed("g", A0).offset == 2
    shard.end_transaction(7, committed=False)  # nothing left of it
    assert shard.committed("g", A0).offset == 2


@pytest.mark.parametrize("committed", [True, False])
def test_a_marker_counts_when_it_is_replicated_and_in_its_turn(committed):
    shard = Shard(0, 1, GroupSettings())
    shard.replay(commit("g", A0, 2), 0, producer_id=7)
    shard.finish_loading(0)
    append(shard, 1, commit("g", A1, 3))
    shard.appended(UnreplicatedWrite(2, (), 100, EndedTransaction(7, committed)))
    append(shard, 3, commit("h", A0, 4))
    shard.check()
    shard.apply(2)
    assert shard.is_unstable("g", A0, 0)
    assert shard.committed("g", A1).offset == 3
    shard.apply(3)
    assert not shard.is_unstable("g", A0, 0)
    assert shard.committed_partitions("g") == ([A0, A1] if committed else [A1])
    assert shard.committed("h", A0) is None
    shard.apply(4)
    assert shard.committed("h", A0).offset == 4


def test_a_group_whose_only_commits_were_aborted_has_no_offsets():
    shard = Shard(0, 1, GroupSettings())
    shard.replay(commit("g", A0, 2), 0, producer_id=7)
    shard.end_transaction(7, committed=False)
    assert not shard.offsets


def test_an_empty_group_without_offsets_is_purged_with_its_tombstone():
    shard = loaded(group_entry("g"))
    (purge,) = shard.purge_expired(0, WEEK)
    assert purge.whole_group
    assert purge.entries == [Entry(GroupKey(group="g"), None)]


@pytest.mark.parametrize("keeps", ["member", "offset", "write", "pending", "transaction"])
def test_a_group_with_anything_left_is_kept(keeps):
    entries = [group_entry("g", "m") if keeps == "member" else group_entry("g", at=0)]
    if keeps == "offset":
        entries.append(commit("g", A0, 1))
    shard = Shard(0, 1, GroupSettings())
    for offset, entry in enumerate(entries):
        shard.replay(entry, offset)
    if keeps == "transaction":
        shard.replay(commit("g", A0, 1), 5, producer_id=7)
    shard.finish_loading(0)
    if keeps == "write":
        append(shard, 9, commit("g", A0, 1))
    if keeps == "pending":
        shard.groups["g"]._pending["p"] = 10
        shard.groups["g"]._earliest_ms = 10
    assert list(shard.purge_expired(1, WEEK)) == []


def test_a_group_deleted_while_commits_are_on_their_way_is_deleted_after_them():
    shard = loaded(group_entry("g"), commit("g", A0, 1))
    append(shard, 9, commit("g", A1, 2))
    purge = shard.purge_group("g")
    assert purge.offset_count == 2
    append(shard, 10, *purge.entries)
    shard.drop_group("g")
    shard.apply(20)
    assert not shard.offsets
    assert not shard.stored


def test_offsets_of_deleted_topics_go_those_on_their_way_too():
    shard = loaded(commit("g", A0, 1), commit("g", TopicPartition("b", 0), 1))
    append(shard, 9, commit("h", A1, 2))
    purged = {purge.group_id: purge for purge in shard.purge_topics({"a"})}
    assert purged["g"].entries == [forget("g", A0)]
    assert purged["h"].entries == [forget("h", A1)]
    assert not any(purge.whole_group for purge in purged.values())


def test_only_offsets_that_exist_are_purged():
    shard = loaded(commit("g", A0, 1))
    assert shard.purge_offsets("g", [A0, A1]).entries == [forget("g", A0)]
    assert shard.purge_offsets("h", [A0]).entries == []


@pytest.mark.parametrize("seed", range(20))
def test_a_life_and_a_recovery_come_to_the_same(seed):
    """Whatever was written, and in whatever steps the replicas got it, a shard that led all the
    time holds what one holds that reads the log."""
    rnd = random.Random(seed)
    living = loaded()
    log = []
    for _ in range(100):
        entries = [
            rnd.choice(
                [
                    commit(rnd.choice("gh"), rnd.choice([A0, A1]), rnd.randrange(100)),
                    forget(rnd.choice("gh"), rnd.choice([A0, A1])),
                    group_entry(rnd.choice("gh"), "m", generation=len(log)),
                    Entry(GroupKey(group=rnd.choice("gh")), None),
                ]
            )
            for _ in range(rnd.randrange(1, 4))
        ]
        append(living, len(log), *entries)
        log += entries
        if rnd.random() < 0.3:
            living.apply(rnd.randrange(len(log) + 1))
    living.apply(len(log))
    recovered = loaded(*log)
    assert living.stored == recovered.stored
    for group in "gh":
        assert living.committed_partitions(group) == recovered.committed_partitions(group)
        for tp in (A0, A1):
            assert living.committed(group, tp) == recovered.committed(group, tp)
