# SPDX-License-Identifier: Apache-2.0
"""Every command of Redis 7.0, with arguments that are valid: what a test sends, and compares.

One command a line, which goes on behind a backslash.  Words are those between blanks, with Python's
escapes.  Before a command may stand what its answer is compared by, when it is not all of it, see
:class:`By`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum


class By(StrEnum):
    """What of an answer is compared."""

    ALL = ""
    ERROR = "-"
    """All of it, and it is an error; every other answer is none."""
    SORTED = "~"
    """All of it, in whatever order: that of a hash table with a seed of its own."""
    SHAPE = "?"
    """Types, names of fields and texts, but no numbers and no values."""
    TYPE = "!"
    """What it is."""
    UNTIL = "@"
    """Nothing: it is repeated until its answer has the last word in it, which is not sent."""


@dataclass(frozen=True)
class Command:
    """A command and how its answer is compared."""

    words: tuple[bytes, ...]
    by: By


ALONE = r"""
COMMAND COUNT
~ COMMAND
~ COMMAND LIST
~ COMMAND LIST FILTERBY ACLCAT geo
~ COMMAND DOCS
~ COMMAND DOCS get config
COMMAND INFO get
COMMAND GETKEYS MSET a 1 b 2
COMMAND GETKEYSANDFLAGS LMOVE a b LEFT RIGHT
COMMAND HELP
PING
PING said
ECHO said
AUTH default any
? HELLO
? HELLO 2 AUTH default any SETNAME me
SELECT 1
SELECT 0
? TIME
! LOLWUT
! LOLWUT VERSION 5 10 2 2
! LOLWUT VERSION 6 10 5

SET text value
GET text
SETNX text other
SETNX text2 value
SETEX soon 1000000 value
PSETEX soon 1000000000 value
SET text more XX GET
SET text value KEEPTTL
APPEND text more
STRLEN text
GETRANGE text 2 5
SUBSTR text 0 1
SETRANGE text 20 end
GETEX text PERSIST
GETSET text value
GETDEL text
MSET a 1 b 2 c 3
MSETNX a 1 d 2
MGET a b c d
LCS b c IDX
INCR number
INCRBY number 10
INCRBYFLOAT number 0.1
INCRBYFLOAT number 3.0e3
DECR counted
DECRBY counted 10
- INCR text2

SETBIT bits 1000 1
GETBIT bits 1000
BITCOUNT bits
BITPOS bits 1
BITFIELD bits INCRBY i5 100 1 GET u4 0 OVERFLOW SAT SET i8 #2 1000
BITFIELD_RO bits GET u8 0
BITOP XOR bits2 bits a

RPUSH list 3 1 2 10
LPUSH list 0
LPUSHX list x
RPUSHX nolist x
LLEN list
LRANGE list 0 -1
LINDEX list 1
LSET list 0 9
LINSERT list BEFORE 2 x
LPOS list 10
LREM list 1 x
SORT list DESC
SORT list LIMIT 0 2 STORE sorted
SORT_RO list BY nosort
LTRIM list 0 3
LMOVE list other LEFT RIGHT
RPOPLPUSH list other
BLMOVE list other LEFT LEFT 0.01
BRPOPLPUSH list other 0.01
BLPOP other 0.01
BRPOP other 0.01
RPUSH list 1 2 3 4 5 6
LMPOP 2 nolist list LEFT COUNT 2
BLMPOP 0.01 2 nolist list RIGHT
LPOP list 1
RPOP list
BLPOP nolist 0.01

HSET hash f 1 g 2 h 3
HMSET hash i 4
HSETNX hash f 9
HGET hash f
HMGET hash f nobody
HGETALL hash
HKEYS hash
HVALS hash
HLEN hash
HEXISTS hash f
HSTRLEN hash f
HINCRBY hash f 2
HINCRBYFLOAT hash f 1.25
HDEL hash g h i
~ HRANDFIELD hash 99 WITHVALUES
~ HSCAN hash 0

SADD set a b c d
SADD set2 c d e
SADD numbers 1 2 3
SMEMBERS numbers
~ SMEMBERS set
SISMEMBER set a
SMISMEMBER set a z
SCARD set
~ SINTER set set2
SINTERCARD 2 set set2
SINTERSTORE set3 set set2
~ SUNION set set2
SUNIONSTORE set3 set set2
~ SDIFF set set2
SDIFFSTORE set3 set set2
SMOVE set set2 a
SREM set c
~ SRANDMEMBER set 99
~ SSCAN set 0
SADD single only
SPOP single

