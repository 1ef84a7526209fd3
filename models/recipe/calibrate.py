"""Fits src/convert/calibration.json: from the probability of a model's choices to how often such answers are right.

    switchyard serve --convert-unknown-below 0 &
    SWITCHYARD_API_KEY=... python3 calibrate.py --sentences held_out.jsonl --out ../../src/convert/calibration.json

Sentences are lines {"text", "intent", "task", "when"} that the model was not trained on, and not those that it is judged by.
Each is asked once; an answer is right when intent, task and when are. `--pairs FILE` reads [probability, right] lines instead
(`--keep FILE` writes them). The fit is isotonic regression by pooling neighbours (Ayer et al. 1955), pulled a little towards the
overall share so that no group claims certainty; its steps become points with straight lines between them. Prints how far confidence
is from the truth before and after (expected calibration error in ten bins), the second one by cross-validation.
"""

import argparse
import http.client
import json
import os
import random
from urllib.parse import urlsplit

# Sentences that a group has at least.
LEAST = 15
# Sentences' worth of the overall share that is mixed into each group.
PRIOR = 2


def ask(options):
    url = urlsplit(options.url)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=60)
    headers = {"Authorization": f"Bearer {os.environ['SWITCHYARD_API_KEY']}", "Content-Type": "application/json"}
    pairs = []
    for line in open(options.sentences, encoding="utf-8"):
        row = json.loads(line)
        body = {"text": row["text"], **({"model": options.model} if options.model else {})}
        connection.request("POST", "/convert", json.dumps(body), headers)
        reply = connection.getresponse()
        answer = json.loads(reply.read())
        if reply.status != 200:
            raise SystemExit(f"{reply.status}: {answer}")
        data = answer["structured_data"]
        when = data["when"]["text"] if data["when"] else None
        right = (data["intent"], data["task"], when) == (row["intent"], row["task"], row["when"])
        pairs.append((float(reply.headers["x-convert-probability"]), int(right)))
    return pairs


def fit(pairs):
    """Points (probability, share of right answers), ascending."""
    overall = sum(right for _, right in pairs) / len(pairs)
    groups, pending = [], []
    for pair in sorted(pairs):
        pending.append(pair)
        if len(pending) >= LEAST:
            groups.append(pending)
            pending = []
    if pending:
        groups = groups[:-1] + [(groups[-1] if groups else []) + pending]
    blocks = []
    for group in groups:
        blocks.append(group)
        share = lambda block: sum(right for _, right in block) / len(block)
        while len(blocks) > 1 and share(blocks[-2]) >= share(blocks[-1]):
            last = blocks.pop()
            blocks[-1] = blocks[-1] + last
    points = {}
    for block in blocks:
        raw = sum(probability for probability, _ in block) / len(block)
        points[round(raw, 6)] = (sum(right for _, right in block) + PRIOR * overall) / (len(block) + PRIOR)
    points = sorted(points.items())
    # The prior may turn neighbours of different sizes around.
    kept = []
    for raw, right in points:
        kept.append((raw, max(round(right, 4), kept[-1][1] if kept else 0)))
    if kept[0][0] > 0:
        kept.insert(0, (0.0, round(kept[0][1] / 2, 4)))
    return kept


def apply(points, raw):
    if raw <= points[0][0]:
        return points[0][1]
    for (low, start), (high, end) in zip(points, points[1:]):
        if raw <= high:
            return start + (end - start) * (raw - low) / (high - low)
    return points[-1][1]


def error(pairs):
    """Expected calibration error of (confidence, right), ten bins."""
    bins = [[] for _ in range(10)]
    for confidence, right in pairs:
        bins[min(9, int(confidence * 10))].append((confidence, right))
    gap = lambda group: abs(sum(c for c, _ in group) - sum(r for _, r in group))
    return sum(gap(group) for group in bins) / len(pairs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--sentences")
    parser.add_argument("--pairs")
    parser.add_argument("--keep")
    parser.add_argument("--model")
    parser.add_argument("--out")
    options = parser.parse_args()
    if options.pairs:
        pairs = [tuple(json.loads(line)) for line in open(options.pairs)]
    elif options.sentences:
        pairs = ask(options)
    else:
        raise SystemExit("--sentences or --pairs is needed")
    if options.keep:
        with open(options.keep, "w") as out:
            out.writelines(json.dumps(pair) + "\n" for pair in pairs)
    order = list(pairs)
    random.Random(1).shuffle(order)
    held = []
    for fold in range(5):
        points = fit([pair for index, pair in enumerate(order) if index % 5 != fold])
        held += [(apply(points, raw), right) for raw, right in order[fold::5]]
    points = fit(pairs)
    summary = {
        "sentences": len(pairs),
        "right": round(sum(right for _, right in pairs) / len(pairs), 4),
        "error_before": round(error(pairs), 4),
        "error_after": round(error(held), 4),
    }
    print(json.dumps(summary))
    if options.out:
        with open(options.out, "w") as out:
            json.dump({"points": points}, out)
            out.write("\n")


if __name__ == "__main__":
    main()
