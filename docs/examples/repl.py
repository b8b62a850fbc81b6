"""Drives a REPL on a terminal of its own: waits for the prompt, types, reads the answer.

    PYTHONPATH=docs/clients python3 docs/examples/repl.py '6 * 7' 'import sys' 'sys.stdout.isatty()'
"""

import io
import sys

from procwire import Popen, Server

PROMPT = ">>> "


def answer(repl: "Popen[bytes]") -> str:
    """What it prints up to its next prompt."""
    assert isinstance(repl.stdout, io.BufferedReader)
    seen = b""
    while not seen.endswith(PROMPT.encode()):
        piece = repl.stdout.read1()  # what is there, and at least one byte
        if not piece:
            raise EOFError(f"the REPL has ended: {seen.decode()}")
        seen += piece
    return seen.decode()


with Server() as server:
    # PYTHON_BASIC_REPL: a line editor would paint the prompt in colours. The timeout is the server's.
    environment = {"PYTHON_BASIC_REPL": "1", "TERM": "dumb"}
    python = ["python3", "-q", "-i"]
    with server.popen(python, tty=True, size=(24, 200), env=environment, timeout=60) as repl:
        assert repl.stdin
        answer(repl)
        for line in sys.argv[1:]:
            repl.stdin.write(line.encode() + b"\n")
            repl.stdin.flush()
            # A terminal echoes what is typed; the answer is what comes behind that.
            echo, _, printed = answer(repl).partition("\r\n")
            print(f"{line} -> {printed.removesuffix(PROMPT).strip()}")
        repl.stdin.close()  # types end-of-file
        sys.exit(repl.wait())
