"""A rate limit service as Envoy's v3 asks for one, over gRPC, in a language that is not ours.

    rate_limit.py

Prints the port that it listens on. Of each descriptor three hits pass and the rest are over the limit; some values of the entry `how` are of
no use on purpose: slow, garbage, unknown, fail. It reads and writes protocol buffers by itself, from Envoy's field numbers, so that it shares no
mistake with the gateway. Run by crates/app/tests/road/rate_service.rs.
"""

import threading
from collections import Counter
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


counts = Counter()
lock = threading.Lock()


def should_rate_limit(message, context):
    request = fields(message)
    domain = request[1][0].decode()
    hits = request.get(3, [1])[0]
    over, statuses = False, b""
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
            full = counts[(domain, tuple(entries))] > 3
        over = over or full
        statuses += content(2, number(1, 2 if full else 1) + content(4, number(1, 17)))
    return number(1, 2 if over else 1) + statuses


def main():
    server = grpc.server(futures.ThreadPoolExecutor(8))
    call = grpc.unary_unary_rpc_method_handler(should_rate_limit)
    service = grpc.method_handlers_generic_handler("envoy.service.ratelimit.v3.RateLimitService", {"ShouldRateLimit": call})
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
