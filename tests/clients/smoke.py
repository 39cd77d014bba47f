"""Drives the built binary with real clients: curl, wrk, h2load, grpcio and websockets.

    python3 tests/clients/smoke.py --transept PATH

Needs nginx, curl, wrk, h2load and openssl, and the Python packages grpcio and websockets. Ends with a line that counts what
passed, and with exit code 1 when anything failed.
"""

import argparse
import http.client
import json
import subprocess
import sys

import load
from stage import BODY, Failed, Stage, expect


def curl(*arguments):
    """Runs curl; gives back status, HTTP version, headers and body."""
    command = ["curl", "--silent", "--show-error", "--insecure", "--max-time", "30", "--dump-header", "/dev/stderr", "--http1.1"]
    done = subprocess.run(command + list(arguments), capture_output=True)
    head = done.stderr.decode(errors="replace").replace("\r", "")
    expect(done.returncode == 0, f"curl {' '.join(map(str, arguments))}: {head}")
    last = [block for block in head.split("\n\n") if block.startswith("HTTP/")][-1].split("\n")
    version, status = last[0].split()[:2]
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in last[1:] if line)}
    return int(status), version, headers, done.stdout


def http1(stage):
    status, version, headers, body = curl(f"http://127.0.0.1:{stage.gateway.http}/echo")
    expect((status, version, body) == (200, "HTTP/1.1", BODY), f"GET: {status} {version} {len(body)} bytes")
    expect(headers["x-seen-forwarded-for"] == "127.0.0.1", f"X-Forwarded-For was {headers['x-seen-forwarded-for']!r}")


def http10(stage):
    status, _, _, body = curl("--http1.0", f"http://127.0.0.1:{stage.gateway.http}/echo")
    expect((status, body) == (200, BODY), f"HTTP/1.0: {status}, {len(body)} bytes")


def h2c(stage):
    status, version, _, body = curl("--http2-prior-knowledge", f"http://127.0.0.1:{stage.gateway.http}/echo")
    expect((status, version, body) == (200, "HTTP/2", BODY), f"h2c: {status} {version} {len(body)} bytes")


def tls(stage):
    port = stage.gateway.https
    to = ["--resolve", f"gateway.test:{port}:127.0.0.1", "--cacert", str(stage.gateway.certificate)]
    url = f"https://gateway.test:{port}/echo"
    for flags, wanted in ((["--http1.1"], "HTTP/1.1"), (["--http2"], "HTTP/2"), (["--http2", "--tls-max", "1.2"], "HTTP/2")):
        # Checked with the certificate, so without --insecure.
        command = ["curl", "--silent", "--show-error", "--max-time", "30", "--write-out", "%{http_version}", "-o", "/dev/null"]
        done = subprocess.run(command + to + flags + [url], capture_output=True, text=True)
        expect(done.returncode == 0, f"curl {flags}: {done.stderr}")
        expect(f"HTTP/{done.stdout}" == wanted, f"curl {flags} spoke HTTP/{done.stdout}")


def head(stage):
    status, _, headers, body = curl("--head", f"http://127.0.0.1:{stage.gateway.http}/echo")
    expect((status, headers["content-length"]) == (200, str(len(BODY))), f"HEAD: {status} {headers}")


def uploads(stage):
    data = stage.directory / "upload"
    data.write_bytes(bytes(range(256)) * 20_000)
    url = f"http://127.0.0.1:{stage.gateway.http}/echo"
    kinds = {
        "length": [],
        "chunked": ["-H", "Transfer-Encoding: chunked"],
        "expect": ["-H", "Expect: 100-continue"],
        "h2": ["--http2-prior-knowledge"],
    }
    for name, flags in kinds.items():
        status, _, _, body = curl(*flags, "--data-binary", f"@{data}", url)
        expect((status, body) == (200, data.read_bytes()), f"upload ({name}): {status}, {len(body)} bytes came back")


def own_errors(stage):
    status, _, headers, body = curl(f"http://127.0.0.1:{stage.gateway.http}/nowhere")
    expect(status == 404, f"no route: {status}")
    expect(headers["content-type"].startswith("application/problem+json"), f"no route: {headers}")
    problem = json.loads(body)
    expect(problem["status"] == 404, f"no route: {problem}")


def keep_alive(stage):
    connection = http.client.HTTPConnection("127.0.0.1", stage.gateway.http, timeout=10)
    for _ in range(100):
        connection.request("GET", "/load")
        answer = connection.getresponse()
        expect((answer.status, len(answer.read())) == (200, 1024), f"keep-alive: {answer.status}")
    connection.close()


