"""wrk and h2load as closed loops that must not fail a single request. Used by smoke.py and soak.py."""

import re
import subprocess

from stage import expect


def wrk(url, seconds, connections=32):
    """Runs wrk and gives back the number of answered requests."""
    output = run(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", url])
    expect("Non-2xx" not in output and "Socket errors" not in output, f"wrk saw failures:\n{output}")
    found = re.search(r"(\d+) requests in", output)
    expect(found and int(found[1]) > 0, f"wrk was not answered:\n{output}")
    return int(found[1])


def h2load(url, seconds, connections=4, streams=16):
    """Runs h2load and gives back the number of answered requests."""
    output = run(["h2load", "-t1", f"-c{connections}", f"-m{streams}", "-D", str(seconds), url])
    found = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", output)
    codes = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", output)
    expect(found and codes, f"h2load said something else:\n{output}")
    expect(sum(map(int, found.groups()[1:])) + sum(map(int, codes.groups()[1:])) == 0, f"h2load saw failures:\n{output}")
    expect(int(found[1]) > 0, f"h2load was not answered:\n{output}")
    return int(found[1])


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    expect(done.returncode == 0, f"{command[0]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout
