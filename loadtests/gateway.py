"""Everything around a model, measured: the null backend with prices, limits and budgets on, the ledger at its default durability.

    cargo build --release --bin switchyard --example loadtest
    python3 loadtests/gateway.py --out runs.jsonl --plot runs.svg

Starts a server of its own with tenants (each with a key, limits that are checked and never reached, and a hard budget), prices and
many adapters; then runs every scenario, whole and streamed, each beside the floor: a server that does nothing but wait the same
delay, which says what the machine and the generator take themselves. Added latency is above the delay; `over floor` is above what
the floor had in the same round. At the end the ledger is asked whether it has every answer.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ADMIN = "sk-sy-gateway-measurement-0123456789"
DELAY_MS = 5


class Api:
    def __init__(self, url):
        self.url = url

    def __call__(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {ADMIN}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                text = reply.read().decode()
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{method} {path}: {error.code} {error.read().decode()}") from error
        return json.loads(text) if text[:1] in "[{" else text


def start(options, folder):
    command = [options.switchyard, "serve", "--listen", "127.0.0.1:0", "--data-dir", str(folder / "data"), "--backend", "null"]
    command += ["--null-delay", f"{DELAY_MS}ms", "--max-sequences", "1024", "--max-batch-tokens", "1024", *options.switchyard_flag]
    log = open(folder / "log", "wb")
    process = subprocess.Popen(
        command, env={**os.environ, "SWITCHYARD_ADMIN_KEY": ADMIN}, stdout=subprocess.PIPE, stderr=log, start_new_session=True
    )
    for line in process.stdout:
        found = re.search(rb"serves on (http://\S+)", line)
        if found:
            return process, found[1].decode()
    raise SystemExit((folder / "log").read_text())


def prepare(options, api, folder):
    """Tenants, prices, limits, budgets, adapters; the keys are written to a file."""
    usd = {"input": "0.15", "cached_input": "0.075", "output": "0.60"}
    api("POST", "/admin/prices", {"usd_per_million_tokens": usd})
    keys = []
    for number in range(options.tenants):
        project = api("POST", "/v1/organization/projects", {"name": f"tenant {number}"})["id"]
        account = api("POST", f"/v1/organization/projects/{project}/service_accounts", {"name": "load"})
        keys.append(account["api_key"]["value"])
        most = {"requests_per_minute": 10**7, "tokens_per_minute": 10**9, "concurrent_requests": 10**5}
        api("PUT", f"/admin/limits/project/{project}/*", most)
        budget = {"scope": "project", "subject": project, "period": "month", "enforcement": "hard", "limit_usd": "1000000"}
        api("POST", "/admin/budgets", budget)
    path = folder / "keys"
    path.write_text("\n".join(keys) + "\n")
    sources = sorted(path.parent for path in Path(options.adapters).absolute().glob("*/adapter_config.json"))
    for number in range(options.adapter_count if sources else 0):
        body = {"lora_name": f"load-{number}", "lora_path": str(sources[number % len(sources)]), "load_inplace": True}
        api("POST", "/v1/load_lora_adapter", body)
    return path, keys[0]


def run(options, url, pid, arguments, label):
    command = [options.loadtest, "run", *arguments, "--url", url, "--base-ms", str(DELAY_MS), "--server-pid", str(pid)]
    command += ["--seconds", str(options.seconds), "--warmup", str(options.warmup), "--label", label]
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as out:
        subprocess.run([*command, "--out", out.name], check=True, stdout=subprocess.DEVNULL)
        return json.loads(Path(out.name).read_text())


def steal_seconds():
    """Time that the hypervisor has taken from this machine, all processors."""
    return int(Path("/proc/stat").read_text().split()[8]) / os.sysconf("SC_CLK_TCK")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--switchyard", default="target/release/switchyard")
    parser.add_argument("--switchyard-flag", action="append", default=[], help="one more flag of `switchyard serve`")
    parser.add_argument("--loadtest", default="target/release/examples/loadtest")
    parser.add_argument("--adapters", default="adapters", help="directories that adapters are loaded from, again and again")
    parser.add_argument("--adapter-count", type=int, default=64)
    parser.add_argument("--tenants", type=int, default=100)
    parser.add_argument("--rate", type=float, default=3000)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64, 128])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--warmup", type=float, default=2)
    parser.add_argument("--only", nargs="+", help="names of cases: steady, closed, burst, tenants, adapters, slow-readers")
    parser.add_argument("--out", required=True, help="results are appended here, one JSON object a line")
    parser.add_argument("--plot", help="latency over percentile as SVG")
    options = parser.parse_args()

    rate = ["--rate", f"{options.rate:g}"]
    cases = []
    for stream in ["0", "1"]:
        how = ["--stream", stream]
        name = "streamed" if stream == "1" else "whole"
        cases.append(("steady", name, ["steady", *rate, *how], True))
        for count in options.connections:
            cases.append(("closed", f"{name}, {count} connections", ["steady", "--connections", str(count), *how], False))
    most = ["--stream", "0.5"]
    cases.append(("burst", "half streamed", ["burst", *rate, *most, "--burst-size", "300", "--burst-every", "1"], True))
    cases.append(("tenants", "half streamed", ["tenants", *rate, *most], True))
    cases.append(("adapters", "half streamed", ["adapters", *rate, *most], True))
    slow = ["--slow", "0.02", "--slow-tokens", "64", "--slow-bytes", "8000"]
    cases.append(("slow-readers", "half streamed", ["slow-readers", *rate, *most, *slow], True))
    cases = [case for case in cases if not options.only or case[0] in options.only]

    results = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        process, url = start(options, folder)
        port = 8081
        floor = subprocess.Popen([options.loadtest, "floor", "--listen", f"127.0.0.1:{port}", "--delay-ms", str(DELAY_MS)])
        try:
            api = Api(url)
            keys, key = prepare(options, api, folder)
            answered = 0
            for round_number in range(options.rounds):
                for scenario, name, arguments, open_loop in cases:
                    who = ["--keys", str(keys)] if scenario == "tenants" else ["--key", key]
                    stolen = steal_seconds()
                    if open_loop:
                        plain = ["steady", *rate, "--stream", arguments[arguments.index("--stream") + 1], "--key", "any"]
                        base = run(options, f"http://127.0.0.1:{port}", floor.pid, plain, f"floor {name}")
                        results.append({**base, "round": round_number, "case": f"{scenario} {name}", "floor": True})
                    result = run(options, url, process.pid, [*arguments, *who], f"{scenario} {name}")
                    result |= {"round": round_number, "case": f"{scenario} {name}", "floor": False, "stolen_s": steal_seconds() - stolen}
                    results.append(result)
                    show(result, results[-2] if open_loop else None)
            time.sleep(1)
            metrics = api("GET", "/metrics")
            found = re.findall(r"^(switchyard_ledger\S*|switchyard_http_requests_total\{[^}]*chat[^}]*\}) (\S+)$", metrics, re.M)
            print("\n" + "\n".join(f"{name} {value}" for name, value in found))
        finally:
            floor.kill()
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)
    with open(options.out, "a") as out:
        out.writelines(json.dumps(result) + "\n" for result in results)
    if options.plot:
        steady = [result for result in results if result["case"].startswith("steady") and result["round"] == 0]
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
            file.writelines(json.dumps(result) + "\n" for result in steady)
            file.flush()
            subprocess.run([options.loadtest, "plot", file.name, "--out", options.plot], check=True)
    summary(results)


def latency(result, percentile):
    """Of each kind of answer: `whole 200` and the like."""
    return {kind: found["latency_ms"][percentile] for kind, found in result["classes"].items()}


def show(result, base):
    for kind in result["classes"]:
        p50, p99 = latency(result, "p50")[kind], latency(result, "p99")[kind]
        over = ""
        if base and kind in base["classes"]:
            over = f"  over floor: p50 {p50 - latency(base, 'p50')[kind]:.2f}, p99 {p99 - latency(base, 'p99')[kind]:.2f}"
        print(
            f"{result['case']:<34} {kind:<10} {result['classes'][kind]['count'] / result['measured_s']:>8.0f}/s  added: "
            f"p50 {p50 - DELAY_MS:6.2f}, p99 {p99 - DELAY_MS:7.2f} ms{over}  server {result['server']['us_per_answer']} µs"
            f"{'  FAILURES ' + str(result['failures']) if result['failures'] else ''}",
            flush=True,
        )


def summary(results):
    """The median of the rounds."""
    middle = lambda values: sorted(values)[len(values) // 2]
    print("\nmedian of the rounds                          per s   added p50   p99   floor's p50   p99 (ms)")
    for case in dict.fromkeys(result["case"] for result in results):
        ours = [result for result in results if result["case"] == case and not result["floor"]]
        floors = [result for result in results if result["case"] == case and result["floor"]]
        for kind in dict.fromkeys(kind for result in ours for kind in result["classes"]):
            rows = [result for result in ours if kind in result["classes"]]
            rate = middle([result["classes"][kind]["count"] / result["measured_s"] for result in rows])
            of = lambda rows, name: middle([latency(row, name)[kind] - DELAY_MS for row in rows if kind in row["classes"]] or [float("nan")])
            print(
                f"{case:<34} {kind:<10} {rate:>7.0f} {of(rows, 'p50'):>9.2f} {of(rows, 'p99'):>7.2f}"
                f" {of(floors, 'p50'):>10.2f} {of(floors, 'p99'):>7.2f}"
            )


if __name__ == "__main__":
    main()
