"""Random requests to a live page: none may end in a server error or hang, and the server's memory must stay flat.

python -m benchmarks.page_fuzz [--count 10000] [--seed 0]

Prints statuses, the slowest answer, and the server's memory along the way. Ends with 1 on a server error.
"""

from __future__ import annotations

import argparse
import collections
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import requests
from PIL import Image

from benchmarks.fuzzed_requests import random_request

TOKEN = re.compile(r'"token": "([^"]+)"')
MOMENTS = 10  # at which memory is read
TIMEOUT = 60.0  # seconds until an answer counts as a hang


def memory_mib(process: int) -> float:
    """Return the memory of a process in MiB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def main() -> int:
    """Send the requests; return the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = random.Random(options.seed)
    statuses: collections.Counter[int] = collections.Counter()
    slowest, memory = 0.0, []
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.png"
        Image.effect_noise((64, 48), 60).convert("RGB").save(photo)
        words = [sys.executable, "-m", "detrscope", "explore", str(photo), "--port", "0", "--no-browser"]
        errors = (Path(folder) / "errors.txt").open("w")  # a pipe that nobody reads would stop the server
        server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert server.stdout is not None
        address = re.search(r"http://[^ ]+/", server.stdout.readline())
        assert address is not None, "the server did not start"
        with requests.Session() as client:
            while True:
                try:
                    page = client.get(address[0], timeout=TIMEOUT).text
                    break
                except requests.ConnectionError:
                    time.sleep(0.1)
            token = TOKEN.search(page)[1]  # type: ignore[index]
            for number in range(options.count):
                if number % max(1, options.count // MOMENTS) == 0:
                    memory.append(memory_mib(server.pid))
                request = random_request(generator, token, [str(photo)])
                started = time.perf_counter()
                answer = client.request(
                    request.method,
                    address[0].rstrip("/") + request.path,
                    headers=request.headers,
                    params=request.params,
                    data=request.content if request.content is not None else request.data or None,
                    files=request.files or None,
                    timeout=TIMEOUT,
                )
                slowest = max(slowest, time.perf_counter() - started)
                statuses[answer.status_code] += 1
                if answer.status_code >= 500:
                    print(request, answer.text)
            memory.append(memory_mib(server.pid))
        server.terminate()
        server.wait()
    print(f"{options.count} requests: " + ", ".join(f"{s}: {n}" for s, n in sorted(statuses.items())))
    print(f"slowest answer {slowest:.2f} s; memory, MiB: " + ", ".join(f"{m:.0f}" for m in memory))
    return 1 if any(status >= 500 for status in statuses) else 0


if __name__ == "__main__":
    sys.exit(main())
