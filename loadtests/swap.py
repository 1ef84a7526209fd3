"""Hot swap under load: running streams while an adapter is replaced in place, against the same load undisturbed.

usage: swap.py --url http://127.0.0.1:8080 --key KEY A B     (two PEFT directories below an adapter root)
needs: nothing but Python 3.9 or newer.

Eight clients ask the adapter greedily, stream after stream. Rounds alternate: undisturbed, then with replacements A, B, A, ...
evenly spread over the streams. Every answer must equal, token for token, what the version named in its own header answers
alone. Prints one JSON line: replacements, answers, mismatches, failures, and the 50th and 99th percentile of the gaps between
tokens in both kinds of round, with their ratio. Exits with 1 on a failure, a mismatch or a ratio above --most-ratio.
"""
import argparse
import http.client
import json
import threading
import time
import urllib.parse

PROMPTS = [
    "remind me to call mum tomorrow at six",
    "what can you do for me",
    "add oat milk and two lemons to the shopping list",
    "wake me up at half past seven on monday",
    "send a message to nadia that i am running late",
    "play some quiet piano music in the kitchen",
    "what will the weather be like on friday",
    "set a timer for twenty five minutes",
]


class Server:
    def __init__(self, url, key):
        self.address, self.key = urllib.parse.urlsplit(url).netloc, key

    def post(self, path, body):
        connection = http.client.HTTPConnection(self.address, timeout=60)
        headers = {"authorization": "Bearer " + self.key, "content-type": "application/json"}
        connection.request("POST", path, json.dumps(body), headers)
        return connection, connection.getresponse()

    def swap(self, name, path):
        connection, response = self.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": path, "load_inplace": True})
        text = response.read().decode()
        connection.close()
        if response.status != 200:
            raise SystemExit(f"replacing {name}: {response.status} {text}")

    def ask(self, name, prompt, tokens):
        """Token ids of a greedy answer, its version, and the gaps between its tokens in seconds."""
        body = {"model": name, "messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": tokens,
                "stream": True, "ignore_eos": True, "logprobs": True}
        connection, response = self.post("/v1/chat/completions", body)
        if response.status != 200:
            raise RuntimeError(f"{response.status} {response.read().decode()}")
        version, answer, stamps, finished = response.headers["x-adapter-version"], [], [], False
        for line in response:
            if not line.startswith(b"data: "):
                continue
            if line.strip() == b"data: [DONE]":
                finished = True
                break
            now, event = time.perf_counter(), json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(json.dumps(event))
            for choice in event["choices"]:
                content = (choice.get("logprobs") or {}).get("content") or []
                answer += [(entry["token"], round(entry["logprob"], 6)) for entry in content]
                if content:
                    stamps.append(now)
        connection.close()
        if not finished:
            raise RuntimeError("the stream broke off")
        return answer, version, [b - a for a, b in zip(stamps, stamps[1:])]


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))] if values else float("nan")


def load(server, name, args, expected):
    """All clients' streams once; gaps, answers, mismatches, failures."""
    out, lock = {"gaps": [], "answers": 0, "mismatches": 0, "failures": []}, threading.Lock()

    def client(index):
        for turn in range(args.streams):
            prompt = PROMPTS[(index + turn) % len(PROMPTS)]
            try:
                answer, version, gaps = server.ask(name, prompt, args.max_tokens)
            except Exception as error:
                with lock:
                    out["failures"].append(repr(error))
                continue
            digest = version.split("+")[-1]
            right = expected.get((digest, prompt)) == answer
            with lock:
                out["answers"] += 1
                out["mismatches"] += not right
                out["gaps"] += gaps

    threads = [threading.Thread(target=client, args=(i,)) for i in range(args.clients)]
    [thread.start() for thread in threads]
    return threads, out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs=2, metavar="DIR")
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--key", required=True)
    parser.add_argument("--name", default="swapped")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--streams", type=int, default=12, help="streams of each client in a round")
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--swaps", type=int, default=200, help="replacements over all rounds")
    parser.add_argument("--rounds", type=int, default=4, help="pairs of rounds")
    parser.add_argument("--most-ratio", type=float, default=1.5, help="of the 99th percentiles, swapping to still")
    args = parser.parse_args()
    server, expected = Server(args.url, args.key), {}
    for path in args.versions:
        server.swap(args.name, path)
        for prompt in PROMPTS:
            answer, version, _ = server.ask(args.name, prompt, args.max_tokens)
            expected[(version.split("+")[-1], prompt)] = answer
    if len({digest for digest, _ in expected}) != 2:
        raise SystemExit("the two directories hold the same version")
    totals = {kind: {"gaps": [], "answers": 0, "mismatches": 0, "failures": []} for kind in ("still", "swapping")}
    swaps, lasted = 0, None
    for _ in range(args.rounds):
        for kind in totals:
            begun = time.perf_counter()
            threads, out = load(server, args.name, args, expected)
            if kind == "still":
                [thread.join() for thread in threads]
                lasted = time.perf_counter() - begun
            else:
                each = args.swaps // args.rounds
                for step in range(each):
                    time.sleep(max(0.0, begun + lasted * (step + 0.5) / each - time.perf_counter()))
                    server.swap(args.name, args.versions[swaps % 2])
                    swaps += 1
                [thread.join() for thread in threads]
            for field in totals[kind]:
                totals[kind][field] += out[field]
    report = {"swaps": swaps, "clients": args.clients, "max_tokens": args.max_tokens}
    for kind, out in totals.items():
        report[kind] = {"answers": out["answers"], "mismatches": out["mismatches"], "failures": len(out["failures"]),
                        "gap_ms_p50": round(1e3 * percentile(out["gaps"], 0.5), 3), "gap_ms_p99": round(1e3 * percentile(out["gaps"], 0.99), 3)}
        if out["failures"]:
            report[kind]["first_failure"] = out["failures"][0]
    report["p99_ratio"] = round(report["swapping"]["gap_ms_p99"] / report["still"]["gap_ms_p99"], 3)
    print(json.dumps(report))
    wrong = any(r["mismatches"] or r["failures"] for r in (report["still"], report["swapping"]))
    raise SystemExit(1 if wrong or not report["p99_ratio"] <= args.most_ratio else 0)


if __name__ == "__main__":
    main()
