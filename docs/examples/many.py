"""Runs many commands, a few at a time, over one server: as `xargs -P`, with everything each of them
printed and used. A timeout kills a command with all it has started, and Ctrl-C kills all of them.

    PYTHONPATH=docs/clients python3 docs/examples/many.py 4 'sleep 1; echo a' 'echo b' 'exit 3'
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Tuple

from procwire import PIPE, Exit, Server

width, commands = int(sys.argv[1]), sys.argv[2:]

with Server() as server:

    def run(command: str) -> Tuple[str, Exit]:
        with server.popen(command, shell=True, stdout=PIPE, text=True, timeout=600) as process:
            printed, _ = process.communicate()
            process.wait()
            assert process.exit
            return printed, process.exit

    failed = 0
    with ThreadPoolExecutor(width) as pool:
        # In the order they were given, whichever ends first.
        for command, (printed, end) in zip(commands, pool.map(run, commands)):
            failed += end.returncode != 0
            print(f"[{end.returncode}] {command}: {printed.strip()}")
    print(f"{len(commands)} commands, {failed} failed")
sys.exit(failed != 0)
