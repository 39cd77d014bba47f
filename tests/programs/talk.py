"""A program that knows nothing of a mesh: it serves and calls over HTTP/1.1, gRPC, WebSocket and plain TCP.

    talk.py serve http=PORT grpc=PORT websocket=PORT tcp=PORT greeting=PORT
    talk.py call PROTOCOL HOST PORT WORDS

What is called answers `python: WORDS`, and over HTTP and gRPC what X-Forwarded-Client-Cert said. Run by crates/app/tests/mesh.
"""

import asyncio
import http.client
import http.server
import socketserver
import sys
import threading
from concurrent import futures

CALLER = "x-forwarded-client-cert"
METHOD = "/shop.Talk/Tell"


class Http(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        words = self.rfile.read(int(self.headers["Content-Length"])).decode()
        answer = f"python: {words} {self.headers.get(CALLER, '')}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


class Tcp(socketserver.StreamRequestHandler):
    """The client speaks first."""

    def handle(self):
        words = self.rfile.readline().decode().strip()
        self.wfile.write(f"python: {words}\n".encode())


class Greeting(socketserver.StreamRequestHandler):
    """The server speaks first, as mail servers do."""

    def handle(self):
        self.wfile.write(b"220 python is ready\r\n")
        words = self.rfile.readline().decode().strip().removeprefix("HELO ")
        self.wfile.write(f"250 python: {words}\r\n".encode())


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


def serve_grpc(port):
    import grpc

    def tell(request, context):
        caller = dict(context.invocation_metadata()).get(CALLER, "")
        return f"python: {request.decode()} {caller}".encode()

    server = grpc.server(futures.ThreadPoolExecutor(4))
    methods = {"Tell": grpc.unary_unary_rpc_method_handler(tell)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Talk", methods),))
    server.add_insecure_port(f"0.0.0.0:{port}")
    server.start()
    return server


def serve_websocket(port):
    from websockets.asyncio.server import serve

    async def tell(connection):
        async for words in connection:
            await connection.send(f"python: {words}")

    async def run():
        async with serve(tell, "0.0.0.0", port):
            await asyncio.get_running_loop().create_future()

    asyncio.run(run())


def serve(ports):
    for protocol, kind in (("http", Http), ("tcp", Tcp), ("greeting", Greeting)):
        if protocol in ports:
            server = Server(("0.0.0.0", ports[protocol]), kind)
            threading.Thread(target=server.serve_forever, daemon=True).start()
    # It serves while somebody holds it.
    held = serve_grpc(ports["grpc"]) if "grpc" in ports else None
    if "websocket" in ports:
        threading.Thread(target=serve_websocket, args=(ports["websocket"],), daemon=True).start()
    threading.Event().wait()
    del held


def call_http(host, port, words):
    connection = http.client.HTTPConnection(host, port, timeout=30)
    # Twice, over one connection.
    for _ in range(2):
        connection.request("POST", "/tell", body=words)
        answer = connection.getresponse()
        said = answer.read().decode()
    return f"{answer.status} {said}"


def call_grpc(host, port, words):
    import grpc

    with grpc.insecure_channel(f"{host}:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        return channel.unary_unary(METHOD)(words.encode(), timeout=30).decode()


def call_websocket(host, port, words):
    from websockets.sync.client import connect

    with connect(f"ws://{host}:{port}/", proxy=None, open_timeout=30) as connection:
        connection.send(words)
        return connection.recv(timeout=30)


def call_tcp(host, port, words):
    import socket

    with socket.create_connection((host, port), timeout=30) as connection:
        connection.sendall(f"{words}\n".encode())
        connection.shutdown(socket.SHUT_WR)
        return connection.makefile().read()


def call_greeting(host, port, words):
    import socket

    with socket.create_connection((host, port), timeout=30) as connection:
        lines = connection.makefile()
        greeting = lines.readline()
        connection.sendall(f"HELO {words}\r\n".encode())
        return greeting + lines.readline()


def main(arguments):
    if arguments[0] == "serve":
        serve({protocol: int(port) for protocol, port in (pair.split("=") for pair in arguments[1:])})
    else:
        _, protocol, host, port, words = arguments
        call = {"http": call_http, "grpc": call_grpc, "websocket": call_websocket, "tcp": call_tcp, "greeting": call_greeting}
        print(call[protocol](host, int(port), words))


main(sys.argv[1:])
