#!/bin/bash
# PostgreSQL, and pgbench over its socket.
set -e
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
export PGHOST=$PWD PGUSER=user PGDATABASE=postgres
initdb --auth=trust --username=user --pgdata=data >/dev/null
pg_ctl --pgdata=data --log=log --wait --options="-k $PWD -c listen_addresses=''" start >/dev/null
pgbench --initialize --quiet --scale=1 2>/dev/null
"${0%/*}/begin.sh"
pgbench --client=4 --jobs=2 --transactions=600 --rate=160 --random-seed=1 >bench 2>&1
psql --tuples-only --no-align >result <<'END'
select count(*) from pgbench_history;
select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history);
select (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history);
END
grep 'failed' bench >>result
pg_ctl --pgdata=data --wait stop >/dev/null
