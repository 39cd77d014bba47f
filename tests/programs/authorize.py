"""An authorization service as Envoy's ext_authz v3 asks for one, over gRPC, in a language that is not ours.

    authorize.py

Prints the port that it listens on. What it does with a request is said by the path: /ok, /no, /slow, /garbage, /empty, /fail. Run by
crates/app/tests/road/external_auth.rs.
"""

import json
import threading

import grpc
from envelope import content, fields, first, number, serve


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
    ok += content(6, header("x-replaced", "python", append=False))
    return content(1, b"") + content(3, ok) + rule


if __name__ == "__main__":
    serve("envoy.service.auth.v3.Authorization", "Check", check)
