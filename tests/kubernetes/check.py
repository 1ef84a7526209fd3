"""Holds k8s/, the Dockerfile and the binary together. `tests/process/kubernetes.rs` starts a server and runs this against it.

What is rendered must fit Kubernetes' own schemas (kubernetes-validate) or schemas.yaml, name only what is there, and say of the
binary what the binary does: ports, pages of probes, settings, versions, names of metrics.
"""

import argparse
import copy
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
MONITORING = K8S / "components/monitoring"
OVERLAYS = ["single", "scaled", "gpu", "eks"]
# The oldest that has what is used (preStop.sleep), and the newest whose schemas are there.
VERSIONS = ["1.30", kubernetes_validate.latest_version()]
# Label of a metric's source, beside its own labels: Prometheus adds them.
TARGET_LABELS = {"namespace", "pod", "instance", "job", "container", "service"}
# Shown when something happens that this test does not bring about (a silent model; limits in Redis): with the text of src/ that
# registers them.
UNSEEN = {"switchyard_shadow_answers_total": ['"switchyard_shadow_answers_total"']}
for name in ("connected", "losses_total", "alone_total", "unsettled"):
    UNSEEN[f"switchyard_shared_limits_{name}"] = ["switchyard_shared_limits_{name}", f'"{name}"']

SCHEMAS = yaml.safe_load((Path(__file__).parent / "schemas.yaml").read_text())
findings = []


def wrong(where, what):
    findings.append(f"{where}: {what}")


def expect(condition, where, what):
    if not condition:
        wrong(where, what)


def problems(schema, document):
    schema = {**schema, "definitions": SCHEMAS["definitions"]}
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in jsonschema.Draft7Validator(schema).iter_errors(document)]


def name_of(document):
    return f"{document['kind']}/{document['metadata']['name']}"


