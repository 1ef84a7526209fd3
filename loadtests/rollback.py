"""Rollback under load: requests at a steady rate while a deployment goes to its canary and back, again and again.

usage: rollback.py --url http://127.0.0.1:8080 --key KEY [--rate 500] [--rollbacks 100] [--canary MODEL]
needs: nothing but Python 3.9 or newer; a server, best with --backend null --null-delay 5ms, and an admin key.

Between a rollback's answer and the next change every request must be answered by the old arm, and between a change's answer and the
next rollback by the canary; requests that were on their way may be on either. Prints one JSON line: requests, errors, answers of the
wrong arm, the time of each rollback call (client and server together), until it took effect as the server says
(effective_after_us), and as seen from outside: how long after the call's beginning the last request was sent that still got the
canary. Exits with 1 on an error, a wrong answer, or an effect that took the server longer than --most-ms.
"""
import argparse
import http.client
import json
import queue
import threading
import time
import urllib.parse


class Client:
    def __init__(self, url, key):
        self.address, self.key, self.connection = urllib.parse.urlsplit(url).netloc, key, None

    def call(self, method, path, body=None):
        """Status, the head, the body as JSON."""
        if self.connection is None:
            self.connection = http.client.HTTPConnection(self.address, timeout=60)
        headers = {"authorization": "Bearer " + self.key, "content-type": "application/json"}
        try:
            self.connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = self.connection.getresponse()
            text = response.read()
        except Exception:
            self.connection.close()
            self.connection = None
            raise
        return response.status, response.headers, json.loads(text)

    def done(self, method, path, body=None):
        status, _, answer = self.call(method, path, body)
        if status != 200:
            raise SystemExit(f"{method} {path}: {status} {json.dumps(answer)}")
        return answer


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))] if values else float("nan")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--key", required=True)
    parser.add_argument("--name", default="rollback-test", help="name of the deployment; removed at the end")
    parser.add_argument("--canary", help="model of the canary; usually the first adapter of the server")
    parser.add_argument("--rate", type=float, default=500.0, help="requests a second")
    parser.add_argument("--workers", type=int, default=24, help="connections")
    parser.add_argument("--rollbacks", type=int, default=100)
    parser.add_argument("--apart", type=float, default=0.15, help="seconds between changes")
    parser.add_argument("--most-ms", type=float, default=10.0, help="until a rollback takes effect")
    args = parser.parse_args()
    admin = Client(args.url, args.key)
    base = admin.done("GET", "/v1/models")["data"][0]["id"]
    adapters = [adapter["name"] for adapter in admin.done("GET", "/v1/lora_adapters")["data"]]
    canary = args.canary or (adapters + [base])[0]
    place = "/admin/deployments/" + args.name
    arms = [{"name": "stable", "model": base, "weight": 100}, {"name": "canary", "model": canary, "weight": 0}]
    first = admin.done("PUT", place, {"arms": arms})["revision"]

    due, answers, errors, over = queue.Queue(), [], [], threading.Event()
    body = {"model": args.name, "messages": [{"role": "user", "content": "where is my parcel?"}], "max_tokens": 4}

    def worker():
        client = Client(args.url, args.key)
        while (number := due.get()) is not None:
            sent = time.perf_counter()
            try:
                status, head, _ = client.call("POST", "/v1/chat/completions", {**body, "user": f"user-{number % 1000}"})
                if status == 200:
                    answers.append((sent, time.perf_counter(), head["x-experiment-arm"], head["x-adapter-version"]))
                else:
                    errors.append(f"status {status}")
            except Exception as error:
                errors.append(repr(error))

    def pace():
        began, number = time.perf_counter(), 0
        while not over.is_set():
            number += 1
            time.sleep(max(0.0, began + number / args.rate - time.perf_counter()))
            due.put(number)
        [due.put(None) for _ in threads]

    threads = [threading.Thread(target=worker) for _ in range(args.workers)]
    pacer = threading.Thread(target=pace)
    begun = time.perf_counter()
    [thread.start() for thread in threads + [pacer]]
    time.sleep(0.5)
    changes, said = [], []
    for _ in range(args.rollbacks):
        for arm, path, change in (("canary", "/weights", {"weights": {"canary": 100}}), ("stable", "/rollback", {"to_revision": first})):
            asked = time.perf_counter()
            answer = admin.done("POST", place + path, {**change, "reason": "load test"})
            changes.append((asked, time.perf_counter(), arm))
            if arm == "stable":
                said.append(answer["effective_after_us"])
            time.sleep(args.apart)
    over.set()
    [thread.join() for thread in threads + [pacer]]
    lasted = time.perf_counter() - begun
    admin.done("DELETE", place)

    calls = [answered - asked for asked, answered, arm in changes if arm == "stable"]
    wrong, effects = 0, []
    for index, (asked, answered, arm) in enumerate(changes):
        until = changes[index + 1][0] if index + 1 < len(changes) else float("inf")
        # Sent after the answer and received before the next change was asked for.
        wrong += sum(got != arm for sent, back, got, _ in answers if answered <= sent and back <= until)
        if arm == "stable":
            late = [sent - asked for sent, _, got, _ in answers if asked <= sent < until and got == "canary"]
            effects.append(max(late, default=0.0))
    versions = sorted({(arm, version) for _, _, arm, version in answers})
    mixed = len(versions) != len({arm for arm, _ in versions})
    ms = lambda values: {"p50": round(1e3 * percentile(values, 0.5), 3), "p99": round(1e3 * percentile(values, 0.99), 3), "max": round(1e3 * max(values), 3)}
    report = {
        "requests": len(answers), "rate": round(len(answers) / lasted, 1), "rollbacks": len(calls), "errors": len(errors),
        "wrong_arm": wrong, "versions": [f"{arm}: {version}" for arm, version in versions], "rollback_call_ms": ms(calls),
        "effective_ms_as_the_server_says": ms([us / 1e6 for us in said]), "effective_ms_seen_from_outside": ms(effects),
        "latency_ms": ms([back - sent for sent, back, _, _ in answers]),
    }
    if errors:
        report["first_error"] = errors[0]
    print(json.dumps(report))
    # What is seen from outside has this program's own pauses in it, and the way there.
    slow = max(said) / 1e3 > args.most_ms
    raise SystemExit(1 if errors or wrong or mixed or slow else 0)


if __name__ == "__main__":
    main()
