#!/bin/bash
# An HTTP client with one connection to a server on another node. It connects again if it must.
# usage: http.sh ADDRESS PORT
set -e
touch begun
python3 "$(dirname "$0")/squares_client.py" "$1" "$2" >result
