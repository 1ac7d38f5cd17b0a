"""Containers of the real image, by podman and runc, in a storage of their own. Used by tests/e2e/test_image.py.

The image is built from docker/Dockerfile. Its base would come from a registry; instead one is made here of the packages
of this machine's own Debian or Ubuntu, under the name that the Dockerfile has for it. Both are kept in the storage, and
made again when what they are made of has changed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.daemons import binary
from tests.support.processes import Child
from tests.support.world import ROOT, TROUBLE

# What python:slim has: Python with venv and pip, certificates, names of services, time zones.
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates,netbase,tzdata"
# Those that nobody reads in a container.
EXCLUDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
LIMITS = ("--ulimit", "nofile=20000:20000", "--ulimit", "nproc=32768:32768")  # no more than a CI machine has
BASE_S, BUILD_S, COMMAND_S = 600.0, 600.0, 60.0
BUILD_DEADLINE_S = BASE_S + BUILD_S + 60  # for tests, whichever of them builds first
KEPT_BUILDS = 2
STOP_S = 15  # between SIGTERM and SIGKILL: GT takes up to 10

_numbers = itertools.count(1)


class Podman:
    """podman with a storage that nobody else uses. Tests are skipped where it is not installed."""

    def __init__(self) -> None:
        self._binary = binary("podman", "podman")
        binary("runc", "runc")
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        self.store = Path(cache) / "gt-tests" / "podman"
        self.store.mkdir(parents=True, exist_ok=True)
        # Health checks are run by the tests, not by timers of systemd; images have to be Docker's for having any.
        self.environ = {**os.environ, "DISABLE_HC_SYSTEMD": "true", "BUILDAH_FORMAT": "docker"}

    def command(self, *words: str) -> list[str]:
        places = ("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")
        options = [part for option, name in places for part in (option, str(self.store / name))]
        same = ["--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]
        return [self._binary, *options, *same, *words]

    def run(
        self, *words: str, timeout: float = COMMAND_S, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """A podman command that ends by itself; AssertionError when it fails."""
        done = subprocess.run(
            self.command(*words), env=self.environ, capture_output=True, text=True, timeout=timeout
        )
        if check and done.returncode:
            output = "\n".join((done.stdout + done.stderr).splitlines()[-60:])
            raise AssertionError(f"podman {' '.join(words)}: exit code {done.returncode}\n{output}")
        return done

    def inspect(self, name: str) -> dict[str, Any]:
        found = json.loads(self.run("inspect", name).stdout)[0]
        assert isinstance(found, dict)
        return found

    # the image

    def image(self) -> str:
        """The id of the image of this checkout; built once in a test run, whichever process asks first."""
        mark = self.store / "built"
        this_run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
        with self._locked():
            if mark.exists():
                run, _, id = mark.read_text().partition(" ")
                if run == this_run:
                    return id
            base = re.search(r"^ARG BASE=(\S+)$", (ROOT / "docker/Dockerfile").read_text(), re.M)
            assert base is not None
            self._make_base(f"docker.io/library/{base.group(1)}")
            id = self._build()
            mark.write_text(f"{this_run} {id}")
            return id

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.store / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _build(self) -> str:
        self.run(
            *("build", "--pull=never", "--network", "host", *LIMITS, *self._pip(), *self._npm()),
            *("--file", str(ROOT / "docker/Dockerfile"), "--tag", "gt-tested", str(ROOT)),
            timeout=BUILD_S,
        )
        # Of what builds have left, the last is what the next one begins with.
        listed = ("images", "--quiet", "--no-trunc", "--filter", "dangling=true", "--sort", "created")
        for id in self.run(*listed).stdout.split()[KEPT_BUILDS:]:
            self.run("rmi", "--force", id, check=False)
        (id,) = self.run("images", "--quiet", "--no-trunc", "gt-tested").stdout.split()
        return id

    def _pip(self) -> list[str]:
        """Build options that let pip find packages as it does outside."""
        listed = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
        )
        settings, mounts = {}, set()
        for line in listed.stdout.splitlines():
            name, _, value = line.partition("=")
            value = value.strip("'\"")
            if value.startswith("/"):
                if not os.path.exists(value):
                    continue
                mounts.add(f"--volume={value}:{value}:ro")
            section, _, key = name.rpartition(".")
            if section in ("global", ":env:"):
                settings[key] = value
        path = self.store / "pip.conf"
        path.write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()))
        return [*sorted(mounts), f"--volume={path}:/etc/pip.conf:ro"]

    def _npm(self) -> list[str]:
        """The same for npm, where there is one."""
        if shutil.which("npm") is None:
            return []
        listed = subprocess.run(
            ["npm", "config", "list", "--json"], capture_output=True, text=True, check=True
        )
        known = json.loads(listed.stdout)
        settings = {
            key: known[key] for key in ("registry", "cafile", "proxy", "https-proxy") if known.get(key)
        }
        path = self.store / "npmrc"
        path.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        mounts = [f"--volume={path}:/root/.npmrc:ro"]
        if "cafile" in settings:
            mounts.append(f"--volume={settings['cafile']}:{settings['cafile']}:ro")
        return mounts

    def _make_base(self, name: str) -> None:
        """The stand-in for the base image, unless it is there."""
        recipe = {
            "packages": PACKAGES,
            "excluded": EXCLUDED,
            "suite": platform.freedesktop_os_release()["VERSION_CODENAME"],
            "sources": _apt_sources(),
            "options": _apt_options(),
            "user": os.getuid(),
        }
        key = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()
        found = self.run("image", "inspect", "--format", "{{.Labels.recipe}}", name, check=False)
        if found.returncode == 0 and found.stdout.strip() == key:
            return
        sources, options, tar = (self.store / each for each in ("sources.list", "apt.conf", "base.tar"))
        sources.write_text("\n".join(_apt_sources()) + "\n")
        options.write_text("\n".join(_apt_options()) + "\n")
        excluded = [f"--dpkgopt=path-exclude={pattern}" for pattern in EXCLUDED]
        argv = [binary("mmdebstrap", "mmdebstrap"), "--quiet", "--variant=minbase", f"--include={PACKAGES}"]
        argv += [*excluded, f"--aptopt={options}", str(recipe["suite"]), str(tar), str(sources)]
        made = subprocess.run(argv, capture_output=True, text=True, timeout=BASE_S)
        assert made.returncode == 0, f"{' '.join(argv)}\n{made.stdout}{made.stderr}"
        try:
            self.run("import", "--change", f"LABEL recipe={key}", str(tar), name, timeout=BASE_S)
        finally:
            tar.unlink()


def _apt_sources() -> list[str]:
    """The sources of this machine's distribution, as lines of a sources.list."""
    system = platform.freedesktop_os_release()["ID"].lower()
    what = "$(ORIGIN)\t$(SIGNED_BY)\t$(REPO_URI)\t$(RELEASE)\t$(COMPONENT)"
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", what, "Created-By: Packages"], capture_output=True, text=True
    )
    lines = []
    for line in listed.stdout.splitlines():
        origin, signed_by, uri, release, component = line.split("\t")
        if origin.lower() == system:
            key = f"[signed-by={signed_by}] " if signed_by.startswith("/") else ""
            lines.append(f"deb {key}{uri} {release} {component}")
    if not lines:
        pytest.skip("apt knows no packages to make a base image of (apt-get update)")
    return sorted(set(lines))


