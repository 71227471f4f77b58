"""Engine redis: what a worker says without waiting for the answer is heard all the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis
from redis.exceptions import RedisError, ResponseError

from imageloom.engines.redis.pipelined import PipelinedConnection
from imageloom.engines.redis.server import Server
from imageloom.engines.redis.wire import connect


@pytest.fixture
def client() -> Iterator[Redis]:
    server = Server()
    made = connect(server.url)
    yield made
    made.close()
    server.close()


def test_what_had_no_answer_when_the_connection_broke_is_sent_again_in_its_order(client: Redis) -> None:
    connection = PipelinedConnection(client)
    for round in range(20):
        connection.add([("RPUSH", "said", f"{round}a"), ("RPUSH", "said", f"{round}b")])
        connection.flush(wait=False)
        client.client_kill_filter(_type="normal", skipme=True)
        connection.add([("RPUSH", "said", f"{round}c")])
        with pytest.raises(RedisError):
            connection.flush(wait=True)
        connection.flush(wait=True)
        said = client.lrange("said", -5, -1)
        assert said[-1] == f"{round}c".encode()
        assert {f"{round}a".encode(), f"{round}b".encode()} < set(said)
    connection.clear()


def test_a_refusal_is_raised_with_the_next_word_and_can_be_given_up(client: Redis) -> None:
    client.set("word", "no list")
    connection = PipelinedConnection(client)
    connection.add([("RPUSH", "word", "a")])
    connection.flush(wait=False)
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        connection.flush(wait=True)
    connection.clear()
    connection.add([("RPUSH", "said", "b")])
    connection.flush(wait=True)
    assert client.lrange("said", 0, -1) == [b"b"]
    connection.clear()
