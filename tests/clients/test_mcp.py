"""The Python SDK of the Model Context Protocol, as it is, against `procwire mcp`.

The variable PROCWIRE names the command. The SDK checks each result against the tool's output schema. Both
eras of the protocol are tried: with the handshake, and with a version in each request.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
import traceback

import anyio
from mcp import StdioServerParameters
from mcp.client import Client

PATIENCE = 30
COMMAND = shlex.split(os.environ["PROCWIRE"]) + ["mcp"]


def client(mode):
    server = StdioServerParameters(command=COMMAND[0], args=COMMAND[1:], env=dict(os.environ))
    return Client(server, mode=mode, read_timeout_seconds=PATIENCE)


async def call(agent, tool, **arguments):
    result = await agent.call_tool(tool, arguments)
    assert not result.is_error, result
    assert result.content[0].type == "text" and result.content[0].text
    return result.structured_content


def marked(marker):
    """The processes that have this among their arguments."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if marker.encode() in file.read() and int(pid) != os.getpid():
                    found.append(pid)
        except OSError:
            pass
    return found


def until(what, condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.01)


async def tools_are_listed(mode):
    async with client(mode) as agent:
        expected = "2026-07-28" if mode == "auto" else "2025-11-25"
        assert agent.session.protocol_version == expected, agent.session.protocol_version
        assert agent.session.server_info.name == "procwire"
        tools = (await agent.list_tools()).tools
        assert {"run", "start", "write", "read", "kill"} <= {tool.name for tool in tools}
        assert all(tool.output_schema and tool.description for tool in tools)


async def programs_run(mode):
    async with client(mode) as agent:
        ended = await call(agent, "run", command="echo out; echo err >&2; exit 3")
        assert (ended["exitCode"], ended["stdout"], ended["stderr"]) == (3, "out\n", "err\n"), ended
        ended = await call(agent, "run", argv=["seq", "100000"])
        assert ended["stdoutBytes"] == 588895 and ended["stdoutTail"].endswith("\n100000\n"), ended
        wrong = await agent.call_tool("run", {"argv": ["no-such-program"]})
        assert wrong.is_error and "no-such-program" in wrong.content[0].text, wrong
        wrong = await agent.call_tool("run", {"argv": ["true"], "timeout": 5})
        assert wrong.is_error and "timeoutMs" in wrong.content[0].text, wrong


async def a_server_is_started_and_waited_for(mode):
    script = "import http.server as h; s = h.HTTPServer(('127.0.0.1', 0), h.SimpleHTTPRequestHandler); \
print('listening on', s.server_port, flush=True); s.serve_forever()"
    async with client(mode) as agent:
        started = await call(agent, "start", argv=[sys.executable, "-c", script], untilText="\n", handle="web")
        assert started["running"] and started["stdout"].startswith("listening on "), started
        port = started["stdout"].split()[-1]
        fetch = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{port}/').status)"
        ended = await call(agent, "run", argv=[sys.executable, "-c", fetch])
        assert ended["stdout"] == "200\n", ended
        read = await call(agent, "read", handle="web", untilText='"GET / HTTP/1.1" 200')
        assert read["reason"] == "text", read
        assert (await call(agent, "kill", handle="web"))["signal"] == "SIGKILL"


async def a_repl_is_driven(mode):
    async with client(mode) as agent:
        env = {"PYTHON_BASIC_REPL": "1"}
        await call(
            agent, "start", argv=[sys.executable, "-i", "-q"], tty=True, env=env, handle="py", untilText=">>> "
        )
        shown = await call(agent, "write", handle="py", text="6 * 7\n", untilInput=True)
        assert shown["reason"] == "input", shown
        assert "\n42\n" in shown["stdout"], shown
        ended = await call(agent, "write", handle="py", text="exit(5)\n", untilExit=True)
        assert ended["exitCode"] == 5, ended


async def calls_are_served_at_the_same_time(mode):
    async with client(mode) as agent:
        await call(agent, "start", argv=["cat"], handle="cat")
        results = {}

        async def wait():
            results["read"] = await call(agent, "read", handle="cat", untilText="now")

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            assert (await call(agent, "run", argv=["echo", "hi"]))["stdout"] == "hi\n"
            await call(agent, "write", handle="cat", text="now\n")
        assert results["read"]["reason"] == "text", results


async def a_cancelled_call_ends_what_it_has_started(mode):
    marker = f"31415.{os.getpid()}.{mode}.1"
    async with client(mode) as agent:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:

                async def cancel():
                    await anyio.to_thread.run_sync(until, "it runs", lambda: marked(marker))
                    scope.cancel()

                group.start_soon(cancel)
                await call(agent, "run", command=f"setsid sh -c 'sleep 1000; : {marker}' & wait; : {marker}")
        assert scope.cancelled_caught
        await anyio.to_thread.run_sync(until, "it is gone", lambda: not marked(marker))
        deadline = time.monotonic() + PATIENCE
        while (await call(agent, "list"))["processes"]:
            assert time.monotonic() < deadline, "it is not forgotten"
            await anyio.sleep(0.01)


async def a_killed_client_leaves_nothing(mode):
    marker = f"31415.{os.getpid()}.{mode}.2"
    script = f"""
import anyio, test_mcp
async def main():
    async with test_mcp.client({mode!r}) as agent:
        await test_mcp.call(agent, "start", command="setsid sh -c 'sleep 1000; : {marker}' & wait")
        print("started", flush=True)
        await anyio.sleep_forever()
anyio.run(main)
"""
    child = subprocess.Popen([sys.executable, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=HERE)
    child.stdin.write(script.encode())
    child.stdin.close()
    assert child.stdout.readline() == b"started\n"
    await anyio.to_thread.run_sync(until, "it runs", lambda: marked(marker))
    child.send_signal(signal.SIGKILL)
    child.wait()
    await anyio.to_thread.run_sync(until, "it is gone", lambda: not marked(marker))
    child.stdout.close()


HERE = os.path.dirname(os.path.abspath(__file__))
TESTS = [
    tools_are_listed,
    programs_run,
    a_server_is_started_and_waited_for,
    a_repl_is_driven,
    calls_are_served_at_the_same_time,
    a_cancelled_call_ends_what_it_has_started,
    a_killed_client_leaves_nothing,
]


def main():
    failed = 0
    for mode in ["auto", "legacy"]:
        for test in TESTS:
            name = f"MCP SDK for Python, {mode}: {test.__name__.replace('_', ' ')}"
            try:
                anyio.run(test, mode)
                print(f"ok      {name}", flush=True)
            except BaseException:
                traceback.print_exc()
                print(f"FAILED  {name}", flush=True)
                failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