def wrk(stage):
    return f"{load.wrk(f'http://127.0.0.1:{stage.gateway.http}/load', 2)} requests"


def wrk_tls(stage):
    return f"{load.wrk(f'https://127.0.0.1:{stage.gateway.https}/load', 2)} requests"


def h2load(stage):
    return f"{load.h2load(f'http://127.0.0.1:{stage.gateway.http}/load', 2)} requests"


def h2load_tls(stage):
    return f"{load.h2load(f'https://127.0.0.1:{stage.gateway.https}/load', 2)} requests"


def grpc(stage):
    import grpc as client

    options = [("grpc.default_authority", "grpc.test"), ("grpc.ssl_target_name_override", "grpc.test")]
    roots = client.ssl_channel_credentials(stage.gateway.certificate.read_bytes())
    plain = client.insecure_channel(f"127.0.0.1:{stage.gateway.http}", options)
    secure = client.secure_channel(f"127.0.0.1:{stage.gateway.https}", roots, options)
    for channel in (plain, secure):
        with channel:
            unary = channel.unary_unary("/transept.test.Echo/Unary")
            for message in (b"", b"hello", b"x" * 3_000_000):
                answer, call = unary.with_call(message, timeout=20)
                expect(answer == message, f"unary: {len(answer)} bytes of {len(message)} came back")
                expect(("x-trailer", "seen") in [tuple(pair) for pair in call.trailing_metadata()], "the trailer is gone")
            numbers = list(channel.unary_stream("/transept.test.Echo/Count")(b"200", timeout=20))
            expect(numbers == [str(number).encode() for number in range(200)], f"server streaming: {len(numbers)} messages")
            sent = [b"m%d" % number for number in range(100)]
            expect(list(channel.stream_stream("/transept.test.Echo/Chat")(iter(sent), timeout=20)) == sent, "bidirectional streaming")
            for method, message, code in (("Unary", b"fail", "FAILED_PRECONDITION"), ("None", b"", "UNIMPLEMENTED")):
                try:
                    channel.unary_unary(f"/transept.test.Echo/{method}")(message, timeout=20)
                    raise Failed(f"{method} should have failed with {code}")
                except client.RpcError as error:
                    expect(error.code().name == code, f"{method}: {error.code()} instead of {code}")


def websocket(stage):
    from websockets.sync.client import connect

    with connect(f"ws://127.0.0.1:{stage.gateway.http}/chat", max_size=16 << 20) as socket:
        for message in ("hello", "", "ü" * 1000, b"\0" * 2_000_000):
            socket.send(message)
            expect(socket.recv(timeout=20) == message, f"a message of {len(message)} did not come back")
        expect(socket.ping().wait(10), "no pong")
    expect(socket.close_code == 1000, f"closed with {socket.close_code}")


def operators(stage):
    text = stage.gateway.ask_admin("/metrics").read().decode()
    expect("http_server_request_duration_seconds_count" in text, "/metrics has no request durations")
    expect(stage.gateway.ask_admin("/livez").status == 200, "/livez")


def invalid_file(stage):
    """A file that does not parse keeps the running configuration."""
    stage.gateway.replace("kind: [\n")
    for _ in range(200):
        status, *_ = curl(f"http://127.0.0.1:{stage.gateway.http}/load")
        expect(status == 200, f"{status} after an invalid file")
        if "invalid" in stage.gateway.said().lower() or "error" in stage.gateway.said().lower():
            break
    else:
        raise Failed("an invalid file went unnoticed")
    stage.gateway.write(1)


def drain(stage):
    expect(stage.gateway.stop() == 0, "SIGTERM did not lead to exit code 0")


CHECKS = [http1, http10, h2c, tls, head, uploads, own_errors, keep_alive, wrk, wrk_tls, h2load, h2load_tls, grpc, websocket]
CHECKS += [operators, invalid_file, drain]


def main():
    parser = argparse.ArgumentParser(description="Drive the binary with real clients.")
    parser.add_argument("--transept", required=True, help="the binary")
    parser.add_argument("--only", help="one check by name")
    arguments = parser.parse_args()
    failed = 0
    checks = [check for check in CHECKS if arguments.only in (None, check.__name__)]
    with Stage(arguments.transept) as stage:
        for check in checks:
            try:
                said = check(stage)
                print(f"  ok      {check.__name__}{f': {said}' if said else ''}", flush=True)
            except Exception as error:  # every check runs, whatever the others did
                failed += 1
                print(f"  FAILED  {check.__name__}: {type(error).__name__}: {error}", flush=True)
        if failed:
            print(f"the gateway said:\n{stage.gateway.said()[-4000:]}")
    print(f"clients: {len(checks) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
