#!/bin/bash
# An HTTP server, and a client with one connection, in one job.
set -e
here=${0%/*}
python3 "$here/squares_server.py" 127.0.0.1 18080 &
until (: </dev/tcp/127.0.0.1/18080) 2>/dev/null; do sleep 0.1; done
"$here/begin.sh"
python3 "$here/squares_client.py" 127.0.0.1 18080 >result
kill %1
