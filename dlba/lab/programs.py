"""Starts, finds, asks and kills the lab's programs; keeps its state folder.

Adapter. Each node is a `twistd dlba`, each backend a `dlba backend`, in its own network namespace,
in a session of its own, detached from who started it. A program is known by its pid and its start
time, since a pid is used again; whoever else sits in a namespace of the lab is found by that.

/run/dlba-lab/NAME, mode 0700, belongs to the lab NAME:

===============  ===========================================================================
lab.json         the number of nodes and what later commands need to know of them
array.yaml       what the nodes share; beside it lab.pem and lab.key
ca/              the authority of the channel, and each node's certificate; without a channel
                 there is the file secrets instead
X/               folder of the program X: what it wrote as `log`, who it is as `process`;
                 of a node node.yaml, access.log and state/ as well
===============  ===========================================================================

A command that changes the lab holds the folder itself by flock(2), so that a killed one leaves no
lock behind. The folder above is held for moments, while things of all labs are made or removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import select
import shutil
import signal
import site
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

import dlba
from dlba.addresses import ip_literal
from dlba.errors import DLBAError
from dlba.lab import network
from dlba.lab.plan import (
    AUTHORITY,
    BACKEND_PORT,
    CERTIFICATE,
    MONITOR,
    VIP,
    Part,
    Plan,
    array_text,
    has_channel,
    namespace,
    node_text,
    plan,
    ready_paths,
)

FOLDER = Path("/run/dlba-lab")

KILL_TIMEOUT = 10.0  # seconds until what was killed must be gone
POLL = 0.05  # seconds between two looks
TAIL = 12  # lines of a log that tell why a program ended
TAIL_BYTES = 8192

#: Variables that would tell a program things that are meant for somebody else.
NOT_INHERITED = ("DLBA_CONTROL", "STATE_DIRECTORY", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID")


@attrs.frozen
class Lab:
    """A lab that is up: its plan, and what its array.yaml says that later commands need.

    `ready`: by node the page of its monitor that answers 200 when it is up; `web`: whether the
    nodes run the proxy; `channel`: whether they speak to each other.
    """

    plan: Plan
    vip: str | None
    ready: dict[str, str]
    web: bool
    channel: bool = False


@attrs.frozen
class Process:
    """A process of this machine, no other that has its pid later. `start`: see `start_time`."""

    pid: int
    start: int


# The folder


def folder(lab: str) -> Path:
    """The state folder of a lab."""
    return FOLDER / lab


@contextlib.contextmanager
def held(lab: str, *, make: bool = False, wait: float = 0.0) -> Iterator[None]:
    """Nobody else changes this lab during the block.

    `make`: the folder is made where it lacks. DLBAError if it lacks otherwise, or if another
    command holds it for longer than `wait` seconds.
    """
    end = time.monotonic() + wait
    while (descriptor := _hold(folder(lab), make)) is None:
        if time.monotonic() >= end:
            raise DLBAError(f"lab {lab}: another dlba lab command is at work on it")
        time.sleep(POLL)
    try:
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Nobody makes or removes what labs share during the block, which lasts for a moment."""
    while (descriptor := _hold(FOLDER, True)) is None:
        time.sleep(POLL)
    try:
        yield
    finally:
        os.close(descriptor)


