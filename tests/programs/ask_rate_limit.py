"""A client of a rate limit service (Envoy's v3) over gRPC, in a language that is not ours.

    ask_rate_limit.py ADDRESS

Asks ShouldRateLimit and prints one JSON line for each call: the code of its end, and of each descriptor the code, the limit, what is left and
the seconds until it is as at first. Run by crates/app/tests/road/rate_server.rs.
"""

import json
import sys

import grpc
from envelope import content, fields, first, number

METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"


def descriptor(entries):
    return b"".join(content(1, content(1, key) + content(2, value)) for key, value in entries)


def value(message, *path):
    found = first(message, *path)
    return found if isinstance(found, int) else 0


def main(address):
    channel = grpc.insecure_channel(address)
    ask = channel.unary_unary(METHOD)

    def call(domain, entries, hits):
        message = content(1, domain) + content(2, descriptor(entries)) + number(3, hits)
        try:
            answer = fields(ask(message, timeout=20))
        except grpc.RpcError as error:
            print(json.dumps({"status": error.code().name}), flush=True)
            return
        statuses = []
        for status in answer.get(2, []):
            status = fields(status)
            statuses.append([value(status, 1), value(status, 2, 1), value(status, 2, 2), value(status, 3), value(status, 4, 1)])
        names = [first(fields(header), 1).decode() for header in answer.get(3, [])]
        print(json.dumps({"status": "OK", "code": answer[1][0], "statuses": statuses, "fields": names}), flush=True)

    for _ in range(3):
        call("shop", [("plan", "free"), ("user", "ada")], 1)
    call("shop", [("plan", "gold"), ("user", "ada")], 50)
    call("shop", [("nobody", "limits this")], 1)
    call("elsewhere", [("plan", "free"), ("user", "ada")], 1)


if __name__ == "__main__":
    main(sys.argv[1])
