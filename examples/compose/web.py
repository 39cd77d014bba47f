"""The page of the example: a plain HTTP program that asks the cart. It says who called, as its sidecar tells it."""

import json
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, CART = int(sys.argv[1]), sys.argv[2]


class Web(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        caller = self.headers.get("x-forwarded-client-cert", "nobody").split("URI=")[-1]
        try:
            with urllib.request.urlopen(CART, timeout=5) as answer:
                status, cart = 200, json.load(answer)
        except OSError as error:
            status, cart = 502, {"error": str(error)}
        body = json.dumps({"page": "shop", "caller": caller, "cart": cart}).encode() + b"\n"
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", PORT), Web).serve_forever()
