"""Protocol buffers, read and written field by field, and a server of gRPC for one call.

Imported by the programs beside it, which know Envoy's field numbers. It shares no code with the gateway, and so no mistake.
"""

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


def serve(service, method, answer):
    """Serves a call whose messages stay bytes, prints the port, and never ends."""
    server = grpc.server(futures.ThreadPoolExecutor(8))
    call = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: call}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()
