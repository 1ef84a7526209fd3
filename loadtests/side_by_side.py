"""Switchyard's null backend beside LiteLLM's proxy with its own mock response, measured in one run, in turn (A B A B).

    python3 -m venv VENV && VENV/bin/pip install 'litellm[proxy]'
    cargo build --release --bin switchyard --example loadtest
    python3 loadtests/side_by_side.py --litellm VENV/bin/litellm --out runs.jsonl

Neither side has a delay of its own: LiteLLM's mock answers at once, and so does the null backend here. Both check a key. LiteLLM
runs with the settings that its documentation advises for production, once with one worker and once with two.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

KEY = "sk-sy-side-by-side-0123456789abcdef"
# 16 words, as the null backend gives.
MOCK = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
CONFIG = f"""
model_list:
  - model_name: switchyard-base
    litellm_params:
      model: openai/mock
      api_key: none
      mock_response: "{MOCK}"
general_settings:
  master_key: {KEY}
litellm_settings:
  set_verbose: false
  json_logs: false
  request_timeout: 600
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """A server in a process group of its own."""

    def __init__(self, name, command, port, environment, log):
        self.name, self.port = name, port
        self.log = open(log, "wb")
        self.process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=self.log, stderr=self.log, start_new_session=True, cwd=log.parent
        )

    def wait(self, seconds=180):
        body = {"model": "switchyard-base", "max_tokens": 1, "messages": [{"role": "user", "content": "ready?"}]}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
        )
        end = time.monotonic() + seconds
        while True:
            try:
                with urllib.request.urlopen(request, timeout=10) as reply:
                    reply.read()
                return
            except OSError as error:
                if self.process.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"{self.name} does not answer: {error}; see {self.log.name}") from error
                time.sleep(0.3)

    def resident_mib(self):
        """Of all its processes."""
        total = 0
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                pid = int(status.parent.name)
                if os.getsid(pid) == self.process.pid:
                    fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
                    total += int(fields.get("VmRSS", "0 kB").split()[0])
            except (OSError, ValueError):
                pass
        return round(total / 1024, 1)

    def stop(self):
        try:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.log.close()


def switchyard(options, folder):
    port = free_port()
    command = [options.switchyard, "serve", "--listen", f"127.0.0.1:{port}", "--backend", "null", "--null-delay", "0ms"]
    command += ["--data-dir", str(folder / "data"), *options.switchyard_flag]
    return Server("switchyard", command, port, {"SWITCHYARD_ADMIN_KEY": KEY}, folder / "switchyard.log")


def litellm(options, folder, workers):
    port = free_port()
    config = folder / "litellm.yaml"
    config.write_text(CONFIG)
    command = [options.litellm, "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--num_workers", str(workers)]
    environment = {
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return Server(f"litellm-{workers}", command, port, environment, folder / f"litellm-{workers}.log")


def measure(options, server, load, stream, label):
    """One result of the load generator."""
    command = [options.loadtest, "run", "--url", f"http://127.0.0.1:{server.port}", "--key", KEY, *load]
    command += ["--seconds", str(options.seconds), "--warmup", str(options.warmup), "--stream", "1" if stream else "0"]
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as out:
        subprocess.run([*command, "--label", f"{server.name} {label}", "--out", out.name], check=True, stdout=subprocess.DEVNULL)
        result = json.loads(Path(out.name).read_text())
    result["server_name"] = server.name
    result["resident_mib"] = server.resident_mib()
    return result


def percentile(result, name):
    (_, found), *_ = result["classes"].items() or [("", {})]
    return found.get("latency_ms", {}).get(name, float("nan"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--switchyard", default="target/release/switchyard")
    parser.add_argument("--switchyard-flag", action="append", default=[], help="one more flag of `switchyard serve`")
    parser.add_argument("--loadtest", default="target/release/examples/loadtest")
    parser.add_argument("--litellm", required=True)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--warmup", type=float, default=2)
    parser.add_argument("--out", required=True, help="results are appended here, one JSON object a line")
    options = parser.parse_args()
    for name in ["switchyard", "loadtest", "litellm"]:
        setattr(options, name, str(Path(getattr(options, name)).absolute()))

    results = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for workers in options.workers:
            servers = []
            try:
                servers.append(litellm(options, folder, workers))
                servers.append(switchyard(options, folder))
                for server in servers:
                    server.wait()
                cases = [(["--connections", str(count)], f"{count} conn") for count in options.connections]
                most = 0
                for load, label in cases:
                    for stream in [False, True]:
                        for _ in range(options.rounds):
                            for server in servers:
                                kind = " stream" if stream else ""
                                result = measure(options, server, load, stream, label + kind)
                                result["workers"], result["case"] = workers, label + kind
                                results.append(result)
                                show(result)
                                if server.name.startswith("litellm") and not stream:
                                    most = max(most, result["answers_per_second"])
                # What LiteLLM can hold: two thirds of its most.
                rate = max(round(most * 2 / 3), 1)
                for _ in range(options.rounds):
                    for server in servers:
                        result = measure(options, server, ["--rate", str(rate)], False, f"open {rate}/s")
                        result["workers"], result["case"] = workers, "open loop"
                        results.append(result)
                        show(result)
            finally:
                for server in servers:
                    server.stop()
    with open(options.out, "a") as out:
        out.writelines(json.dumps(result) + "\n" for result in results)
    summary(results)


def show(result):
    print(
        f"{result['label']:<36} {result['answers_per_second']:>9.1f}/s  p50 {percentile(result, 'p50'):>8.2f}  "
        f"p99 {percentile(result, 'p99'):>8.2f} ms  {result['resident_mib']:>7.1f} MiB  failures {result['failures'] or '-'}",
        flush=True,
    )


def summary(results):
    """Means over the rounds, and how many times LiteLLM's the throughput is."""
    print("\nworkers  case               litellm/s  switchyard/s  times   litellm p99  switchyard p99 (ms)")
    for workers, case in dict.fromkeys((result["workers"], result["case"]) for result in results):
        of = lambda ours: [
            result
            for result in results
            if (result["workers"], result["case"]) == (workers, case) and (result["server_name"] == "switchyard") == ours
        ]
        mean = lambda rows, value: sum(map(value, rows)) / max(len(rows), 1)
        rate = lambda rows: mean(rows, lambda row: row["answers_per_second"])
        p99 = lambda rows: mean(rows, lambda row: percentile(row, "p99"))
        theirs, ours = of(False), of(True)
        times = rate(ours) / max(rate(theirs), 1e-9)
        print(f"{workers:>7}  {case:<17} {rate(theirs):>10.1f} {rate(ours):>13.1f} {times:>6.1f}  {p99(theirs):>12.2f} {p99(ours):>15.2f}")


if __name__ == "__main__":
    sys.exit(main())
