"""An interpreter that starts with torch imported: a server that forks, and the script to call it by.

A fresh process takes seven seconds of CPU to import torch and transformers, and so does each worker
of a session. `preloaded_python` names a script that takes python's ``-u``, ``-P``, ``-c`` and ``-m``
and runs them in a child of the server, on the caller's standard streams, environment and folder.
Nothing of this project is imported beforehand, nor pytest. What imports what, and the demo, are
tested in fresh processes.
"""

from __future__ import annotations

import array
import atexit
import gc
import importlib
import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

MODULES = (
    "torch", "transformers", "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto", "transformers.models.llama.modeling_llama",
    "transformers.models.gpt2.modeling_gpt2", "scipy.optimize", "scipy.stats", "jsonschema",
    "yaml", "cryptography.hazmat.primitives.asymmetric.ed25519", "rfc8785", "filelock",
)  # fmt: skip
CLIENT = """#!{python} -SE
import array, json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({path!r})
heeds = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
asked = json.dumps([sys.argv, dict(os.environ), os.getcwd(), heeds]).encode()
fds = array.array("i", [0, 1, 2])
server.sendmsg([b"%010d" % len(asked)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
server.sendall(asked)
answers = server.makefile("r")
child = int(answers.readline())
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda n, frame: os.kill(child, n))
for number in (0, 1):
    os.close(number)
status = int(answers.readline() or 255)
os._exit(status if status >= 0 else 128 - status)
"""


@cache
def preloaded_python() -> str:
    """Start a server that ends with this process; returns the script that stands for python."""
    folder = Path(tempfile.mkdtemp(prefix="preloaded-"))
    atexit.register(shutil.rmtree, folder)
    path = folder / "preloaded.socket"
    ready, started = os.pipe()
    server = subprocess.Popen(
        [sys.executable, __file__, str(path), str(started)], pass_fds=(started,)
    )
    os.close(started)
    if os.read(ready, 1) != b"1":
        raise RuntimeError(f"the server of forks ended with status {server.wait()}")
    os.close(ready)
    atexit.register(server.kill)
    script = folder / "python"
    script.write_text(CLIENT.format(python=sys.executable, path=str(path)))
    script.chmod(0o755)
    return str(script)


def serve(path: str, started: int) -> None:
    for name in MODULES:
        importlib.import_module(name)
    with suppress(ImportError):
        # A thousand patterns that the first model of a process would compile.
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping

        get_checkpoint_conversion_mapping("llama")
    gc.collect()
    gc.freeze()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()
    # Nobody waits for them here.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    os.write(started, b"1")
    os.close(started)
    while True:
        connection, _ = listening.accept()
        # Two forks: the first waits for the second and tells how it ended.
        if os.fork() == 0:
            listening.close()
            attend(connection, f"{path}.bytecode")
        connection.close()


def attend(connection: socket.socket, bytecode: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, ancillary, _, _ = connection.recvmsg(10, socket.CMSG_SPACE(12))
    fds = array.array("i")
    for _, _, data in ancillary:
        fds.frombytes(data)
    asked = b""
    while len(asked) < int(size):
        asked += connection.recv(65536)
    child = os.fork()
    if child == 0:
        run(connection, list(fds), *json.loads(asked), bytecode)
    for fd in (0, 1, 2, *fds):
        os.close(fd)
    connection.sendall(f"{child}\n".encode())
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    connection.sendall(f"{status}\n".encode())
    os._exit(0)


def run(
    connection: socket.socket, fds: list[int], argv: list[str], environment: dict[str, str],
    folder: str, heeds_interrupts: bool, bytecode: str,
) -> None:  # fmt: skip
    # As python starts where it is called, whatever this server was started with.
    interrupt: Any = signal.default_int_handler if heeds_interrupts else signal.SIG_IGN
    signal.signal(signal.SIGINT, interrupt)
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    # Modules of this project and of pytest are compiled once for all sessions.
    sys.dont_write_bytecode, sys.pycache_prefix = False, bytecode
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    threading.Thread(target=end_with, args=(connection,), daemon=True).start()
    status: Any = 1
    try:
        sys.path[0:1] = [p for p in environment.get("PYTHONPATH", "").split(os.pathsep) if p]
        sys.executable = argv[0]
        start(argv[1:])
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001  a child must not go on as its parent
        traceback.print_exc()
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def end_with(connection: socket.socket) -> None:
    """Who called this process is gone: so is this process."""
    connection.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)


def start(arguments: list[str]) -> None:
    is_safe_path = False
    while arguments[0] in ("-u", "-P"):
        is_safe_path |= arguments.pop(0) == "-P"
    if not is_safe_path:
        sys.path.insert(0, "")
    option, rest = arguments[0], arguments[1:]
    if option == "-c":
        sys.argv = ["-c", *rest[1:]]
        main = sys.modules["__main__"] = type(sys)("__main__")
        exec(rest[0], main.__dict__)
        return
    module = option[2:] or rest.pop(0)
    sys.argv = ["-m", *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
