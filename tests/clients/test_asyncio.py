"""The asyncio face of the Python client against the real server, which the variable PROCWIRE names."""

import asyncio
import contextlib
import functools
import gc
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
CLIENTS = HERE.parents[1] / "docs" / "clients"
sys.path[:0] = [str(CLIENTS), str(HERE)]
sys.dont_write_bytecode = True

import procwire  # noqa: E402
import procwire_asyncio  # noqa: E402
from procwire import DEVNULL, EOF, PIPE, STDOUT, TIMEOUT, ServerGone, TimeoutExpired  # noqa: E402
from procwire_asyncio import AsyncServer  # noqa: E402
from test_python import Result  # noqa: E402

PATIENCE = 30
NEVER = ["sleep", "1000"]
# It warns of what took long, which a busy machine does.
logging.getLogger("asyncio").setLevel(logging.ERROR)


def run(test):
    """Runs a test in a loop of its own, with a server, and looks at what is left behind."""

    @functools.wraps(test)
    def wrapped(self):
        async def main():
            async with AsyncServer() as server:
                await asyncio.wait_for(test(self, server), PATIENCE)
                # What a test leaves running is its own affair; what it waits for is not.
                self.assertEqual(server.server._waiting, set())

                async def answered():
                    return not server.server._calls

                await until("all is answered", answered)

        before = set(threading.enumerate())
        asyncio.run(main(), debug=True)
        left = [thread for thread in threading.enumerate() if thread not in before]
        for thread in left:
            thread.join(PATIENCE)
        self.assertEqual([thread for thread in left if thread.is_alive()], [])

    return wrapped


async def until(what, condition):
    deadline = time.monotonic() + PATIENCE
    while not await condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain until {what}")
        await asyncio.sleep(0.002)


