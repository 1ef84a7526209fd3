#!/usr/bin/env python3
"""Does what the Dockerfile says, step by step, in a clean Debian root, where nothing runs that builds containers.

    sudo tests/container/by_hand.py WORK [--binary FILE] [--cargo-home DIR] [--rustup-home DIR]

WORK is an empty or earlier directory on a disk with 6 GB; Debian comes from debootstrap, Rust from this machine's rustup. The stages
of the variant `cpu` are made in WORK/stages; the image's tree is WORK/image. With --binary the compilation is left out and that file
is taken instead. Afterwards the tree is started as the Dockerfile says: as its user, on a read-only root, with only the state and /tmp
writable; its health check must pass and a request must be answered.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = re.compile(r"\$\{(\w+)\}")


def instructions(text):
    """The Dockerfile's instructions as (word, rest)."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [tuple(line.strip().split(None, 1)) for line in joined.splitlines() if line.strip()]


def run(command, **more):
    print("+", shlex.join(str(word) for word in command), flush=True)
    return subprocess.run([str(word) for word in command], check=True, **more)


def debian(work):
    """A clean Debian 12 with what the image `rust:*-bookworm` has of it for a C compiler."""
    base = work / "debian"
    if not (base / "etc/debian_version").exists():
        packages = "ca-certificates,gcc,g++,libc6-dev,make,pkg-config"
        run(["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", base, "http://deb.debian.org/debian"])
    return base


class Stage:
    """A directory that stands for a stage, and what is in force in it."""

    def __init__(self, path, environment, directory="/"):
        self.path, self.environment, self.directory, self.user = path, dict(environment), directory, "0:0"
        self.facts = {}

    def copy_from(self, other):
        run(["cp", "-a", "--reflink=auto", f"{other.path}/.", self.path])


