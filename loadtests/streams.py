"""Streams at once, against one server or several side by side.

usage: streams.py --server NAME=URL[,KEY] [--server NAME=URL,llamacpp]... [--adapters a{:02d}] [--cases CASE,...]
needs: nothing but Python 3.9 or newer.

Cases, run for every server in turn, round after round (A B A B), with medians over the rounds:
  prefill    one prompt of --prefill-tokens and one new token; tokens of the prompt per second
  single     one stream on the base
  base       16 streams on the base
  same       16 streams on one adapter
  distinct   16 streams on 16 different adapters
Prompts are random token ids, different in every request, so that no prefix is shared; answers are greedy and of a fixed length.
`--adapters` is the pattern of adapter names. A server marked `llamacpp` is llama.cpp's, started with its adapters by `--lora`:
it takes the adapter as a list of scales and is asked not to keep prompts.

For each case and server one JSON line: tokens per second end to end (prefill included), tokens per second after the last first
token, time to the first token and gap between tokens (50th and 95th percentile, milliseconds).
"""
import argparse
import http.client
import json
import random
import statistics
import threading
import time
import urllib.parse

STREAMS = {"prefill": 1, "single": 1, "base": 16, "same": 16, "distinct": 16}


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))] if values else float("nan")


class Server:
    def __init__(self, text, model):
        self.model = model
        self.name, _, rest = text.partition("=")
        url, _, extra = rest.partition(",")
        self.address = urllib.parse.urlsplit(url).netloc
        self.llamacpp, self.key = extra == "llamacpp", None if extra == "llamacpp" else extra

    def stream(self, prompt, tokens, adapter, pattern):
        """Moments of the start and of every token, seconds."""
        body = {"model": self.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True, "ignore_eos": True}
        if self.llamacpp:
            body.update(cache_prompt=False, lora=[{"id": adapter or 0, "scale": 0.0 if adapter is None else 1.0}])
        elif adapter is not None:
            body["model"] = pattern.format(adapter)
        headers = {"content-type": "application/json"}
        if self.key:
            headers["authorization"] = "Bearer " + self.key
        connection = http.client.HTTPConnection(self.address, timeout=900)
        begun, stamps = time.perf_counter(), []
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"{self.name}: {response.status} {response.read().decode()}")
        for line in response:
            if line.startswith(b"data: {") and json.loads(line[6:]).get("choices"):
                stamps.append(time.perf_counter())
        connection.close()
        return begun, stamps


def wave(server, case, args, seed):
    """All streams of a case at once."""
    rng = random.Random(f"{seed} {case}")
    length, tokens = (args.prefill_tokens, 1) if case == "prefill" else (args.prompt_tokens, args.max_tokens)
    pick = {"same": lambda i: 0, "distinct": lambda i: i}.get(case, lambda i: None)
    count = STREAMS[case]
    prompts = [[rng.randrange(1000, args.vocabulary) for _ in range(length)] for _ in range(count)]
    out, failures = [None] * count, []

    def client(index):
        try:
            out[index] = server.stream(prompts[index], tokens, pick(index), args.adapters)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=client, args=(index,)) for index in range(count)]
    begun = time.perf_counter()
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    if failures:
        raise SystemExit(f"{case}: {failures[0]}")
    end, first = max(stamps[-1] for _, stamps in out), max(stamps[0] for _, stamps in out)
    # Tokens whose text is not complete yet may come with the next one: what was asked for is what was made.
    made = count * (length if case == "prefill" else tokens)
    gaps = [b - a for _, stamps in out for a, b in zip(stamps, stamps[1:])]
    starts = [stamps[0] - start for start, stamps in out]
    after = sum(sum(1 for stamp in stamps if stamp > first) for _, stamps in out)
    figures = {"tok_s": made / (end - begun), "first_ms_p50": 1e3 * percentile(starts, 0.5), "first_ms_p95": 1e3 * percentile(starts, 0.95)}
    if tokens > 1:
        figures |= {"decode_tok_s": after / max(1e-9, end - first), "gap_ms_p50": 1e3 * percentile(gaps, 0.5), "gap_ms_p95": 1e3 * percentile(gaps, 0.95)}
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", action="append", required=True, metavar="NAME=URL[,KEY|,llamacpp]")
    parser.add_argument("--cases", default=",".join(STREAMS))
    parser.add_argument("--model", default="m", help="name of the base")
    parser.add_argument("--adapters", default="a{:02d}")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--prefill-tokens", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=30000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    servers = [Server(text, args.model) for text in args.server]
    for case in args.cases.split(","):
        rounds = {server.name: [] for server in servers}
        for turn in range(args.rounds):
            for server in servers:
                rounds[server.name].append(wave(server, case, args, 1000 * args.seed + turn))
        for server in servers:
            runs = rounds[server.name]
            medians = {figure: round(statistics.median(run[figure] for run in runs), 2) for figure in runs[0]}
            spread = [round(min(run["tok_s"] for run in runs), 2), round(max(run["tok_s"] for run in runs), 2)]
            print(json.dumps({"case": case, "server": server.name, **medians, "tok_s_range": spread}), flush=True)


if __name__ == "__main__":
    main()
