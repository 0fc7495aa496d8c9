#!/bin/bash
# Redis, with two clients over TCP on loopback: the server must know of no more connections than they made once.
set -e
redis-server --port 16379 --bind 127.0.0.1 --dir "$PWD" --appendonly yes --daemonize yes --pidfile "$PWD/pid" >/dev/null
until redis-cli -p 16379 ping >/dev/null 2>&1; do sleep 0.1; done
add() { # NAME
	for number in $(seq 240); do echo "SADD numbers $1-$number"; sleep 0.05; done | redis-cli -p 16379 >"added.$1"
}
"${0%/*}/begin.sh"
add a &
add b &
wait %1 %2
{
	sort added.* | uniq -c
	redis-cli -p 16379 scard numbers
	redis-cli -p 16379 info stats | grep total_connections_received
} >result
redis-cli -p 16379 shutdown
