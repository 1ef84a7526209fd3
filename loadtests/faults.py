"""Ten minutes of faults under load: what is around two replicas fails, one thing after the other, and nobody lends a hand.

usage: faults.py --binary target/release/switchyard [--seconds 600] [--out FILE]
needs: root on Linux, PostgreSQL (initdb, pg_ctl), redis-server, libfaketime (Debian: faketime), Python 3.9 or newer.

Two replicas of the bundled base share a PostgreSQL, a Redis and a directory of objects. Workers ask all the time, whole and streamed:
the base, an adapter, another server (--upstream of this script's own), and a failover from that server to the base. One after the
other, again and again until the time is over: the database restarts, Redis is away for 20 s, one replica's disk is full for 20 s, the
other server hangs for 20 s, the directory of objects is away for 20 s, the wall clock of one replica jumps an hour ahead and back, one
replica is killed and started again.

At the end every process is stopped in order, and the ledger is compared with what was received: each answer that a client has in full
is there once, with the tokens that the client was told; nothing is there twice; sums by the hour are those of the rows. No log may
hold a panic. After each fault the time is taken until everything is answered again. Prints one JSON line; exits with 1 where anything is
lost, billed twice or panicked, or a fault is not over 30 s after its end.
"""
import argparse
import http.client
import http.server
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
ADMIN = "sk-sy-faults-0123456789abcdef0123456789"
KINDS = ["base", "adapter", "other", "failover"]
MODELS = {"base": "switchyard-base", "adapter": "pirate", "other": "other", "failover": "either"}


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}")
    return done.stdout


class Postgres:
    def __init__(self, place):
        self.bin = pathlib.Path(sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))[-1])
        self.place, self.socket = place, place / "s"
        self.socket.mkdir(parents=True)
        shutil.chown(place, "postgres")
        shutil.chown(self.socket, "postgres")
        self.own("initdb", "-D", place / "data", "-U", "switchyard", "-A", "trust", "-E", "UTF8")
        self.start()
        self.url = f"postgres://switchyard@localhost/postgres?host={self.socket}"

    def own(self, program, *arguments):
        return run("runuser", "-u", "postgres", "--", self.bin / program, *arguments, cwd="/")

    def start(self):
        # What the log of a real one would survive, this one's survives too: fsync stays on.
        options = f"-k {self.socket} -c listen_addresses='' -c max_connections=100"
        self.own("pg_ctl", "-D", self.place / "data", "-l", self.place / "log", "-w", "-o", options, "start")

    def stop(self, mode="immediate"):
        self.own("pg_ctl", "-D", self.place / "data", "-m", mode, "-w", "stop")

    def ask(self, sql):
        out = run("psql", "-h", self.socket, "-U", "switchyard", "-d", "postgres", "-Atc", sql)
        return [line.split("|") for line in out.splitlines()]


class Redis:
    def __init__(self, place):
        self.place = place
        place.mkdir()
        self.start()

    def start(self):
        command = ["redis-server", "--port", "0", "--save", "", "--appendonly", "no", "--unixsocket", self.place / "s", "--dir", self.place]
        self.child = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)

    def stop(self):
        self.child.kill()
        self.child.wait()


