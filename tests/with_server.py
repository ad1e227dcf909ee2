"""Run a command against a server of its own: `python tests/with_server.py --model fake -- COMMAND`.

Starts `stream-server serve` on a free port, waits until it is ready, runs the command with
DIFFSCRIBE_URL set to it, stops the server and exits as the command did. Whatever happens, the
server does not outlive this program. `make demo` and `make load` are made of it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

READY = re.compile(r"diffscribe .* ready on http(s?://\S+)")
STOP_SECONDS = 20


class Failure(Exception):
    """The server did not start; the text says why."""


SERVE = ("-c", "from stream_server.cli import main; main()", "serve")
"""The program `stream-server serve`, as arguments of Python."""


@contextlib.contextmanager
def running_server(
    options: Sequence[str], seconds: float, program: Sequence[str] = SERVE
) -> Iterator[str]:
    """Run a server for the length of a block; gives its WebSocket URL.

    Args:
        options: of `stream-server serve`.
        seconds: that it may take to get ready.
        program: arguments of Python; takes the options and says when it is ready as `serve` does.
    """
    command = [sys.executable, *program, "--port", "0", *options]
    environ = {name: value for name, value in os.environ.items() if name != "DIFFSCRIBE_URL"}
    # A session of its own: Ctrl-C is for the command; the server is stopped after it.
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environ, start_new_session=True
    )
    timer = threading.Timer(seconds, server.kill)
    timer.start()
    try:
        url = _wait_until_ready(server, seconds)
        timer.cancel()
        yield url
    finally:
        timer.cancel()
        _stop(server)


def _wait_until_ready(server: subprocess.Popen[str], seconds: float) -> str:
    assert server.stdout is not None
    for line in server.stdout:
        print(line, end="", flush=True)
        if found := READY.search(line):
            return f"ws{found[1]}/v1/stream"
    if server.wait() == -signal.SIGKILL:
        raise Failure(f"the server was not ready in {seconds:g} s")
    raise Failure(f"the server ended with status {server.returncode} before it was ready")


def _stop(server: subprocess.Popen[str]) -> None:
    server.terminate()
    try:
        server.wait(STOP_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        server.kill()
        server.wait()
    finally:
        assert server.stdout is not None
        server.stdout.close()


def run(command: Sequence[str], url: str) -> int:
    """Run a command to its end and return its exit status."""
    print(f"$ {' '.join(command)}", flush=True)
    own = Path(sys.executable).parent / command[0]  # of this environment, if it has one
    program = str(own) if own.exists() else command[0]
    environ = {**os.environ, "DIFFSCRIBE_URL": url}
    try:
        client = subprocess.Popen([program, *command[1:]], env=environ)
    except OSError as error:
        raise Failure(f"{command[0]}: {error.strerror}") from error
    try:
        while True:
            # Ctrl-C reached the command too, which may have something left to say.
            with contextlib.suppress(KeyboardInterrupt):
                status = client.wait()
                return 128 - status if status < 0 else status
    finally:
        client.kill()
        client.wait()


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="embedded", help="as of stream-server")
    parser.add_argument("--wait", type=float, default=120, help="seconds to wait for the server")
    parser.add_argument("command", nargs="+", help="what to run")
    arguments = parser.parse_args()
    options = ["--model", arguments.model, "--log-level", "warning"]
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        with running_server(options, arguments.wait) as url:
            return run(arguments.command, url)
    except Failure as failure:
        print(f"with_server: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
