#!/bin/bash
# Redis, with two clients over TCP on loopback, which connect again if they must.
set -e
redis-server --port 16379 --bind 127.0.0.1 --dir "$PWD" --appendonly yes --daemonize yes --pidfile "$PWD/pid" >/dev/null
until redis-cli -p 16379 ping >/dev/null 2>&1; do sleep 0.1; done
touch begun
cat >client.py <<'END'
import socket
import sys
import time


def connect():
    while True:
        try:
            return socket.create_connection(("127.0.0.1", 16379), 30).makefile("rwb")
        except OSError:
            time.sleep(0.1)


stream = connect()
for number in range(4000):
    while True:
        try:
            stream.write(b"SADD numbers %s-%d\r\n" % (sys.argv[1].encode(), number))
            stream.flush()
            if stream.readline()[:1] == b":":
                break
        except OSError:
            pass
        stream = connect()
    time.sleep(0.004)
END
python3 client.py a &
python3 client.py b &
wait %1 %2
redis-cli -p 16379 scard numbers >result
redis-cli -p 16379 shutdown
