#!/bin/bash
# An HTTP client with one connection to a server on another node. It connects again if it must.
# usage: http.sh ADDRESS PORT
set -e
cat >client.py <<'END'
import http.client
import sys
import time

client, total = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=30), 0
for number in range(2000):
    while True:
        try:
            client.request("GET", f"/{number}")
            total += int(client.getresponse().read())
            break
        except (OSError, http.client.HTTPException):
            client.close()
            time.sleep(0.1)
    time.sleep(0.008)
print(total)
END
touch begun
python3 client.py "$1" "$2" >result
