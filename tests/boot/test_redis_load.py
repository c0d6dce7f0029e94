# SPDX-License-Identifier: Apache-2.0
"""Redis under load: what it answers is what the same sources answer as an ordinary process."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, RedisError

from tests.boot.conftest import ended
from tests.boot.redis_guest import ANSWER_S, PORT, Redis, client, ordinary
from ukl_build.run.outcome import Kind, Outcome
from ukl_build.run.vm import LOCALHOST

pytestmark = [pytest.mark.boot, pytest.mark.long]

CONNECTIONS = 1000
GATEWAY = "10.0.2.2"
"""This machine's LOCALHOST, as QEMU's network shows it to a guest."""
LIMIT = 32 << 20
MIB = bytes(1 << 20)


COMMANDS = """
SET text value
GET text
APPEND text more
STRLEN text
GETRANGE text 2 5
SETRANGE text 20 end
GETEX text PERSIST
GETDEL text
SETBIT bits 1000 1
BITCOUNT bits
BITPOS bits 1
BITFIELD bits INCRBY i5 100 1 GET u4 0
INCR number
INCRBYFLOAT number 0.1
INCRBYFLOAT number 3.0e3
MSET a 1 b 2 c 3
MGET a b c d
RPUSH list 3 1 2 10
LPUSH list 0
SORT list DESC
LRANGE list 0 -1
LINSERT list BEFORE 2 x
LPOS list 10
LMOVE list other LEFT RIGHT
BLPOP other 1
HSET hash f 1 g 2 h 3
HINCRBYFLOAT hash f 1.25
HGETALL hash
SADD set a b c d
SADD set2 c d e
SINTER set set2
SDIFFSTORE set3 set set2
SCARD set3
ZADD ranks 1 one 2 two 3.5 three 1e100 many
ZRANGE ranks 0 -1 WITHSCORES
ZRANGEBYSCORE ranks (1 +inf
ZINCRBY ranks -0.5 three
ZPOPMIN ranks 2
GEOADD places 13.361389 38.115556 Palermo 15.087269 37.502669 Catania
GEODIST places Palermo Catania km
GEOSEARCH places FROMLONLAT 15 37 BYRADIUS 200 km ASC WITHCOORD
GEOHASH places Palermo Catania
PFADD seen a b c d e f g a
PFCOUNT seen
XADD stream 1-1 field value
XADD stream 2-1 field other
XRANGE stream - +
XGROUP CREATE stream group 0
XREADGROUP GROUP group me COUNT 1 STREAMS stream >
XPENDING stream group
XINFO STREAM stream
OBJECT ENCODING ranks
OBJECT ENCODING hash
TYPE stream
DUMP hash
EXISTS a b nobody
SET soon x PX 100000
PERSIST soon
TTL soon
EXPIRE soon 100
EXPIRETIME nobody
COPY text2 a
RENAME a z
GETSET z new
TOUCH z b
LCS b c
EVAL return{KEYS[1],ARGV[1],redis.call('incr',KEYS[1]),tostring(1/3),math.pi} 1 counted argument
EVAL return(cjson.encode({1,2,{a=3.5}})) 0
EVAL return{cmsgpack.pack({1,2.5,'x'}),struct.pack('>I2',513)} 0
EVAL return(redis.sha1hex('x')..bit.tohex(255)) 0
EVAL error('broken') 0
EVAL return(redis.call('incr','list')) 0
SCRIPT LOAD return(1)
FUNCTION LOAD #!lua\x20name=lib\nredis.register_function('f',function(k,a)return\x20k[1]end)
FCALL f 1 key
INCR list
NOSUCH command
HSET hash
CONFIG SET maxmemory 100mb
CONFIG GET maxmemory
CONFIG SET maxclients none
CONFIG SET save 3600\x201
DEBUG SLEEP 0.2
DEBUG LISTPACK hash
DEBUG STRINGMATCH-LEN 1000 x*
DEBUG DIGEST
LATENCY RESET
MEMORY USAGE bits
ACL WHOAMI
ACL SETUSER guest on >secret ~a* +get
ACL DRYRUN guest SET a 1
ACL LIST
COMMAND COUNT
WAIT 0 10
DBSIZE
FLUSHALL
DBSIZE
"""
"""Words are those between blanks, with Python's escapes."""


def commands() -> list[list[bytes]]:
    """Return the words of each command."""
    lines = [line for line in COMMANDS.splitlines() if line]
    return [
        [word.encode().decode("unicode_escape").encode("latin-1") for word in line.split()]
        for line in lines
    ]


def said(server: redis.Redis, words: list[bytes]) -> object:
    """Return an answer as it came, an error as its text."""
    connection = server.connection_pool.get_connection()
    try:
        connection.send_command(*words)
        return connection.read_response()
    except RedisConnectionError:
        raise
    except RedisError as error:
        return repr(error)
    finally:
        server.connection_pool.release(connection)


def test_every_kind_of_command_is_answered_as_by_an_ordinary_process(
    server: Redis, redis_image: Path, tmp_path: Path
) -> None:
    machine = server.run("--enable-debug-command", "yes")
    differences = []
    with (
        ordinary(redis_image, tmp_path, "--enable-debug-command", "yes") as other,
        client(machine) as one,
    ):
        for words in commands():
            found, expected = said(one, words), said(other, words)
            if found != expected:
                differences.append((words, found, expected))
    assert differences == []


def test_pipelines_transactions_messages_and_expiry(server: Redis) -> None:
    machine = server.run()
    with client(machine) as one:
        # In one go, answered in their order.
        pipe = one.pipeline(transaction=False)
        for number in range(20_000):
            pipe.set(f"key:{number}", number).get(f"key:{number - 1}")
        answers = pipe.execute()
        assert answers[::2] == [True] * 20_000
        assert answers[1::2] == [None, *(str(number).encode() for number in range(19_999))]

        # A transaction is done whole, or not at all if what it watched has changed.
        with one.pipeline() as change:
            change.watch("key:1")
            one.set("key:1", "other")
            change.multi()
            change.set("key:2", "lost")
            with pytest.raises(redis.WatchError):
                change.execute()
        assert one.get("key:2") == b"2"

        # Each of several listeners hears all, in order.
        heard: list[list[bytes]] = [[] for _ in range(8)]

        def listen(mine: list[bytes]) -> None:
            with client(machine) as other, other.pubsub() as channel:
                channel.subscribe("news")
                for message in channel.listen():
                    if message["type"] == "message":
                        mine.append(message["data"])
                    if len(mine) == 1000:
                        return

        threads = [threading.Thread(target=listen, args=(mine,)) for mine in heard]
        for thread in threads:
            thread.start()
        while one.pubsub_numsub("news")[0][1] < len(threads):
            time.sleep(0.01)
        for number in range(1000):
            one.publish("news", number)
        for thread in threads:
            thread.join(ANSWER_S)
        assert heard == [[str(number).encode() for number in range(1000)]] * len(threads)

        # Keys that nobody asks for go as well.
        one.flushall()
        for number in range(500):
            one.set(f"short:{number}", number, px=300)
        one.set("long", "there", px=3_600_000)
        deadline = time.monotonic() + ANSWER_S
        while one.dbsize() > 1:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert one.get("long") == b"there"


def test_a_thousand_clients_are_served_and_may_be_killed(server: Redis) -> None:
    machine = server.run()
    port = machine.host_port(PORT)
    clients = [redis.Connection(port=port, socket_timeout=ANSWER_S) for _ in range(CONNECTIONS)]
    for number, each in enumerate(clients):
        each.connect()
        each.send_command("SET", f"client:{number}", number)
        assert each.read_response() == b"OK"
    # All at once.
    for number, each in enumerate(clients):
        each.send_command("GET", f"client:{number}")
    for number, each in enumerate(clients):
        assert each.read_response() == str(number).encode()
    with client(machine) as one:
        assert one.info("clients")["connected_clients"] == CONNECTIONS + 1
        assert one.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") == (
            CONNECTIONS
        )
        for each in clients:
            with pytest.raises(RedisConnectionError):
                each.send_command("PING")
                each.read_response()
        assert one.info("clients")["connected_clients"] == 1
    assert machine.stop() == Outcome(Kind.EXITED, 0)


