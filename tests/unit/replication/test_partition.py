"""The machine of one replica: events in, effects out, laws checked after each step."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zkafka.errors import ErrorCode
from zkafka.model import TopicPartition
from zkafka.replication.partition import (
    AdvanceHighWatermark,
    AdvanceLowWatermark,
    AssignEpoch,
    Assignment,
    BecameFollower,
    BecameLeader,
    CommittedIsr,
    FollowerFetched,
    IsrChanged,
    IsrConfirmed,
    IsrRefused,
    IsrUpdateFailed,
    LagChecked,
    LeaderReported,
    LogAppended,
    LogStartAdvanced,
    LogTruncated,
    MinIsrChanged,
    Partition,
    PendingExpand,
    PendingShrink,
    ProposeIsr,
    ReplicaStopped,
    Role,
    StartFollowing,
    StopFollowing,
    StorageFailed,
)

TP = TopicPartition("orders", 3)
ALIVE = frozenset({1, 2, 3})
LAG_MS = 30_000


class Driven:
    """Replica 1's machine, with its laws checked after each step, and a clock of its own."""

    def __init__(self, *, end=0, start=0, high_watermark=0, min_isr=1):
        self.machine = Partition(
            TP,
            1,
            log_start_offset=start,
            log_end_offset=end,
            high_watermark=high_watermark,
            min_insync_replicas=min_isr,
            lag_time_max_ms=LAG_MS,
        )
        self.now_ms = 0
        self.alive = ALIVE

    def step(self, event):
        effects = self.machine.step(event, self.now_ms)
        self.machine.check()
        return effects

    def assignment(self, leader, **given):
        fields = {
            "leader_epoch": self.machine.leader_epoch + 1,
            "partition_epoch": self.machine.partition_epoch + 1,
            "isr": (1, 2, 3),
            "replicas": (1, 2, 3),
        }
        return Assignment(leader=leader, **(fields | given))

    def lead(self, **given):
        return self.step(BecameLeader(self.assignment(1, **given), self.alive))

    def follow(self, leader=2, **given):
        return self.step(BecameFollower(self.assignment(leader, **given)))

    def append(self, count=1):
        return self.step(LogAppended(self.machine.log_end_offset + count, self.alive))

    def fetched(self, replica, offset, *, start=0, epoch=100, may_propose=True):
        effects = self.step(FollowerFetched(replica, offset, start, epoch, self.alive, may_propose))
        # Each follower's first fetch tells where its log starts; few tests are about that.
        return effects if start else [e for e in effects if e != AdvanceLowWatermark()]

    def confirmed(self, proposal, isr=None, *, leader_epoch=None, partition_epoch=None):
        machine = self.machine
        return self.step(
            IsrConfirmed(
                proposal,
                machine.leader_epoch if leader_epoch is None else leader_epoch,
                machine.partition_epoch + 1 if partition_epoch is None else partition_epoch,
                frozenset(proposal.proposed if isr is None else isr),
                recovering=False,
                alive=self.alive,
            )
        )

    def refused(self, proposal, error):
        return self.step(IsrRefused(proposal, self.machine.leader_epoch, error))

    @property
    def high_watermark(self):
        return self.machine.high_watermark


def leading(*, isr=(1, 2, 3), end=0, min_isr=1, replicas=(1, 2, 3), high_watermark=0):
    driven = Driven(end=end, min_isr=min_isr, high_watermark=high_watermark)
    driven.lead(isr=isr, replicas=replicas)
    return driven


def proposals(effects):
    return [effect.proposal for effect in effects if isinstance(effect, ProposeIsr)]


# Roles


def test_a_new_replica_waits_to_be_told_its_role():
    driven = Driven(end=10, high_watermark=7)
    assert driven.machine.role is Role.WAITING
    assert driven.high_watermark == 7


@pytest.mark.parametrize(("checkpoint", "mark"), [(3, 5), (7, 7), (99, 10)])
def test_the_checkpointed_high_watermark_is_brought_between_the_ends_of_the_log(checkpoint, mark):
    assert Driven(start=5, end=10, high_watermark=checkpoint).high_watermark == mark


