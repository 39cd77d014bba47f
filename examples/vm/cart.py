"""The cart of the example: a plain HTTP program that knows nothing of the mesh. It says who called, as its sidecar tells it."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Cart(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        caller = self.headers.get("x-forwarded-client-cert", "nobody").split("URI=")[-1]
        body = json.dumps({"items": ["lantern"], "caller": caller}).encode() + b"\n"
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Cart).serve_forever()
