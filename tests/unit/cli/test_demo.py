"""The demo's verdict on what it counted."""

from types import SimpleNamespace

import pytest

from zkafka.cli.demo import _leader, complaint_about

SPOTLESS = {
    "acknowledged": 40_000,
    "lost": 0,
    "doubled": 0,
    "not_consumed": 0,
    "out_of_order": 0,
}


def test_nothing_lost_is_nothing_to_complain_about() -> None:
    assert complaint_about(SPOTLESS) == ""


@pytest.mark.parametrize("count", ["lost", "doubled", "not_consumed", "out_of_order"])
def test_a_single_record_amiss_is_a_failure(count: str) -> None:
    assert "this must never happen" in complaint_about(SPOTLESS | {count: 1})


def test_that_nothing_was_written_is_no_success() -> None:
    assert "nothing was acknowledged" in complaint_about(SPOTLESS | {"acknowledged": 0})


def test_a_broker_that_does_not_know_the_topic_yet_is_asked_again() -> None:
    """The controller has created it; others hear of it a moment later."""
    answers = iter([{}, {0: SimpleNamespace(leader=-1)}, {0: SimpleNamespace(leader=2)}])

    def list_topics(topic: str, timeout: float) -> SimpleNamespace:
        return SimpleNamespace(topics={topic: SimpleNamespace(partitions=next(answers))})

    assert _leader(SimpleNamespace(list_topics=list_topics), "t") == 2  # type: ignore[arg-type]