def test_becoming_leader_begins_an_epoch_at_the_log_end():
    driven = Driven(end=10)
    assert driven.lead() == [AssignEpoch(0, 10)]
    assert driven.machine.is_leader
    assert driven.machine.epoch_start_offset == 10
    assert driven.machine.in_sync_set == CommittedIsr(frozenset({1, 2, 3}))


def test_becoming_leader_alone_commits_the_whole_log():
    driven = Driven(end=10, high_watermark=4)
    effects = driven.lead(isr=(1,), replicas=(1,))
    assert effects == [AssignEpoch(0, 10), AdvanceHighWatermark(10)]


def test_a_follower_that_becomes_leader_stops_following_first():
    driven = Driven()
    assert driven.follow(2) == [StartFollowing(2, 0)]
    assert driven.lead()[:2] == [StopFollowing(), AssignEpoch(1, 0)]


def test_a_leader_that_becomes_follower_forgets_its_followers_and_isr():
    driven = leading()
    driven.append()
    driven.fetched(2, 1)
    driven.follow(2)
    assert driven.machine.progress == []
    assert driven.machine.in_sync_set == CommittedIsr(frozenset())


def test_a_follower_of_nobody_fetches_from_nobody():
    driven = Driven()
    driven.follow(2)
    assert driven.follow(-1) == [StopFollowing()]
    assert driven.machine.role is Role.FOLLOWER


def test_a_stopped_replica_stops_following_and_keeps_its_epoch():
    driven = Driven()
    driven.follow(2, leader_epoch=7)
    assert driven.step(ReplicaStopped()) == [StopFollowing()]
    assert driven.machine.role is Role.WAITING
    assert driven.machine.leader_epoch == 7


def test_a_failed_directory_ends_every_role():
    driven = leading()
    driven.step(StorageFailed())
    assert driven.machine.role is Role.OFFLINE
    driven.step(ReplicaStopped())
    assert driven.machine.role is Role.OFFLINE


def test_an_old_epoch_is_impossible_here_since_it_is_refused_before():
    driven = leading()
    with pytest.raises(AssertionError):
        driven.lead(leader_epoch=0)


def test_the_epoch_of_an_unbroken_leadership_is_remembered():
    driven = Driven()
    driven.lead(leader_epoch=4)
    driven.lead(leader_epoch=5)
    assert driven.machine.leading_since == 4
    driven.follow(2)
    driven.lead()
    assert driven.machine.leading_since == driven.machine.leader_epoch == 7


def test_a_retained_leadership_keeps_what_it_knows_of_followers():
    driven = leading()
    driven.append(5)
    driven.fetched(2, 5)
    driven.lead()
    assert driven.machine.progress_of(2).log_end_offset == 5


def test_an_epoch_in_between_makes_followers_unknown():
    """Somebody else may have led in it, and the follower may have truncated for them."""
    driven = leading()
    driven.append(5)
    driven.fetched(2, 5)
    driven.lead(leader_epoch=driven.machine.leader_epoch + 2)
    assert driven.machine.progress_of(2).log_end_offset == -1


# High watermark, leading


def test_high_watermark_waits_for_every_member_of_the_isr():
    driven = leading()
    assert driven.append(10) == []
    assert driven.fetched(2, 10) == []
    assert driven.fetched(3, 4) == [AdvanceHighWatermark(4)]
    assert driven.fetched(3, 10) == [AdvanceHighWatermark(10)]


def test_high_watermark_never_moves_back_within_an_epoch():
    driven = leading()
    driven.append(10)
    driven.fetched(2, 10)
    driven.fetched(3, 10)
    driven.fetched(2, 3)
    driven.append(1)
    assert driven.high_watermark == 10


def test_a_leader_alone_in_its_isr_commits_at_once():
    driven = leading(isr=(1,), replicas=(1,))
    assert driven.append(3) == [AdvanceHighWatermark(3)]