def test_a_full_store_refuses_or_evicts(server: Redis) -> None:
    machine = server.run("--maxmemory", str(LIMIT), "--appendonly", "no")
    with client(machine) as one:
        with pytest.raises(OutOfMemoryError):
            for number in range(100):
                one.set(f"big:{number}", MIB)
        assert one.ping()
        one.config_set("maxmemory-policy", "allkeys-lru")
        for number in range(100):
            one.set(f"more:{number}", MIB)
        assert one.get("more:99") == MIB
        assert one.info("stats")["evicted_keys"] >= 70
        assert one.info("memory")["used_memory"] <= LIMIT + (2 << 20)


def test_memory_that_is_used_up_is_a_clean_death(server: Redis) -> None:
    machine = server.run("--appendonly", "no", "--save", "", memory_mib=96)
    with client(machine) as one, pytest.raises(RedisConnectionError):
        for number in range(1000):
            one.set(f"big:{number}", MIB)
    outcome, lines = ended(machine, ANSWER_S)
    assert outcome == Outcome(Kind.SIGNALED, signal.SIGKILL)
    assert [line for line in lines if "Out of memory: Killed process" in line and "UKL" in line]


def test_a_replica_follows_and_takes_over(server: Redis, redis_image: Path, tmp_path: Path) -> None:
    """One unikernel follows another."""
    first = server.run("--repl-diskless-load", "disabled")
    other = Redis(server.start, redis_image, tmp_path / "other.img")
    subprocess.run(["cp", "--sparse=always", server.data, other.data], check=True)
    with client(first) as one:
        for number in range(1000):
            one.set(f"before:{number}", number)
        assert first.vm.forwards[0].address == LOCALHOST
        second = other.run("--replicaof", GATEWAY, str(first.host_port(PORT)))
        with client(second) as two:
            for number in range(1000):
                one.set(f"after:{number}", number)
            assert one.wait(1, int(ANSWER_S * 1000)) == 1
            assert two.info("replication")["master_link_status"] == "up"
            assert two.dbsize() == 2000
            assert two.get("before:999") == two.get("after:999") == b"999"
            with pytest.raises(redis.ReadOnlyError):
                two.set("x", 1)
            first.close()
            two.replicaof("NO", "ONE")
            assert two.set("x", 1)
            assert two.dbsize() == 2001
