#!/bin/bash
# An HTTP server, and a client with one connection, in one job. The client connects again if it must.
set -e
here=$(dirname "$0")
python3 "$here/squares_server.py" 127.0.0.1 18080 &
touch begun
python3 "$here/squares_client.py" 127.0.0.1 18080 >result
kill %1