def test_high_watermark_waits_for_a_follower_about_to_join():
    driven = leading(isr=(1,), replicas=(1, 2))
    driven.fetched(2, 0, may_propose=False)
    assert driven.append(5) == []
    assert driven.fetched(2, 5, may_propose=False) == [AdvanceHighWatermark(5)]


def test_high_watermark_does_not_wait_for_one_that_left_the_isr_and_fetches_no_more():
    """A broker that shuts down: alive for a while, caught up when it was last heard of."""
    driven = leading(isr=(1, 2))
    driven.append(5)
    driven.fetched(2, 5)
    driven.lead(isr=(1,))
    assert driven.append(5) == [AdvanceHighWatermark(10)]
    assert driven.append(5) == [AdvanceHighWatermark(15)]


def test_high_watermark_does_not_wait_for_a_dead_or_lagging_follower_outside_the_isr():
    driven = leading(isr=(1,), replicas=(1, 2))
    driven.fetched(2, 0, may_propose=False)
    driven.alive = frozenset({1})
    assert driven.append(5) == [AdvanceHighWatermark(5)]
    driven.alive = ALIVE
    driven.append(5)
    assert driven.high_watermark == 5
    driven.now_ms = LAG_MS + 1
    assert driven.step(LagChecked(driven.alive)) == [AdvanceHighWatermark(10)]


def test_high_watermark_stands_still_below_min_isr():
    """KIP-966: with min.insync.replicas=2 nothing is committed by one replica alone."""
    driven = leading(isr=(1,), replicas=(1, 2, 3), min_isr=2)
    assert driven.append(5) == []
    (expand,) = proposals(driven.fetched(2, 5))
    assert driven.high_watermark == 0, "the expansion is not committed yet"
    assert AdvanceHighWatermark(5) in driven.confirmed(expand)


def test_min_isr_is_at_most_the_number_of_replicas():
    driven = leading(isr=(1,), replicas=(1,), min_isr=3)
    assert driven.machine.has_enough_in_sync
    assert driven.append(2) == [AdvanceHighWatermark(2)]


def test_lowering_min_isr_commits_what_was_held_back():
    driven = leading(isr=(1,), replicas=(1, 2, 3), min_isr=2)
    driven.append(5)
    assert driven.step(MinIsrChanged(1, driven.alive)) == [AdvanceHighWatermark(5)]


def test_a_new_leader_does_not_trust_what_it_knew_of_followers_before():
    driven = leading(isr=(1, 2), replicas=(1, 2))
    driven.append(5)
    driven.fetched(2, 5)
    driven.follow(2)
    driven.lead(isr=(1, 2), replicas=(1, 2))
    driven.append(1)
    assert driven.high_watermark == 5
    assert driven.fetched(2, 5) == []
    assert driven.fetched(2, 6) == [AdvanceHighWatermark(6)]


# High watermark, following


def test_a_followers_high_watermark_is_the_leaders_as_far_as_its_log_goes():
    driven = Driven()
    driven.follow()
    driven.step(LogAppended(5))
    assert driven.step(LeaderReported(9)) == [AdvanceHighWatermark(5)]
    assert driven.step(LeaderReported(5)) == []


def test_a_followers_high_watermark_does_not_follow_a_new_leader_back():
    driven = Driven(end=10, high_watermark=8)
    driven.follow()
    assert driven.step(LeaderReported(3)) == []
    assert driven.high_watermark == 8


def test_a_truncation_takes_the_high_watermark_along():
    driven = Driven(end=10, high_watermark=8)
    driven.follow()
    driven.step(LogTruncated(0, 6))
    assert driven.high_watermark == 6


def test_a_log_that_restarts_further_on_takes_the_high_watermark_along():
    driven = Driven(end=10, high_watermark=8)
    driven.follow()
    driven.step(LogTruncated(50, 50))
    assert driven.high_watermark == 50


def test_a_log_start_above_the_high_watermark_pulls_it_up():
    driven = Driven(end=10, high_watermark=3)
    driven.follow()
    effects = driven.step(LogStartAdvanced(6))
    assert effects == [AdvanceLowWatermark(), AdvanceHighWatermark(6)]


# Shrinking


