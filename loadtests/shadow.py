"""What shadow traffic costs those who are served, and their bill: the same load with and without it, A B A B.

usage: shadow.py --url http://127.0.0.1:8080 --key KEY [--rate 200] [--seconds 10] [--rounds 4] [--percent 20]
needs: nothing but Python 3.9 or newer; a server (--backend null --null-delay 5ms for the gateway alone) and an admin key.

Sends chat requests at a steady rate to a deployment; every other round copies a share of them to a silent arm. Prints one JSON line:
p50 and p99 in ms of each kind of round (medians over the rounds, and all of them), requests, errors, how many silent answers were
given, and what the usage API counts for each kind of round.
"""
import argparse
import http.client
import json
import queue
import statistics
import threading
import time
import urllib.parse


class Client:
    def __init__(self, url, key):
        self.connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=60)
        self.headers = {"authorization": "Bearer " + key, "content-type": "application/json"}

    def call(self, method, path, body=None):
        self.connection.request(method, path, None if body is None else json.dumps(body), self.headers)
        response = self.connection.getresponse()
        return response.status, response.read()


def load(given, seconds):
    """Latencies in ms from when a request was due, and errors."""
    due, latencies, errors = queue.SimpleQueue(), [], []

    def work():
        client = Client(given.url, given.key)
        while (at := due.get()) is not None:
            time.sleep(max(0.0, at - time.perf_counter()))
            body = {"model": given.deployment, "messages": [{"role": "user", "content": f"hello {at}"}], "max_tokens": 8, "user": str(at)}
            status, text = client.call("POST", "/v1/chat/completions", body)
            latencies.append((time.perf_counter() - at) * 1000)
            if status != 200:
                errors.append(text[:200].decode(errors="replace"))

    workers = [threading.Thread(target=work) for _ in range(given.connections)]
    begin = time.perf_counter() + 0.2
    for number in range(int(given.rate * seconds)):
        due.put(begin + number / given.rate)
    for _ in workers:
        due.put(None)
    [worker.start() for worker in workers]
    [worker.join() for worker in workers]
    return sorted(latencies), errors


def counted(client):
    """Requests and cost that the usage API has, once the rows are in the database."""
    time.sleep(2.5)
    status, text = client.call("GET", f"/v1/organization/usage/completions?start_time={int(time.time()) - 7200}&bucket_width=1h&limit=24")
    buckets = json.loads(text)["data"]
    assert status == 200, text
    return sum(result["num_model_requests"] for bucket in buckets for result in bucket["results"])


def silent(client):
    """Silent answers by what became of them."""
    _, text = client.call("GET", "/metrics")
    lines = [line for line in text.decode().splitlines() if line.startswith("switchyard_shadow_answers_total")]
    return {line.split("{")[1].split("}")[0]: float(line.split()[-1]) for line in lines}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--percent", type=float, default=20)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--deployment", default="shadowed")
    parser.add_argument("--shadow", default="pirate@1")
    given = parser.parse_args()
    client = Client(given.url, given.key)
    base = json.loads(client.call("GET", "/v1/models")[1])["data"][0]["id"]
    spec = {"arms": [{"name": "stable", "model": base, "weight": 100}]}
    rounds = {"without": [], "with": []}
    usage, sent, errors = {"without": 0, "with": 0}, {"without": 0, "with": 0}, []
    for number in range(2 * given.rounds + 1):
        kind = "without" if number % 2 == 0 else "with"
        body = spec if kind == "without" else {**spec, "shadow": {"model": given.shadow, "percent": given.percent, "max_tokens_per_day": 10**9}}
        status, text = client.call("PUT", f"/admin/deployments/{given.deployment}", body)
        assert status == 200, text
        before = counted(client)
        latencies, wrong = load(given, 3 if number == 0 else given.seconds)
        errors += wrong
        if number == 0:
            continue
        usage[kind] += counted(client) - before
        sent[kind] += len(latencies)
        rounds[kind].append((latencies[len(latencies) // 2], latencies[int(0.99 * len(latencies))]))
    out = {kind: {"p50_ms": round(statistics.median(p50 for p50, _ in all_), 3), "p99_ms": round(statistics.median(p99 for _, p99 in all_), 3),
                  "p99s": [round(p99, 2) for _, p99 in all_]} for kind, all_ in rounds.items()}
    ratio = out["with"]["p99_ms"] / out["without"]["p99_ms"]
    print(json.dumps({**out, "p99_ratio": round(ratio, 3), "sent": sent, "counted": usage, "errors": len(errors), "silent": silent(client)}))


if __name__ == "__main__":
    main()
