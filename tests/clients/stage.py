"""What the client checks stand on: backends, a certificate, the gateway's files and the gateway itself.

Used by smoke.py and soak.py. Everything listens on loopback, on ports that were free a moment ago.
"""

import asyncio
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BODY = b"the quick brown fox\n" * 50


class Failed(Exception):
    """A check did not hold."""


def expect(condition, message):
    """Ends the run with a message when a condition does not hold."""
    if not condition:
        raise Failed(message)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition, what, seconds=20.0, pause=0.01):
    """Polls a condition until it holds; the states of other programs announce themselves in no other way."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        expect(time.monotonic() < deadline, f"waited {seconds} s for {what}")
        time.sleep(pause)


def is_open(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Echo(BaseHTTPRequestHandler):
    """Answers GET with a fixed body and POST with what was sent."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(BODY)

    def do_HEAD(self):
        self.answer(BODY)

    def do_POST(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.answer(body)

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Seen-Forwarded-For", self.headers.get("X-Forwarded-For", ""))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


class Backends:
    """An echo server, a gRPC server, a WebSocket server, and nginx for load."""

    def __init__(self, directory):
        self.directory = directory
        self.echo = self.start_echo()
        self.grpc = self.start_grpc()
        self.websocket = self.start_websocket()
        self.static = self.start_nginx()

    def start_echo(self):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server.server_address[1]

    def start_grpc(self):
        import grpc

        def unary(request, context):
            if request == b"fail":
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as asked")
            context.set_trailing_metadata((("x-trailer", "seen"),))
            return request

        def count(request, _context):
            for number in range(int(request)):
                yield str(number).encode()

        def chat(requests, _context):
            yield from requests

        methods = {
            "Unary": grpc.unary_unary_rpc_method_handler(unary),
            "Count": grpc.unary_stream_rpc_method_handler(count),
            "Chat": grpc.stream_stream_rpc_method_handler(chat),
        }
        self.grpc_server = grpc.server(futures.ThreadPoolExecutor(8))
        service = grpc.method_handlers_generic_handler("transept.test.Echo", methods)
        self.grpc_server.add_generic_rpc_handlers((service,))
        port = self.grpc_server.add_insecure_port("127.0.0.1:0")
        self.grpc_server.start()
        return port

    def start_websocket(self):
        from websockets.asyncio.server import serve

        ready = threading.Event()
        port = free_port()

        async def echo(connection):
            async for message in connection:
                await connection.send(message)

        async def main():
            async with serve(echo, "127.0.0.1", port, max_size=16 << 20):
                ready.set()
                await asyncio.get_running_loop().create_future()

        threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
        expect(ready.wait(10), "the WebSocket server did not start")
        return port

    def start_nginx(self):
        nginx = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
        expect(nginx, "nginx is not installed")
        port = free_port()
        at = self.directory / "nginx"
        at.mkdir()
        body = "a" * 1024
        temporary = " ".join(f"{kind}_temp_path {at}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (at / "nginx.conf").write_text(
            f"daemon off; worker_processes 1; pid {at}/pid; error_log {at}/error.log crit;"
            "events { worker_connections 4096; }"
            f"http {{ access_log off; {temporary} keepalive_requests 1000000000;"
            f" server {{ listen 127.0.0.1:{port}; location / {{ return 200 '{body}'; }} }} }}"
        )
        self.nginx = subprocess.Popen(
            [nginx, "-c", str(at / "nginx.conf"), "-p", str(at)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(lambda: is_open(port), "nginx")
        return port

    def stop(self):
        self.grpc_server.stop(None)
        self.nginx.terminate()
        self.nginx.wait()


class Gateway:
    """The binary with its resources in a directory of their own."""

    def __init__(self, binary, directory, backends, workers=2):
        self.binary = binary
        self.directory = directory
        self.backends = backends
        self.http, self.https, self.admin = free_port(), free_port(), free_port()
        self.certificate = directory / "certificate.pem"
        self.key = directory / "key.pem"
        self.make_certificate()
        self.file = directory / "gateway.yaml"
        self.write(0)
        self.log = open(directory / "gateway.log", "wb")
        self.process = subprocess.Popen(
            [binary, "run", str(self.file), "--admin", f"127.0.0.1:{self.admin}", "--workers", str(workers), "--access-log", "off"],
            stdout=self.log,
            stderr=self.log,
        )
        self.log.close()
        wait_for(self.is_ready, "the gateway to be ready")

    def make_certificate(self):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
            + ["-keyout", self.key, "-out", self.certificate, "-subj", "/CN=gateway.test"]
            + ["-addext", "subjectAltName=DNS:gateway.test,DNS:grpc.test"],
            check=True,
            capture_output=True,
        )

    def write(self, generation):
        """Writes the resources; every answer of the `/load` and echo routes names the generation."""
        self.replace(resources(self, generation))

    def replace(self, text):
        """Replaces the file in one step, as an editor or a mounted volume does."""
        following = self.file.with_suffix(".next")
        following.write_text(text)
        following.rename(self.file)

    def is_ready(self):
        expect(self.process.poll() is None, f"the gateway ended:\n{self.said()}")
        try:
            return self.ask_admin("/readyz").status == 200
        except (urllib.error.URLError, OSError):
            return False

    def ask_admin(self, path):
        return urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=5)

    def said(self):
        return (self.directory / "gateway.log").read_text(errors="replace")

    def memory(self):
        """Resident set size in KiB."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))

    def stop(self):
        """Asks for an orderly end and gives back the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise Failed("the gateway did not end within 60 s of SIGTERM") from None


def indent(path):
    return "\n".join("    " + line for line in path.read_text().splitlines())


def backend(name, port, protocol):
    return (
        f"---\napiVersion: transept.dev/v1alpha1\nkind: Backend\nmetadata: {{name: {name}}}\n"
        f"spec: {{protocol: {protocol}, endpoints: [{{address: 127.0.0.1, port: {port}}}]}}\n"
    )


def resources(gateway, generation):
    ports = gateway.backends
    rules = "".join(
        f"""
  - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]
    filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier: {{set: [{{name: x-generation, value: "{generation}"}}]}}
    backendRefs: [{{group: transept.dev, kind: Backend, name: {name}}}]"""
        for path, name in (("/load", "static"), ("/echo", "echo"), ("/chat", "websocket"))
    )
    return (
        f"""apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: clients}}
spec:
  gatewayClassName: transept
  addresses: [{{type: IPAddress, value: 127.0.0.1}}]
  listeners:
  - {{name: http, port: {gateway.http}, protocol: HTTP}}
  - name: https
    port: {gateway.https}
    protocol: HTTPS
    tls: {{certificateRefs: [{{name: gateway}}]}}
  - {{name: grpc, port: {gateway.http}, protocol: HTTP, hostname: grpc.test}}
  - name: grpc-tls
    port: {gateway.https}
    protocol: HTTPS
    hostname: grpc.test
    tls: {{certificateRefs: [{{name: gateway}}]}}
---
apiVersion: v1
kind: Secret
metadata: {{name: gateway}}
type: kubernetes.io/tls
stringData:
  tls.crt: |
{indent(gateway.certificate)}
  tls.key: |
{indent(gateway.key)}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: web}}
spec:
  parentRefs: [{{name: clients, sectionName: http}}, {{name: clients, sectionName: https}}]
  rules:{rules}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {{name: grpc}}
spec:
  parentRefs: [{{name: clients, sectionName: grpc}}, {{name: clients, sectionName: grpc-tls}}]
  rules:
  - matches: [{{method: {{service: transept.test.Echo}}}}]
    backendRefs: [{{group: transept.dev, kind: Backend, name: grpc}}]
"""
        + backend("static", ports.static, "HTTP11")
        + backend("echo", ports.echo, "HTTP11")
        + backend("websocket", ports.websocket, "HTTP11")
        + backend("grpc", ports.grpc, "H2C")
    )


class Stage:
    """All of it, for a `with` statement."""

    def __init__(self, binary, workers=2):
        self.binary, self.workers = binary, workers

    def __enter__(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="transept-clients-"))
        self.backends = Backends(self.directory)
        try:
            self.gateway = Gateway(self.binary, self.directory, self.backends, self.workers)
        except BaseException:
            self.backends.stop()
            raise
        return self

    def __exit__(self, kind, *_):
        if self.gateway.process.poll() is None:
            self.gateway.process.kill()
            self.gateway.process.wait()
        self.backends.stop()
        if kind:
            print(f"the gateway said:\n{self.gateway.said()[-4000:]}")
        else:
            shutil.rmtree(self.directory, ignore_errors=True)