def test_a_follower_that_never_fetches_leaves_after_the_lag_time():
    driven = leading(isr=(1, 2), replicas=(1, 2))
    driven.append()
    driven.now_ms = LAG_MS
    assert driven.step(LagChecked(driven.alive)) == []
    driven.now_ms += 1
    (shrink,) = proposals(driven.step(LagChecked(driven.alive)))
    assert shrink == PendingShrink(frozenset({1, 2}), frozenset({2}))


def test_a_quiet_partitions_followers_do_not_lag():
    driven = leading()
    driven.append(5)
    driven.fetched(2, 5)
    driven.fetched(3, 5)
    driven.now_ms = 10 * LAG_MS
    assert driven.step(LagChecked(driven.alive)) == []
    driven.append(1)
    assert driven.step(LagChecked(driven.alive)) == [], "they had all there was until just now"
    driven.now_ms += LAG_MS + 1
    (shrink,) = proposals(driven.step(LagChecked(driven.alive)))
    assert shrink.proposed == {1}


def test_a_follower_that_always_has_what_was_there_before_stays():
    """A busy leader's follower never sees the very end, and is in sync all the same."""
    driven = leading(isr=(1, 2), replicas=(1, 2))
    for _ in range(20):
        fetched_from = driven.machine.log_end_offset
        driven.append(10)
        driven.fetched(2, fetched_from)
        driven.now_ms += LAG_MS // 2
        assert driven.step(LagChecked(driven.alive)) == []


def test_a_follower_that_falls_ever_further_back_leaves():
    driven = leading(isr=(1, 2), replicas=(1, 2))
    offset, shrunk = 0, []
    for _ in range(8):
        driven.append(100)
        driven.fetched(2, offset)
        offset += 10
        driven.now_ms += LAG_MS // 2
        shrunk += proposals(driven.step(LagChecked(driven.alive)))
    assert [proposal.proposed for proposal in shrunk] == [{1}]


def test_a_shrink_still_counts_the_leaving_until_it_is_confirmed():
    driven = leading(isr=(1, 2), replicas=(1, 2))
    driven.append(5)
    driven.now_ms = LAG_MS + 1
    (shrink,) = proposals(driven.step(LagChecked(driven.alive)))
    assert driven.append(1) == []
    assert driven.high_watermark == 0
    assert len(driven.machine.in_sync_set.maximal) == 2
    effects = driven.confirmed(shrink)
    assert effects[0] == IsrChanged(frozenset({1, 2}), frozenset({1}), 1)
    assert AdvanceHighWatermark(6) in effects


def test_nothing_is_proposed_while_a_proposal_is_in_flight():
    driven = leading()
    driven.append()
    driven.now_ms = LAG_MS + 1
    assert proposals(driven.step(LagChecked(driven.alive)))
    assert not proposals(driven.step(LagChecked(driven.alive)))
    assert not proposals(driven.fetched(2, 1))


def test_nothing_is_proposed_while_the_session_is_suspended():
    driven = leading(isr=(1, 2))
    driven.append()
    driven.now_ms = LAG_MS + 1
    assert not proposals(driven.step(LagChecked(driven.alive, may_propose=False)))
    assert not proposals(driven.fetched(3, 1, may_propose=False))
    assert driven.machine.in_sync_set == CommittedIsr(frozenset({1, 2}))


# Expanding


def test_a_follower_that_caught_up_is_proposed():
    driven = leading(isr=(1, 2))
    driven.append(10)
    driven.fetched(2, 10)
    assert driven.fetched(3, 9) == []
    effects = driven.fetched(3, 10)
    assert effects == [ProposeIsr(PendingExpand(frozenset({1, 2}), 3, 100), 0, 0)]


def test_a_follower_below_the_start_of_the_epoch_is_not_proposed():
    """It may hold records of the last leader that this one does not have (KAFKA-7128)."""
    driven = Driven(end=10, high_watermark=4)
    driven.lead(isr=(1, 2))
    assert not proposals(driven.fetched(3, 6))
    assert proposals(driven.fetched(3, 10))


