"""An agent's shell: types each line into one bash on a terminal, over the Model Context Protocol.

    python3 docs/examples/agent.py 'cd /tmp' 'pwd' 'read -s -p "Password: " x' 'secret' 'echo ${#x}'

It needs no package: a message is one line of JSON.
"""

import json
import os
import shlex
import subprocess
import sys
from typing import Any

server = subprocess.Popen(
    [*shlex.split(os.environ.get("PROCWIRE", "procwire")), "mcp"],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
)
assert server.stdin and server.stdout
requests, answers = server.stdin, server.stdout
count = 0


def request(method: str, **params: object) -> "dict[str, Any]":
    global count
    count += 1
    message = {"jsonrpc": "2.0", "id": count, "method": method, "params": params}
    print(json.dumps(message), file=requests, flush=True)
    answer: "dict[str, Any]" = json.loads(answers.readline())  # to one request at a time
    if "error" in answer:
        raise RuntimeError(answer["error"]["message"])
    result: "dict[str, Any]" = answer["result"]
    return result


def tool(name: str, **arguments: object) -> "dict[str, Any]":
    result = request("tools/call", name=name, arguments=arguments)
    if result["isError"]:
        raise RuntimeError(result["content"][0]["text"])
    shown: "dict[str, Any]" = result["structuredContent"]
    return shown


about = {"name": "agent", "version": "1"}
request("initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo=about)
initialized = {"jsonrpc": "2.0", "method": "notifications/initialized"}
print(json.dumps(initialized), file=requests, flush=True)

# untilInput: until it waits for input, whatever its prompt says.
environment = {"PS1": "$ ", "TERM": "dumb"}
tool("start", argv=["bash", "--norc", "-i"], tty=True, env=environment, handle="shell", untilInput=True)
for line in sys.argv[1:]:
    shown = tool("write", handle="shell", text=line + "\n", untilInput=True)
    print(shown["stdout"], end="")
    if not shown["running"]:
        sys.exit(shown["exitCode"])
    terminal = tool("inspect", handle="shell")["terminal"]
    if terminal["canonical"] and not terminal["echo"]:
        print("[it asks for a password]")
tool("kill", handle="shell")
requests.close()  # ends whatever still runs
sys.exit(server.wait())
