"""What guessing tokens is worth: the same questions to a server that guesses and to one that does not, A B A B.

usage: speculation.py --with URL --without URL --key KEY [--model M] [--questions rows.jsonl] [--temperature 0] [--tokens 200]
                      [--count 20] [--rounds 5]
needs: nothing but Python 3.9 or newer; two servers of the same base (--speculation-tokens 8 and 0, --response-cache 0).

Questions are the first messages of chat rows (JSON lines); without a file they are random words for /v1/completions, and answers are as
long as --tokens. One at a time. Prints one JSON line: tokens a second of both (medians over the rounds), their ratio, how many answers
differ (none may), and of the guesses how many were right.
"""
import argparse
import http.client
import json
import random
import statistics
import time
import urllib.parse


def call(given, url, method, path, body=None):
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=600)
    headers = {"authorization": "Bearer " + given.key, "content-type": "application/json"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    response = connection.getresponse()
    text = response.read().decode()
    if response.status != 200:
        raise RuntimeError(f"{response.status} {text[:300]}")
    return text


def ask(given, url, question, seed):
    """The answer and its tokens."""
    body = {"model": given.model, "temperature": given.temperature, "seed": seed, "max_tokens": given.tokens}
    if isinstance(question, str):
        answer = json.loads(call(given, url, "POST", "/v1/completions", body | {"prompt": question, "ignore_eos": True}))
        return answer["choices"][0]["text"], answer["usage"]["completion_tokens"]
    answer = json.loads(call(given, url, "POST", "/v1/chat/completions", body | {"messages": question}))
    return answer["choices"][0]["message"]["content"], answer["usage"]["completion_tokens"]


def guesses(given, url):
    """Guessed tokens so far, and those that were right."""
    lines = call(given, url, "GET", "/metrics").splitlines()
    read = lambda name: sum(float(line.split()[-1]) for line in lines if line.startswith(name))
    return read("switchyard_engine_speculated_tokens_total"), read("switchyard_engine_speculated_tokens_accepted_total")


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--with", dest="guessing", required=True)
    args.add_argument("--without", required=True)
    args.add_argument("--key", required=True)
    args.add_argument("--model", default="switchyard-base")
    args.add_argument("--questions")
    args.add_argument("--temperature", type=float, default=0.0)
    args.add_argument("--tokens", type=int, default=200)
    args.add_argument("--count", type=int, default=20)
    args.add_argument("--rounds", type=int, default=5)
    given = args.parse_args()
    rng = random.Random(3)
    if given.questions:
        rows = [json.loads(line) for line in open(given.questions, encoding="utf-8")]
        questions = [row["messages"][:1] for row in rows[: given.count]]
    else:
        questions = [" ".join(f"w{rng.randrange(10**6)}" for _ in range(30)) for _ in range(given.count)]
    speeds, said = {given.guessing: [], given.without: []}, {given.guessing: [], given.without: []}
    for number in range(given.rounds + 1):
        for url in speeds:
            began, tokens = time.perf_counter(), 0
            for index, question in enumerate(questions):
                answer, length = ask(given, url, question, 1000 * number + index)
                said[url].append(answer)
                tokens += length
            # The first round warms up.
            if number > 0:
                speeds[url].append(tokens / (time.perf_counter() - began))
    guessed, right = guesses(given, given.guessing)
    result = {
        "with_tok_s": round(statistics.median(speeds[given.guessing]), 1),
        "without_tok_s": round(statistics.median(speeds[given.without]), 1),
        "differ": sum(one != other for one, other in zip(said[given.guessing], said[given.without])),
        "answers": len(said[given.without]),
        "guessed": guessed,
        "right": right,
    }
    result["ratio"] = round(result["with_tok_s"] / result["without_tok_s"], 3)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
