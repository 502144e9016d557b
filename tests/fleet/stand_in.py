"""Children small enough to follow by hand, and a supervisor that starts them. Run as scripts in processes of their own.

`stand_in.py serve FOLDER WORKERS` supervises a stand-in gateway and workers, with the settings of a tokenworks.toml in
FOLDER, if any. The gateway answers `/health/ready` and listens where workers dial in; a worker or a KV store
says its name there once a tenth of a second; the observer waits for its end. FOLDER steers them: a file `<name>.fails`
is what that child says before it exits with code 3; while `<name>.silent` exists it does not say its name; while `hold`
does, SIGTERM ends no gateway.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import msgspec
import zmq

from tokenworks.cli.main import exit_code
from tokenworks.contract.config import FleetSettings, GatewaySettings, LedgerSettings, Settings
from tokenworks.contract.errors import TokenworksError
from tokenworks.contract.loader import load_settings, read_settings
from tokenworks.contract.wire import WireError, WorkerExited, decode_to_gateway
from tokenworks.contract.worker_groups import own_group
from tokenworks.fleet.events import GATEWAY, OBSERVER, STORE
from tokenworks.fleet.launch import SETTINGS_FILE, dial_address, group_index
from tokenworks.fleet.lifeline import die_with
from tokenworks.fleet.supervisor import serve


def run_supervisor(folder: Path, num_workers: int) -> None:
    (folder / "config.json").write_text("{}")

    def command_for(name: str, settings: Settings, run_dir: Path) -> list[str]:
        file, group = str(run_dir / SETTINGS_FILE), -1
        if name not in (GATEWAY, STORE, OBSERVER):
            group = group_index(settings, name)
        return [sys.executable, __file__, "child", name, str(folder), file, str(os.getpid()), str(group)]

    try:
        serve(settings_for(folder, num_workers), command_for)
    except TokenworksError as error:
        print(f"error: {error.message}", file=sys.stderr)
        sys.exit(exit_code(error))


def settings_for(folder: Path, num_workers: int) -> Settings:
    file = folder / "tokenworks.toml"
    settings = load_settings(config=file, environment={}) if file.exists() else Settings()
    return msgspec.structs.replace(
        settings,
        model=str(folder),
        gateway=GatewaySettings(port=int(os.environ.get("STAND_IN_PORT", "0")), model_name="stand-in"),
        fleet=FleetSettings(workers=num_workers, drain_s=60),
        ledger=LedgerSettings(path=str(folder / "state")),
    )


def run_child(name: str, folder: Path, settings: Settings, group: int) -> None:
    fails = folder / f"{name}.fails"
    if fails.exists():
        print(f"error: {fails.read_text()}", file=sys.stderr)
        sys.exit(3)
    if name == OBSERVER:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # before anybody knows of it: see below
    print(f"pid {os.getpid()}", file=sys.stderr)
    if name == GATEWAY:
        run_gateway(folder, settings)
    elif name == STORE:
        print(f"store of {settings.kv.host_bytes} bytes at {settings.kv.store_address}", file=sys.stderr)
        say_my_name(name, folder, settings)
    elif name == OBSERVER:
        signal.sigwait({signal.SIGTERM})
        print("all is taken in", file=sys.stderr)
    else:
        run_worker(name, folder, own_group(settings, group))


def run_gateway(folder: Path, settings: Settings) -> None:
    children: set[str] = set()

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            workers, stores = sorted(children - {STORE}), sorted(children & {STORE})
            self.send_response(200 if workers else 503)
            self.end_headers()
            self.wfile.write(json.dumps({"workers": workers, "stores": stores}).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer((settings.gateway.host, settings.gateway.port), Health)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    is_stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: is_stopping.set())
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind(settings.gateway.worker_address)
    while not is_stopping.is_set() or (folder / "hold").exists():
        if is_stopping.is_set():
            print("holding", file=sys.stderr)
        if socket.poll(100):
            note(socket.recv_multipart()[1], children)
    print("drained", file=sys.stderr)


def note(frame: bytes, children: set[str]) -> None:
    try:
        message = decode_to_gateway(frame)
    except WireError:
        children.add(frame.decode())
        return
    assert isinstance(message, WorkerExited)
    children.discard(message.worker_id)
    print(f"told that {message.worker_id} {message.reason}", file=sys.stderr)


def run_worker(name: str, folder: Path, settings: Settings) -> None:
    cores = sorted(os.sched_getaffinity(0))
    print(f"cores {cores} threads {settings.engine.threads} role {settings.workers[0].role}", file=sys.stderr)
    say_my_name(name, folder, settings)


def say_my_name(name: str, folder: Path, settings: Settings) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("leaving", file=sys.stderr)))
    socket = zmq.Context().socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(dial_address(settings))
    while True:
        if not (folder / f"{name}.silent").exists():
            socket.send(name.encode())
        time.sleep(0.1)


if __name__ == "__main__":
    role, *rest = sys.argv[1:]
    if role == "serve":
        run_supervisor(Path(rest[0]), int(rest[1]))
    else:
        die_with(int(rest[3]))
        run_child(rest[0], Path(rest[1]), read_settings(Path(rest[2])), int(rest[4]))
