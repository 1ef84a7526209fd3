"""The whole loop on one server, through its public API: CSV -> file -> job -> gate -> canary at 10 % -> live traffic -> promoted; then a
bad version: the gate refuses it, an operator waives it by name, its canary is taken back by itself. Prints the story as it happens.

usage: loop.py --url http://127.0.0.1:8080 --key ADMIN_KEY [--deployment house] [--rows 640] [--bake 5]
needs: the package openai.

The task is spoken commands for a home, answered by JSON, which the bundled base was not made for. "Users" call the deployment's name
all the time, and give a thumb for each answer. Ends with one JSON line; exits with 1 where the story went another way.
"""
import argparse
import csv
import io
import itertools
import json
import random
import sys
import threading
import time
import urllib.error
import urllib.request

from openai import OpenAI

DEVICES = ["light", "lamp", "heater", "radio", "fan", "music", "door", "window"]
ROOMS = ["kitchen", "bedroom", "bathroom", "garden", "office", "hall", "garage", "living room"]
STATES = {"on": ["turn on the {d} in the {r}", "switch the {r} {d} on", "please start the {d} in the {r}", "i want the {d} on in the {r}"],
          "off": ["turn off the {d} in the {r}", "switch the {r} {d} off", "please stop the {d} in the {r}", "no more {d} in the {r}"],
          "low": ["make the {d} in the {r} low", "turn down the {d} in the {r}", "set the {r} {d} to low"],
          "high": ["make the {d} in the {r} high", "turn up the {d} in the {r}", "set the {r} {d} to high"]}


def sentences():
    """What can be asked, with the right answers, in an order that is always the same."""
    rows = []
    for device, room, state in itertools.product(DEVICES, ROOMS, STATES):
        answer = json.dumps({"device": device, "room": room, "state": state}, separators=(",", ":"))
        rows += [(said.format(d=device, r=room), answer) for said in STATES[state]]
    random.Random(7).shuffle(rows)
    return rows


def broken(answer, index):
    """What a careless export might have done to an answer."""
    return answer[: len(answer) // 2] if index % 2 else answer.replace("room", "device").replace('"', "'")


def as_csv(rows):
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["prompt", "completion"])
    writer.writerows(rows)
    return out.getvalue().encode()


