import pytest
import trio
import trio.testing

from zkafka.admin.http import IDLE_S, AdminServer, Page


async def hello() -> Page:
    await trio.lowlevel.checkpoint()
    return Page(b"hello\n")


async def broken() -> Page:
    await trio.lowlevel.checkpoint()
    return Page(b'{"ready": false}', "application/json", 503)


@pytest.fixture
async def client(nursery):
    """One end of a connection to the server."""
    ours, theirs = trio.testing.memory_stream_pair()
    server = AdminServer("127.0.0.1", 0, {"/hello": hello, "/broken": broken})
    nursery.start_soon(server.serve, theirs)
    return ours


async def receive(stream, until=b""):
    """What comes until the stream ends, or until it contains `until`."""
    data = b""
    while not (until and until in data):
        chunk = await stream.receive_some()
        if not chunk:
            break
        data += chunk
    return data


async def ask(stream, text, until):
    await stream.send_all(text.replace("\n", "\r\n").encode())
    return (await receive(stream, until)).decode()


async def test_a_page_is_served_with_its_type_and_length(client):
    answer = await ask(client, "GET /hello?x=1 HTTP/1.1\nHost: h\n\n", b"hello\n")
    assert answer.startswith("HTTP/1.1 200 ")
    assert "content-type: text/plain; charset=utf-8\r\n" in answer
    assert "content-length: 6\r\n" in answer


async def test_a_page_has_its_own_status(client):
    answer = await ask(client, "GET /broken HTTP/1.1\nHost: h\n\n", b"false}")
    assert answer.startswith("HTTP/1.1 503 ")


async def test_a_connection_serves_several_requests(client):
    for _ in range(3):
        answer = await ask(client, "GET /hello HTTP/1.1\nHost: h\n\n", b"hello\n")
        assert answer.startswith("HTTP/1.1 200 ")


async def test_a_connection_closes_when_asked_to(client):
    request = "GET /hello HTTP/1.1\nHost: h\nConnection: close\n\n"
    answer = await ask(client, request, b"")
    assert answer.endswith("hello\n")


async def test_head_gets_no_body(client):
    await ask(client, "HEAD /hello HTTP/1.1\nHost: h\n\n", b"\r\n\r\n")
    answer = await ask(client, "GET /hello HTTP/1.1\nHost: h\n\n", b"hello\n")
    assert answer.startswith("HTTP/1.1 200 ")


async def test_an_unknown_page_is_answered_with_those_there_are(client):
    answer = await ask(client, "GET /else HTTP/1.1\nHost: h\n\n", b"/hello\n")
    assert answer.startswith("HTTP/1.1 404 ")
    assert "/broken\n" in answer


async def test_only_reading_is_allowed(client):
    request = "POST /hello HTTP/1.1\nHost: h\nContent-Length: 3\n\nabc"
    answer = await ask(client, request, b"HEAD\n")
    assert answer.startswith("HTTP/1.1 405 ")


@pytest.mark.parametrize("garbage", ["nonsense\n\n", "GET /hello HTTP/1.1\n\n", "\0\0\0\x10" * 40])
async def test_what_is_not_http_is_refused_and_closed(client, garbage):
    answer = await ask(client, garbage, b"")
    assert answer.startswith("HTTP/1.1 400 ")


async def test_a_peer_that_goes_away_is_no_fault(client, nursery):
    await client.send_all(b"GET /hel")
    await client.aclose()
    await trio.testing.wait_all_tasks_blocked()


async def test_an_idle_connection_is_closed(client, autojump_clock):
    assert await receive(client) == b""
    assert trio.current_time() == pytest.approx(IDLE_S)


async def test_it_tells_where_it_listens(nursery):
    port = await nursery.start(AdminServer("127.0.0.1", 0, {"/hello": hello}).run)
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        answer = await ask(stream, "GET /hello HTTP/1.1\nHost: h\n\n", b"hello\n")
    assert answer.startswith("HTTP/1.1 200 ")