@contextlib.contextmanager
def stopped(server):
    """Stops a server, and what guards it, until the function is called that is handed out."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()
    pids = [server.pid, *map(int, children.split())]

    def send(number):
        for pid in pids:
            os.kill(pid, number)

    send(signal.SIGSTOP)
    try:
        yield lambda: send(signal.SIGCONT)
    finally:
        send(signal.SIGCONT)


async def nothing_runs(server):
    async def condition():
        return not await server.list()

    await until("nothing runs", condition)


class Programs(unittest.TestCase):
    def test_the_example_of_the_asyncio_face_runs(self):
        example = re.search(r"\n\n((?:    .*\n|\n)+)", procwire_asyncio.__doc__).group(1)
        example = textwrap.dedent(example).replace('"ping", "-c", "3", "localhost"', '"seq", "3"')
        done = subprocess.run(
            [sys.executable, "-W", "error", "-B", "-c", example],
            cwd=CLIENTS,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "1\n2\n3\n", ""))

    @run
    async def test_lines_come_as_they_are_written_to_asyncio(self, server):
        process = await server.aopen(["sh", "-c", "while read x; do echo got $x; done; exit 3"], stdin=PIPE)
        self.assertGreater(process.pid, 0)
        for word in [b"one", b"two"]:
            process.stdin.write(word + b"\n")
            await process.stdin.drain()
            self.assertEqual(await process.stdout.readline(), b"got " + word + b"\n")
        self.assertIsNone(process.returncode)
        process.stdin.close()
        await process.stdin.wait_closed()
        self.assertEqual([line async for line in process.stdout], [])
        self.assertTrue(process.stdout.at_eof())
        self.assertEqual((await process.wait(), process.returncode, process.exit.code), (3, 3, 3))
        self.assertEqual(await process.wait(), 3)

    @run
    async def test_the_names_of_asyncio_do_what_they_do_there(self, server):
        for module in (asyncio, server):
            process = await module.create_subprocess_exec(
                "sh", "-c", "cat; echo err >&2; exit 4", stdin=PIPE, stdout=PIPE, stderr=PIPE
            )
            self.assertEqual(await process.communicate(b"in"), (b"in", b"err\n"))
            self.assertEqual(process.returncode, 4)
            process = await module.create_subprocess_shell(
                "echo out; echo err >&2", stdout=PIPE, stderr=STDOUT
            )
            self.assertEqual(await process.communicate(), (b"out\nerr\n", None))
            process = await module.create_subprocess_exec(*NEVER, stdout=DEVNULL, stderr=DEVNULL)
            process.terminate()
            self.assertEqual(await process.wait(), -signal.SIGTERM)
            process = await module.create_subprocess_exec("printf", "one\ntwo;three", stdout=PIPE)
            self.assertEqual(await process.stdout.readexactly(2), b"on")
            self.assertEqual(await process.stdout.readline(), b"e\n")
            self.assertEqual(await process.stdout.readuntil(b";"), b"two;")
            self.assertEqual(await process.stdout.read(2), b"th")
            with self.assertRaises(asyncio.IncompleteReadError) as caught:
                await process.stdout.readexactly(9)
            self.assertEqual((caught.exception.partial, caught.exception.expected), (b"ree", 9))
            with self.assertRaises(asyncio.IncompleteReadError):
                await process.stdout.readuntil(b"x")
            self.assertEqual([await process.stdout.read(), await process.stdout.readline()], [b"", b""])
            await process.wait()
            with self.assertRaises(FileNotFoundError):
                await module.create_subprocess_exec("no-such-program")
            for options in [{"text": True}, {"encoding": "utf-8"}, {"bufsize": 1}]:
                with self.assertRaises(ValueError):
                    await module.create_subprocess_exec("true", **options)

    @run
    async def test_megabytes_go_both_ways_in_one_loop(self, server):
        data = os.urandom(1 << 20) * 16
        process = await server.aopen(["cat"], stdin=PIPE)
        self.assertEqual(await process.communicate(data), (data, b""))
        process = await server.aopen(["sh", "-c", "head -c 10; exec >&-; cat >/dev/null"], stdin=PIPE)
        self.assertEqual(await process.communicate(data), (data[:10], b""))

    @run
    async def test_a_program_that_reads_nothing_holds_up_its_writer_alone(self, server):
        process = await server.aopen(["sh", "-c", "echo ready; exec sleep 1000"], stdin=PIPE)
        await process.stdout.readline()
        process.stdin.write(bytes(16 << 20))
        drain = asyncio.ensure_future(process.stdin.drain())
        for number in range(20):
            done = await server.run(["echo", str(number)])
            self.assertEqual(done.stdout, b"%d\n" % number)
        self.assertFalse(drain.done())
        process.kill()
        with self.assertRaises(BrokenPipeError):
            await drain
        self.assertEqual(await process.wait(), -signal.SIGKILL)
        process.stdin.write(b"x")  # As to any pipe that is broken.
        with self.assertRaises(BrokenPipeError):
            await process.stdin.drain()

    @run
    async def test_many_programs_run_in_one_loop(self, server):
        async def one(number):
            done = await server.run(["sh", "-c", f"cat; exit {number}"], input=b"x" * number * 1000)
            return len(done.stdout), done.returncode

        self.assertEqual(
            await asyncio.gather(*(one(number) for number in range(40))),
            [(number * 1000, number) for number in range(40)],
        )

    @run
    async def test_the_loop_is_never_blocked(self, server):
        """While a server is stopped, what asks it waits, and the loop goes on."""
        writer = await server.aopen(["cat"], stdin=PIPE)
        running = await server.aopen(["cat"], stdin=PIPE)
        with stopped(server.server) as go_on:
            writer.stdin.write(bytes(1 << 20))
            asks = [
                asyncio.ensure_future(ask)
                for ask in (
                    server.aopen(["true"]),
                    server.run(["echo", "x"]),
                    server.list(),
                    running.wait(),
                    running.stdout.read(),
                    running.stderr.readline(),
                    writer.stdin.drain(),
                    running.inspect(),
                    running.wait_for(exit=True),
                )
            ]
            killed = running.kill()
            writer.stdout.close()
            starting = asyncio.ensure_future(AsyncServer(["sleep", "1000"], handshake_timeout=0.05).start())
            with self.assertRaises(ServerGone):
                await starting
            for _ in range(100):
                await asyncio.sleep(0)
            self.assertFalse(any(ask.done() for ask in [*asks, killed]))
            go_on()
            await killed
            await asyncio.gather(*asks, return_exceptions=True)
        self.assertEqual(await running.wait(), -signal.SIGKILL)

    @run
    async def test_streams_may_be_files_in_asyncio(self, server):
        with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as out:
            source.write(b"data" * 100_000)
            source.seek(0)
            process = await server.aopen(["cat"], stdin=source, stdout=out)
            self.assertEqual((process.stdin, process.stdout), (None, None))
            self.assertEqual(await process.wait(), 0)
            self.assertEqual(os.fstat(out.fileno()).st_size, 400_000)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "out")
            await server.run(["echo", "x"], stdout=path)
            self.assertEqual(path.read_bytes(), b"x\n")
        first = await server.aopen(["seq", "10000"])
        second = await server.aopen(["wc", "-l"], stdin=first.stdout)
        self.assertEqual(await second.stdout.read(), b"10000\n")

    @run
    async def test_what_the_server_is_asked_for(self, server):
        process = await server.aopen(NEVER)
        (listed,) = await server.list()
        self.assertEqual(listed["pid"], process.pid)
        with self.assertRaises(ValueError):
            await process.send_signal("SIGNOTHING")
        await process.send_signal(0)
        await process.send_signal(signal.SIGINT)
        self.assertEqual(await process.wait(), -signal.SIGINT)
        await process.kill()
        with self.assertRaises(procwire.RpcError):
            await (await server.aopen(NEVER)).resize(3, 4)
        terminal = await server.aopen(["sh", "-c", "read x; stty size"], tty=True, size=(30, 90))
        await terminal.resize(40, 100)
        terminal.stdin.write(b"\n")
        self.assertEqual(await terminal.expect(r"(\d+) (\d+)\r\n"), 0)
        self.assertEqual(terminal.match.groups(), (b"40", b"100"))

    @run
    async def test_a_server_that_runs_already_is_left_running(self, server):
        async with AsyncServer(server.server) as same:
            self.assertEqual((await same.run(["echo", "x"])).stdout, b"x\n")
        self.assertEqual((await server.run(["echo", "x"])).stdout, b"x\n")
        self.assertEqual(server.server.run(["echo", "x"]).stdout, b"x\n")


class Cancelling(unittest.TestCase):
    @run
    async def test_a_run_that_is_cancelled_leaves_nothing(self, server):
        prints = ["sh", "-c", "head -c 1000000 /dev/zero; exec sleep 1000"]
        for command, options in [(NEVER, {}), (NEVER, {"stdin": PIPE}), (prints, {"stderr": DEVNULL})]:
            task = asyncio.ensure_future(server.run(["sh", "-c", '"$@"', "sh", *command], **options))

            async def running():
                return bool(await server.list())

            await until("it runs", running)
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task
            await nothing_runs(server)

    @run
    async def test_a_start_that_is_cancelled_leaves_nothing(self, server):
        for delay in [0, 0.0005, 0.001, 0.002, 0.004]:
            task = asyncio.ensure_future(server.aopen(NEVER))
            await asyncio.sleep(delay)
            task.cancel()
            try:
                (await task).kill()
            except asyncio.CancelledError:
                pass
            await nothing_runs(server)
        # A server that is being started is closed.
        task = asyncio.ensure_future(AsyncServer(["sleep", "1000"]).start())
        await asyncio.sleep(0.05)
        task.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await task
        # It does not speak, so that its thread would wait for the handshake.
        for one in list(procwire._open_servers):
            if one is not server.server:
                one._process.kill()

    @run
    async def test_a_wait_that_is_cancelled_leaves_the_program(self, server):
        process = await server.aopen(["sh", "-c", "echo begun; read x; echo $x"], stdin=PIPE)
        for wait in [
            process.wait,
            lambda: process.stdout.readuntil(b"none"),
            lambda: process.expect("none"),
            lambda: process.wait_for("none"),
            process.stderr.read,
        ]:
            task = asyncio.ensure_future(wait())
            await asyncio.sleep(0.01)
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task
            self.assertIsNone(process.returncode)
        process.stdin.write(b"more\n")
        self.assertEqual(await process.stdout.read(), b"begun\nmore\n")
        self.assertEqual(await process.wait(), 0)

    @run
    async def test_a_block_that_is_left_closes_or_kills(self, server):
        async with await server.aopen(["yes"]) as process:
            self.assertEqual(await process.stdout.readline(), b"y\n")
        self.assertEqual(process.returncode, -signal.SIGPIPE)
        async with await server.aopen(["wc"], stdin=PIPE, stdout=DEVNULL) as process:
            process.stdin.write(b"x" * 300_000)
        self.assertEqual(process.returncode, 0)
        with self.assertRaises(ZeroDivisionError):
            async with await server.aopen(NEVER) as process:
                1 / 0
        self.assertEqual(process.returncode, -signal.SIGKILL)

        async def body():
            async with await server.aopen(NEVER):
                begun.set()
                await asyncio.sleep(1000)

        async def wait_at_the_end():
            async with await server.aopen(NEVER):
                begun.set()

        for use in [body, wait_at_the_end]:
            begun = asyncio.Event()
            task = asyncio.ensure_future(use())
            await begun.wait()
            await asyncio.sleep(0.01)
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task
            await nothing_runs(server)

    @run
    async def test_a_timeout_has_what_came(self, server):
        with self.assertRaises(TimeoutExpired) as caught:
            await server.run(["sh", "-c", "echo begun; exec sleep 1000"], timeout=0.5)
        self.assertEqual((caught.exception.stdout, caught.exception.stderr), (b"begun\n", b""))
        script = "trap 'echo term; exit' TERM; echo begun; while :; do sleep 0.01; done"
        with self.assertRaises(TimeoutExpired) as caught:
            await server.run(["sh", "-c", script], timeout=0.5, timeout_grace=PATIENCE)
        self.assertEqual(caught.exception.stdout, b"begun\nterm\n")
        with self.assertRaises(subprocess.CalledProcessError):
            await server.run(["false"], check=True)

    @run
    async def test_what_is_garbage_in_asyncio_is_closed(self, server):
        for options in [{}, {"stdin": PIPE}]:
            process = await server.aopen(["yes"], **options)
            await process.stdout.readline()
            del process
            gc.collect()
            await nothing_runs(server)
        process = await server.aopen(["cat"], stdin=PIPE)
        process.stdin.write(b"x" * 300_000)
        del process
        gc.collect()
        await nothing_runs(server)

    def test_the_end_of_a_loop_leaves_nothing_running(self):
        async def main():
            server = AsyncServer()
            await server.start()
            process = await server.aopen(NEVER, stdin=PIPE)
            process.stdin.write(b"x")
            waits = [asyncio.ensure_future(wait) for wait in (process.wait(), process.stdout.read())]
            await asyncio.sleep(0.01)
            return server, process, waits

        server, process, _ = asyncio.run(main())
        # The loop is closed, and the connection does not mind.
        process._popen.kill()
        self.assertEqual(process._popen.wait(PATIENCE), -signal.SIGKILL)
        server.server.close()


class Waiting(unittest.TestCase):
    @run
    async def test_a_dialogue_in_asyncio(self, server):
        script = "printf 'name? '; read x; echo hello $x; read y; printf rest"
        process = await server.aopen(["sh", "-c", script], stdin=PIPE)
        self.assertEqual(await process.expect([EOF, r"(\w+)\? "]), 1)
        self.assertEqual((process.before, process.match[1], process.after), (b"", b"name", b"name? "))
        process.stdin.write(b"bob\n")
        self.assertEqual(await process.expect_exact([TIMEOUT, "bob"]), 1)
        self.assertEqual(await process.stdout.readline(), b"\n")
        with self.assertRaisesRegex(TIMEOUT, "0.05 seconds"):
            await process.expect("none", timeout=0.05)
        self.assertEqual(await process.expect([TIMEOUT], timeout=0), 0)
        process.stdin.close()
        with self.assertRaises(EOF):
            await process.expect("none")
        self.assertEqual((process.before, process.after), (b"rest", EOF))
        self.assertEqual(await process.expect(EOF), 0)

    @run
    async def test_the_server_waits_for_asyncio(self, server):
        process = await server.aopen(["sh", "-c", "while read x; do echo got $x; done"], stdin=PIPE)
        held = await process.wait_for(["none", "got one"], send=b"one\n", timeout=PATIENCE)
        self.assertEqual((held.text, held.stream, held.offset), ("got one", "stdout", 7))
        self.assertEqual((await process.wait_for(quiet=0.05)).condition, "quiet")
        with self.assertRaises(TimeoutExpired):
            await process.wait_for("one", timeout=0.05)
        self.assertEqual(await process.stdout.readline(), b"got one\n")
        self.assertEqual((await process.inspect()).pid, process.pid)
        process.stdin.close()
        self.assertEqual((await process.wait_for("x", exit=True)).condition, "exit")
        self.assertEqual(await process.wait(), 0)
        with self.assertRaises(EOF):
            await process.wait_for("x")

    @run
    async def test_two_reads_at_once_are_refused(self, server):
        process = await server.aopen(["cat"], stdin=PIPE)
        first = asyncio.ensure_future(process.stdout.readline())
        await asyncio.sleep(0.01)
        with self.assertRaises(RuntimeError):
            await process.stdout.read()
        process.stdin.write(b"x\n")
        self.assertEqual(await first, b"x\n")

    @run
    async def test_output_that_no_task_reads_slows_its_program(self, server):
        async with AsyncServer(max_unread=1 << 20) as other:
            process = await other.aopen(["head", "-c", "30000000", "/dev/zero"])

            async def enough():
                return process.stdout.raw.unread() > 1 << 20

            await until("the client has enough", enough)
            self.assertLess(process.stdout.raw.unread(), 4 << 20)
            self.assertIsNone(process.returncode)
            self.assertEqual((await other.run(["echo", "x"])).stdout, b"x\n")
            self.assertEqual(len(await process.stdout.read()), 30_000_000)
            self.assertEqual(await process.wait(), 0)

    @run
    async def test_the_death_of_a_server_is_noticed_by_all_tasks(self, _):
        async with AsyncServer(stderr=DEVNULL) as server:
            process = await server.aopen(["sh", "-c", "exec sleep 1000"], stdin=PIPE)
            process.stdin.write(bytes(16 << 20))
            tasks = [
                asyncio.ensure_future(wait)
                for wait in (
                    process.wait(),
                    process.stdout.readline(),
                    process.stderr.read(),
                    process.stdin.drain(),
                    process.wait_for("x"),
                )
            ]
            await asyncio.sleep(0.05)
            children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()
            os.kill(int(children.split()[0]), signal.SIGKILL)
            for task in tasks:
                with self.assertRaises(ServerGone):
                    await task
            with self.assertRaises(ServerGone):
                await server.aopen(["true"])
            self.assertIsNone(process.returncode)

    @run
    async def test_a_server_that_is_silent_is_given_up_in_asyncio(self, _):
        async with AsyncServer(answer_timeout=0.1, stderr=DEVNULL) as server:
            process = await server.aopen(NEVER)
            with stopped(server.server):
                with self.assertRaisesRegex(ServerGone, "has sent nothing"):
                    await server.list()
                with self.assertRaises(ServerGone):
                    await process.wait()


if __name__ == "__main__":
    loader = unittest.TestLoader()
    if len(sys.argv) > 1:
        loader.testNamePatterns = [f"*{pattern}*" for pattern in sys.argv[1:]]
    result = Result()
    loader.loadTestsFromModule(sys.modules["__main__"]).run(result)
    sys.exit(0 if result.wasSuccessful() and result.testsRun else 1)
