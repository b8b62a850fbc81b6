"""What a type checker makes of the Python client: `run` has mypy check this file, and nothing runs it."""

import subprocess
from typing import Any, Optional

from procwire import PIPE, Popen, Server
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
