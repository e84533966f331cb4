import uuid

from hypothesis import given
from hypothesis import strategies as st

from zkafka.errors import ErrorCode
from zkafka.model import TopicPartition
from zkafka.replication.session import FetchPosition, FetchSession

ID = uuid.UUID(int=1)
OTHER_ID = uuid.UUID(int=2)
A, B, C = (TopicPartition("t", n) for n in range(3))


def at(offset, topic_id=ID):
    return FetchPosition(topic_id, 0, offset, 0, 0)


def opened(*partitions):
    session = FetchSession()
    for tp in partitions:
        session.want(tp, at(0))
    session.next_request()
    session.answered(77)
    return session


def test_the_first_request_lists_everything_and_asks_for_a_session():
    session = FetchSession()
    session.want(A, at(0))
    session.want(B, at(5))
    request = session.next_request()
    assert (request.session_id, request.epoch) == (0, 0)
    assert dict(request.listed) == {A: at(0), B: at(5)}


def test_an_open_session_says_only_what_changed():
    session = opened(A, B, C)
    session.want(B, at(9))
    session.want(C, at(0))
    request = session.next_request()
    assert (request.session_id, request.epoch) == (77, 1)
    assert dict(request.listed) == {B: at(9)}
    session.answered(77)
    quiet = session.next_request()
    assert (quiet.epoch, quiet.listed, quiet.forgotten) == (2, {}, {})
    assert session.told[B] == at(9)


def test_what_is_dropped_is_forgotten_once():
    session = opened(A, B)
    session.drop(A)
    assert session.next_request().forgotten == {A: ID}
    assert A not in session.told
    session.answered(77)
    assert session.next_request().forgotten == {}


def test_what_is_dropped_and_wanted_again_is_listed():
    session = opened(A)
    session.drop(A)
    session.want(A, at(3))
    request = session.next_request()
    assert request.forgotten == {}
    assert dict(request.listed) == {A: at(3)}


def test_a_topic_created_anew_is_forgotten_and_listed():
    session = opened(A)
    session.drop(A)
    session.want(A, at(0, OTHER_ID))
    request = session.next_request()
    assert request.forgotten == {A: ID}
    assert session.told == {A: at(0, OTHER_ID)}


def test_what_was_never_told_is_not_forgotten():
    session = opened(A)
    session.want(B, at(0))
    session.drop(B)
    request = session.next_request()
    assert (request.listed, request.forgotten) == ({}, {})


def test_a_lost_answer_closes_the_session_and_opens_another():
    session = opened(A, B)
    session.want(A, at(4))
    session.next_request()
    session.lost()
    request = session.next_request()
    assert (request.session_id, request.epoch) == (77, 0)
    assert dict(request.listed) == {A: at(4), B: at(0)}


def test_a_session_that_the_leader_does_not_know_is_not_named_again():
    session = opened(A)
    session.next_request()
    session.refused(ErrorCode.FETCH_SESSION_ID_NOT_FOUND)
    assert session.next_request().session_id == 0


def test_a_session_out_of_step_is_closed():
    session = opened(A)
    session.next_request()
    session.refused(ErrorCode.INVALID_FETCH_SESSION_EPOCH)
    request = session.next_request()
    assert (request.session_id, request.epoch) == (77, 0)


def test_without_a_session_those_who_had_their_turn_go_to_the_end():
    session = FetchSession()
    for tp in (A, B, C):
        session.want(tp, at(0))
    session.next_request()
    session.answered(0)
    assert session._epoch == 0, "the leader keeps none for us"
    session.want(A, at(7))
    session.to_end(A)
    request = session.next_request()
    assert request.epoch == 0
    assert list(request.listed) == [B, C, A]


def test_session_epochs_wrap_to_one():
    session = opened(A)
    session._epoch = 2**31 - 1
    session.answered(77)
    assert session.next_request().epoch == 1


@given(st.data())
def test_the_leaders_session_always_holds_what_is_wanted(data):
    """Whatever is wanted, dropped, lost or refused in between."""
    session, leader = FetchSession(), {}
    for _ in range(data.draw(st.integers(1, 30))):
        for _ in range(data.draw(st.integers(0, 3))):
            tp = data.draw(st.sampled_from([A, B, C]))
            if data.draw(st.booleans()):
                position = at(
                    data.draw(st.integers(0, 2)), data.draw(st.sampled_from([ID, OTHER_ID]))
                )
                session.want(tp, position)
            else:
                session.drop(tp)
        request = session.next_request()
        if request.epoch == 0:
            leader = {}
        for tp, topic_id in request.forgotten.items():
            assert leader.pop((tp, topic_id), None) is not None
        for tp, position in request.listed.items():
            leader[tp, position.topic_id] = position
        assert leader == {(tp, p.topic_id): p for tp, p in session.wanted.items()}
        assert session.told == session.wanted
        match data.draw(st.sampled_from(["answered", "lost", "refused"])):
            case "answered":
                session.answered(77)
            case "lost":
                session.lost()
            case "refused":
                session.refused(ErrorCode.FETCH_SESSION_ID_NOT_FOUND)