class Other:
    """Another server: answers chats and completions with words, or hangs."""

    def __init__(self):
        other = self
        self.hangs = threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                while other.hangs.is_set():
                    time.sleep(0.1)
                usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
                choice = {"index": 0, "finish_reason": "stop"}
                if body.get("stream"):
                    events = [{"choices": [{"index": 0, "delta": {"role": "assistant", "content": "a b c"}, "finish_reason": None}]}]
                    events += [{"choices": [{**choice, "delta": {}}]}, {"choices": [], "usage": usage}]
                    common = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
                    text = "".join(f"data: {json.dumps({**common, **event})}\n\n" for event in events) + "data: [DONE]\n\n"
                    kind = "text/event-stream"
                else:
                    message = {"role": "assistant", "content": "a b c"}
                    text = json.dumps({"id": "x", "object": "chat.completion", "created": 1, "model": "m",
                                       "choices": [{**choice, "message": message}], "usage": usage})
                    kind = "application/json"
                try:
                    self.send_response(200)
                    self.send_header("content-type", kind)
                    self.send_header("content-length", str(len(text)))
                    self.end_headers()
                    self.wfile.write(text.encode())
                except OSError:
                    pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Replica:
    def __init__(self, number, binary, place, database, redis, objects, other, faketime):
        self.number, self.binary, self.place = number, binary, place
        self.port = free_port()
        self.disk = place / "disk"
        self.disk.mkdir(parents=True)
        run("mount", "-t", "tmpfs", "-o", "size=96m", "switchyard-faults", self.disk)
        self.clock = place / "clock"
        self.set_clock(0)
        config = place / "switchyard.toml"
        config.write_text(f"""
listen = "127.0.0.1:{self.port}"
data_dir = "{self.disk}/data"
database = "{database}"
redis_url = "unix://{redis}/s"
redis_local_share = 0.5
objects = "file://{objects}"
objects_cache = "32MiB"
threads = 1
log_level = "warn"
response_cache = "0"

[[upstream]]
name = "other"
address = "{other}"
model = "m"
input_price = 1
output_price = 1
first_event_timeout = "2s"
retries = 0

[[failover]]
name = "either"
models = ["other", "switchyard-base"]
""")
        self.log = open(place / "log", "ab")
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(place), "SWITCHYARD_ADMIN_KEY": ADMIN,
                            "SWITCHYARD_SECRET_KEY": "5a" * 32, "LD_PRELOAD": faketime, "FAKETIME_TIMESTAMP_FILE": str(self.clock),
                            "FAKETIME_NO_CACHE": "1", "DONT_FAKE_MONOTONIC": "1"}
        self.start()

    def set_clock(self, seconds):
        new = self.clock.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.replace(self.clock)

    def start(self):
        command = [self.binary, "serve", "--config", self.place / "switchyard.toml"]
        self.child = subprocess.Popen([str(part) for part in command], env=self.environment, cwd=ROOT,
                                      stdout=subprocess.DEVNULL, stderr=self.log)

    def is_ready(self):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
            connection.request("GET", "/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def await_ready(self):
        began = time.monotonic()
        while not self.is_ready():
            if self.child.poll() is not None or time.monotonic() - began > 60:
                raise SystemExit(f"replica {self.number} does not start: {(self.place / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def end(self):
        self.child.send_signal(signal.SIGTERM)
        return self.child.wait(timeout=90)


class Worker(threading.Thread):
    """Asks one replica after the other for one kind of model, and notes what came."""

    def __init__(self, name, kind, replicas, over, events):
        super().__init__(daemon=True)
        self.name, self.kind, self.replicas, self.over, self.events = name, kind, replicas, over, events
        # Request id -> prompt tokens, completion tokens, of answers that came in full.
        self.received = {}

    def run(self):
        number = 0
        while not self.over.is_set():
            replica = self.replicas[number % len(self.replicas)]
            request, number = f"{self.name}-{number}", number + 1
            what = self.ask(replica, request, streamed=number % 2 == 0)
            self.events.append((time.monotonic(), replica.number, self.kind, what))
            # Nobody asks a dead server a thousand times a second.
            time.sleep(0.02 if what == "ok" else 0.2)

    def ask(self, replica, request, streamed):
        body = {"model": MODELS[self.kind], "max_tokens": 6, "stream": streamed,
                "messages": [{"role": "user", "content": f"say {request}"}]}
        if streamed:
            body["stream_options"] = {"include_usage": True}
        headers = {"authorization": "Bearer " + ADMIN, "content-type": "application/json", "x-request-id": request}
        try:
            connection = http.client.HTTPConnection("127.0.0.1", replica.port, timeout=60)
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read().decode()
            connection.close()
        except (OSError, http.client.HTTPException) as error:
            return "no connection: " + type(error).__name__
        if response.status != 200:
            try:
                return f"{response.status} {json.loads(text)['error']['code']}"
            except (ValueError, KeyError, TypeError):
                return f"{response.status} without an envelope"
        if not streamed:
            usage = json.loads(text)["usage"]
        else:
            if not text.endswith("data: [DONE]\n\n"):
                return "a stream broke off"
            events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
            failed = next((event["error"] for event in events if "error" in event), None)
            if failed:
                return f"stream: {failed['code']}"
            usage = next(event["usage"] for event in events if event.get("usage"))
        self.received[request] = (usage["prompt_tokens"], usage["completion_tokens"])
        return "ok"


def faults(postgres, redis, replicas, other, objects):
    """Name, what happens, for how many seconds, what ends it, kinds that need not be answered meanwhile."""
    away = objects.with_name("objects-away")

    def fill():
        with open(replicas[0].disk / "filler", "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(b"\0" * 65536)
            except OSError:
                pass

    def kill():
        replicas[1].child.kill()
        replicas[1].child.wait()

    return [
        ("the database restarts", lambda: postgres.stop(), 8, postgres.start),
        ("Redis is away", redis.stop, 20, redis.start),
        ("a disk is full", fill, 20, lambda: (replicas[0].disk / "filler").unlink()),
        ("the other server hangs", other.hangs.set, 20, other.hangs.clear),
        ("the objects are away", lambda: objects.rename(away), 20, lambda: away.rename(objects)),
        ("a clock jumps ahead", lambda: replicas[0].set_clock(3_600), 20, lambda: replicas[0].set_clock(0)),
        ("a clock jumps back", lambda: replicas[0].set_clock(-3_600), 20, lambda: replicas[0].set_clock(0)),
        ("a replica is killed", kill, 5, replicas[1].start),
    ]


def count(events):
    counts = {}
    for _, _, _, what in events:
        counts[what] = counts.get(what, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def recovered(events, end, replicas, patience):
    """Seconds after the fault's end from which everything is answered: 40 in a row of each replica's kinds."""
    last = end
    began = time.monotonic()
    while time.monotonic() - began < patience:
        time.sleep(0.2)
        seen = [event for event in list(events) if event[0] >= last]
        bad = [at for at, _, _, what in seen if what != "ok"]
        if bad:
            last = bad[-1] + 1e-6
            continue
        good = {(replica, kind) for _, replica, kind, _ in seen}
        if len(good) == len(replicas) * len(KINDS) and len(seen) >= 40:
            return max(0.0, last - end)
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--out", help="where the line goes, beside standard output")
    arguments = parser.parse_args()
    faketime = next(map(str, pathlib.Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)
    if os.geteuid() != 0 or faketime is None:
        raise SystemExit("faults.py: root and libfaketime (apt-get install faketime) are needed: disks are filled, clocks are moved")
    place = pathlib.Path(tempfile.mkdtemp(prefix="sy-faults-"))
    place.chmod(0o755)
    objects = place / "objects"
    postgres, redis, other = Postgres(place / "pg"), Redis(place / "redis"), Other()
    binary = pathlib.Path(arguments.binary).resolve()
    replicas = []
    try:
        for number in range(2):
            replicas.append(Replica(number, binary, place / f"r{number}", postgres.url, place / "redis", objects, other.url, faketime))
            replicas[-1].await_ready()
        result = drive(arguments, postgres, redis, other, objects, replicas)
    finally:
        for replica in replicas:
            replica.child.kill()
            replica.child.wait()
            subprocess.run(["umount", "-l", str(replica.disk)], check=False)
        redis.stop()
        subprocess.run(["runuser", "-u", "postgres", "--", str(postgres.bin / "pg_ctl"), "-D", str(postgres.place / "data"), "-m",
                        "immediate", "stop"], cwd="/", check=False, capture_output=True)
    line = json.dumps(result)
    print(line)
    if arguments.out:
        pathlib.Path(arguments.out).write_text(line + "\n")
    if result["ok"]:
        shutil.rmtree(place, ignore_errors=True)
    else:
        print(f"logs are in {place}", file=sys.stderr)
    sys.exit(0 if result["ok"] else 1)


def drive(arguments, postgres, redis, other, objects, replicas):
    events, over = [], threading.Event()
    workers = [Worker(f"w{index}", KINDS[index % len(KINDS)], replicas, over, events) for index in range(8)]
    for worker in workers:
        worker.start()
    began, runs, index = time.monotonic(), [], 0
    planned = faults(postgres, redis, replicas, other, objects)
    time.sleep(5)
    while time.monotonic() - began < arguments.seconds or index < len(planned):
        name, happens, seconds, ends = planned[index % len(planned)]
        index += 1
        start = time.monotonic()
        happens()
        time.sleep(seconds)
        ends()
        end = time.monotonic()
        took = recovered(events, end, replicas, 30)
        meanwhile = [event for event in list(events) if start <= event[0] < end]
        later = [event for event in list(events) if event[0] >= end]
        runs.append({"fault": name, "seconds": round(end - start, 1), "recovered_after_s": None if took is None else round(took, 2),
                     "meanwhile": count(meanwhile), "afterwards": count(later)})
        print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
        time.sleep(random.uniform(1, 3))
    over.set()
    for worker in workers:
        worker.join(timeout=70)
    lasted = time.monotonic() - began
    codes = [replica.end() for replica in replicas]
    received = {}
    for worker in workers:
        received.update(worker.received)
    rows = {}
    for request, prompt, completion, outcome, times in postgres.ask(
            "SELECT request_id, SUM(input_tokens), SUM(output_tokens), MAX(outcome), COUNT(*) FROM ledger "
            "WHERE outcome NOT IN ('failed', 'cancelled') GROUP BY request_id"):
        rows[request] = (int(prompt), int(completion), int(times))
    lost = [request for request in received if request not in rows]
    twice = [request for request, row in rows.items() if row[2] != 1]
    wrong = [request for request, usage in received.items() if request in rows and rows[request][:2] != usage]
    # Answered in full, and the client does not know: the connection broke at the last byte.
    extra = [request for request in rows if request not in received]
    sums = [postgres.ask("SELECT COUNT(*), SUM(input_tokens), SUM(output_tokens), SUM(cost_nanos) FROM ledger"),
            postgres.ask("SELECT SUM(requests), SUM(input_tokens), SUM(output_tokens), SUM(cost_nanos) FROM usage_hours")]
    panics = sum((replica.place / "log").read_text(errors="replace").count("panicked at") for replica in replicas)
    late = [run["fault"] for run in runs if run["recovered_after_s"] is None]
    return {"seconds": round(lasted, 1), "requests": len(events), "answered_in_full": len(received), "outcomes": count(events),
            "lost": len(lost), "billed_twice": len(twice), "billed_otherwise": len(wrong), "billed_and_not_received": len(extra),
            "sums_agree": sums[0] == sums[1], "panics": panics, "exit_codes": codes, "not_recovered": late, "faults": runs,
            "ok": not (lost or twice or wrong or panics or late) and sums[0] == sums[1] and codes == [0, 0],
            "examples": {"lost": lost[:3], "twice": twice[:3], "otherwise": wrong[:3]}}


if __name__ == "__main__":
    main()
