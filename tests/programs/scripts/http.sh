#!/bin/bash
# An HTTP client with one connection to a server on another node. It connects again when that is closed.
# usage: http.sh ADDRESS PORT
set -e
"${0%/*}/begin.sh"
python3 "${0%/*}/squares_client.py" "$1" "$2" again >result