def _hold(path: Path, make: bool) -> int | None:
    """A descriptor that holds the folder until it is closed; None if that must be tried again."""
    if make:
        try:
            FOLDER.mkdir(mode=0o700, exist_ok=True)
            path.mkdir(mode=0o700, exist_ok=True)
        except FileNotFoundError:
            return None  # the last lab went in this moment and took FOLDER along
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        if make:
            return None
        raise DLBAError(f"lab {path.name}: expected a lab that is up, got none") from None
    with contextlib.suppress(BlockingIOError, FileNotFoundError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Who held it may have removed it; a lock on what has no name is nobody's.
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    os.close(descriptor)
    return None


def exists(lab: str) -> bool:
    """Whether anything of the lab is there, whole or half-made; call it while it is held."""
    here = folder(lab)
    return bool(network.names_of(lab)) or (here.is_dir() and any(here.iterdir()))


def write_files(lab: Plan, values: Mapping[str, Any]) -> Lab:
    """Write the lab's files; `values`: those of array.yaml."""
    from dlba.demo import write_certificate

    here = folder(lab.name)
    written = values.get("vip")
    vip = ip_literal(str(written))
    channel = has_channel(values)
    made = Lab(lab, vip, ready_paths(values, lab), values.get("web") is not None, channel)
    record = {"nodes": len(lab.nodes), "vip": vip, "ready": made.ready, "web": made.web}
    record["channel"] = channel
    # First of all: from here on the lab is there, if only to be taken down.
    (here / "lab.json").write_text(json.dumps(record) + "\n")
    (here / "array.yaml").write_text(array_text(values), "utf-8")
    certificate, key = CERTIFICATE
    write_certificate(here / certificate, here / key, (vip or VIP,))
    if channel:
        _write_authority(here / AUTHORITY, lab, str(values["name"]))
    else:
        keys = f"{secrets.token_hex(2)} {secrets.token_hex(32)}\nhash {secrets.token_hex(32)}\n"
        (here / "secrets").write_text(keys)
    for part in lab.programs:
        (here / part.name).mkdir(mode=0o700)
        if part.kind == "node":
            (here / part.name / "node.yaml").write_text(node_text(part, channel))
    return made


def _write_authority(here: Path, lab: Plan, array: str) -> None:
    """The array's own authority, and a certificate for each node."""
    from dlba.election import authority

    here.mkdir(mode=0o700)
    now = time.time()
    authority.init(here, array, now)
    for node in lab.nodes:
        authority.issue(here, node.name, False, now)


def read_lab(lab: str) -> Lab:
    """The lab that is up under this name; DLBAError if there is none, or not all of it."""
    path = folder(lab) / "lab.json"
    try:
        record = json.loads(path.read_text())
        seen = (record[key] for key in ("vip", "ready", "web", "channel"))
        return Lab(plan(lab, record["nodes"]), *seen)
    except FileNotFoundError:
        if not network.names_of(lab):
            raise DLBAError(f"lab {lab}: expected a lab that is up, got none") from None
    except (ValueError, KeyError, TypeError):
        pass
    raise DLBAError(f"lab {lab}: expected {path}, got what is left of a lab: take it down")


def remove_files(lab: str) -> None:
    """Remove the lab's folder, and with the last lab what all shared; while the lab is held."""
    shutil.rmtree(folder(lab))
    with together():
        network.tidy()
        with contextlib.suppress(OSError):  # there are others
            FOLDER.rmdir()


# Processes


def start_time(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None if it has ended."""
    fields = _stat(pid)
    return None if fields is None else int(fields[19])


def is_stopped(pid: int) -> bool:
    """Whether it neither runs nor has ended, but waits for SIGCONT."""
    fields = _stat(pid)
    return fields is not None and fields[0] == b"T"


def _stat(pid: int) -> list[bytes] | None:
    """The fields of /proc/PID/stat behind the name; None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # A zombie has ended, whether or not somebody ever asks how.
    return None if fields[0] in (b"Z", b"X") else fields


def running(lab: str, name: str) -> int | None:
    """The pid of the program of that name, None if it doesn't run."""
    known = _known(lab, name)
    return None if known is None else known.pid


def _known(lab: str, name: str) -> Process | None:
    try:
        pid, start = map(int, (folder(lab) / name / "process").read_text().split())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return Process(pid, start) if start_time(pid) == start else None


def start(lab: str, part: Part) -> subprocess.Popen[bytes]:
    """Start the program of a part that doesn't run; it may end at once, see `wait_ready`."""
    here = folder(lab) / part.name
    with network.inside(namespace(lab, part.name)), open(here / "log", "ab") as log:
        process = subprocess.Popen(  # noqa: S603 - our own programs, names and addresses of the plan
            _command(here, part),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=here,
            env=_environment(),
            start_new_session=True,
        )
    # An ended one has no time any more, and is nobody.
    (here / "process").write_text(f"{process.pid} {start_time(process.pid) or 0}\n")
    return process


def _command(here: Path, part: Part) -> list[str]:
    if part.kind == "node":
        # Not resolved: the python of a venv is a link, and its scripts lie beside it.
        script = Path(sys.executable).with_name("twistd")
        twistd = ["-c", "from twisted.scripts.twistd import run; run()"]
        if script.exists():
            twistd = [str(script)]
        config = str(here / "node.yaml")
        return [sys.executable, *twistd, "-n", "--pidfile=", "dlba", "-c", config]
    backend = [sys.executable, "-m", "dlba.cli", "backend", "--name", part.name]
    return [*backend, "--address", part.address, "--port", str(BACKEND_PORT)]


def _environment() -> dict[str, str]:
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in NOT_INHERITED and not name.lower().endswith("_proxy")
    }
    # The programs run elsewhere, and must find the package that this command is of.
    root = str(Path(dlba.__file__).resolve().parent.parent)
    if root not in (*site.getsitepackages(), site.getusersitepackages()):
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (root, env.get("PYTHONPATH"))))
    return env


def kill(lab: str, name: str) -> None:
    """SIGKILL to the program of that name; back when it is gone. DLBAError if it doesn't run."""
    _kill([_must_run(lab, name)])


def stop(lab: str, name: str) -> None:
    """SIGSTOP to that program; back when it has stopped. DLBAError if it doesn't run."""
    _send(lab, name, signal.SIGSTOP, True)


def go_on(lab: str, name: str) -> None:
    """SIGCONT to that program. DLBAError if it doesn't run."""
    _send(lab, name, signal.SIGCONT, False)


