#!/bin/bash
# An HTTP server, and a client with one connection, in one job. The client connects again if it must.
set -e
cat >server.py <<'END'
import http.server


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        said = str(int(self.path[1:]) ** 2).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *words):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", 18080), Handler).serve_forever()
END
cat >client.py <<'END'
import http.client
import time

client, total = http.client.HTTPConnection("127.0.0.1", 18080, timeout=30), 0
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
python3 server.py &
touch begun
python3 client.py >result
kill %1
