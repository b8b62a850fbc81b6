"""An agent's shell: types each line into one bash on a terminal, over the Model Context Protocol.

    python3 docs/examples/agent.py 'cd /tmp' 'pwd' 'read -s -p "Password: " x' 'secret' 'echo ${#x}'

It needs no package: a message is one line of JSON.
"""

import json
import os
import shlex
import subprocess
import sys

server = subprocess.Popen(
    [*shlex.split(os.environ.get("PROCWIRE", "procwire")), "mcp"],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
)
assert server.stdin and server.stdout
count = 0


def request(method: str, **params: object) -> dict:
    global count
    count += 1
    print(json.dumps({"jsonrpc": "2.0", "id": count, "method": method, "params": params}), file=server.stdin, flush=True)
    answer = json.loads(server.stdout.readline())  # one request at a time, so this is its answer
    if "error" in answer:
        raise RuntimeError(answer["error"]["message"])
    return answer["result"]


def tool(name: str, **arguments: object) -> dict:
    result = request("tools/call", name=name, arguments=arguments)
    if result["isError"]:
        raise RuntimeError(result["content"][0]["text"])
    return result["structuredContent"]


about = {"name": "agent", "version": "1"}
request("initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo=about)
print(json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}), file=server.stdin, flush=True)

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
server.stdin.close()  # ends whatever still runs
sys.exit(server.wait())
