"""What a type checker makes of the Python client: `run` has mypy check this file, and nothing runs it."""

import re
import subprocess
from pathlib import Path
from typing import Any, Optional, Tuple

from procwire import EOF, PIPE, STDOUT, TIMEOUT, File, Inspection, Popen, Server, Waited
from procwire_asyncio import AsyncProcess, AsyncServer, StreamReader
from typing_extensions import assert_type


def check(server: Server, flag: bool, name: Optional[str]) -> None:
    assert_type(server.popen(["cat"]), Popen[bytes])
    assert_type(server.popen(b"cat", shell=True, stdin=PIPE, cwd=b"/", timeout=3), Popen[bytes])
    assert_type(server.popen(["cat"], text=True), Popen[str])
    assert_type(server.popen(["cat"], encoding="utf-8", bufsize=None), Popen[str])
    assert_type(server.popen(["cat"], text=flag), Popen[Any])
    assert_type(server.popen(["cat"], encoding=name), Popen[Any])
    assert_type(server.run(["cat"], input=b"x"), "subprocess.CompletedProcess[bytes]")
    assert_type(server.run(["cat"], input="x", text=True, check=True), "subprocess.CompletedProcess[str]")
    assert_type(server.check_output(["cat"]), bytes)
    assert_type(server.check_output(["cat"], encoding="utf-8", env={"A": None}), str)
    assert_type(server.call(["cat"], stdout=PIPE, timeout=1.5), int)
    server.popen(["cat"], no_such_option=1)  # type: ignore[call-overload]
    server.popen([1])  # type: ignore[list-item]
    server.popen(["cat"], stdin=Path("/x"), stdout="/y", stderr=File("/z", append=True))
    server.run(["cat"], limits={"open_files": 3, "nice": 5}, keep=(1, 2), timeout_grace=1.5, stderr=STDOUT)
    server.run(["cat"], env={"A": "b"}, inherit_env=["PATH", "LC_*"], keep="tail", output_cap=10)
    server.popen(["cat"], limits={"no_such": 1})  # type: ignore[call-overload]
    server.popen(["cat"], keep="middle")  # type: ignore[call-overload]
    process = server.popen(["cat"], text=True)
    assert_type(process.expect(["x", b"y", re.compile("z"), EOF, TIMEOUT], timeout=None), int)
    assert_type(process.before, Optional[str])
    assert_type(process.wait_for("x", quiet=0.5, send="y"), Waited)
    assert_type(process.inspect(), Inspection)
    process.sendline(b"x")  # type: ignore[arg-type]


async def check_async(server: AsyncServer) -> None:
    process = await server.aopen(["cat"], stdin=PIPE, limits={"open_files": 3})
    assert_type(process, AsyncProcess)
    assert_type(process.stdout, Optional[StreamReader])
    assert process.stdout and process.stdin
    async for line in process.stdout:
        assert_type(line, bytes)
    process.stdin.write(b"x")
    assert_type(await process.expect("x"), int)
    assert_type(process.before, Optional[bytes])
    assert_type(await process.communicate(), Tuple[Optional[bytes], Optional[bytes]])
    assert_type(await process.wait_for(exit=True), Waited)
    assert_type(await process.wait(), int)
    assert_type(await server.run(["cat"], input=b"x", timeout=1), "subprocess.CompletedProcess[bytes]")
    assert_type(await server.create_subprocess_shell("cat"), AsyncProcess)
    process.kill()
    await process.terminate(grace=1)
    await server.aopen(["cat"], text=True)  # type: ignore[call-arg]
