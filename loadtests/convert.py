"""How fast /convert answers, and how often it is right.

    switchyard serve --threads 2 &
    SWITCHYARD_API_KEY=... python3 loadtests/convert.py --sentences models/eval/convert_handwritten.jsonl

Reads lines {"text": ..., "intent": ..., "task": ..., "when": ...} (the last three may be missing), asks for each one after the other
on one connection, `--connections` of them at a time, and prints one JSON line: latencies in milliseconds as a client sees them, what
the server says of tokens, and the shares of exact answers where the right ones are known. `--wrong FILE` keeps the wrong ones.
"""

import argparse
import http.client
import json
import os
import threading
import time
from urllib.parse import urlsplit


def read(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


class Client:
    def __init__(self, options):
        url = urlsplit(options.url)
        self.connection = http.client.HTTPConnection(url.hostname, url.port, timeout=60)
        self.headers = {"Authorization": f"Bearer {os.environ['SWITCHYARD_API_KEY']}", "Content-Type": "application/json"}

    def ask(self, body):
        began = time.perf_counter()
        self.connection.request("POST", "/convert", json.dumps(body), self.headers)
        reply = self.connection.getresponse()
        text = reply.read()
        took = (time.perf_counter() - began) * 1000
        if reply.status != 200:
            raise SystemExit(f"{reply.status}: {text.decode()}")
        return took, json.loads(text)


def judge(row, data):
    """Which parts are exactly right."""
    when = data["when"]["text"] if data["when"] else None
    parts = {"intent": data["intent"] == row["intent"], "task": data["task"] == row["task"], "when": when == row["when"]}
    return {**parts, "all": all(parts.values())}


def percentile(values, share):
    values = sorted(values)
    return round(values[min(len(values) - 1, int(share * len(values)))], 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--sentences", required=True)
    parser.add_argument("--model")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--most-words", type=int, default=1000, help="leave longer sentences out")
    parser.add_argument("--wrong", help="file for what was not exactly right")
    options = parser.parse_args()
    rows = [row for row in read(options.sentences) if len(row["text"].split()) <= options.most_words]
    body = {"model": options.model} if options.model else {}
    Client(options).ask({"text": "remind me to call mum tomorrow at six", **body})
    work = iter([row for _ in range(options.rounds) for row in rows])
    lock, results = threading.Lock(), []

    def run():
        client = Client(options)
        while True:
            with lock:
                row = next(work, None)
            if row is None:
                return
            took, answer = client.ask({"text": row["text"], **body})
            with lock:
                results.append((row, took, answer))

    began = time.perf_counter()
    threads = [threading.Thread(target=run) for _ in range(options.connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    times = [took for _, took, _ in results]
    summary = {
        "sentences": len(results),
        "connections": options.connections,
        "per_second": round(len(results) / seconds, 1),
        "ms": {name: percentile(times, share) for name, share in [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)]},
        "tokens": round(sum(answer["usage"]["completion_tokens"] for _, _, answer in results) / len(results), 1),
    }
    judged = [(row, answer, judge(row, answer["structured_data"])) for row, _, answer in results if "intent" in row]
    if judged:
        share = lambda part: round(sum(right[part] for _, _, right in judged) / len(judged), 4)
        summary["right"] = {part: share(part) for part in ["intent", "task", "when", "all"]}
    if options.wrong:
        with open(options.wrong, "w", encoding="utf-8") as out:
            for row, answer, right in judged:
                if not right["all"]:
                    print(json.dumps({"expected": row, "got": answer["structured_data"]}, ensure_ascii=False), file=out)
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
