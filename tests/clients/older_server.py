"""A server that knows less than the one that the variable PROCWIRE names, which does the work.

    python3 tests/clients/older_server.py before    a procwire without the additions to the protocol
    python3 tests/clients/older_server.py base      what `codex app-server` has: the protocol's base

It refuses or leaves out what such a server does not know. What a client must not send to one, because
it would be ignored, ends the connection with a line on stderr.
"""

import json
import os
import shlex
import subprocess
import sys
import threading

ADDED = ("stdin", "stdout", "stderr", "inheritEnv", "limits", "outputKeep", "timeoutGraceMs")
KNOWN = {
    "initialize": ("clientInfo", "capabilities"),
    "process/spawn": (
        "command processHandle cwd env tty size streamStdin streamStdoutStderr outputBytesCap timeoutMs"
    ).split(),
    "process/writeStdin": ("processHandle", "deltaBase64", "closeStdin"),
    "process/kill": ("processHandle", "signal"),
    "process/resizePty": ("processHandle", "size"),
}
TOLD = {
    "process/outputDelta": "processHandle stream deltaBase64 capReached".split(),
    "process/exited": (
        "processHandle exitCode stdout stdoutCapReached stderr stderrCapReached outputDrainTimedOut"
    ).split(),
}

base = sys.argv[1] == "base"
server = subprocess.Popen(shlex.split(os.environ["PROCWIRE"]), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
writing = threading.Lock()
methods = {}


def say(message):
    with writing:
        sys.stdout.buffer.write(json.dumps(message).encode() + b"\n")
        sys.stdout.buffer.flush()


def listen():
    for line in server.stdout:
        message = json.loads(line)
        method = message.get("method")
        params = message.get("params", {})
        if method == "process/outputDelta" and params.pop("eof", False) and not params["deltaBase64"]:
            continue
        if "result" in message:
            asked = methods.pop(message["id"], None)
            result = message["result"]
            if asked == "initialize":
                result.pop("guarantees", None)
            if base and asked == "initialize":
                message["result"] = {"userAgent": "base/0", "platformFamily": "unix", "platformOs": "linux"}
            elif base:
                message["result"] = {}
        if base and "error" in message:
            data = message["error"].pop("data", None)
            if data:
                reason = f"failed to spawn process: {os.strerror(data['errno'])} (os error {data['errno']})"
                message["error"]["message"] = reason
        if base and method in TOLD:
            message["params"] = {name: params[name] for name in TOLD[method]}
        say(message)
    os._exit(0)


threading.Thread(target=listen, daemon=True).start()
for line in sys.stdin.buffer:
    message = json.loads(line)
    method, params = message["method"], message.get("params", {})
    wrong = [name for name in params if name in ADDED or (base and name not in KNOWN.get(method, params))]
    if method == "process/kill" and base and params.pop("signal", 0) != 0:
        wrong.append("signal")
    if wrong:
        print(f"a server of this kind ignores {wrong} of {method}", file=sys.stderr)
        os._exit(3)
    if "id" not in message:
        continue
    refusal = None
    if base and method not in KNOWN:
        refusal = -32600, f"Invalid request: unknown variant `{method}`"
    elif method in ("process/closeOutput", "process/wait", "process/inspect"):
        refusal = -32601, f'unknown method "{method}"'
    elif base and method == "process/spawn" and "cwd" not in params:
        refusal = -32600, "Invalid request: missing field `cwd`"
    if refusal:
        say({"id": message["id"], "error": {"code": refusal[0], "message": refusal[1]}})
        continue
    methods[message["id"]] = method
    server.stdin.write(json.dumps(message).encode() + b"\n")
    server.stdin.flush()
server.stdin.close()
server.wait()
