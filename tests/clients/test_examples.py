"""The examples of docs/examples that are written in Python and TypeScript, run as a person would.

What they need is said by `run`: PROCWIRE names the server, TYPE_STRIPPING_NODE a node for TypeScript.
One line a check, as `run` wants them.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
DOCS = HERE.parent.parent / "docs"
sys.path.insert(0, str(DOCS / "clients"))

from procwire import Server  # noqa: E402


def python(name, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(DOCS / "clients")}
    command = [sys.executable, str(DOCS / "examples" / name), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def repl():
    done = python("repl.py", "6 * 7", "import sys", "sys.stdout.isatty()", "print('two\\nlines')")
    assert done.returncode == 0, done
    assert done.stdout.splitlines()[:3] == ["6 * 7 -> 42", "import sys -> ", "sys.stdout.isatty() -> True"], (
        done
    )
    assert done.stdout.endswith("-> two\nlines\n"), done
    assert python("repl.py", "exit(3)").returncode != 0, "a REPL that exits is not a success"


def many():
    # The first ends last, and is still told first.
    done = python("many.py", "2", "sleep 0.3; echo a", "echo b", "exit 3")
    assert done.returncode == 1, done
    assert done.stdout == "[0] sleep 0.3; echo a: a\n[0] echo b: b\n[3] exit 3: \n3 commands, 1 failed\n", (
        done
    )
    assert python("many.py", "4", "true").returncode == 0


def until(stream, pattern):
    seen = ""
    while not re.search(pattern, seen):
        piece = stream.read1()
        assert piece, f"ended before {pattern!r}: {seen!r}"
        seen += piece.decode()
    return seen


def shell():
    """In a terminal that another server has made, which is resized while the shell runs."""
    with Server() as server:
        node = [os.environ["TYPE_STRIPPING_NODE"], str(DOCS / "examples" / "shell.ts")]
        environment = {"PS1": "% "}
        with server.popen(
            node, tty=True, size=(30, 90), env=environment, inherit_env=True, timeout=60
        ) as process:
            until(process.stdout, "% $")
            process.stdin.write(b"stty size\r")
            process.stdin.flush()
            until(process.stdout, r"30 90\r+\n% $")
            process.resize(40, 100)
            # The news takes a way of its own.
            seen = ""
            while "40 100" not in seen:
                process.stdin.write(b"stty size\r")
                process.stdin.flush()
                seen = until(process.stdout, r"\d+ \d+\r+\n% $")
            # Ctrl-C is for what runs in the shell, and leaves the shell.
            process.stdin.write(b"sh -c 'echo sl''eeping; exec sleep 1000'\r")
            process.stdin.flush()
            # Not what was typed: it runs.
            until(process.stdout, "sleeping\r+\n")
            process.stdin.write(b"\x03")
            process.stdin.flush()
            until(process.stdout, "% $")
            process.stdin.write(b"exit 5\r")
            process.stdin.flush()
            assert process.wait(30) == 5


def agent():
    done = python("agent.py", "cd /", "pwd", 'read -s -p "Password: " x', "secret", "echo ${#x}")
    assert done.returncode == 0, done
    shown = ["cd /", "$ pwd", "/", '$ read -s -p "Password: " x', "Password: [it asks for a password]"]
    assert done.stdout.splitlines() == [*shown, "$ echo ${#x}", "6", "$ "], done
    done = python("agent.py", "exit 4", "echo never")
    assert done.returncode == 4 and "never" not in done.stdout, done


# Each file, and what runs it.
EXAMPLES = {"agent.py": agent, "repl.py": repl, "many.py": many, "shell.ts": shell}

if __name__ == "__main__":
    failed = False
    for name, run in EXAMPLES.items():
        try:
            run()
            print(f"ok      example {name}", flush=True)
        except Exception as error:
            failed = True
            print(f"FAILED  example {name}: {error}", flush=True)
    sys.exit(failed)