def test_a_dead_broker_is_not_proposed():
    driven = leading(isr=(1, 2))
    driven.alive = frozenset({1, 2})
    assert not proposals(driven.fetched(3, 0))


def test_a_joining_follower_holds_the_high_watermark_but_not_the_min_isr():
    driven = leading(isr=(1, 2))
    driven.append(10)
    driven.fetched(2, 10)
    driven.fetched(3, 10)
    driven.append(5)
    driven.fetched(2, 15)
    assert driven.high_watermark == 10, "3 counts as in sync"
    assert len(driven.machine.in_sync_set.committed) == 2
    assert driven.fetched(3, 15) == [AdvanceHighWatermark(15)]


@pytest.mark.parametrize("error", [ErrorCode.INELIGIBLE_REPLICA, ErrorCode.OPERATION_NOT_ATTEMPTED])
def test_a_proposal_that_was_not_tried_is_dropped(error):
    driven = leading(isr=(1, 2))
    (expand,) = proposals(driven.fetched(3, 0))
    assert driven.refused(expand, error) == [IsrUpdateFailed(error)]
    assert driven.machine.in_sync_set == CommittedIsr(frozenset({1, 2}))
    assert proposals(driven.fetched(3, 0)), "and may be made again"


@pytest.mark.parametrize(
    "error",
    [
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode.UNKNOWN_TOPIC_ID,
        ErrorCode.FENCED_LEADER_EPOCH,
        ErrorCode.INVALID_UPDATE_VERSION,
        ErrorCode.INVALID_REQUEST,
    ],
)
def test_a_proposal_overtaken_by_events_keeps_the_larger_set_until_the_controller_speaks(error):
    driven = leading(isr=(1, 2))
    (expand,) = proposals(driven.fetched(3, 0))
    assert driven.refused(expand, error) == [IsrUpdateFailed(error)]
    assert driven.machine.in_sync_set is expand
    driven.lead(isr=(1, 2))
    assert driven.machine.in_sync_set == CommittedIsr(frozenset({1, 2}))


def test_a_proposal_refused_for_a_passing_reason_is_made_again():
    driven = leading(isr=(1, 2))
    (expand,) = proposals(driven.fetched(3, 0))
    assert driven.refused(expand, ErrorCode.UNKNOWN_SERVER_ERROR) == [ProposeIsr(expand, 0, 0)]


def test_an_answer_to_an_older_leadership_means_nothing():
    driven = leading(isr=(1, 2))
    (expand,) = proposals(driven.fetched(3, 0))
    driven.lead(isr=(1, 2))
    assert driven.confirmed(expand, leader_epoch=0, partition_epoch=9) == []
    assert driven.machine.in_sync_set == CommittedIsr(frozenset({1, 2}))
    assert driven.refused(expand, ErrorCode.UNKNOWN_SERVER_ERROR) == []


def test_an_answer_with_an_older_partition_epoch_means_nothing():
    driven = leading(isr=(1, 2))
    driven.lead(isr=(1, 2), partition_epoch=8)
    (expand,) = proposals(driven.fetched(3, 0))
    assert driven.confirmed(expand, partition_epoch=7) == []
    assert driven.machine.in_sync_set is expand


def test_a_confirmed_expansion_is_adopted_with_its_partition_epoch():
    driven = leading(isr=(1, 2))
    (expand,) = proposals(driven.fetched(3, 0))
    assert driven.confirmed(expand, partition_epoch=6) == [
        IsrChanged(frozenset({1, 2}), frozenset({1, 2, 3}), 6)
    ]
    assert driven.machine.partition_epoch == 6


def test_a_follower_that_fetched_during_a_change_joins_with_the_next():
    """On a quiet partition it has nothing new to say, so nobody would propose it."""
    driven = leading(isr=(1,), replicas=(1, 2, 3))
    (expand,) = proposals(driven.fetched(2, 0))
    assert driven.fetched(3, 0) == [], "one change at a time"
    changed, following = driven.confirmed(expand, partition_epoch=6)
    assert changed == IsrChanged(frozenset({1}), frozenset({1, 2}), 6)
    assert isinstance(following, ProposeIsr)
    assert following.proposal.proposed == frozenset({1, 2, 3})
    assert driven.confirmed(following.proposal, partition_epoch=7) == [
        IsrChanged(frozenset({1, 2}), frozenset({1, 2, 3}), 7)
    ]


