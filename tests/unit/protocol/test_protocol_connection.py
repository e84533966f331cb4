"""A connection without a socket: frames out of pieces, memory by what came, and the budget."""

import random
import struct

import pytest

from zkafka.errors import RemoteProtocolError
from zkafka.protocol.apis import ApiKey
from zkafka.protocol.codec import encode_request
from zkafka.protocol.connection import EXPECTED_MAX, FLOOR, KIB, MIB, START, Budget, Connection
from zkafka.protocol.messages.heartbeat import HeartbeatRequest


def frame(body, correlation_id=1, api_key=0, version=3):
    """A request of a classic version with any body."""
    header = struct.pack(">hhih", api_key, version, correlation_id, -1)
    return struct.pack(">i", len(header) + len(body)) + header + body


def feed(connection, data, piece=None):
    """Feed `data` in pieces of at most `piece`; yields each request as it comes."""
    data = memoryview(data)
    while True:
        while (request := connection.next_request()) is not None:
            yield request
        if not len(data):
            return
        room = connection.get_buffer()
        assert room is not None
        assert len(room) > 0
        count = min(len(room), len(data), piece or len(data))
        room[:count] = data[:count]
        connection.received(count)
        data = data[count:]


def bodies(connection, data, piece=None):
    found = []
    for request in feed(connection, data, piece):
        found.append((request.header.correlation_id, bytes(request.body)))
        request.release()
    return found


# --- Frames -------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 13, 1000, None])
def test_requests_come_whole_however_the_bytes_come(piece):
    sent = [(i, bytes([i]) * size) for i, size in enumerate([0, 1, 100, 3, 0, 5000])]
    data = b"".join(frame(body, i) for i, body in sent)
    assert bodies(Connection(Budget()), data, piece) == sent


def test_random_sizes_in_random_pieces():
    rng = random.Random(5)
    sent = [(i, rng.randbytes(rng.choice((0, 10, 300, 70_000, 200_000)))) for i in range(60)]
    data = memoryview(b"".join(frame(body, i) for i, body in sent))
    connection = Connection(Budget())
    found = []
    while len(data):
        size = rng.choice((1, 100, 65536, 300_000))
        found += bodies(connection, data[:size])
        data = data[size:]
    assert found == sent


def test_the_header_is_decoded_and_the_body_begins_after_it():
    message = HeartbeatRequest(group_id="g")
    data = b"".join(encode_request(message, 4, 9, "me"))
    (request,) = feed(Connection(Budget()), data)
    assert request.header == (ApiKey.HEARTBEAT, 4, 9, "me")
    assert request.size == len(data) - 4
    assert bytes(request.body) == data[-len(request.body) :]


@pytest.mark.parametrize("size", [-1, -(2**31), 101, 2**31 - 1])
def test_sizes_outside_the_limit_are_refused(size):
    connection = Connection(Budget(), request_max_bytes=100)
    with pytest.raises(RemoteProtocolError):
        list(feed(connection, struct.pack(">i", size)))


def test_a_request_of_exactly_the_limit():
    connection = Connection(Budget(), request_max_bytes=110)
    assert bodies(connection, frame(b"x" * 100)) == [(1, b"x" * 100)]


@pytest.mark.parametrize("data", [struct.pack(">i", 0), struct.pack(">ihh", 4, 0, 3)])
def test_a_frame_without_a_header_is_refused(data):
    with pytest.raises(RemoteProtocolError):
        list(feed(Connection(Budget()), data))


def test_bytes_of_another_protocol_are_refused():
    for greeting in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"):
        with pytest.raises(RemoteProtocolError):
            list(feed(Connection(Budget()), greeting))


# --- Bodies -------------------------------------------------------------------------------------


def test_a_body_can_be_written_until_it_is_released():
    connection = Connection(Budget())
    (request,) = feed(connection, frame(b"batch"))
    request.body[:] = b"BATCH"
    assert bytes(request.body) == b"BATCH"
    request.release()
    request.release()
    with pytest.raises(ValueError, match="released"):
        bytes(request.body)


def test_a_lent_body_stays_while_more_is_received():
    """Requests kept while hundreds of KiB follow: none of their bytes change."""
    connection = Connection(Budget())
    rng = random.Random(1)
    sent = [rng.randbytes(rng.choice((10, 5000, 90_000))) for _ in range(30)]
    kept = list(feed(connection, b"".join(frame(b) for b in sent), 50_000))
    assert [bytes(r.body) for r in kept] == sent
    for request in kept:
        request.release()
    connection.close()


# --- Memory -------------------------------------------------------------------------------------


def test_a_resting_connection_holds_nothing():
    budget = Budget()
    connection = Connection(budget)
    connection.get_buffer()
    connection.rest()
    assert (connection.held, budget.used) == (0, 0)
    assert bodies(connection, frame(b"x")) == [(1, b"x")]
    connection.rest()
    assert (connection.held, budget.used) == (0, 0)


def test_rest_keeps_what_is_half_received_or_lent():
    connection = Connection(Budget())
    assert bodies(connection, frame(b"x" * 10)[:9]) == []
    connection.rest()
    assert connection.held == START
    (request,) = feed(connection, frame(b"x" * 10)[9:])
    connection.rest()
    assert bytes(request.body) == b"x" * 10
    request.release()
    connection.rest()
    assert connection.held == 0


