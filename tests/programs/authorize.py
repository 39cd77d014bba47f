"""An authorization service as Envoy's ext_authz v3 asks for one, over gRPC, in a language that is not ours.

    authorize.py

Prints the port that it listens on. What it does with a request is said by the path: /ok, /no, /slow, /garbage, /empty, /fail. It reads and
writes protocol buffers by itself, from Envoy's field numbers, so that it shares no mistake with the gateway. Run by
crates/app/tests/road/external_auth.rs.
"""

import json
import threading
from concurrent import futures

import grpc


def varint(number):
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def number(field, value):
    return varint(field << 3) + varint(value)


def content(field, value):
    value = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(value)) + value


def fields(data):
    found, at = {}, 0

    def read():
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        tag = read()
        if tag & 7 == 0:
            value = read()
        elif tag & 7 == 2:
            length = read()
            value = data[at : at + length]
            at += length
        else:
            raise ValueError(f"wire type {tag & 7}")
        found.setdefault(tag >> 3, []).append(value)
    return found


def first(found, *path):
    for step in path[:-1]:
        found = fields(found[step][0]) if step in found else {}
    return found.get(path[-1], [b""])[0]


def pairs(entries):
    return {first(fields(e), 1).decode(): first(fields(e), 2).decode() for e in entries}


def header(name, value, append=None):
    option = content(1, content(1, name) + content(2, value))
    if append is not None:
        option += content(2, number(1, int(append)))
    return option


def check(message, context):
    attributes = fields(first(fields(message), 1))
    http = fields(first(attributes, 4, 2))
    headers = pairs(http.get(3, []))
    path = http[4][0].decode()
    saw = {
        "method": http[2][0].decode(),
        "path": path,
        "host": http[5][0].decode(),
        "protocol": http[10][0].decode(),
        "team": headers.get("x-team"),
        "cookie": headers.get("cookie"),
        "partial": headers.get("x-envoy-auth-partial-body"),
        "body": first(http, 11).decode(),
        "client": first(attributes, 1, 1, 1, 2).decode(),
        "extensions": pairs(attributes.get(10, [])),
    }
    rule = content(4, content(1, content(1, "rule") + content(2, content(3, "python-rule"))))
    if path.startswith("/no"):
        denied = content(1, number(1, 401)) + content(2, header("WWW-Authenticate", 'Bearer realm="python"'))
        denied += content(3, "python says no")
        return content(1, number(1, 16)) + content(2, denied) + rule
    if path.startswith("/slow"):
        threading.Event().wait(30)
    if path.startswith("/garbage"):
        return b"\xff\xff\xff"
    if path.startswith("/empty"):
        return b""
    if path.startswith("/fail"):
        context.abort(grpc.StatusCode.INTERNAL, "broken")
    ok = content(2, header("x-user", "python")) + content(2, header("x-saw", json.dumps(saw, sort_keys=True)))
    ok += content(5, "x-secret") + content(6, header("x-checked", "yes"))
    return content(1, b"") + content(3, ok) + rule


def main():
    server = grpc.server(futures.ThreadPoolExecutor(8))
    call = grpc.unary_unary_rpc_method_handler(check)
    service = grpc.method_handlers_generic_handler("envoy.service.auth.v3.Authorization", {"Check": call})
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
