"""Drives a REPL on a terminal of its own: waits for the prompt, types, reads the answer.

PYTHONPATH=docs/clients python3 docs/examples/repl.py '6 * 7' 'import sys' 'sys.stdout.isatty()'
"""

import sys

from procwire import Server

PROMPT = ">>> "

with Server() as server:
    # PYTHON_BASIC_REPL: a line editor would paint the prompt in colours. The timeout is the server's.
    environment = {"PYTHON_BASIC_REPL": "1", "TERM": "dumb"}
    python = ["python3", "-q", "-i"]
    with server.popen(
        python, tty=True, size=(24, 200), env=environment, inherit_env=True, text=True, timeout=60
    ) as repl:
        repl.expect_exact(PROMPT)
        for line in sys.argv[1:]:
            repl.sendline(line)
            repl.expect_exact(PROMPT)
            # A terminal echoes what is typed; the answer is what comes after that.
            echo, _, printed = (repl.before or "").partition("\n")
            print(f"{line} -> {printed.strip()}")
        if repl.stdin:
            repl.stdin.close()  # types end-of-file
        sys.exit(repl.wait())