class Builder:
    def __init__(self, options):
        self.options, self.work = options, Path(options.work).resolve()
        self.stages, self.globals = {}, {"TARGETARCH": "amd64"}

    def expand(self, text, stage=None):
        known = {**self.globals, **(stage.environment if stage else {})}
        return VARIABLE.sub(lambda found: known.get(found[1], ""), text)

    def build(self):
        skipping, stage, name = False, None, None
        for word, rest in instructions((ROOT / "Dockerfile").read_text()):
            if word == "FROM":
                image, _, name = self.expand(rest).partition(" AS ")
                name = name or "image"
                skipping = image.startswith("nvidia/") or name.endswith("-cuda")
                if not skipping:
                    stage = self.begin(image, name)
                continue
            if skipping:
                continue
            if stage is None:
                assert word == "ARG", word
                key, _, value = rest.partition("=")
                self.globals[key] = value
                continue
            getattr(self, word.lower())(stage, rest)
        return stage

    def begin(self, image, name):
        path = self.work / ("image" if name == "image" else f"stages/{name}")
        if path.exists():
            shutil.rmtree(path)
        path.mkdir(parents=True)
        os.chmod(path, 0o755)
        before = self.stages.get(image)
        if before:
            stage = Stage(path, before.environment, before.directory)
            stage.copy_from(before)
        else:
            stage = Stage(path, {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
            if image != "scratch":
                assert image.startswith("rust:") and image.endswith("-bookworm"), image
                run(["cp", "-a", "--reflink=auto", f"{debian(self.work)}/.", path])
                stage.environment |= {"RUSTUP_HOME": "/usr/local/rustup", "CARGO_HOME": "/usr/local/cargo"}
                stage.environment["PATH"] = "/usr/local/cargo/bin:" + stage.environment["PATH"]
        self.stages[name] = stage
        return stage

    def env(self, stage, rest):
        for pair in shlex.split(self.expand(rest, stage)):
            key, _, value = pair.partition("=")
            stage.environment[key] = value

    def workdir(self, stage, rest):
        stage.directory = rest
        (stage.path / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)

    def copy(self, stage, rest):
        words = shlex.split(rest)
        options = dict(word[2:].split("=", 1) for word in words if word.startswith("--"))
        *sources, target = [word for word in words if not word.startswith("--")]
        root = self.stages[options["from"]].path if "from" in options else ROOT
        into = stage.path / os.path.join(stage.directory, target).lstrip("/")
        for source in sources:
            found = root / source.lstrip("/")
            if found.is_dir():
                into.mkdir(parents=True, exist_ok=True)
                run(["cp", "-r", "--preserve=mode,links", f"{found}/.", into])
                if "chown" in options:
                    for entry in found.iterdir():
                        run(["chown", "-R", options["chown"], into / entry.name])
            else:
                place = into / found.name if target.endswith("/") else into
                place.parent.mkdir(parents=True, exist_ok=True)
                run(["cp", "--preserve=mode", found, place])

    def run(self, stage, rest):
        command = re.sub(r"--mount=\S+\s*", "", rest)
        mounts = [word.removeprefix("--mount=") for word in rest.split() if word.startswith("--mount=")]
        if self.options.binary and "cargo build" in command:
            (stage.path / "out").mkdir()
            run(["objcopy", "--strip-debug", self.options.binary, stage.path / "out/switchyard"])
            return
        script = ["set -e", f"mount -t proc proc {stage.path}/proc", f"mount --rbind /dev {stage.path}/dev"]
        bound = {}
        if "cargo" in command:
            bound["/usr/local/rustup"] = self.options.rustup_home
            tools = stage.path / "usr/local/cargo/bin"
            tools.mkdir(parents=True, exist_ok=True)
            for tool in ("cargo", "rustc"):
                shutil.copy2(shutil.which(tool), tools / tool)
            shutil.copy2("/etc/resolv.conf", stage.path / "etc/resolv.conf")
        for mount in mounts:
            target = dict(pair.partition("=")[::2] for pair in mount.split(","))["target"]
            cache = self.work / "caches" / target.strip("/").replace("/", "-")
            cache.mkdir(parents=True, exist_ok=True)
            bound[target] = f"{self.options.cargo_home}/registry" if target.endswith("/registry") else cache
        for target, source in bound.items():
            (stage.path / target.lstrip("/")).mkdir(parents=True, exist_ok=True)
            script.append(f"mount --bind {shlex.quote(str(source))} {stage.path}{target}")
        settings = [f"{key}={value}" for key, value in stage.environment.items()]
        inside = f"cd {stage.directory} && {command}"
        script.append(shlex.join(["chroot", str(stage.path), "/usr/bin/env", "-i", *settings, "/bin/sh", "-c", inside]))
        # What is mounted goes with the namespace.
        run(["unshare", "--mount", "--pid", "--fork", "sh", "-c", "\n".join(script)])

    def arg(self, stage, rest):
        key, _, value = rest.partition("=")
        stage.environment.setdefault(key, value or self.globals.get(key, ""))

    def note(self, word, stage, rest):
        stage.facts[word] = rest

    def user(self, stage, rest):
        stage.user = rest

    def entrypoint(self, stage, rest):
        stage.facts["ENTRYPOINT"] = json.loads(rest)

    def cmd(self, stage, rest):
        stage.facts["CMD"] = json.loads(rest)

    def healthcheck(self, stage, rest):
        stage.facts["HEALTHCHECK"] = json.loads(rest[rest.index("CMD") + 3 :])

    def expose(self, stage, rest):
        stage.facts["EXPOSE"] = rest

    def volume(self, stage, rest):
        stage.facts["VOLUME"] = rest


def inside(image, state, command):
    """A command as the image's user on its tree, read-only but for the state and /tmp, with what every engine adds: /proc and /dev."""
    user, group = image.user.split(":")
    settings = [f"{key}={value}" for key, value in image.environment.items()]
    chroot = ["setpriv", "--no-new-privs", "chroot", f"--userspec={user}:{group}", "--groups=", str(image.path), *command]
    script = [
        "set -e",
        f"mount --bind {image.path} {image.path}",
        f"mount -o remount,bind,ro {image.path}",
        f"mount --bind {state} {image.path}{image.facts['VOLUME']}",
        f"mount -t tmpfs -o mode=1777,size=64m tmpfs {image.path}/tmp",
        f"mount -t proc proc {image.path}/proc",
        f"mount --rbind /dev {image.path}/dev",
        "exec " + shlex.join(["env", "-i", *settings, *chroot]),
    ]
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", "\n".join(script)]


def size(path):
    """Bytes of all files."""
    return sum(entry.lstat().st_size for entry in path.rglob("*") if entry.is_file() and not entry.is_symlink())


def ask(path, key=None, body=None):
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(f"http://127.0.0.1:8080{path}", data=data, headers=headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def check(image, work):
    """Starts the image as an engine would, and talks to it."""
    user, group = (int(number) for number in image.user.split(":"))
    assert user and group, "the image's user must not be root"
    for name in ("proc", "dev"):
        (image.path / name).mkdir(exist_ok=True)
    state = work / "state"
    shutil.rmtree(state, ignore_errors=True)
    shutil.copytree(image.path / image.facts["VOLUME"].lstrip("/"), state)
    os.chown(state, user, group)
    image.environment["SWITCHYARD_ADMIN_KEY"] = key = "sk-sy-only-for-this-check"
    command = image.facts["ENTRYPOINT"] + image.facts["CMD"]
    server = subprocess.Popen(inside(image, state, command), stdout=subprocess.DEVNULL)
    try:
        for _ in range(120):
            if subprocess.run(inside(image, state, image.facts["HEALTHCHECK"]), capture_output=True).returncode == 0:
                break
            assert server.poll() is None, "the server has ended"
            time.sleep(0.5)
        print("health", subprocess.run(inside(image, state, image.facts["HEALTHCHECK"]), capture_output=True, text=True, check=True).stdout.strip())
        pid = serving()
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        root = next(line for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines() if line.split()[4] == "/")
        options = root.split()[5].split(",")
        print("user", status["Uid"].split(), "capabilities", status["CapEff"].strip(), "root", options[0])
        assert status["Uid"].split() == [str(user)] * 4 and int(status["CapEff"], 16) == 0 and "ro" in options
        print("ready", ask("/ready"))
        body = {"model": "pirate", "max_tokens": 32, "messages": [{"role": "user", "content": "good morning, how are you?"}]}
        print("answer", ask("/v1/chat/completions", key, body)["choices"][0]["message"]["content"])
    finally:
        if pid := serving():
            os.kill(pid, signal.SIGTERM)
        print("ended with", server.wait())


def serving():
    """The server's process as this machine sees it; None where there is none."""
    return next((int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and serves(entry)), None)


def serves(entry):
    try:
        words = (entry / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return words[:2] == [b"/opt/switchyard/switchyard", b"serve"]


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("work")
    options.add_argument("--binary", help="taken instead of compiling")
    options.add_argument("--cargo-home", default=os.environ.get("CARGO_HOME", os.path.expanduser("~/.cargo")))
    options.add_argument("--rustup-home", default=os.environ.get("RUSTUP_HOME", os.path.expanduser("~/.rustup")))
    options = options.parse_args()
    Path(options.work).mkdir(parents=True, exist_ok=True)
    image = Builder(options).build()
    total = size(image.path)
    print(f"\nimage: {total / 1e6:.1f} MB ({total} bytes)")
    for part in ("opt/switchyard/switchyard", "opt/switchyard/models", "opt/switchyard/adapters", "lib", "lib64", "etc"):
        path = image.path / part
        print(f"  /{part}: {(path.stat().st_size if path.is_file() else size(path)) / 1e6:.1f} MB")
    check(image, Path(options.work).resolve())
    print("all steps passed")


if __name__ == "__main__":
    sys.exit(main())
