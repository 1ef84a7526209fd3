"""One tenant sends 200 requests at once; another, one a second. How long the second waits for a first token.

usage: fairness.py --url http://127.0.0.1:8080 --many KEY --few KEY [--model M] [--requests 200] [--seconds 40] [--words 40] [--tokens 64]
needs: nothing but Python 3.9 or newer; a server, and keys of two tenants (`switchyard keys create`).

First on the idle server, then beside the flood. Prints one JSON line: the 95th percentile until the first token in both (ms), their
ratio, the longest step that the server reports (ms), whether the second is within twice the first and one such step, answers of
the flood, and failures. Exits with 1 where it is not.
"""
import argparse
import http.client
import json
import random
import sys
import threading
import time
import urllib.parse


def ask(given, key, rng, tokens):
    """Seconds until the first token."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(given.url).netloc, timeout=600)
    body = {"model": given.model, "prompt": " ".join(f"w{rng.randrange(10**6)}" for _ in range(given.words)), "max_tokens": tokens,
            "stream": True, "ignore_eos": True}
    began, first = time.perf_counter(), None
    connection.request("POST", "/v1/completions", json.dumps(body), {"authorization": "Bearer " + key, "content-type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"{response.status} {response.read().decode()[:300]}")
    for line in response:
        if line.startswith(b"data: {"):
            if b'"error"' in line:
                raise RuntimeError(line.decode())
            first = first or time.perf_counter() - began
    return first


def metric(given, name):
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(given.url).netloc, timeout=60)
    connection.request("GET", "/metrics", headers={"authorization": "Bearer " + given.few})
    lines = connection.getresponse().read().decode().splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(name + " ")), 0.0)


def steady(given, count):
    """First-token times of one request a second, sorted, and failures."""
    firsts, failures, threads = [], [], []

    def one(number):
        try:
            firsts.append(ask(given, given.few, random.Random(f"{given.seed}-{count}-{number}"), 8))
        except Exception as error:  # noqa: BLE001
            failures.append(str(error))

    begin = time.perf_counter()
    for number in range(count):
        time.sleep(max(0.0, begin + number - time.perf_counter()))
        threads.append(threading.Thread(target=one, args=(number,)))
        threads[-1].start()
    [thread.join() for thread in threads]
    return sorted(firsts), failures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--many", required=True)
    parser.add_argument("--few", required=True)
    parser.add_argument("--model")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=40)
    parser.add_argument("--words", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    if given.model is None:
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(given.url).netloc, timeout=60)
        connection.request("GET", "/v1/models", headers={"authorization": "Bearer " + given.few})
        given.model = json.loads(connection.getresponse().read())["data"][0]["id"]
    idle, failures = steady(given, 20)
    answered = []

    def flood(number):
        try:
            answered.append(ask(given, given.many, random.Random(f"{given.seed}-many-{number}"), given.tokens))
        except Exception as error:  # noqa: BLE001
            failures.append(str(error))

    threads = [threading.Thread(target=flood, args=(number,), daemon=True) for number in range(given.requests)]
    [thread.start() for thread in threads]
    time.sleep(2)
    beside, failed = steady(given, given.seconds)
    still = sum(thread.is_alive() for thread in threads)
    p95 = [1000 * times[int(0.95 * len(times))] for times in (idle, beside)]
    step = 1000 * metric(given, "switchyard_engine_max_step_seconds")
    held = p95[1] <= 2 * p95[0] + step
    print(json.dumps({"idle_p95_ms": round(p95[0], 1), "beside_p95_ms": round(p95[1], 1), "ratio": round(p95[1] / p95[0], 2), "max_step_ms": round(step, 1),
                      "within": held, "flood_answered": len(answered), "flood_running": still, "failures": len(failures) + len(failed), "first_failure": (failures + failed)[:1]}))
    sys.exit(not held)


if __name__ == "__main__":
    main()
