"""python-lsp-jsonrpc, as it is, against the real server, which the variable PROCWIRE names.

It sends `Content-Length` and `Content-Type` headers, `"jsonrpc":"2.0"` and UUIDs for ids.
"""

import base64
import os
import shlex
import subprocess
import sys
import threading
import traceback
from queue import Queue

from pylsp_jsonrpc.endpoint import Endpoint
from pylsp_jsonrpc.exceptions import JsonRpcException, JsonRpcInvalidParams
from pylsp_jsonrpc.streams import JsonRpcStreamReader, JsonRpcStreamWriter

PATIENCE = 30


class Editor:
    """What a client of a language server does, no more."""

    def __init__(self):
        self.server = subprocess.Popen(
            shlex.split(os.environ["PROCWIRE"]), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.output = Queue()
        self.exits = Queue()
        handlers = {"process/outputDelta": self.output.put, "process/exited": self.exits.put}
        self.endpoint = Endpoint(handlers, JsonRpcStreamWriter(self.server.stdin).write)
        self.listener = threading.Thread(
            target=JsonRpcStreamReader(self.server.stdout).listen, args=(self.endpoint.consume,), daemon=True
        )
        self.listener.start()

    def request(self, method, **params):
        return self.endpoint.request(method, params).result(PATIENCE)

    def read(self, count):
        data = b""
        while len(data) < count:
            data += base64.b64decode(self.output.get(timeout=PATIENCE)["deltaBase64"])
        return data

    def end(self):
        self.server.stdin.close()
        assert self.server.wait(PATIENCE) == 0
        self.listener.join(PATIENCE)
        self.endpoint.shutdown()


def programs_are_spawned_fed_streamed_and_ended(editor):
    spawned = editor.request(
        "process/spawn",
        command=["tr", "a-z", "A-Z"],
        processHandle="grüße",
        streamStdin=True,
        streamStdoutStderr=True,
        timeoutMs=None,
    )
    assert spawned["pid"] > 0
    text = base64.b64encode("hello ü\n".encode()).decode()
    assert (
        editor.request("process/writeStdin", processHandle="grüße", deltaBase64=text, closeStdin=True) == {}
    )
    assert editor.read(9) == "HELLO ü\n".encode()
    exited = editor.exits.get(timeout=PATIENCE)
    assert (exited["processHandle"], exited["exitCode"]) == ("grüße", 0)


def programs_are_killed(editor):
    editor.request("process/spawn", command=["sleep", "1000"], processHandle="s", timeoutMs=None)
    assert editor.request("process/kill", processHandle="s") == {}
    assert editor.exits.get(timeout=PATIENCE)["signal"] == "SIGKILL"


def megabytes_come_whole(editor):
    editor.request(
        "process/spawn",
        command=["head", "-c", "5000000", "/dev/zero"],
        processHandle="z",
        streamStdoutStderr=True,
        outputBytesCap=None,
    )
    assert editor.read(5_000_000) == bytes(5_000_000)
    assert editor.exits.get(timeout=PATIENCE)["stdoutBytes"] == 5_000_000


def errors_are_told(editor):
    for method, params, code in [
        ("process/spawn", {"command": ["no-such-program"], "processHandle": "n"}, -32603),
        ("process/spawn", {"command": 3}, JsonRpcInvalidParams.CODE),
        ("process/fly", {}, -32601),
    ]:
        try:
            editor.request(method, **params)
        except JsonRpcException as error:
            assert error.code == code, error
        else:
            raise AssertionError(f"{method} {params} succeeded")


def many_requests_at_once_are_all_answered(editor):
    futures = [editor.endpoint.request("process/list", {}) for _ in range(1000)]
    assert all(future.result(PATIENCE) == {"processes": []} for future in futures)


failed = False
for check in [
    programs_are_spawned_fed_streamed_and_ended,
    programs_are_killed,
    megabytes_come_whole,
    errors_are_told,
    many_requests_at_once_are_all_answered,
]:
    name = check.__name__.replace("_", " ")
    editor = Editor()
    try:
        check(editor)
        editor.end()
        print(f"ok      python-lsp-jsonrpc: {name}", flush=True)
    except Exception:
        failed = True
        editor.server.kill()
        print(f"FAILED  python-lsp-jsonrpc: {name}")
        traceback.print_exc(file=sys.stdout)
sys.stdout.flush()
# Its reader may wait for ever where a check has failed.
os._exit(failed)