def test_one_that_has_not_fetched_or_died_or_lags_does_not_join_with_the_next():
    for spoil in ("silent", "dead", "behind"):
        driven = leading(isr=(1,), replicas=(1, 2, 3), end=5)
        (expand,) = proposals(driven.fetched(2, 5))
        if spoil != "silent":
            driven.fetched(3, 5 if spoil == "dead" else 0)
        if spoil == "dead":
            driven.alive = frozenset({1, 2})
        assert proposals(driven.confirmed(expand, partition_epoch=6)) == [], spoil


# Views


def test_replicas_being_added_are_not_missed_yet():
    driven = Driven()
    driven.lead(isr=(1, 2), replicas=(1, 2, 3), adding=(3,))
    assert not driven.machine.is_under_replicated
    assert driven.machine.is_reassigning
    driven.lead(isr=(1, 2), replicas=(1, 2, 3))
    assert driven.machine.is_under_replicated


def test_the_low_watermark_is_the_smallest_log_start_among_the_living():
    driven = leading(isr=(1, 2, 3), end=10)
    driven.fetched(2, 10, start=4)
    assert driven.machine.low_watermark(driven.alive) == 0, "3 was not heard of yet"
    assert AdvanceLowWatermark() in driven.fetched(3, 10, start=7)
    driven.step(LogStartAdvanced(8))
    assert driven.machine.low_watermark(driven.alive) == 4
    assert driven.machine.low_watermark(frozenset({1, 3})) == 7


def test_the_life_of_a_replica_is_remembered_but_not_its_traffic():
    driven = leading()
    driven.append()
    driven.fetched(2, 1)
    driven.follow()
    assert [type(event) for _, event in driven.machine.life] == [BecameLeader, BecameFollower]


# Anything in any order


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_laws_hold_whatever_happens(data):
    """What may come at any time comes in any order; `check` runs after each step, and the high
    watermark is compared with what every member of the maximal ISR has."""
    driven = Driven(min_isr=data.draw(st.integers(1, 3)))
    driven.lead()
    held = {2: 0, 3: 0}
    pending = []
    for _ in range(data.draw(st.integers(1, 40))):
        machine = driven.machine
        before = (machine.leader_epoch, machine.role, machine.high_watermark)
        what = data.draw(
            st.sampled_from(
                ["append", "fetch", "lag", "confirm", "refuse", "lead", "follow", "time"]
            )
        )
        effects = []
        if what == "time":
            driven.now_ms += data.draw(st.integers(1, LAG_MS))
        elif what == "lead":
            effects = driven.lead(isr=tuple(data.draw(st.sets(st.integers(1, 3))) | {1}))
        elif what == "follow":
            driven.follow()
            end = data.draw(st.integers(machine.high_watermark, machine.log_end_offset))
            driven.step(LogTruncated(0, end))
            held = {follower: min(offset, end) for follower, offset in held.items()}
        elif not machine.is_leader:
            continue
        elif what == "append":
            effects = driven.append(data.draw(st.integers(1, 5)))
        elif what == "fetch":
            follower = data.draw(st.sampled_from([2, 3]))
            held[follower] = data.draw(st.integers(held[follower], machine.log_end_offset))
            effects = driven.fetched(follower, held[follower])
        elif what == "lag":
            effects = driven.step(LagChecked(driven.alive))
        elif pending:
            proposal = pending.pop()
            if what == "confirm":
                effects = driven.confirmed(proposal)
            else:
                effects = driven.refused(proposal, data.draw(st.sampled_from(list(ErrorCode))))
        pending += proposals(effects)
        if machine.leader_epoch == before[0]:
            assert machine.high_watermark >= before[2]
        if machine.is_leader and machine.high_watermark > before[2]:
            for member in machine.in_sync_set.maximal - {1}:
                assert held[member] >= machine.high_watermark, "not everybody has it"