def render(directory):
    command = shlex.split(os.environ.get("SWITCHYARD_TEST_KUSTOMIZE", "kubectl kustomize"))
    done = subprocess.run([*command, str(directory)], capture_output=True, text=True)
    assert done.returncode == 0, f"{directory}: {done.stderr}"
    expect("deprecated" not in done.stderr, directory.name, done.stderr)
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def validate(document):
    """What is wrong with a resource by its schema."""
    own = SCHEMAS["kinds"].get(f"{document['apiVersion']}/{document['kind']}")
    if own is not None:
        shape = {
            "type": "object",
            "required": ["spec"],
            "additionalProperties": False,
            "properties": {"apiVersion": {}, "kind": {}, "metadata": {"$ref": "#/definitions/metadata"}, "spec": own},
        }
        return problems(shape, document)
    found = []
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            found.append(f"Kubernetes {version}: {'/'.join(map(str, error.path))}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError as error:
            found.append(error.message)
    return found


def of_kind(documents, kind):
    return [document for document in documents if document["kind"] == kind]


def the(documents, kind, name="switchyard"):
    return next(document for document in of_kind(documents, kind) if document["metadata"]["name"] == name)


def selects(selector, labels):
    return all(labels.get(key) == value for key, value in selector.items())


# --- The Dockerfile ---------------------------------------------------------------------------------------------------------------


def dockerfile():
    """What the image says of itself, and what is wrong with how it is made."""
    text = (ROOT / "Dockerfile").read_text()
    code = re.sub(r"\\\n\s*", " ", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    lines = [line.split(None, 1) for line in code.splitlines() if line.strip()]
    stages, image = set(), {"env": {}}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    expect("*" in ignored, ".dockerignore", "it should leave everything out but what is named")
    allowed = [line[1:] for line in ignored if line.startswith("!")]
    for path in allowed:
        expect((ROOT / path).exists(), ".dockerignore", f"{path} is not there")
    for word, rest in lines:
        if word == "FROM":
            source, _, name = rest.partition(" AS ")
            pinned = "${" in source or ":" in source or source in stages | {"scratch"}
            expect(pinned, "Dockerfile", f"{source} has no version")
            stages.add(name)
        elif word == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                expect((ROOT / source).exists(), "Dockerfile", f"{source} is not there")
                held = any(source == path or source.startswith(path + "/") for path in allowed)
                expect(held, "Dockerfile", f".dockerignore leaves {source} out")
        elif word == "ENV":
            for pair in shlex.split(rest):
                key, _, value = pair.partition("=")
                image["env"][key] = value
                if key == "FEATURES":
                    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
                    for feature in value.split():
                        expect(feature in manifest["features"], "Dockerfile", f"Cargo.toml has no feature {feature}")
        elif word in ("USER", "EXPOSE", "VOLUME"):
            image[word] = rest
        elif word in ("ENTRYPOINT", "CMD"):
            image[word] = json.loads(rest)
        elif word == "HEALTHCHECK":
            image[word] = json.loads(rest[rest.index("CMD") + 3 :])
        elif word == "ARG" and rest.startswith("RUST_VERSION="):
            manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
            expect(rest.partition("=")[2].startswith(manifest["package"]["rust-version"]), "Dockerfile", "another Rust than Cargo.toml asks for")
    variants = {name.removeprefix("image-") for name in stages if name.startswith("image-")}
    expect({f"toolchain-{variant}" for variant in variants} <= stages, "Dockerfile", "a variant has no toolchain")
    expect(image["env"]["SWITCHYARD_LISTEN"].endswith(":" + image["EXPOSE"]), "Dockerfile", "the exposed port is not the one listened on")
    expect(image["env"]["SWITCHYARD_DATA_DIR"].startswith(image["VOLUME"] + "/"), "Dockerfile", "the data is not on the volume")
    expect("0" not in image["USER"].split(":"), "Dockerfile", "the user is root")
    image["variants"] = variants
    return image


# --- The binary -------------------------------------------------------------------------------------------------------------------


class Binary:
    def __init__(self, path, url, key):
        self.path, self.url, self.key = path, url, key

    def run(self, *arguments, environment=None):
        environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **(environment or {})}
        return subprocess.run([self.path, *arguments], capture_output=True, text=True, env=environment, cwd=ROOT)

    def version(self):
        return self.run("--version").stdout.split()[-1]

    def ask(self, path, body=None):
        request = urllib.request.Request(self.url + path, data=json.dumps(body).encode() if body is not None else None)
        request.add_header("authorization", f"Bearer {self.key}")
        request.add_header("content-type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def config_is_right(self, toml, environment, arguments=("--config",)):
        """What check-config says of a configuration; nothing where it is right."""
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "switchyard.toml"
            path.write_text(toml)
            done = self.run("check-config", *arguments, str(path), environment=environment)
            return "" if done.returncode == 0 else done.stdout + done.stderr


# --- Overlays ---------------------------------------------------------------------------------------------------------------------


def pod_agrees(where, documents, pods, image, binary, template):
    serves = pods["kind"] == "StatefulSet"
    pod = pods["spec"]["template"]["spec"]
    container = pod["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    expect(str(ports["http"]) == image["EXPOSE"], where, f"port {ports['http']}; the image listens on {image['EXPOSE']}")
    tag = container["image"].partition(":")[2]
    version, _, variant = tag.partition("-")
    expect(version == binary.version(), where, f"image {container['image']}; the binary is {binary.version()}")
    expect((variant or "cpu") in image["variants"], where, f"the Dockerfile makes no variant {variant}")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe") if serves else ("startupProbe", "livenessProbe"):
        get = container[probe]["httpGet"]
        status, _ = binary.ask(get["path"])
        expect(status == 200, where, f"{probe}: {get['path']} is answered with {status}")
        expect(get["port"] in ports, where, f"{probe}: no port {get['port']}")
    if serves:
        expect(container["readinessProbe"]["httpGet"]["path"] == "/ready", where, "readiness is what /ready says")
    expect(container["livenessProbe"]["httpGet"]["path"] == "/health", where, "liveness is what /health says")
    # Who may do what.
    context, own = pod["securityContext"], container["securityContext"]
    expect(f"{context['runAsUser']}:{context['runAsGroup']}" == image["USER"], where, "another user than the image's")
    expect(context["runAsNonRoot"] and own["readOnlyRootFilesystem"] and not own["allowPrivilegeEscalation"], where, "not restricted")
    expect(own["capabilities"] == {"drop": ["ALL"]} and context["seccompProfile"]["type"] == "RuntimeDefault", where, "not restricted")
    expect({"requests", "limits"} <= container["resources"].keys(), where, "no resources")
    # What is written goes to the volume.
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    expect(mounts.get("data") == image["VOLUME"], where, "the volume is not where the image has its data")
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    claims = {claim["metadata"]["name"] for claim in pods["spec"].get("volumeClaimTemplates", [])}
    expect(set(mounts) == set(volumes) | claims, where, f"mounts {sorted(mounts)}, volumes {sorted(set(volumes) | claims)}")
    # The configuration, with what the pod's environment says.
    expect(container["args"][0] in image["CMD"] and container["args"][1] == "--config", where, "other arguments than expected")
    expect(os.path.dirname(container["args"][2]) == mounts["config"], where, "the configuration is elsewhere")
    config_map = the(documents, "ConfigMap", volumes["config"]["configMap"]["name"])
    toml = config_map["data"][os.path.basename(container["args"][2])]
    environment = {key: value for key, value in image["env"].items() if key.startswith(("SWITCHYARD_", "HF_", "HOME"))}
    for variable in container["env"]:
        reference = variable["valueFrom"]["secretKeyRef"]
        expect(reference["name"] == template["metadata"]["name"], where, f"no secret {reference['name']}")
        expect(reference["key"] in template["stringData"], where, f"secret.template.yaml has no {reference['key']}")
        environment[variable["name"]] = template["stringData"].get(reference["key"], "")
    said = binary.config_is_right(toml, environment)
    if variant == "cuda":
        # This build has no CUDA; everything else must be right.
        lines = [line for line in said.splitlines()[1:] if "device" not in line]
        expect(not lines, where, "\n".join(lines))
    else:
        expect(not said, where, said)
    # Kubernetes would add a variable of this name, which the binary refuses.
    expect(pod["enableServiceLinks"] is False, where, "enableServiceLinks must be off")
    assert binary.config_is_right(toml, {**environment, "SWITCHYARD_PORT": "tcp://10.0.0.1:80"}), "an unknown variable is taken"
    # Time to end: until no request comes, the running answers, the last rows of the ledger.
    asleep = container["lifecycle"]["preStop"]["sleep"]["seconds"] if serves else 0
    settings = tomllib.loads(toml)
    needed = asleep + settings.get("drain_delay", 0) + settings.get("drain_deadline", 30) + 5
    expect(pod["terminationGracePeriodSeconds"] > needed, where, f"{needed} s are needed to end")


def names_are_there(where, documents, image):
    pods = [document for kind in ("StatefulSet", "Deployment") for document in of_kind(documents, kind)]
    labels = [(pod["spec"]["template"]["metadata"]["labels"], pod) for pod in pods]
    ports_of = lambda pod: {port["name"]: port["containerPort"] for port in pod["spec"]["template"]["spec"]["containers"][0]["ports"]}
    accounts = {document["metadata"]["name"] for document in of_kind(documents, "ServiceAccount")}
    for found, pod in labels:
        expect(selects(pod["spec"]["selector"]["matchLabels"], found), where, f"{name_of(pod)} does not select its own pods")
        expect(pod["spec"]["template"]["spec"]["serviceAccountName"] in accounts, where, f"{name_of(pod)}: no such account")
        for spread in pod["spec"]["template"]["spec"].get("topologySpreadConstraints", []):
            expect(selects(spread["labelSelector"]["matchLabels"], found), where, f"{name_of(pod)} is spread by others' labels")
    services = {service["metadata"]["name"]: service for service in of_kind(documents, "Service")}
    for service in services.values():
        chosen = [pod for found, pod in labels if selects(service["spec"]["selector"], found)]
        expect(len(chosen) == 1, where, f"{name_of(service)} selects {len(chosen)} sets of pods")
        for port in service["spec"]["ports"]:
            expect(chosen and port["targetPort"] in ports_of(chosen[0]), where, f"{name_of(service)}: no port {port['targetPort']}")
    for pod in of_kind(documents, "StatefulSet"):
        expect(services[pod["spec"]["serviceName"]]["spec"]["clusterIP"] == "None", where, "serviceName is not of a headless service")
    for kind in ("PodDisruptionBudget", "NetworkPolicy"):
        for document in of_kind(documents, kind):
            selector = document["spec"].get("selector") or document["spec"]["podSelector"]
            chosen = [pod for found, pod in labels if selects(selector["matchLabels"], found)]
            expect(len(chosen) == 1, where, f"{name_of(document)} selects nothing")
            for rule in document["spec"].get("ingress", []):
                for port in rule["ports"]:
                    expect(port["port"] in ports_of(chosen[0]), where, f"{name_of(document)}: no port {port['port']}")
    for monitor in of_kind(documents, "ServiceMonitor"):
        selector = monitor["spec"]["selector"]["matchLabels"]
        chosen = [service for service in services.values() if selects(selector, service["metadata"]["labels"])]
        expect(len(chosen) == 1, where, f"ServiceMonitor selects {len(chosen)} services")
        for endpoint in monitor["spec"]["endpoints"]:
            named = {port["name"] for port in chosen[0]["spec"]["ports"]} if chosen else set()
            expect(endpoint["port"] in named and endpoint["path"] == "/metrics", where, "ServiceMonitor reads something else")
    for binding in of_kind(documents, "RoleBinding"):
        roles = {role["metadata"]["name"] for role in of_kind(documents, "Role")}
        expect(binding["roleRef"]["name"] in roles, where, f"{name_of(binding)}: no such role")
        for subject in binding["subjects"]:
            expect(subject["name"] in accounts and subject.get("namespace"), where, f"{name_of(binding)}: no such account")
    for scaler in of_kind(documents, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        expect(any(name_of(pod) == f"{target['kind']}/{target['name']}" for pod in pods), where, "the autoscaler scales nothing")
        made = {rule["name"]["as"] for rule in yaml.safe_load((MONITORING / "prometheus-adapter.yaml").read_text())["rules"]}
        for metric in scaler["spec"]["metrics"]:
            expect(metric["pods"]["metric"]["name"] in made, where, f"prometheus-adapter makes no {metric['pods']['metric']['name']}")
    for job in of_kind(documents, "CronJob"):
        pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        expect(pod["serviceAccountName"] in accounts, where, f"{name_of(job)}: no such account")
        for container in pod["containers"]:
            verb, target, _ = container["args"]
            expect(verb == "scale" and any(target == name_of(pod).lower() for pod in pods), where, f"{name_of(job)} scales nothing")
    for document in documents:
        if document["kind"] not in ("Namespace", "NodePool", "StorageClass", "PriorityClass"):
            expect(document["metadata"].get("namespace") == "switchyard", where, f"{name_of(document)} is in no namespace")
    for pod in pods:
        image_name = pod["spec"]["template"]["spec"]["containers"][0]["image"]
        expect(":" in image_name and not image_name.endswith(":latest"), where, f"{image_name} has no version")


# --- Metrics ----------------------------------------------------------------------------------------------------------------------

WORDS = set(
    "sum max min avg count topk by without on ignoring and or unless rate increase irate absent histogram_quantile avg_over_time "
    "max_over_time label_values humanizeDuration humanizePercentage".split()
)
# Those that Prometheus makes itself.
OF_PROMETHEUS = {"up"}


def named(expression):
    """Metrics that an expression names, and labels that it goes by."""
    labels = set()
    text = re.sub(r"\[[^\]]*\]", "", expression)
    text = re.sub(r"<<[^>]*>>", "", text)

    def matchers(found):
        labels.update(re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"', found[0]))
        return ""

    text = re.sub(r"\{[^}]*\}", matchers, text)

    def groups(found):
        labels.update(word.strip() for word in found[1].split(","))
        return ""

    text = re.sub(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", groups, text)
    names = set(re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*", text)) - WORDS - OF_PROMETHEUS
    return names, labels


def series(text):
    """Names of samples at /metrics, each with the labels seen on it and their values."""
    seen = {}
    for line in text.splitlines():
        found = re.match(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? ", line)
        if line and not line.startswith("#"):
            labels = seen.setdefault(found[1], {})
            for key, value in re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', found[2] or ""):
                labels.setdefault(key, set()).add(value)
    return seen


def metrics_exist(where, expression, seen, registered):
    names, labels = named(expression)
    expect(bool(names) or "up" in expression, where, f"no metric in {expression}")
    known = set(TARGET_LABELS)
    for name in names:
        if name in seen:
            known |= seen[name].keys()
        elif name in UNSEEN and all(text in registered for text in UNSEEN[name]):
            known |= {"fate"}
        else:
            wrong(where, f"no metric {name}")
    expect(labels <= known, where, f"labels {sorted(labels - known)} are on none of {sorted(names)}")
    for label, value in re.findall(r'(\w+)="([^"$]+)"', expression):
        values = set().union(*(seen.get(name, {}).get(label, set()) for name in names))
        expect(label in TARGET_LABELS or value in values, where, f"{label}=\"{value}\" was not seen")


def monitoring(seen, registered):
    rules = yaml.safe_load((MONITORING / "rules.yaml").read_text())
    for problem in problems(SCHEMAS["files"]["alerts"], rules):
        wrong("rules.yaml", problem)
    resource = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())
    expect(resource["spec"]["groups"] == rules["groups"], "prometheusrule.yaml", "not the same as rules.yaml")
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    expect(len({rule["alert"] for rule in alerts}) == len(alerts), "rules.yaml", "two alerts of one name")
    for rule in alerts:
        metrics_exist(rule["alert"], rule["expr"], seen, registered)
        # Quantiles are exact at the bounds of buckets alone.
        for metric, bound in re.findall(r"(\w+)_bucket.*> (\d+)$", rule["expr"]):
            expect(bound in seen[f"{metric}_bucket"]["le"], rule["alert"], f"{metric} has no bucket that ends at {bound}")
        for note in rule["annotations"].values():
            metrics = re.findall(r"\bswitchyard_\w+", note)
            known = {re.sub(r"_(bucket|sum|count)$", "", name) for name in seen}
            expect(set(metrics) <= known | set(seen), rule["alert"], f"{metrics} are not there")
    adapter = yaml.safe_load((MONITORING / "prometheus-adapter.yaml").read_text())
    for problem in problems(SCHEMAS["files"]["adapter"], adapter):
        wrong("prometheus-adapter.yaml", problem)
    for rule in adapter["rules"]:
        for query in (rule["seriesQuery"], rule["metricsQuery"]):
            metrics_exist("prometheus-adapter.yaml", query, seen, registered)
    kept = set(re.findall(r"dashboards/\w+\.json", (MONITORING / "kustomization.yaml").read_text()))
    files = sorted((MONITORING / "dashboards").glob("*.json"))
    expect(kept == {f"dashboards/{path.name}" for path in files}, "kustomization.yaml", "not the dashboards that are there")
    for path in files:
        dashboard = json.loads(path.read_text())
        for problem in problems(SCHEMAS["files"]["dashboard"], dashboard):
            wrong(path.name, problem)
        places = set()
        ids = [panel["id"] for panel in dashboard["panels"]]
        expect(len(set(ids)) == len(ids), path.name, "two panels of one id")
        variables = {variable["name"] for variable in dashboard["templating"]["list"]}
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                metrics_exist(path.name, variable["query"].replace(", namespace", ""), seen, registered)
        for panel in dashboard["panels"]:
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            expect(not cells & places and at["x"] + at["w"] <= 24, path.name, f"{panel['title']} lies on another panel")
            places |= cells
            for target in panel["targets"]:
                where = f"{path.name}: {panel['title']}"
                used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
                expect(used <= variables, where, f"variables {used - variables} are not there")
                metrics_exist(where, target["expr"].replace("$__rate_interval", "5m"), seen, registered)
                _, labels = named(target["expr"])
                shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                expect(shown <= labels, where, f"the legend shows {shown - labels}")


# --- Inference routers ------------------------------------------------------------------------------------------------------------


def inference(documents, image, seen, pod_labels):
    where = "inference"
    pool = the(documents, "InferencePool")["spec"]
    expect(selects(pool["selector"]["matchLabels"], pod_labels), where, "the pool has no pods")
    expect([str(port["number"]) for port in pool["targetPorts"]] == [image["EXPOSE"]], where, "the pool's port is not the image's")
    picker = pool["endpointPickerRef"]
    service = the(documents, "Service", picker["name"])
    expect(picker["port"]["number"] in [port["port"] for port in service["spec"]["ports"]], where, "the picker's port is not its service's")
    route = the(documents, "HTTPRoute")["spec"]["rules"][0]["backendRefs"][0]
    expect((route["kind"], route["name"]) == ("InferencePool", "switchyard"), where, "the route leads elsewhere")
    deployment = the(documents, "Deployment", "switchyard-picker")["spec"]["template"]["spec"]["containers"][0]
    arguments = dict(argument.lstrip("-").split("=", 1) for argument in deployment["args"])
    expect(arguments["pool-name"] == "switchyard", where, "the picker serves another pool")
    metrics = {name: value for name, value in arguments.items() if name.endswith("-metric")}
    expect(len(metrics) == 3, where, f"metrics {sorted(metrics)}")
    for flag, metric in metrics.items():
        expect(metric in seen, where, f"--{flag}: no metric {metric}")
    labels = {"max_lora", "running_lora_adapters", "waiting_lora_adapters"}
    expect(labels <= seen["vllm:lora_requests_info"].keys(), where, "vllm:lora_requests_info lacks labels")
    held = next(document for document in of_kind(documents, "ConfigMap"))["data"]
    text = held[os.path.basename(arguments["config-file"])]
    config = yaml.safe_load(text)
    for problem in problems(SCHEMAS["files"]["picker"], config):
        wrong("picker-config.yaml", problem)
    plugins = {plugin.get("name", plugin["type"]) for plugin in config["plugins"]}
    for profile in config["schedulingProfiles"]:
        expect({plugin["pluginRef"] for plugin in profile["plugins"]} <= plugins, "picker-config.yaml", "a plugin is not there")
    for metric in re.findall(r"vllm:\w+", text):
        expect(metric in seen, "picker-config.yaml", f"no metric {metric}")


def adapters_are_loaded(binary):
    """As controllers for vLLM's adapters do it: health, what is there, load, unload."""
    body = {"lora_name": "from-a-controller", "lora_path": "pirate", "base_model_name": "switchyard-base"}
    loaded = binary.ask("/v1/load_lora_adapter", body)
    expect(loaded[0] == 200, "adapters", f"load: {loaded}")
    models = {model["id"] for model in json.loads(binary.ask("/v1/models")[1])["data"]}
    expect("from-a-controller" in models, "adapters", f"not among {sorted(models)}")
    answer = binary.ask("/v1/completions", {"model": "from-a-controller", "prompt": "good morning", "max_tokens": 4})
    expect(answer[0] == 200, "adapters", f"asked: {answer}")
    unloaded = binary.ask("/v1/unload_lora_adapter", {"lora_name": "from-a-controller"})
    expect(unloaded[0] == 200, "adapters", f"unload: {unloaded}")


# --- Compose ----------------------------------------------------------------------------------------------------------------------


def compose(image, binary):
    where, directory = "compose", K8S / "compose"
    text = (directory / "compose.yaml").read_text()
    document = yaml.safe_load(text)
    asked = set(re.findall(r"\$\{(\w+)", text))
    offered = {line.partition("=")[0] for line in (directory / "example.env").read_text().splitlines() if line and line[0] != "#"}
    expect(asked == offered, where, f"example.env has {sorted(offered)}, asked is {sorted(asked)}")
    values = {name: "0" * 64 for name in asked}
    services = document["services"]
    for name, service in services.items():
        tag = service["image"].rpartition(":")[2]
        expect(":" in service["image"] and tag != "latest", where, f"{name}: {service['image']} has no version")
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            there = (directory / source).exists() if source.startswith(".") else source in document["volumes"]
            expect(there, where, f"{name}: {source} is not there")
        for other, how in service.get("depends_on", {}).items():
            known = "restart" in services[other] if how["condition"] == "service_completed_successfully" else "healthcheck" in services[other]
            expect(known, where, f"{name} waits for {other}, which has no health check")
    gateway = services["gateway"]
    expect(gateway["image"].partition(":")[2] == binary.version(), where, "another version")
    expect(gateway["ports"][0].rpartition(":")[2] == image["EXPOSE"], where, "another port than the image's")
    expect(gateway["build"]["args"]["VARIANT"] in image["variants"], where, "no such variant")
    expect((directory / gateway["build"]["context"]).resolve() == ROOT, where, "the context is not the repository")
    expect(gateway["read_only"] and gateway["cap_drop"] == ["ALL"], where, "not restricted")
    environment = {name: re.sub(r"\$\{(\w+)[^}]*\}", lambda found: values[found[1]], value) for name, value in gateway["environment"].items()}
    environment |= {key: value for key, value in image["env"].items() if key.startswith("SWITCHYARD_")}
    toml = (K8S / "base/switchyard.toml").read_text()
    said = binary.config_is_right(toml, environment)
    expect(not said, where, said)
    settings = tomllib.loads(toml)
    needed = settings.get("drain_delay", 0) + settings.get("drain_deadline", 30) + 5
    expect(int(gateway["stop_grace_period"].rstrip("s")) > needed, where, f"{needed} s are needed to end")
    prometheus = yaml.safe_load((directory / "prometheus.yaml").read_text())
    scrape = prometheus["scrape_configs"][0]
    expect(scrape["static_configs"][0]["targets"] == [f"gateway:{image['EXPOSE']}"], where, "Prometheus reads something else")
    inside = {volume.split(":")[1] for volume in services["prometheus"]["volumes"]}
    expect(set(prometheus["rule_files"]) <= inside, where, "Prometheus has no rules")
    dashboards = yaml.safe_load((directory / "grafana/dashboards/switchyard.yaml").read_text())["providers"][0]["options"]["path"]
    expect(any(volume.split(":")[1] == dashboards for volume in services["grafana"]["volumes"]), where, "Grafana has no dashboards")


# --- This test itself ---------------------------------------------------------------------------------------------------------------


def mistakes_are_found(documents, seen, registered):
    """What would be the use of it otherwise."""
    pods = copy.deepcopy(the(documents, "StatefulSet"))
    pods["spec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    assert validate(pods), "an unknown field of a pod"
    rule = copy.deepcopy(the(documents, "PrometheusRule"))
    rule["spec"]["groups"][0]["rules"][0]["expression"] = "up"
    assert validate(rule), "an unknown field of a custom resource"
    for expression in (
        "switchyard_nothing > 1",
        'sum by (colour) (rate(switchyard_http_requests_total[5m]))',
        'switchyard_refused_requests_total{code="no_such_code"}',
    ):
        before = len(findings)
        metrics_exist("mistake", expression, seen, registered)
        assert len(findings) > before, expression
        del findings[before:]


def main():
    arguments = argparse.ArgumentParser()
    for name in ("binary", "url", "key"):
        arguments.add_argument(f"--{name}", required=True)
    arguments = arguments.parse_args()
    binary = Binary(arguments.binary, arguments.url, arguments.key)
    image = dockerfile()
    asked = binary.run(*image["HEALTHCHECK"][1:], "--server", arguments.url)
    expect(asked.returncode == 0, "HEALTHCHECK", asked.stderr)
    adapters_are_loaded(binary)
    status, text = binary.ask("/metrics")
    assert status == 200
    seen = series(text)
    registered = "".join(path.read_text() for path in (ROOT / "src").rglob("*.rs"))

    template = yaml.safe_load((K8S / "secret.template.yaml").read_text())
    for problem in validate(template):
        wrong("secret.template.yaml", problem)
    for overlay in OVERLAYS:
        documents = render(K8S / "overlays" / overlay)
        for document in documents:
            for problem in validate(document):
                wrong(f"{overlay}: {name_of(document)}", problem)
        pod_agrees(overlay, documents, the(documents, "StatefulSet"), image, binary, template)
        for trainer in of_kind(documents, "Deployment"):
            pod_agrees(f"{overlay}: trainer", documents, trainer, image, binary, template)
            classes = {document["metadata"]["name"] for document in of_kind(documents, "PriorityClass")}
            expect(trainer["spec"]["template"]["spec"]["priorityClassName"] in classes, overlay, "no such priority")
        names_are_there(overlay, documents, image)
    expect({path.name for path in (K8S / "overlays").iterdir()} == set(OVERLAYS), "overlays", "not those that are tested")
    pod_labels = the(documents, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    mistakes_are_found(documents, seen, registered)
    routed = render(K8S / "inference")
    for document in routed:
        for problem in validate(document):
            wrong(f"inference: {name_of(document)}", problem)
    names_are_there("inference", routed, image)
    inference(routed, image, seen, pod_labels)
    cluster = yaml.safe_load((K8S / "overlays/eks/cluster.yaml").read_text())
    for problem in problems(SCHEMAS["files"]["cluster"], cluster):
        wrong("cluster.yaml", problem)
    policy = (K8S / "overlays/eks/networkpolicy.yaml").read_text()
    expect(cluster["vpc"]["cidr"] in policy, "eks", "the load balancer is not let in from the cluster's network")
    monitoring(seen, registered)
    compose(image, binary)

    for finding in findings:
        print(finding)
    print(f"{len(findings)} findings" if findings else "all checks passed")
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main())