def _apt_options() -> list[str]:
    """What this machine says about how packages are fetched."""
    dumped = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    wanted = re.compile(r'Acquire::(http|https|Check-\w|Retries|ForceIPv)[^"]* ".+"')
    return [line for line in dumped.splitlines() if wanted.match(line)]


class Container(Child):
    """A running container, its output as lines; its exit code is that of what runs in it. It is gone at the end."""

    def __init__(
        self, podman: Podman, image: str, name: str, *words: str, options: Sequence[str] = ()
    ) -> None:
        self.podman = podman
        self.id = f"gt-{os.getpid()}-{next(_numbers)}-{name}"
        self.allowed: list[str] = []  # lines that look like trouble, and are none
        run = podman.command("run", "--rm", "--name", self.id, *LIMITS, *options, image, *words)
        super().__init__(name, run, podman.environ)

    def exec(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command inside of it."""
        return self.podman.run("exec", self.id, *words, check=check)

    def health(self) -> str:
        """Run its health check: "healthy", "unhealthy", or "starting"."""
        self.podman.run("healthcheck", "run", self.id, check=False)
        return str(self.podman.inspect(self.id)["State"]["Health"]["Status"])

    def users(self) -> set[int]:
        """The ids of the users that its processes run as."""
        first = psutil.Process(self.podman.inspect(self.id)["State"]["Pid"])
        return {user for each in (first, *first.children(recursive=True)) for user in each.uids()}

    def stop(self) -> float:
        """`podman stop`; how long it took, in seconds."""
        start = time.monotonic()
        self.podman.run("stop", "--time", str(STOP_S), self.id)
        took = time.monotonic() - start
        self.wait()
        return took

    def close(self) -> None:
        """End it; AssertionError when it has not ended as it should, or has logged errors."""
        try:
            if self.running:
                self.stop()
        finally:
            self.podman.run("rm", "--force", "--ignore", "--time", "0", self.id)
            self.wait()
            print(self.tail())
        trouble = [
            line
            for line in self.lines
            if re.search(TROUBLE, line) and not any(re.search(each, line) for each in self.allowed)
        ]
        assert not trouble, f"{self.name} logged: {trouble[:5]}"
        assert self.exit_code in self.expected_exit, f"{self.name} ended with {self.exit_code}"
