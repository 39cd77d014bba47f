"""A rate limit service as Envoy's v3 asks for one, over gRPC, in a language that is not ours.

    rate_limit.py

Prints the port that it listens on. Of each descriptor three hits pass and the rest are over the limit; some values of the entry `how` are of
no use on purpose: slow, garbage, unknown, fail. With `told` it says all that an answer has room for. Run by crates/app/tests/road/rate_service.rs.
"""

import threading
from collections import Counter

import grpc
from envelope import content, fields, number, serve


counts = Counter()
lock = threading.Lock()


def told(field, name, value):
    return content(field, content(1, name) + content(2, value))


TOLD = (
    told(3, "x-from-limits", "seen")
    + told(3, "content-length", "3")
    + told(3, "connection", "close")
    + told(4, "x-tier", "free")
    + told(4, "x-auth-id", "somebody")
    + content(5, "no more")
)


def should_rate_limit(message, context):
    request = fields(message)
    domain = request[1][0].decode()
    hits = request.get(3, [1])[0]
    over, statuses, rest = False, b"", b""
    for descriptor in request.get(2, []):
        entries = []
        for entry in fields(descriptor).get(1, []):
            entry = fields(entry)
            entries.append((entry[1][0].decode(), entry.get(2, [b""])[0].decode()))
        how = dict(entries).get("how")
        if how == "slow":
            threading.Event().wait(30)
        if how == "garbage":
            return b"\xff\xff\xff"
        if how == "unknown":
            return number(1, 0)
        if how == "fail":
            context.abort(grpc.StatusCode.INTERNAL, "broken")
        with lock:
            counts[(domain, tuple(entries))] += hits
            count = counts[(domain, tuple(entries))]
        full = count > 3
        over = over or full
        status = number(1, 2 if full else 1) + content(4, number(1, 17))
        if how == "told":
            status += content(2, number(1, 3) + number(2, 2) + content(3, "three")) + number(3, max(3 - count, 0))
            rest = TOLD
        statuses += content(2, status)
    return number(1, 2 if over else 1) + statuses + rest


if __name__ == "__main__":
    serve("envoy.service.ratelimit.v3.RateLimitService", "ShouldRateLimit", should_rate_limit)
