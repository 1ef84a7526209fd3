"""A thousand adapters in memory for a few: what a budget for adapters costs, against a server that keeps all of them.

usage: residency.py --bounded URL --unbounded URL --key KEY --adapter PEFT_DIR --root ADAPTER_ROOT [--adapters 1000] [--seconds 30] [--rounds 3]
needs: nothing but Python 3.9 or newer; two servers of the same base, one with --adapter-memory, both with --adapter-root ADAPTER_ROOT.

Makes the adapters from one (each differs from it in one weight), loads them into both servers, and asks for them with
probabilities as 1/rank (Zipf, 1.0) from 16 clients, A B A B. Then it asks a warm adapter once in half a second while eight clients ask
for cold ones, one after the other. Prints one JSON line: output tokens a second of both and their ratio, failures, and the warm
adapter's 95th percentile until the first token in both with their ratio.
"""
import argparse
import http.client
import json
import pathlib
import random
import shutil
import statistics
import threading
import time
import urllib.parse


class Server:
    def __init__(self, url, key):
        self.address = urllib.parse.urlsplit(url).netloc
        self.headers = {"authorization": "Bearer " + key, "content-type": "application/json"}

    def post(self, path, body):
        connection = http.client.HTTPConnection(self.address, timeout=300)
        connection.request("POST", path, json.dumps(body), self.headers)
        return connection.getresponse()

    def ask(self, name, prompt, tokens):
        """Seconds until the first token, and the number of tokens."""
        began, first, count = time.perf_counter(), None, 0
        response = self.post("/v1/completions", {"model": name, "prompt": prompt, "max_tokens": tokens, "stream": True, "ignore_eos": True,
                                                 "stream_options": {"include_usage": True}})
        if response.status != 200:
            raise RuntimeError(f"{response.status} {response.read().decode()[:300]}")
        for line in response:
            if line.startswith(b"data: {"):
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    raise RuntimeError(line.decode())
                if chunk.get("choices") and first is None:
                    first = time.perf_counter() - began
                if chunk.get("usage"):
                    count = chunk["usage"]["completion_tokens"]
        return first, count


def make(given):
    """The adapters, as directories below the root."""
    source, out = pathlib.Path(given.adapter), pathlib.Path(given.root)
    weights = bytearray((source / "adapter_model.safetensors").read_bytes())
    names = [f"r{number:04}" for number in range(given.adapters)]
    for number, name in enumerate(names):
        target = out / name
        if not target.exists():
            target.mkdir(parents=True)
            shutil.copy(source / "adapter_config.json", target)
            # The low bytes of the last weights: a small change, another digest.
            weights[-4], weights[-2] = number % 256, number // 256
            (target / "adapter_model.safetensors").write_bytes(weights)
    return names


def words(rng, count):
    return " ".join(rng.choice(["river", "stone", "garden", "seven", "winter", "copper", "letter", "market"]) + str(rng.randrange(1000)) for _ in range(count))


def crowd(server, names, given, seed):
    """Output tokens a second of 16 clients, and failures."""
    shares = [1 / rank for rank in range(1, len(names) + 1)]
    order = names[:]
    random.Random(5).shuffle(order)
    end, lock, total, failures = time.perf_counter() + given.seconds, threading.Lock(), [0], []

    def client(number):
        rng = random.Random(seed * 100 + number)
        while time.perf_counter() < end:
            name = rng.choices(order, shares)[0]
            try:
                _, count = server.ask(name, words(rng, given.words), given.tokens)
                with lock:
                    total[0] += count
            except Exception as error:  # noqa: BLE001
                failures.append(str(error))

    began = time.perf_counter()
    threads = [threading.Thread(target=client, args=(number,)) for number in range(16)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return total[0] / (time.perf_counter() - began), failures


def storm(server, names, given, seed):
    """95th percentile of a warm adapter's first token in ms while eight clients ask for one cold adapter after the other, and failures."""
    warm, cold = names[0], names[1:]
    random.Random(seed).shuffle(cold)
    end, failures, firsts = time.perf_counter() + given.seconds, [], []
    places = iter(cold * 100)
    lock = threading.Lock()

    def client(number):
        rng = random.Random(seed * 100 + number)
        while time.perf_counter() < end:
            with lock:
                name = next(places)
            try:
                server.ask(name, words(rng, given.words), given.tokens)
            except Exception as error:  # noqa: BLE001
                failures.append(str(error))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    [thread.start() for thread in threads]
    rng = random.Random(seed)
    while time.perf_counter() < end:
        at = time.perf_counter()
        firsts.append(server.ask(warm, words(rng, given.words), 4)[0])
        time.sleep(max(0.0, at + 0.5 - time.perf_counter()))
    [thread.join() for thread in threads]
    firsts.sort()
    return 1000 * firsts[int(0.95 * len(firsts))], failures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bounded", required=True)
    parser.add_argument("--unbounded", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--adapter", required=True)
    parser.add_argument("--root", required=True)
    parser.add_argument("--adapters", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--words", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=16)
    given = parser.parse_args()
    names = make(given)
    servers = {"bounded": Server(given.bounded, given.key), "unbounded": Server(given.unbounded, given.key)}
    for server in servers.values():
        for name in names:
            response = server.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(pathlib.Path(given.root).resolve() / name)})
            text = response.read().decode()
            assert response.status == 200 or "already" in text, text
    speed, first, failures = {kind: [] for kind in servers}, {kind: [] for kind in servers}, []
    for number in range(given.rounds):
        for kind, server in servers.items():
            rate, failed = crowd(server, names, given, number)
            speed[kind].append(rate)
            failures += failed
    for number in range(given.rounds):
        for kind, server in servers.items():
            warm, failed = storm(server, names, given, number)
            first[kind].append(warm)
            failures += failed
    median = {kind: statistics.median(rates) for kind, rates in speed.items()}
    slow = {kind: statistics.median(times) for kind, times in first.items()}
    print(json.dumps({
        "tokens_s": {kind: round(rate, 1) for kind, rate in median.items()}, "share": round(median["bounded"] / median["unbounded"], 3),
        "warm_first_token_p95_ms": {kind: round(value, 1) for kind, value in slow.items()},
        "warm_ratio": round(slow["bounded"] / slow["unbounded"], 3), "failures": len(failures), "first_failure": failures[:1],
        "rounds": {"tokens_s": speed, "first": first},
    }))


if __name__ == "__main__":
    main()
