"""Reloads the configuration again and again while wrk, h2load, a WebSocket and a gRPC stream are busy.

    python3 tests/clients/soak.py --transept PATH --reloads 1000

Every reload is waited for (answers name the generation that made them), no request may fail, no stream may break, and memory
must not grow with the number of reloads. Prints a table that can be pasted into a page.
"""

import argparse
import contextlib
import http.client
import queue
import statistics
import sys
import threading
import time

import load
from stage import Failed, Stage, expect

# Seconds of one run of a load generator; they are repeated until the reloads are done.
SEGMENT = 5
# Resident memory may differ by this much between the first reloads and the last: allocators keep what they may reuse.
NOISE_KIB = 8 * 1024


class Loop(threading.Thread):
    """One load generator, run again and again until told to stop; a failure is kept for the end."""

    def __init__(self, run):
        super().__init__(daemon=True)
        self.run_once, self.stopped = run, threading.Event()
        self.requests, self.error = 0, None

    def run(self):
        try:
            while not self.stopped.is_set():
                self.requests += self.run_once()
        except Exception as error:
            self.error = error


class Streams:
    """A WebSocket and a gRPC call that stay open from the first reload to the last."""

    def __init__(self, gateway):
        import grpc
        from websockets.sync.client import connect

        self.open = contextlib.ExitStack()
        self.socket = self.open.enter_context(connect(f"ws://127.0.0.1:{gateway.http}/chat"))
        self.channel = grpc.insecure_channel(f"127.0.0.1:{gateway.http}", [("grpc.default_authority", "grpc.test")])
        self.sent = queue.SimpleQueue()
        self.answers = self.channel.stream_stream("/transept.test.Echo/Chat")(iter(self.sent.get, None))

    def talk(self, number):
        self.socket.send(f"message {number}")
        expect(self.socket.recv(timeout=20) == f"message {number}", f"the WebSocket lost message {number}")
        self.sent.put(b"%d" % number)
        expect(next(self.answers) == b"%d" % number, f"the gRPC stream lost message {number}")

    def close(self):
        self.sent.put(None)
        expect(list(self.answers) == [], "the gRPC stream did not end")
        self.channel.close()
        self.open.close()


def generation(connection):
    connection.request("GET", "/load")
    answer = connection.getresponse()
    answer.read()
    expect(answer.status == 200, f"answered {answer.status} during a reload")
    return answer.getheader("x-generation")


def reload(gateway, connection, number):
    """Writes the next generation and gives back the milliseconds until it answers."""
    gateway.write(number)
    begin = time.monotonic()
    while generation(connection) != str(number):
        expect(time.monotonic() - begin < 20, f"generation {number} never came")
        time.sleep(0.001)
    return (time.monotonic() - begin) * 1e3


def soak(stage, reloads):
    gateway = stage.gateway
    base = f"http://127.0.0.1:{gateway.http}/load"
    loops = {
        "wrk": Loop(lambda: load.wrk(base, SEGMENT, connections=16)),
        "h2load": Loop(lambda: load.h2load(base, SEGMENT)),
        "wrk, TLS": Loop(lambda: load.wrk(f"https://127.0.0.1:{gateway.https}/load", SEGMENT, connections=4)),
    }
    streams = Streams(gateway)
    # One keep-alive connection for all polls: a reload must not close it.
    connection = http.client.HTTPConnection("127.0.0.1", gateway.http, timeout=20)
    connection.connect()
    socket = connection.sock
    for loop in loops.values():
        loop.start()
    begin, times, memory = time.monotonic(), [], []
    for number in range(1, reloads + 1):
        times.append(reload(gateway, connection, number))
        streams.talk(number)
        expect(connection.sock is socket, f"reload {number} closed a connection")
        memory.append(gateway.memory())
        broken = [f"{name}: {loop.error}" for name, loop in loops.items() if loop.error]
        expect(not broken, f"at reload {number}: {broken}")
    length = time.monotonic() - begin
    for loop in loops.values():
        loop.stopped.set()
    for name, loop in loops.items():
        loop.join(SEGMENT + 60)
        expect(not loop.error, f"{name}: {loop.error}")
    streams.close()
    # The first tenth fills pools and caches; after it, memory must stay.
    early, late = statistics.median(memory[reloads // 10 :][: max(reloads // 10, 1)]), statistics.median(memory[-max(reloads // 10, 1) :])
    report(reloads, length, loops, times, memory, early, late)
    expect(late - early < NOISE_KIB, f"memory grew from {early:.0f} to {late:.0f} KiB")
    expect(gateway.stop() == 0, "SIGTERM did not lead to exit code 0")


def report(reloads, length, loops, times, memory, early, late):
    times = sorted(times)
    print(f"| reloads under load | {reloads} in {length:.0f} s |\n|---|---|")
    for name, loop in loops.items():
        print(f"| {name} | {loop.requests} requests, 0 failed |")
    print(f"| streams | 1 WebSocket and 1 gRPC call open throughout, {reloads} messages each |")
    print(f"| from the file's change to the first answer | median {statistics.median(times):.1f} ms, longest {times[-1]:.1f} ms |")
    print(f"| resident memory | first {memory[0] / 1024:.1f} MiB, after a tenth {early / 1024:.1f} MiB, at the end {late / 1024:.1f} MiB |")


def main():
    parser = argparse.ArgumentParser(description="Reload the configuration under load.")
    parser.add_argument("--transept", required=True, help="the binary")
    parser.add_argument("--reloads", type=int, default=1000)
    arguments = parser.parse_args()
    try:
        with Stage(arguments.transept) as stage:
            soak(stage, arguments.reloads)
    except Failed as error:
        print(f"soak: FAILED: {error}")
        sys.exit(1)
    print("soak: 1 passed, 0 failed")


if __name__ == "__main__":
    main()