def test_an_announced_size_costs_nothing():
    """A hundred connections that announce 100 MiB and send ten bytes hold 64 KiB each."""
    budget = Budget()
    connections = [Connection(budget) for _ in range(100)]
    for connection in connections:
        assert bodies(connection, struct.pack(">i", 100 * MIB) + b"123456") == []
        connection.get_buffer()
    assert budget.used == 100 * START
    for connection in connections:
        connection.close()
    assert budget.used == 0


def test_a_buffer_is_at_most_twice_what_came():
    connection = Connection(Budget())
    data = memoryview(frame(bytes(3 * MIB)))
    came = 0
    while came < len(data):
        room = connection.get_buffer()
        count = min(len(room), 10_000, len(data) - came)
        room[:count] = data[came : came + count]
        connection.received(count)
        came += count
        assert connection.held <= max(START, 2 * came)
        if came < len(data):
            assert connection.next_request() is None
    assert connection.next_request().size == len(data) - 4


def test_large_frames_find_a_buffer_of_their_size_next_time():
    """So that each of a stream of batches is received without growing and copying."""
    connection = Connection(Budget())
    bodies(connection, frame(bytes(900_000)))
    connection.rest()
    connection.get_buffer()
    assert connection.held == MIB
    connection.rest()
    bodies(connection, frame(bytes(20 * MIB)))
    connection.rest()
    connection.get_buffer()
    assert connection.held == EXPECTED_MAX


def test_the_rest_of_a_large_frame_is_all_there_is_room_for():
    """The next frame then begins at the front of a buffer, and is never moved."""
    connection = Connection(Budget())
    data = frame(bytes(100_000))
    bodies(connection, frame(bytes(200_000)))
    assert bodies(connection, data[:1000]) == []
    assert len(connection.get_buffer()) == len(data) - 1000


def test_buffers_are_used_again():
    budget = Budget()
    connection = Connection(budget)
    first = connection.get_buffer().obj
    connection.rest()
    assert connection.get_buffer().obj is first
    connection.close()
    assert Connection(budget).get_buffer().obj is first


def test_spare_buffers_are_bounded():
    budget = Budget(spare_max=2 * START)
    connections = [Connection(budget) for _ in range(5)]
    kept = {id(c.get_buffer().obj) for c in connections}
    for connection in connections:
        connection.close()
    again = [Connection(budget) for _ in range(5)]
    assert len(kept & {id(c.get_buffer().obj) for c in again}) >= 2
    assert budget.used == 5 * START


# --- The budget ---------------------------------------------------------------------------------


def fill(connection):
    """Receive what there is room for; False where the budget has none."""
    room = connection.get_buffer()
    if room is None:
        return False
    connection.received(len(room))
    return True


def begun(budget, size):
    """A connection that has announced a large frame."""
    connection = Connection(budget)
    assert bodies(connection, struct.pack(">i", size)) == []
    return connection


def test_when_the_budget_is_used_up_small_requests_still_pass():
    budget = Budget(limit=2 * START)
    holders = [begun(budget, MIB) for _ in range(2)]
    for connection in holders:
        connection.get_buffer()
    assert budget.scarce
    late = Connection(budget)
    assert bodies(late, frame(b"x" * 2000)) == [(1, b"x" * 2000)]
    assert late.held == FLOOR


def test_one_connection_at_a_time_goes_beyond_the_budget():
    budget = Budget(limit=4 * START)
    first, second, third = (begun(budget, MIB) for _ in range(3))
    for connection in (first, second, third):
        fill(connection)
    while connection_grows(first):
        pass
    # The first has its whole frame; the others are refused, however often they ask.
    assert first.next_request() is not None
    assert second.get_buffer() is None
    assert third.get_buffer() is None
    first.close()


def connection_grows(connection):
    return connection.buffered < MIB + 4 and fill(connection)


def test_every_frame_completes_although_all_together_exceed_the_budget():
    """Ten frames of 1 MiB under a budget of 512 KiB, fed in turn: the one beyond the budget
    completes, gives back, and the next one goes."""
    budget = Budget(limit=512 * KIB)
    freed = []
    budget.on_freed(lambda: freed.append(True))
    waiting = [begun(budget, MIB) for _ in range(10)]
    rounds = 0
    while waiting:
        rounds += 1
        assert rounds < 1000, "no progress"
        for connection in list(waiting):
            if connection.buffered < MIB + 4 and not fill(connection):
                budget.waiting = 1
                continue
            if (request := request_or_none(connection)) is not None:
                request.release()
                connection.rest()
                waiting.remove(connection)
    assert freed
    assert budget.used == 0


def request_or_none(connection):
    if connection.buffered < MIB + 4:
        return None
    # The body is zeros, which make a header too.
    return connection.next_request()


def test_a_stream_of_requests_gives_its_large_buffer_back_while_memory_is_scarce():
    budget = Budget(limit=MIB)
    connection = Connection(budget)
    bodies(connection, frame(bytes(900_000)))
    assert connection.held == MIB
    budget.waiting = 1
    connection.get_buffer()
    assert connection.held == START


def test_a_request_outlives_its_connection():
    budget = Budget()
    connection = Connection(budget)
    (request,) = feed(connection, frame(b"kept"))
    connection.close()
    assert bytes(request.body) == b"kept"
    assert budget.used == START
    request.release()
    assert budget.used == 0