def _send(lab: str, name: str, number: signal.Signals, stopped: bool) -> None:
    known = _must_run(lab, name)
    descriptor = os.pidfd_open(known.pid)
    try:
        _must_run(lab, name)  # as in _kill: now the descriptor is of the process that is meant
        signal.pidfd_send_signal(descriptor, number)
    finally:
        os.close(descriptor)
    end = time.monotonic() + KILL_TIMEOUT
    while is_stopped(known.pid) != stopped:
        if time.monotonic() > end:
            raise DLBAError(f"process {known.pid}: expected it to obey {number.name}, got nothing")
        time.sleep(POLL / 10)


def _must_run(lab: str, name: str) -> Process:
    known = _known(lab, name)
    if known is None:
        raise DLBAError(f"lab {lab}: {name}: expected a program that runs, got none")
    return known


def kill_all(lab: str) -> int:
    """SIGKILL to every process in the lab's namespaces; how many there were.

    Also to programs of the lab whose namespace has lost its name, and who sits there with them.
    Never to those in the namespace of this process: `down` isn't run from inside, and if the
    machine's own namespace ever got a name of the lab, everything would end.
    """
    identities = {network.identity(name) for name in network.names_of(lab)}
    here = folder(lab)
    names = [path.parent.name for path in here.glob("*/process")] if here.is_dir() else []
    for pid in filter(None, (running(lab, name) for name in names)):
        identities.add(network.identity_of_process(pid))
    identities -= {None, network.identity_of_process("self")}
    count = 0
    end = time.monotonic() + KILL_TIMEOUT
    while found := _processes_in(identities):
        _kill(found)
        count += len(found)
        if time.monotonic() > end:
            raise DLBAError(f"lab {lab}: expected no process any more, got {len(found)} new ones")
    return count


def _processes_in(identities: Collection[tuple[int, int] | None]) -> list[Process]:
    """Every process whose network namespace is one of these."""
    found = []
    for name in os.listdir("/proc") if identities else ():
        if name.isdigit():
            started = start_time(int(name))
            if started is not None and network.identity_of_process(int(name)) in identities:
                found.append(Process(int(name), started))
    return found


def _kill(processes: Collection[Process]) -> None:
    """SIGKILL to those that still are who they were; back when they are gone."""
    with contextlib.ExitStack() as opened:
        descriptors = []
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                descriptor = os.pidfd_open(process.pid)
                opened.callback(os.close, descriptor)
                # The descriptor holds on to the process: what is checked now is what is killed.
                if start_time(process.pid) == process.start:
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                    descriptors.append((process.pid, descriptor))
        end = time.monotonic() + KILL_TIMEOUT
        for pid, descriptor in descriptors:
            if not select.select([descriptor], [], [], max(0.0, end - time.monotonic()))[0]:
                raise DLBAError(f"process {pid}: expected its end, got none after SIGKILL")
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # if it was ours


# Questions


def ready_page(lab: Lab, part: Part) -> network.Page:
    """What answers 200 as soon as a program is up."""
    if part.kind != "node":
        return network.Page(part.address, BACKEND_PORT, "/")
    # Without a link a node gets no traffic; that it serves is all that can be waited for.
    link = network.has_link(namespace(lab.plan.name, part.name), part.links[0].interface)
    return network.Page(*MONITOR, lab.ready.get(part.name, "/readyz") if link else "/healthz")


def ask_status(lab: str, names: Collection[str]) -> dict[str, dict[str, Any] | None]:
    """The status document of each of these nodes; None for those that don't answer with one."""
    documents: dict[str, dict[str, Any] | None] = dict.fromkeys(names)
    page = network.Page(*MONITOR, "/status")
    for name, answer in network.ask(lab, dict.fromkeys(names, page)).items():
        with contextlib.suppress(ValueError):
            document = json.loads(answer[1]) if answer and answer[0] == 200 else None
            documents[name] = document if isinstance(document, dict) else None
    return documents


def wait_ready(lab: Lab, started: Mapping[str, subprocess.Popen[bytes]], seconds: float) -> None:
    """Back when all these programs are up; DLBAError with the log's end of one that isn't."""
    end = time.monotonic() + seconds
    left = {part.name: ready_page(lab, part) for part in lab.plan.programs if part.name in started}
    while left:
        for name in left:
            code = started[name].poll()
            if code is not None:
                raise DLBAError(_failure(lab.plan.name, name, f"ended with code {code}"))
        for name, answer in network.ask(lab.plan.name, left).items():
            if answer is not None and answer[0] == 200:
                del left[name]
        if left and time.monotonic() > end:
            name = next(iter(left))
            what = f"{left[name].path} isn't 200 after {seconds:.0f} s"
            raise DLBAError(_failure(lab.plan.name, name, what))
        if left:
            time.sleep(POLL)


def _failure(lab: str, name: str, what: str) -> str:
    lines = [f"lab {lab}: {name}: {what}; the end of its log:", *log_tail(lab, name)]
    return "\n  ".join(lines)


def log_tail(lab: str, name: str) -> list[str]:
    """The last lines that a program wrote, without what a terminal would obey."""
    from dlba.config.problems import printable

    try:
        with open(folder(lab) / name / "log", "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []
    return [printable(line) for line in lines[-TAIL:]]
