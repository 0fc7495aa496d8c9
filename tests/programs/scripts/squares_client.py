"""Sums up what squares_server.py says, over one connection: `squares_client.py ADDRESS PORT [again]`.

With `again` it connects again after a failure.
"""

import http.client
import sys
import time

client, total = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=30), 0
for number in range(400):
    while True:
        try:
            client.request("GET", f"/{number}")
            total += int(client.getresponse().read())
            break
        except (OSError, http.client.HTTPException):
            if "again" not in sys.argv:
                raise
            client.close()
            time.sleep(0.1)
    time.sleep(0.03)
print(total)
