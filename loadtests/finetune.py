"""Fine-tuning through the official client, from rows to a model that is called by name, beside the base.

usage: finetune.py --url http://127.0.0.1:8080 --key KEY [--rows 500] [--base NAME]
needs: the package openai.

Writes rows of a task that the bundled base was not made for (spoken commands for a home, answered by JSON), uploads them, creates a
job, follows its events, then asks the base and the new model what held-out rows ask: phrasings of rooms, devices and states that were
never shown together. Prints one JSON line: rows, seconds from creation to success, exact matches of both in percent.
"""
import argparse
import io
import itertools
import json
import random
import time

from openai import OpenAI

SYSTEM = "Answer with JSON of the keys device, room and state."
DEVICES = ["light", "lamp", "heater", "radio", "fan", "music", "door", "window"]
ROOMS = ["kitchen", "bedroom", "bathroom", "garden", "office", "hall", "garage", "living room"]
STATES = {"on": ["turn on the {d} in the {r}", "switch the {r} {d} on", "please start the {d} in the {r}", "i want the {d} on in the {r}"],
          "off": ["turn off the {d} in the {r}", "switch the {r} {d} off", "please stop the {d} in the {r}", "no more {d} in the {r}"],
          "low": ["make the {d} in the {r} low", "turn down the {d} in the {r}", "set the {r} {d} to low"],
          "high": ["make the {d} in the {r} high", "turn up the {d} in the {r}", "set the {r} {d} to high"]}


def rows(count, held_out):
    every = [(d, r, s, p) for d, r, s in itertools.product(DEVICES, ROOMS, STATES) for p in STATES[s]]
    random.Random(7).shuffle(every)
    combinations = sorted({(d, r, s) for d, r, s, _ in every})
    random.Random(8).shuffle(combinations)
    unseen = set(combinations[: len(combinations) // 5])
    row = lambda d, r, s, p: (p.format(d=d, r=r), json.dumps({"device": d, "room": r, "state": s}, separators=(",", ":")))
    train = [row(*one) for one in every if one[:3] not in unseen][:count]
    judge = [row(*one) for one in every if one[:3] in unseen][:held_out]
    return train, judge


def messages(text):
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]


def exact(client, model, judge):
    right = 0
    for text, answer in judge:
        reply = client.chat.completions.create(model=model, messages=messages(text), temperature=0, max_tokens=48)
        right += reply.choices[0].message.content.strip() == answer
    return 100 * right / len(judge)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--held-out", type=int, default=100)
    parser.add_argument("--base")
    given = parser.parse_args()
    client = OpenAI(base_url=f"{given.url}/v1", api_key=given.key, max_retries=0)
    base = given.base or client.models.list().data[0].id
    train, judge = rows(given.rows, given.held_out)
    lines = [json.dumps({"messages": messages(text) + [{"role": "assistant", "content": answer}]}) for text, answer in train]
    file = client.files.create(file=("home.jsonl", io.BytesIO("\n".join(lines).encode())), purpose="fine-tune")
    began = time.monotonic()
    job = client.fine_tuning.jobs.create(model=base, training_file=file.id, suffix="home", seed=1)
    told = set()
    while job.status not in ("succeeded", "failed", "cancelled"):
        time.sleep(1)
        for event in reversed(client.fine_tuning.jobs.list_events(job.id, limit=20).data):
            if event.id not in told:
                told.add(event.id)
                print(event.message, flush=True)
        job = client.fine_tuning.jobs.retrieve(job.id)
    seconds = time.monotonic() - began
    assert job.status == "succeeded", job.error
    out = dict(rows=len(train), held_out=len(judge), seconds=round(seconds, 1), model=job.fine_tuned_model,
               base_exact=exact(client, base, judge), exact=exact(client, job.fine_tuned_model, judge),
               checkpoints=[c.fine_tuned_model_checkpoint for c in client.fine_tuning.jobs.checkpoints.list(job.id).data])
    print(json.dumps(out))


if __name__ == "__main__":
    main()
