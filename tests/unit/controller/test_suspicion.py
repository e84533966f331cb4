"""Evidence and judgement on brokers that may have died, by event and effect.

The suspicion timeout is 200 ms: attempts while it matters are 100 ms apart.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zkafka.controller.suspicion import (
    ANSWER_MS,
    REFUSALS,
    RETRY_MAX_MS,
    BrokersRegistered,
    Connected,
    Failed,
    HoldBack,
    Lost,
    Reason,
    Refused,
    Stood,
    Suspect,
    Suspicions,
    TryAgain,
    WaitStanding,
    Withdraw,
)

TIMEOUT_MS = 200
PATIENCE_MS = 18_000


class Broker1:
    """Broker 1 judging others, its clock moved by hand."""

    def __init__(self, *others: int, timeout_ms: int = TIMEOUT_MS) -> None:
        self.now_ms = 5_000
        self.suspicions = Suspicions(timeout_ms, PATIENCE_MS)
        self.epochs = {other: 10 * other for other in others}
        self.register()
        for other in others:
            assert self.hear(Connected(other)) == []
        self.later(60_000)

    def register(self):
        return self.hear(BrokersRegistered(dict(self.epochs), 1 + len(self.epochs)))

    def hear(self, event):
        return self.suspicions.step(event, self.now_ms)

    def later(self, ms: int) -> None:
        self.now_ms += ms

    @property
    def avoided(self):
        return self.suspicions.avoided(self.now_ms)

    def refuse(self, *ids: int):
        """These die, and every attempt is refused for as long as it takes; all effects."""
        effects = [effect for i in ids for effect in self.hear(Lost(i))]
        for attempt in range(REFUSALS):
            self.later(100 if attempt else 0)
            effects += [effect for i in ids for effect in self.hear(Refused(i))]
        return effects


def verdicts(effects):
    return [e for e in effects if isinstance(e, Suspect | HoldBack | Withdraw)]


def test_a_broker_that_hangs_up_and_then_refuses_is_suspected():
    me = Broker1(2, 3)
    assert me.hear(Lost(2)) == [TryAgain(2, me.now_ms)]
    assert me.hear(Refused(2)) == [TryAgain(2, me.now_ms + 100)]
    me.later(100)
    assert me.hear(Refused(2)) == [TryAgain(2, me.now_ms + 100)]
    me.later(100)
    assert me.hear(Refused(2)) == [
        TryAgain(2, me.now_ms + 100),
        Suspect(2, 20, silent_ms=200, refusals=3),
    ]
    assert me.suspicions.suspects == {2: 20}


def test_refusals_too_close_to_each_other_are_not_enough():
    me = Broker1(2, 3)
    me.hear(Lost(2))
    for _ in range(10):
        assert verdicts(me.hear(Refused(2))) == []
        me.later(19)
    me.later(10)
    assert verdicts(me.hear(Refused(2))) == [Suspect(2, 20, silent_ms=200, refusals=11)]


def test_two_refusals_are_not_enough_however_far_apart():
    me = Broker1(2, 3)
    me.hear(Lost(2))
    me.hear(Refused(2))
    me.later(5_000)
    assert verdicts(me.hear(Refused(2))) == []
    assert len(verdicts(me.hear(Refused(2)))) == 1


def test_a_listener_that_closes_idle_connections_is_connected_again_and_no_more():
    me = Broker1(2, 3)
    assert me.hear(Lost(2)) == [TryAgain(2, me.now_ms)]
    assert me.hear(Connected(2)) == []
    assert me.suspicions.suspects == {}


def test_one_that_never_took_a_connection_is_not_suspected():
    me = Broker1(2, 3)
    me.epochs[4] = 40
    me.register()
    for _ in range(50):
        [again] = me.hear(Refused(4))
        me.now_ms = again.at_ms
    assert me.suspicions.suspects == {}


@pytest.mark.parametrize("other", [Failed(2), Connected(2)])
def test_anything_but_a_refusal_starts_the_count_again(other):
    me = Broker1(2, 3)
    me.hear(Lost(2))
    me.hear(Refused(2))
    me.later(100)
    me.hear(Refused(2))
    me.later(100)
    me.hear(other)
    if isinstance(other, Connected):
        me.later(TIMEOUT_MS)
        me.hear(Lost(2))
    for _ in range(REFUSALS - 1):
        assert verdicts(me.hear(Refused(2))) == []
        me.later(100)
    assert len(verdicts(me.hear(Refused(2)))) == 1


def test_no_answer_at_all_is_no_evidence_for_as_long_as_it_lasts():
    me = Broker1(2, 3)
    me.hear(Lost(2))
    for _ in range(50):
        [again] = me.hear(Failed(2))
        me.now_ms = again.at_ms
    assert me.suspicions.suspects == {}


def test_attempts_become_rare_once_there_is_no_hurry():
    me = Broker1(2, 3)
    me.refuse(2)
    pauses = []
    for _ in range(6):
        [again] = me.hear(Refused(2))
        pauses.append(again.at_ms - me.now_ms)
        me.now_ms = again.at_ms
    assert pauses == [100, 200, 400, 800, RETRY_MAX_MS, RETRY_MAX_MS]


def test_one_that_accepts_and_hangs_up_is_not_tried_in_a_circle():
    """A proxy before a dead broker: neither evidence nor an answer."""
    me = Broker1(2, 3)
    me.hear(Lost(2))
    pauses = []
    for _ in range(6):
        me.hear(Connected(2))
        [again] = me.hear(Lost(2))
        pauses.append(again.at_ms - me.now_ms)
        me.now_ms = again.at_ms
    assert pauses == [100, 200, 400, 800, RETRY_MAX_MS, RETRY_MAX_MS]
    assert me.suspicions.suspects == {}


class TestTheEndOfASuspicion:
    def test_an_answer_that_lasts(self):
        me = Broker1(2, 3)
        me.refuse(2)
        me.later(3_000)
        assert me.hear(Connected(2)) == [WaitStanding(2, me.now_ms + ANSWER_MS)]
        assert me.suspicions.suspects == {2: 20}, "a process that has yet to register anew?"
        me.later(ANSWER_MS)
        assert me.hear(Stood(2)) == [Withdraw(2, 20, Reason.ANSWERED, suspected_ms=4_000)]
        assert me.suspicions.suspects == {}

    def test_a_connection_that_ends_at_once_is_no_answer(self):
        me = Broker1(2, 3)
        me.refuse(2)
        me.hear(Connected(2))
        me.later(ANSWER_MS - 1)
        assert verdicts(me.hear(Lost(2))) == []
        assert me.suspicions.suspects == {2: 20}

    def test_a_failed_attempt_does_not_clear_it(self):
        me = Broker1(2, 3)
        me.refuse(2)
        assert verdicts(me.hear(Failed(2))) == []
        assert me.suspicions.suspects == {2: 20}

    def test_another_registration(self):
        me = Broker1(2, 3)
        me.refuse(2)
        me.epochs[2] = 21
        assert me.register() == [Withdraw(2, 20, Reason.REGISTERED_ANEW, suspected_ms=0)]
        # Nothing is known of the new one: its refusals alone are no evidence.
        for _ in range(5):
            assert verdicts(me.hear(Refused(2))) == []
            me.later(100)

    def test_no_registration(self):
        me = Broker1(2, 3)
        me.refuse(2)
        del me.epochs[2]
        assert me.register() == [Withdraw(2, 20, Reason.GONE, suspected_ms=0)]
        assert me.suspicions.suspects == {}

    def test_it_may_be_suspected_again(self):
        me = Broker1(2, 3)
        me.refuse(2)
        me.hear(Connected(2))
        me.later(ANSWER_MS)
        me.hear(Stood(2))
        assert verdicts(me.refuse(2)) == [Suspect(2, 20, silent_ms=200, refusals=3)]


class TestTheHintForClients:
    """Whom metadata had better not name, suspected or not."""

    def test_it_begins_with_the_end_of_a_connection_and_ends_with_the_next(self):
        me = Broker1(2, 3)
        me.hear(Lost(2))
        assert me.avoided == {2}
        me.hear(Refused(2))
        assert me.avoided == {2}
        me.hear(Connected(2))
        assert me.avoided == frozenset()

    def test_no_answer_is_none(self):
        me = Broker1(2, 3)
        me.hear(Lost(2))
        me.hear(Failed(2))
        assert me.avoided == frozenset()

    def test_one_that_accepts_and_hangs_up_is_there(self):
        """It may have too many connections for ours."""
        me = Broker1(2, 3)
        me.hear(Lost(2))
        me.hear(Connected(2))
        me.hear(Lost(2))
        assert me.avoided == frozenset()

    def test_one_that_never_took_a_connection_is_not_known(self):
        me = Broker1(2, 3)
        me.epochs[4] = 40
        me.register()
        me.hear(Refused(4))
        assert me.avoided == frozenset()

    def test_those_held_back_are_meant_too(self):
        me = Broker1(2, 3)
        me.refuse(2, 3)
        assert me.avoided == {2, 3}
        me.hear(Failed(2))
        assert me.avoided == {3}

    def test_it_lapses_when_the_session_should_have_ended(self):
        me = Broker1(2, 3)
        me.refuse(2)
        me.later(PATIENCE_MS)
        assert me.avoided == frozenset()
        assert me.suspicions.suspects == {2: 20}


class TestOnlyAMinority:
    @pytest.mark.parametrize(
        ("others", "dead", "suspected"),
        [
            ((2,), (2,), False),
            ((2, 3), (2,), True),
            ((2, 3), (2, 3), False),
            ((2, 3, 4), (2,), True),
            ((2, 3, 4), (2, 3), False),
            ((2, 3, 4, 5), (2, 3), True),
            ((2, 3, 4, 5), (2, 3, 4), False),
        ],
    )
    def test_of_those_who_fall_silent_together_all_are_suspected_or_none(
        self, others, dead, suspected
    ):
        me = Broker1(*others)
        effects = verdicts(me.refuse(*dead))
        assert me.suspicions.suspects == ({i: 10 * i for i in dead} if suspected else {})
        assert {type(effect) for effect in effects} == {Suspect if suspected else HoldBack}
        assert me.suspicions.held_back_count == (0 if suspected else len(dead))

    def test_a_second_one_is_held_back_and_the_first_stays_suspected(self):
        me = Broker1(2, 3)
        me.refuse(2)
        assert verdicts(me.refuse(3)) == [HoldBack(3, 30, silent=(2, 3), registered=3)]
        assert me.suspicions.suspects == {2: 20}
        me.later(5_000)
        assert verdicts(me.hear(Refused(3))) == [], "said once"

    def test_one_that_does_not_answer_counts_though_it_does_not_refuse(self):
        me = Broker1(2, 3)
        me.hear(Lost(3))
        me.hear(Failed(3))
        assert len(verdicts(me.refuse(2))) == 1
        assert me.suspicions.suspects == {}

    def test_who_was_held_back_is_suspected_once_the_other_answers(self):
        me = Broker1(2, 3)
        me.refuse(2, 3)
        assert me.suspicions.suspects == {}
        assert verdicts(me.hear(Connected(3))) == [Suspect(2, 20, silent_ms=200, refusals=3)]
        assert me.suspicions.suspects == {2: 20}

    def test_a_suspect_that_has_only_just_answered_still_counts(self):
        me = Broker1(2, 3)
        me.refuse(2)
        me.refuse(3)
        me.hear(Connected(2))
        assert me.suspicions.suspects == {2: 20}
        me.later(ANSWER_MS)
        assert verdicts(me.hear(Stood(2))) == [
            Withdraw(2, 20, Reason.ANSWERED, suspected_ms=1_200),
            Suspect(3, 30, silent_ms=1_200, refusals=3),
        ]

    def test_fewer_brokers_undo_no_suspicion_and_allow_no_other(self):
        me = Broker1(2, 3, 4, 5)
        me.refuse(2, 3)
        del me.epochs[5]  # by the end of its session
        assert verdicts(me.register()) == []
        assert me.suspicions.suspects == {2: 20, 3: 30}
        assert [type(effect) for effect in verdicts(me.refuse(4))] == [HoldBack]
        del me.epochs[2]
        assert [type(effect) for effect in verdicts(me.register())] == [Withdraw]
        assert me.suspicions.suspects == {3: 30}, "4 is one of two silent among three"

    def test_more_brokers_allow_what_was_held_back(self):
        me = Broker1(2, 3)
        me.refuse(2, 3)
        me.epochs |= {4: 40, 5: 50}
        assert [type(effect) for effect in verdicts(me.register())] == [Suspect, Suspect]


IDS = (2, 3, 4, 5)
events = st.one_of(
    st.tuples(st.sampled_from(["up", "refuse", "fail", "anew"]), st.sampled_from(IDS)),
    st.tuples(st.sampled_from(["leave", "come"]), st.sampled_from(IDS)),
    st.tuples(st.just("wait"), st.integers(1, 2_000)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(events, max_size=60))
def test_whatever_happens_suspects_have_refused_and_were_few(story):
    """And each broker without a connection has an attempt ahead, each second at the latest."""
    me = Broker1(*IDS)
    standing = dict.fromkeys(IDS, True)
    refusals = dict.fromkeys(IDS, 0)
    for what, which in story:
        before = me.suspicions.suspects
        effects = []
        match what:
            case "wait":
                me.later(which)
            case "leave":
                if me.epochs.pop(which, None):
                    effects = me.register()
            case "come" | "anew":
                if (which in me.epochs) == (what == "anew"):
                    me.epochs[which] = me.epochs.get(which, 10 * which) + 1
                    standing[which], refusals[which] = False, 0
                    effects = me.register()
            case _ if which not in me.epochs:
                continue
            case "up":
                event = Stood(which) if standing[which] else Connected(which)
                standing[which], refusals[which] = True, 0
                effects = me.hear(event)
            case _:
                if standing[which]:
                    standing[which] = False
                    effects = me.hear(Lost(which))
                refusals[which] = refusals[which] + 1 if what == "refuse" else 0
                last = me.hear(Refused(which) if what == "refuse" else Failed(which))
                [again] = [effect for effect in last if isinstance(effect, TryAgain)]
                assert me.now_ms <= again.at_ms <= me.now_ms + RETRY_MAX_MS
                effects += last
        now = me.suspicions.suspects
        new = now.keys() - before.keys()
        assert {e.broker_id for e in effects if isinstance(e, Suspect)} >= new
        assert now.items() <= me.epochs.items()
        for broker_id in new:
            assert not standing[broker_id]
            assert refusals[broker_id] >= REFUSALS
        if new:
            assert 2 * len(now) < 1 + len(me.epochs)
