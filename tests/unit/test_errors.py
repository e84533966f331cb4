"""Messages that repeat what a stranger said are fit for a line of a log, and for every response."""

import pytest

from zkafka.errors import EXCERPT_LENGTH, ApiError, ConfigError, ErrorCode, excerpt


@pytest.mark.parametrize(
    "text", ["", "topic orders-1 is not here", "ünïcode-日本 'quoted' \\ back"]
)
def test_ordinary_text_stays_as_it_is(text):
    assert excerpt(text) == text


def test_what_cannot_be_printed_is_escaped_so_that_one_line_stays_one():
    assert excerpt("a\nERROR b\r\0\x1b[2J\u2028ü") == "a\\nERROR b\\r\\x00\\x1b[2J\\u2028ü"


def test_long_text_is_cut_and_says_how_long_it_was():
    assert excerpt("x" * 50, 10) == "x" * 10 + "... (50 characters)"
    assert excerpt("x" * 10, 10) == "x" * 10


@pytest.mark.parametrize("character", ["x", "\n", "\U0001f980", "\udcff"])
def test_an_excerpt_fits_the_oldest_responses(character):
    """Their strings have an int16 for the length."""
    short = excerpt(character * 1_000_000)
    assert len(short.encode()) < 32_767
    assert short.isprintable()


@pytest.mark.parametrize("make", [ConfigError, lambda text: ApiError(ErrorCode.NONE, text)])
def test_refusals_carry_excerpts(make):
    error = make("y\n" * 30_000)
    assert len(str(error)) < 3 * EXCERPT_LENGTH
    assert "\n" not in str(error)


def test_a_refusal_without_words_is_its_code():
    error = ApiError(ErrorCode.INVALID_REQUEST)
    assert (str(error), error.message) == ("INVALID_REQUEST", "")


@pytest.mark.parametrize(
    ("number", "code"),
    [(0, "NONE"), (-1, "UNKNOWN_SERVER_ERROR"), (11, "STALE_CONTROLLER_EPOCH")]
    + [(number, "UNKNOWN_SERVER_ERROR") for number in (9999, -2, 99)],
)
def test_a_code_that_is_not_ours_is_an_unknown_error(number, code):
    """A newer broker may have more of them."""
    assert ErrorCode.of(number).name == code