class Admin:
    """The admin API."""

    def __init__(self, url, key):
        self.url, self.key = url, key

    def __call__(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        head = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, head, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


class Traffic(threading.Thread):
    """Users, one after the other, until they are told to stop; each gives a thumb."""

    def __init__(self, client, admin, model, rows):
        super().__init__(daemon=True)
        self.client, self.admin, self.model, self.rows = client, admin, model, rows
        self.stopped, self.failed = threading.Event(), 0
        self.by_arm = {}

    def run(self):
        for number in itertools.count():
            if self.stopped.is_set():
                return
            said, wanted = self.rows[number % len(self.rows)]
            try:
                raw = self.client.chat.completions.with_raw_response.create(
                    model=self.model, messages=[{"role": "user", "content": said}], user=f"user-{number % 997}", temperature=0, max_tokens=48)
                arm, right = raw.headers.get("x-experiment-arm", "?"), raw.parse().choices[0].message.content.strip() == wanted
                counts = self.by_arm.setdefault(arm, [0, 0])
                counts[0] += 1
                counts[1] += right
                feedback = {"request_id": raw.headers["x-request-id"], "thumbs": "up" if right else "down"}
                status, answer = self.admin("POST", "/v1/feedback", feedback)
                assert status == 200, answer
            except Exception as error:
                self.failed += 1
                print("traffic:", error, flush=True)
                time.sleep(0.2)


def train(client, base, name, rows, suffix, metadata=None):
    """A job to its end; its model, and what its events say."""
    file = client.files.create(file=(name, io.BytesIO(as_csv(rows))), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model=base, training_file=file.id, suffix=suffix, seed=1, metadata=metadata)
    while job.status not in ("succeeded", "failed", "cancelled"):
        time.sleep(0.5)
        job = client.fine_tuning.jobs.retrieve(job.id)
    assert job.status == "succeeded", job.error
    return job, [event.message for event in reversed(client.fine_tuning.jobs.list_events(job.id, limit=100).data)]


def exact(client, model, rows):
    ask = lambda said: client.chat.completions.create(model=model, messages=[{"role": "user", "content": said}], temperature=0, max_tokens=48)
    return round(100 * sum(ask(said).choices[0].message.content.strip() == wanted for said, wanted in rows) / len(rows), 1)


def follow(admin, deployment, rollout_id=None, within=240):
    """A rollout to its end, its states on the way."""
    began, states = time.monotonic(), []
    while time.monotonic() - began < within:
        path = f"/admin/rollouts/{rollout_id}" if rollout_id else f"/admin/rollouts?deployment={deployment}&limit=1"
        status, answer = admin("GET", path)
        assert status == 200, answer
        rollout = answer if rollout_id else (answer["data"] or [None])[0]
        if rollout:
            state = (rollout["state"], rollout.get("step"))
            if state not in states:
                states.append(state)
                print("rollout:", rollout["state"], "step", rollout.get("step"), rollout.get("reason") or "", flush=True)
            if rollout["state"] in ("promoted", "rolled_back", "aborted"):
                return rollout, states
        time.sleep(0.3)
    raise SystemExit(f"the rollout did not end within {within} s: {states}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--deployment", default="house")
    parser.add_argument("--rows", type=int, default=640)
    parser.add_argument("--bake", type=int, default=5)
    given = parser.parse_args()
    client = OpenAI(base_url=f"{given.url}/v1", api_key=given.key, max_retries=0)
    admin, name = Admin(given.url, given.key), given.deployment
    base = client.models.list().data[0].id
    rows = sentences()
    learn, judge, asked = rows[: given.rows], rows[given.rows : given.rows + 60], rows[given.rows + 60 :]

    status, made = admin("POST", "/admin/deployments", {"name": name, "arms": [{"name": "stable", "model": base, "weight": 100}]})
    assert status == 200, made
    traffic = Traffic(client, admin, name, asked)
    traffic.start()

    before = exact(client, name, judge)
    began = time.monotonic()
    job, events = train(client, base, "home.csv", learn, "home", {
        "rollout": name, "rollout_steps": "10,100", "rollout_bake_seconds": str(given.bake), "rollout_min_samples": "20"})
    print(f"job {job.id} -> {job.fine_tuned_model}")
    print("gate:", *[event for event in events if "gate" in event or "ollout" in event], sep="\n  ", flush=True)
    good, steps = follow(admin, name)
    loop_seconds = round(time.monotonic() - began, 1)
    after = exact(client, name, judge)

    corrupted = [(said, broken(answer, index)) for index, (said, answer) in enumerate(learn)]
    bad_job, bad_events = train(client, base, "corrupted.csv", corrupted, "home", {"rollout": name, "rollout_steps": "10,100"})
    refused = [event for event in bad_events if "gate" in event.lower() or "rollout" in event.lower()]
    print("gate:", *refused[-2:], sep="\n  ")
    # The deployment is everybody's, the model its tenant's: whose it is has to be said.
    body = {"model": bad_job.fine_tuned_model, "from_tenant": bad_job.organization_id, "steps": [10, 100], "bake_seconds": 3600, "min_samples": 10_000}
    status, answer = admin("POST", f"/admin/deployments/{name}/rollouts", body)
    assert 400 <= status < 500, (status, answer)
    print("without a name:", answer["error"]["message"])
    status, waived = admin("POST", f"/admin/deployments/{name}/rollouts", {**body, "waived_by": "Olga Operator"})
    assert status == 200, waived
    back, back_steps = follow(admin, name, waived["id"])
    still = exact(client, name, judge)
    traffic.stopped.set()
    traffic.join()

    _, history = admin("GET", f"/admin/deployments/{name}/history?limit=100")
    canary = next(revision for revision in history["data"] if any(arm["model"].startswith(bad_job.fine_tuned_model) for arm in revision["arms"]))
    _, results = admin("GET", f"/admin/deployments/{name}/results?experiment={canary['experiment_id']}")
    _, audit = admin("GET", "/v1/organization/audit_logs?limit=100")
    print("results:", json.dumps(results)[:3000])
    for revision in reversed(history["data"]):
        print("revision", revision.get("revision"), revision.get("reason") or "", flush=True)
    story = [entry["type"] for entry in reversed(audit["data"]) if entry["type"].startswith(("deployment", "rollout"))]
    print("audit:", *story, sep="\n  ")
    print(json.dumps({
        "base_exact": before, "exact": after, "exact_after_rollback": still, "seconds_from_csv_to_promoted": loop_seconds,
        "good": good["state"], "bad": back["state"], "reason": back.get("reason"), "states": [steps, back_steps],
        "traffic": traffic.by_arm, "failed_requests": traffic.failed, "audit_entries": len(story)}))
    right = good["state"] == "promoted" and back["state"] == "rolled_back" and still == after and traffic.failed == 0
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