ZADD ranks 1 one 2 two 3.5 three 1e100 many
ZADD ranks2 NX 5 one 7 seven
ZADD ranks GT CH 9 two
ZCARD ranks
ZCOUNT ranks 1 5
ZSCORE ranks three
ZMSCORE ranks one nobody
ZRANK ranks two
ZREVRANK ranks two
ZINCRBY ranks -0.5 three
ZRANGE ranks 0 -1 WITHSCORES
ZRANGE ranks (1 +inf BYSCORE LIMIT 0 1
ZRANGEBYSCORE ranks (1 +inf
ZREVRANGE ranks 0 1
ZREVRANGEBYSCORE ranks +inf 1 WITHSCORES
ZRANGESTORE ranks3 ranks 0 1
ZUNION 2 ranks ranks2 WEIGHTS 1 2 WITHSCORES
ZUNIONSTORE ranks3 2 ranks ranks2
ZINTER 2 ranks ranks2 AGGREGATE MAX WITHSCORES
ZINTERCARD 2 ranks ranks2 LIMIT 5
ZINTERSTORE ranks3 2 ranks ranks2
ZDIFF 2 ranks ranks2
ZDIFFSTORE ranks3 2 ranks ranks2
~ ZSCAN ranks 0
ZADD same 0 a 0 b 0 c 0 d 0 e
ZLEXCOUNT same [b (d
ZRANGEBYLEX same - (c
ZREVRANGEBYLEX same + [d
ZREMRANGEBYLEX same [a [b
ZREMRANGEBYRANK same 0 0
ZREMRANGEBYSCORE ranks 9 9
ZREM ranks many
ZPOPMIN ranks 1
ZPOPMAX ranks 1
ZADD ranks 1 a 2 b 3 c 4 d 5 e 6 f
ZMPOP 2 noranks ranks MIN COUNT 2
BZMPOP 0.01 2 noranks ranks MAX
BZPOPMIN ranks 0.01
BZPOPMAX ranks 0.01
~ ZRANDMEMBER ranks 99 WITHSCORES

GEOADD places 13.361389 38.115556 Palermo 15.087269 37.502669 Catania
GEODIST places Palermo Catania km
GEOHASH places Palermo Catania
GEOPOS places Palermo nobody
GEOSEARCH places FROMLONLAT 15 37 BYRADIUS 200 km ASC WITHCOORD
GEOSEARCHSTORE near places FROMMEMBER Palermo BYBOX 400 400 km STOREDIST
GEORADIUS places 15 37 200 km WITHDIST ASC
GEORADIUS_RO places 15 37 200 km DESC
GEORADIUSBYMEMBER places Palermo 200 km ASC
GEORADIUSBYMEMBER_RO places Palermo 100 km

PFADD seen a b c d e f g a
PFADD seen2 f g h
PFCOUNT seen seen2
PFMERGE seen3 seen seen2
PFSELFTEST
PFDEBUG ENCODING seen
PFDEBUG DECODE seen
PFDEBUG TODENSE seen
PFDEBUG GETREG seen

XADD stream 1-1 field value
XADD stream 2-1 field other
XADD stream 3-1 field third
? XADD stream2 * field value
XLEN stream
XRANGE stream - +
XREVRANGE stream + - COUNT 1
XREAD COUNT 1 BLOCK 10 STREAMS stream 1-1
XGROUP CREATE stream group 0
XGROUP CREATECONSUMER stream group you
XREADGROUP GROUP group me COUNT 2 STREAMS stream >
XPENDING stream group
XACK stream group 1-1
XCLAIM stream group you 0 2-1 JUSTID
XAUTOCLAIM stream group me 0 0 COUNT 1
XGROUP SETID stream group 1-1
XGROUP DELCONSUMER stream group you
XGROUP HELP
XINFO STREAM stream
XINFO GROUPS stream
? XINFO CONSUMERS stream group
XINFO HELP
XDEL stream 1-1
XTRIM stream MAXLEN 1
XSETID stream 9-9
XGROUP DESTROY stream group

TYPE stream
EXISTS a b nobody
OBJECT ENCODING ranks
OBJECT ENCODING hash
OBJECT REFCOUNT hash
! OBJECT IDLETIME hash
OBJECT HELP
CONFIG SET maxmemory-policy allkeys-lfu
? OBJECT FREQ hash
CONFIG SET maxmemory-policy noeviction
DUMP hash
DUMP list
RESTORE restored 0 \x00\x05\x68\x65\x6c\x6c\x6f\x0a\x00\x63\x72\xdf\x76\x65\x34\x20\x0a
RESTORE-ASKING restored2 0 \x00\x05\x68\x65\x6c\x6c\x6f\x0a\x00\x63\x72\xdf\x76\x65\x34\x20\x0a
SET soon x PX 1000000000
PERSIST soon
EXPIRE soon 1000000
! PEXPIRE soon 2000000000 GT
! TTL soon
! PTTL soon
SET fixed x
EXPIREAT fixed 4000000000
PEXPIREAT fixed 4000000000000
EXPIRETIME fixed
PEXPIRETIME fixed
SET gone x
PEXPIREAT gone 1
EXISTS gone
COPY text2 copied
RENAME a z
RENAMENX z b
TOUCH z b
MOVE b 5
SWAPDB 0 5
RANDOMKEY
SWAPDB 0 5
~ KEYS *
~ SCAN 0 COUNT 1000
DEL copied
UNLINK text2 set3

MULTI
SET in 1
INCR in
LPUSH in 1
EXEC
WATCH in
UNWATCH
MULTI
SET in lost
DISCARD
GET in

EVAL return{KEYS[1],ARGV[1],redis.call('incr',KEYS[1]),tostring(1/3),math.pi} 1 again argument
EVAL return(cjson.encode({1,2,{a=3.5}})) 0
EVAL return{cmsgpack.pack({1,2.5,'x'}),struct.pack('>I2',513)} 0
EVAL return(redis.sha1hex('x')..bit.tohex(255)) 0
- EVAL error('broken') 0
- EVAL return(redis.call('incr','stream')) 0
EVAL_RO return(redis.call('get',KEYS[1])) 1 again
SCRIPT LOAD return(1)
EVALSHA 930269f31393d0be681588b6ab08dccee7d6bb67 0
EVALSHA_RO 930269f31393d0be681588b6ab08dccee7d6bb67 0
SCRIPT EXISTS 930269f31393d0be681588b6ab08dccee7d6bb67 0
SCRIPT DEBUG NO
SCRIPT HELP
- SCRIPT KILL
SCRIPT FLUSH SYNC
FUNCTION LOAD #!lua\x20name=lib\nredis.register_function{function_name='f',\
callback=function(k,a)return\x20k[1]end,flags={'no-writes'}}
FCALL f 1 key
FCALL_RO f 1 key
~ FUNCTION LIST WITHCODE
FUNCTION DUMP
FUNCTION RESTORE \
\xf5\xc3@i@r\x1f#!lua\x20name=lib\x0aredis.register_fu\x06nction{\xc0\x08\x00_`)\x0c'f',ca\
llback=\xc0\x1a\x1f(k,a)return\x20k[1]end,flags={'no-w\x07rites'}}\x0a\x00B\x05\x12\x0f\
\x0e\xec\x9c2 REPLACE
FCALL f 1 key
- FUNCTION RESTORE broken
FUNCTION STATS
FUNCTION HELP
- FUNCTION KILL
FUNCTION DELETE lib
FUNCTION FLUSH

SUBSCRIBE news
PSUBSCRIBE n*
SSUBSCRIBE part
PING
UNSUBSCRIBE news
PUNSUBSCRIBE n*
SUNSUBSCRIBE part
PUBLISH news text
SPUBLISH part text
PUBSUB CHANNELS
PUBSUB NUMPAT
PUBSUB NUMSUB news
PUBSUB SHARDCHANNELS
PUBSUB SHARDNUMSUB part
PUBSUB HELP

CLIENT SETNAME me
CLIENT GETNAME
CLIENT GETREDIR
? CLIENT ID
? CLIENT INFO
! CLIENT KILL TYPE normal
? CLIENT LIST TYPE normal
CLIENT KILL ID 999999
CLIENT NO-EVICT ON
CLIENT NO-EVICT OFF
CLIENT PAUSE 1 WRITE
CLIENT UNPAUSE
CLIENT UNBLOCK 999999
CLIENT REPLY ON
CLIENT TRACKING ON OPTIN
CLIENT CACHING YES
CLIENT TRACKINGINFO
CLIENT TRACKING OFF
CLIENT HELP

ACL SETUSER guest on >secret ~a* +get
ACL GETUSER guest
ACL USERS
ACL LIST
ACL CAT
~ ACL CAT string
ACL DRYRUN guest SET a 1
! ACL GENPASS 64
ACL WHOAMI
ACL SAVE
ACL DELUSER guest
ACL LOAD
ACL LIST
- AUTH nobody wrong
? ACL LOG
ACL LOG RESET
ACL HELP

CONFIG GET maxmemory
CONFIG SET maxmemory 100mb
~ CONFIG GET maxm*
CONFIG SET maxmemory 0
CONFIG RESETSTAT
CONFIG HELP
- CONFIG SET maxclients none
- CONFIG SET io-threads 4
- CONFIG SET activedefrag yes
CONFIG SET save 3600\x201
CONFIG SET save ''
CONFIG REWRITE

LATENCY RESET
CONFIG SET latency-monitor-threshold 100
DEBUG SLEEP 0.2
? LATENCY LATEST
? LATENCY HISTORY command
! LATENCY GRAPH command
LATENCY RESET command
CONFIG SET latency-monitor-threshold 0
LATENCY DOCTOR
? LATENCY HISTOGRAM sleep
LATENCY HELP
SLOWLOG RESET
CONFIG SET slowlog-log-slower-than 0
PING
CONFIG SET slowlog-log-slower-than 100000000
! SLOWLOG GET
SLOWLOG LEN
SLOWLOG RESET
SLOWLOG HELP
! MEMORY DOCTOR
! MEMORY MALLOC-STATS
MEMORY PURGE
? MEMORY STATS
MEMORY USAGE bits
MEMORY HELP
? INFO
? INFO everything
ROLE
REPLICAOF NO ONE
SLAVEOF NO ONE
REPLCONF listening-port 1
- FAILOVER ABORT
WAIT 0 10
MODULE LIST
MODULE HELP
- MODULE LOAD /nowhere.so
- MODULE LOADEX /nowhere.so
- MODULE UNLOAD nobody
- CLUSTER INFO
- ASKING
- READONLY
- READWRITE
- SHUTDOWN ABORT

DEBUG HELP
DEBUG SLEEP 0
DEBUG AOF-FLUSH-SLEEP 0
? DEBUG CHANGE-REPL-ID
DEBUG CONFIG-REWRITE-FORCE-ALL
DEBUG DIGEST-VALUE hash
- DEBUG ERROR broken
DEBUG LEAK lost
DEBUG LOG said
! DEBUG HTSTATS 0
! DEBUG HTSTATS-KEY set
DEBUG REPLICATE all\x20PING
DEBUG MALLCTL arenas.page
! DEBUG MALLCTL-STR opt.dss
! DEBUG OBJECT hash
DEBUG DROP-CLUSTER-PACKET-FILTER -1
DEBUG POPULATE 10 populated 100
DEBUG PROTOCOL double
SET string value
DEBUG SDSLEN string
DEBUG SET-ACTIVE-EXPIRE 1
DEBUG QUICKLIST-PACKED-THRESHOLD 0
DEBUG SET-SKIP-CHECKSUM-VALIDATION 0
DEBUG STRUCTSIZE
DEBUG LISTPACK hash
DEBUG QUICKLIST list 1
CONFIG SET maxmemory-clients 100mb
! DEBUG CLIENT-EVICTION
CONFIG SET maxmemory-clients 0
DEBUG PAUSE-CRON 0
DEBUG REPLYBUFFER RESIZING 1
- DEBUG CLUSTERLINK KILL all nobody

DEL stream2
DBSIZE
DEBUG DIGEST
SAVE
BGSAVE
@ INFO persistence rdb_bgsave_in_progress:0
? LASTSAVE
BGREWRITEAOF
@ INFO persistence aof_rewrite_in_progress:0
DEBUG RELOAD
DEBUG DIGEST
DEBUG LOADAOF
DEBUG DIGEST

- INCR list
- NOSUCH command
- HSET hash
FLUSHDB
FLUSHALL
DBSIZE
RESET
QUIT
"""

CLUSTER = r"""
CLUSTER ADDSLOTS 0 1 2
CLUSTER ADDSLOTSRANGE 3 16383
? CLUSTER INFO
@ CLUSTER INFO cluster_state:ok
CLUSTER BUMPEPOCH
! CLUSTER MYID
! CLUSTER NODES
! CLUSTER SLOTS
! CLUSTER SHARDS
CLUSTER LINKS
CLUSTER HELP
CLUSTER KEYSLOT {a}1
SET {a}1 x
MSET {a}2 x {a}3 x
- MSET a x b y
CLUSTER COUNTKEYSINSLOT 15495
~ CLUSTER GETKEYSINSLOT 15495 2
ASKING
READONLY
READWRITE
CLUSTER SAVECONFIG
CLUSTER SETSLOT 0 STABLE
CLUSTER MEET 127.0.0.1 1
FLUSHALL
CLUSTER DELSLOTS 0
CLUSTER DELSLOTSRANGE 1 2
CLUSTER FLUSHSLOTS
CLUSTER RESET HARD
CLUSTER SET-CONFIG-EPOCH 5
- CLUSTER COUNT-FAILURE-REPORTS nobody
- CLUSTER FORGET nobody
- CLUSTER REPLICAS nobody
- CLUSTER SLAVES nobody
- CLUSTER REPLICATE nobody
- CLUSTER FAILOVER
"""
"""What only a server with cluster-enabled knows."""

REFUSED = "what it needs is not there: its refusal is compared"
REPLICATION = "test_redis_load.py, where one follows another"
DEATH = "its end is a test of its own in test_redis_commands.py"
ELSEWHERE: Mapping[str, str] = {
    "cluster|count-failure-reports": REFUSED,
    "cluster|failover": REFUSED,
    "cluster|forget": REFUSED,
    "cluster|replicas": REFUSED,
    "cluster|replicate": REFUSED,
    "cluster|slaves": REFUSED,
    "debug|assert": DEATH,
    "debug|clusterlink": REFUSED,
    "debug|crash-and-recover": DEATH,
    "debug|error": "its answer is an error, which is compared",
    "debug|oom": DEATH,
    "debug|panic": DEATH,
    "debug|restart": DEATH,
    "debug|segfault": DEATH,
    "debug|stringmatch-test": "ten million patterns take minutes under emulation",
    "failover": REPLICATION,
    "function|kill": "test_redis_load.py, while a function runs without end",
    "migrate": REPLICATION,
    "module|load": "a static program has no modules: its refusal is compared",
    "module|loadex": "as MODULE LOAD",
    "module|unload": "as MODULE LOAD",
    "monitor": "test_redis_load.py, under load",
    "psync": REPLICATION,
    "script|kill": "test_redis_load.py, while a script runs without end",
    "shutdown": DEATH,
    "sync": REPLICATION,
}
"""Commands and subcommands that ALONE and CLUSTER do not bring to an answer, and why."""


def names(command: Command) -> set[str]:
    """Return what the server may call a command: its name, and that of a subcommand."""
    words = [word.decode("latin-1").lower() for word in command.words]
    return {words[0], "|".join(words[:2])}


def commands(text: str) -> Iterator[Command]:
    """Read commands."""
    for line in text.replace("\\\n", "").splitlines():
        mark, *rest = line.split() or [""]
        if mark in tuple(By) and mark:
            words, by = rest, By(mark)
        else:
            words, by = [mark, *rest], By.ALL
        if words != [""]:
            yield Command(tuple(_word(word) for word in words), by)


def _word(text: str) -> bytes:
    found = text.encode().decode("unicode_escape").encode("latin-1")
    return b"" if found == b"''" else found


def masked(answer: object, by: By) -> object:
    """Return what of an answer is compared.

    :param answer: as a client has it, in RESP2; errors are exceptions.
    """
    match answer:
        case Exception():
            return repr(answer)
        case _ if by is By.TYPE:
            return type(answer)
        case list():
            parts = [masked(part, by) for part in answer]
            return sorted(parts, key=repr) if by is By.SORTED else parts
    if by is By.SHAPE:
        return _texts(answer) if isinstance(answer, bytes) else type(answer)
    return answer


def _texts(answer: bytes) -> bytes:
    """Return a text without its values, which are ``name:value`` on a line, or ``name=value``."""
    # INFO has rows in the order of hash tables.
    lines = [re.sub(rb"^([\w.|-]+):.*", rb"\1", line) for line in sorted(answer.splitlines())]
    return re.sub(rb"=\S*|\d+(\.\d+)?", b"", b"\n".join(lines))
