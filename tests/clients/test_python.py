"""The Python client against the real server, which the variable PROCWIRE names."""

import array
import errno
import gc
import hashlib
import inspect
import io
import json
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import unittest
import unittest.mock as mock
from pathlib import Path

HERE = Path(__file__).resolve().parent
CLIENTS = HERE.parents[1] / "docs" / "clients"
sys.path.insert(0, str(CLIENTS))
sys.dont_write_bytecode = True

import procwire  # noqa: E402
from procwire import (
    DEVNULL,
    EOF,
    PIPE,
    STDOUT,
    TIMEOUT,
    File,
    RpcError,
    Server,
    ServerGone,
    SpawnError,
    TimeoutExpired,
)  # noqa: E402

PATIENCE = 30
NEVER = ["sleep", "1000"]


def wait_until(what, condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain until {what}")
        time.sleep(0.002)


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(") ", 1)[1][0] not in "ZX"
    except OSError:
        return False


def run_script(script):
    """A program of its own, beside the client; what it printed."""
    done = subprocess.run(
        # So that older versions tell as well what a finalizer was not able to do.
        [sys.executable, "-X", "dev", "-B", "-c", textwrap.dedent(script)],
        cwd=CLIENTS,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0 and done.stderr == "", done
    return done.stdout


def within(seconds, use):
    """What `use` returns or raises, from a thread of its own, so that one that hangs is noticed."""
    outcome = []

    def work():
        try:
            outcome.append((use(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    assert outcome, "it hangs"
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def says(line):
    """A server that answers its first request with this, and says nothing else."""
    return ["sh", "-c", 'read x; printf "%s\\n" "$1"; exec cat >/dev/null', "sh", line]


def run_limited(script):
    """As `run_script`, in less memory than a flood would take."""
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_DATA, (400 << 20,) * 2)\n"
    return run_script(limit + textwrap.dedent(script))


def copiers():
    return [thread for thread in threading.enumerate() if thread.name == "procwire-copy"]


def wait_for(ask):
    """What it says once that is something."""
    wait_until("there is an answer", lambda: ask() is not None)
    return ask()


class TestCase(unittest.TestCase):
    def setUp(self):
        self.server = Server()
        self.addCleanup(self.server.close)

    def popen(self, *arguments, **options):
        process = self.server.popen(*arguments, **options)
        self.assertGreater(process.pid, 0)
        return process


class Programs(TestCase):
    def test_the_example_runs_as_it_is(self):
        example = re.search(r"\n\n((?:    .*\n|\n)+)", procwire.__doc__).group(1)
        self.assertEqual(len([line for line in example.splitlines() if line.strip()]), 4)
        self.assertEqual(run_script(example), "HELLO\n")
        page = (CLIENTS / "python.md").read_text()
        self.assertIn(f"```python\n{textwrap.dedent(example).strip()}\n```", page)
        example = re.search(r"(?: \*     .*\n)+", (CLIENTS / "procwire.ts").read_text()).group()
        page = (CLIENTS / "typescript.md").read_text()
        self.assertIn("```ts\n" + example.replace(" *     ", "") + "```", page)

    def test_output_and_exit_code_of_a_program(self):
        process = self.popen(["sh", "-c", "echo out; echo err >&2; exit 3"])
        self.assertEqual(process.stdout.read(), b"out\n")
        self.assertEqual(process.stderr.read(), b"err\n")
        self.assertEqual(process.wait(PATIENCE), 3)
        self.assertEqual((process.returncode, process.poll(), process.exit.code), (3, 3, 3))
        self.assertEqual((process.exit.stdout_bytes, process.exit.stderr_bytes), (4, 4))
        self.assertGreater(process.exit.max_rss, 0)
        self.assertIsNone(process.stdin)
        self.assertEqual(
            repr(process), "<Popen: returncode: 3 args: ['sh', '-c', 'echo out; echo err >&2; exit 3']>"
        )

    def test_what_is_not_asked_for_is_not_sent(self):
        sent = []
        ask = Server._ask

        def spy(server, number, answer, method, params):
            sent.append((method, set(params)))
            ask(server, number, answer, method, params)

        base = {"command", "processHandle", "streamStdin", "streamStdoutStderr", "outputBytesCap", "timeoutMs"}
        with mock.patch.object(Server, "_ask", spy):
            for options, more in [
                ({}, set()),
                ({"stdin": DEVNULL, "stdout": PIPE, "stderr": PIPE, "keep": "head"}, set()),
                ({"env": {"A": "b"}, "inherit_env": True}, {"env"}),
                ({"env": {"A": "b"}}, {"env", "inheritEnv"}),
                ({"stderr": STDOUT}, {"stderr"}),
                ({"stdout": DEVNULL, "stderr": DEVNULL}, {"stdout", "stderr"}),
                ({"timeout": 30, "timeout_grace": 3}, {"timeoutGraceMs"}),
                ({"timeout_grace": 3}, set()),
            ]:
                with self.popen(["true"], **options) as process:
                    process.communicate()
                # And nothing is closed that has ended.
                self.assertEqual(sent, [("process/spawn", base | more)])
                sent.clear()

    def test_lines_come_as_they_are_written(self):
        with self.popen(
            ["sh", "-c", "while read x; do echo got $x; done"], stdin=PIPE, text=True, bufsize=1
        ) as process:
            for word in ["eins", "zwei", "drüber"]:
                process.stdin.write(f"{word}\n")
                self.assertEqual(process.stdout.readline(), f"got {word}\n")
            self.assertIsNone(process.poll())
        self.assertEqual(process.returncode, 0)

    def test_lines_can_be_iterated(self):
        process = self.popen(["seq", "1000"], text=True)
        self.assertEqual([int(line) for line in process.stdout], list(range(1, 1001)))

    def test_run_is_as_in_subprocess(self):
        done = self.server.run(["sh", "-c", "cat; echo e >&2"], input=b"in")
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, b"in", b"e\n"))
        done = self.server.run(["cat"], input="ü\r\n€", text=True)
        self.assertEqual(done.stdout, "ü\n€")
        with self.assertRaises(subprocess.CalledProcessError) as caught:
            self.server.run(["sh", "-c", "echo no; exit 4"], check=True)
        self.assertEqual((caught.exception.returncode, caught.exception.output), (4, b"no\n"))
        with self.assertRaises(TimeoutExpired) as caught:
            self.server.run(["sh", "-c", "echo begun; sleep 1000"], timeout=0.5)
        self.assertEqual(caught.exception.output, b"begun\n")
        self.assertEqual(self.server.list(), [])

    def test_shell_commands(self):
        self.assertEqual(self.server.run("echo $((6*7))", shell=True, text=True).stdout, "42\n")
        self.assertEqual(self.server.run(["echo $1", "sh", "x"], shell=True, text=True).stdout, "x\n")

    def test_directory_and_environment(self):
        os.environ["PROCWIRE_CLIENT_TEST"] = "x"
        self.addCleanup(os.environ.pop, "PROCWIRE_CLIENT_TEST")
        with Server() as server:
            script = 'pwd; echo "$A-${PROCWIRE_CLIENT_TEST-unset}"'
            for env, inherit, expected in [
                ({"A": "b c"}, True, "b c-x"),
                ({"A": "b c"}, None, "b c-unset"),
                ({"A": "b c"}, False, "b c-unset"),
                ({"A": "b c"}, ["PROCWIRE_CLIENT_TEST"], "b c-x"),
                ({"A": "b c"}, ["PROCWIRE_*"], "b c-x"),
                ({"A": "b c"}, ["PROCWIRE"], "b c-unset"),
                ({"PROCWIRE_CLIENT_TEST": "y"}, True, "-y"),
                ({"PROCWIRE_CLIENT_TEST": None}, True, "-unset"),
                (None, None, "-x"),
                (None, True, "-x"),
                (None, False, "-unset"),
                ({}, None, "-unset"),
            ]:
                done = server.run(
                    ["sh", "-c", script], cwd=Path("/usr"), env=env, inherit_env=inherit, text=True
                )
                self.assertEqual(done.stdout, f"/usr\n{expected}\n", (env, inherit))
            # Nothing but this.
            self.assertEqual(server.run(["/usr/bin/env"], env={"A": "b"}).stdout, b"A=b\n")
            self.assertEqual(server.run(["/usr/bin/env"], env={}, cwd="/usr").stdout, b"")
            for options in [{"env": {"A": None}}, {"env": {"A": "b"}, "inherit_env": "PATH"}]:
                with self.assertRaises(TypeError):
                    server.run(["true"], **options)
            for name in ["", "A=B", "A*B", "A\0"]:
                with self.assertRaises(ValueError):
                    server.run(["true"], inherit_env=[name])

    def test_output_can_be_dropped_and_merged(self):
        process = self.popen(["sh", "-c", "echo out; echo err >&2"], stdout=DEVNULL, stderr=DEVNULL)
        self.assertEqual(process.communicate(timeout=PATIENCE), (None, None))
        self.assertEqual((process.stdout, process.stderr, process.exit.stdout_bytes), (None, None, 0))
        process = self.popen(["sh", "-c", "echo err >&2; echo out"], stdout=DEVNULL)
        self.assertEqual(process.communicate(timeout=PATIENCE), (None, b"err\n"))
        process = self.popen(["sh", "-c", "readlink /proc/self/fd/0 /proc/self/fd/2"], stderr=DEVNULL)
        self.assertEqual(process.stdout.read(), b"/dev/null\n/dev/null\n")
        process = self.popen(["head", "-c", "100000", "/dev/zero"], output_cap=1000)
        self.assertEqual(len(process.stdout.read()), 1000)
        self.assertEqual(process.wait(PATIENCE), 0)

    def test_what_runs_can_be_listed(self):
        process = self.popen(NEVER)
        (listed,) = self.server.list()
        self.assertEqual((listed["pid"], listed["command"]), (process.pid, NEVER))
        self.assertIn("maxMessageBytes", self.server.info["limits"])


class Bytes(TestCase):
    def test_every_byte_comes_back(self):
        data = bytes(range(256)) * 17
        self.assertEqual(self.server.run(["cat"], input=data).stdout, data)

    def test_megabytes_go_both_ways(self):
        data = os.urandom(1 << 20) * 48
        process = self.popen(["cat"], stdin=PIPE)
        digest = hashlib.sha256()

        def feed():
            process.stdin.write(data)
            process.stdin.close()

        feeder = threading.Thread(target=feed)
        feeder.start()
        count = 0
        for piece in iter(lambda: process.stdout.read1(1 << 16), b""):
            digest.update(piece)
            count += len(piece)
        feeder.join(PATIENCE)
        self.assertEqual(count, len(data))
        self.assertEqual(digest.digest(), hashlib.sha256(data).digest())
        self.assertEqual(process.wait(PATIENCE), 0)

    def test_a_program_that_does_not_read_slows_its_writer_alone(self):
        process = self.popen(["sh", "-c", "echo ready; sleep 1000"], stdin=PIPE)
        self.assertEqual(process.stdout.readline(), b"ready\n")
        outcome = []

        def feed():
            try:
                process.stdin.write(bytes(64 << 20))
            except BrokenPipeError as error:
                outcome.append(error)

        feeder = threading.Thread(target=feed)
        feeder.start()
        wait_until("stdin is full", lambda: self.server.list()[0]["stdinPendingBytes"] > 1 << 20)
        for _ in range(20):
            self.assertEqual(self.server.run(["echo", "x"]).stdout, b"x\n")
        self.assertLess(self.server.list()[0]["stdinPendingBytes"], 2 << 20)
        self.assertTrue(feeder.is_alive())
        process.kill()
        feeder.join(PATIENCE)
        self.assertEqual(len(outcome), 1)
        self.assertEqual(process.wait(PATIENCE), -signal.SIGKILL)

    def test_output_that_nobody_reads_slows_its_program(self):
        with Server(max_unread=1 << 20) as server:
            process = server.popen(["head", "-c", "100000000", "/dev/zero"])
            wait_until("the client has enough", lambda: process.stdout.raw.unread() > 1 << 20)
            time.sleep(0.3)
            self.assertLess(process.stdout.raw.unread(), 2 << 20)
            self.assertIsNone(process.poll())
            # A wait for an answer is not held up by it.
            self.assertEqual(server.run(["echo", "x"]).stdout, b"x\n")
            total = sum(len(piece) for piece in iter(lambda: process.stdout.read1(1 << 20), b""))
            self.assertEqual((total, process.wait(PATIENCE)), (100_000_000, 0))

    def test_a_slow_reader_loses_nothing_while_the_end_is_waited_for(self):
        with Server(max_unread=1 << 14) as server:
            process = server.popen(["head", "-c", "3000000", "/dev/zero"])
            raw = process.stdout.raw
            total = []

            def read():
                wait_until("there is more than is kept", lambda: raw.unread() > procwire._FLOOD << 14)
                total.append(len(process.stdout.read()))

            reader = threading.Thread(target=read)
            reader.start()
            self.assertEqual(process.wait(PATIENCE), 0)
            reader.join(PATIENCE)
            self.assertEqual(total, [3_000_000])

    def test_nothing_is_lost_between_a_fast_program_and_a_slow_one(self):
        with mock.patch.object(procwire, "_FLOOD_WAIT", 2), Server(max_unread=1 << 12) as server:
            source = server.popen(["head", "-c", "3000000", "/dev/zero"])
            target = server.popen(["sh", "-c", "sleep 0.5; wc -c"], stdin=PIPE)

            def copy():
                for piece in iter(lambda: source.stdout.read1(1000), b""):
                    target.stdin.write(piece)
                target.stdin.close()

            copier = threading.Thread(target=copy)
            copier.start()
            self.assertEqual(source.wait(PATIENCE), 0)
            self.assertEqual(target.stdout.read(), b"3000000\n")
            copier.join(PATIENCE)

    def test_output_that_is_never_read_is_cut_off_in_the_end(self):
        with mock.patch.object(procwire, "_FLOOD_WAIT", 0.1), Server(max_unread=1 << 14) as server:
            process = server.popen(["yes"])
            self.assertEqual(within(PATIENCE, process.wait), -signal.SIGPIPE)
            kept = 0
            with self.assertRaises(OSError) as caught:
                while True:
                    kept += len(process.stdout.read1(1 << 16))
            self.assertEqual(caught.exception.errno, errno.ENOBUFS)
            self.assertGreater(kept, 1 << 17)
            self.assertEqual(server.run(["echo", "x"]).stdout, b"x\n")

    def test_wait_needs_no_reader(self):
        process = self.popen(["head", "-c", "3000000", "/dev/zero"])
        self.assertEqual(process.wait(PATIENCE), 0)
        self.assertEqual(len(process.stdout.read()), 3_000_000)

    def test_output_of_a_closed_stream_is_dropped(self):
        with mock.patch.object(procwire, "_CLOSE_GRACE", 1000):
            process = self.popen(["sh", "-c", "head -c 3000000 /dev/zero; echo done >&2"])
            process.stdout.close()
            self.assertEqual(process.stderr.read(), b"done\n")
            self.assertEqual(process.wait(PATIENCE), 0)


class Input(TestCase):
    def test_closing_stdin_is_the_end_of_file(self):
        process = self.popen(["sh", "-c", "cat; echo end"], stdin=PIPE)
        process.stdin.write(b"some ")
        process.stdin.flush()
        self.assertEqual(process.stdout.read(5), b"some ")
        process.stdin.close()
        self.assertEqual(process.stdout.read(), b"end\n")
        self.assertTrue(process.stdin.closed)

    def test_without_a_pipe_stdin_is_empty(self):
        self.assertEqual(self.server.run(["wc", "-c"], text=True).stdout, "0\n")

    def test_writing_to_a_program_that_has_ended_is_a_broken_pipe(self):
        process = self.popen(["true"], stdin=PIPE, bufsize=0)
        process.wait(PATIENCE)
        with self.assertRaises(BrokenPipeError):
            process.stdin.write(b"x")
        process.stdin.close()

    def test_communicate_bears_a_program_that_does_not_read(self):
        process = self.popen(["echo", "x"], stdin=PIPE)
        self.assertEqual(process.communicate(bytes(9 << 20), PATIENCE), (b"x\n", b""))

    def test_input_that_cannot_be_written_is_refused(self):
        for input, options, expected in [
            ("text", {}, TypeError),
            (b"bytes", {"text": True}, TypeError),
            (3, {}, TypeError),
            ("\udcff", {"text": True}, UnicodeEncodeError),
            ("ü", {"text": True, "encoding": "ascii"}, UnicodeEncodeError),
        ]:
            # It is refused at once, and stdin is closed by `with`.
            with self.assertRaises(expected), self.popen(["cat"], stdin=PIPE, **options) as process:
                within(PATIENCE, lambda: process.communicate(input))
            self.assertEqual(process.returncode, 0)
            with self.assertRaises(expected):
                within(PATIENCE, lambda: self.server.run(["sleep", "1000"], input=input, **options))
        done = self.server.run(["cat"], input="ü", text=True, encoding="ascii", errors="xmlcharrefreplace")
        self.assertEqual(done.stdout, "&#252;")

    def test_input_goes_behind_what_has_been_written(self):
        process = self.popen(["cat"], stdin=PIPE, text=True)
        process.stdin.write("one ")
        self.assertEqual(within(PATIENCE, lambda: process.communicate("two")), ("one two", ""))
        process = self.popen(["cat"], stdin=PIPE)
        process.stdin.close()
        self.assertEqual(within(PATIENCE, process.communicate), (b"", b""))
        process = self.popen(["cat"], stdin=PIPE)
        process.stdin.close()
        with self.assertRaisesRegex(ValueError, "closed file"):
            within(PATIENCE, lambda: process.communicate(b"late"))

    def test_all_of_the_input_is_written_without_a_buffer(self):
        data = os.urandom(1_000_000)
        process = self.popen(["cat"], stdin=PIPE, bufsize=0)
        self.assertEqual(within(PATIENCE, lambda: process.communicate(data)), (data, b""))
        # Nor does the kind of the buffer matter.
        process = self.popen(["cat"], stdin=PIPE)
        input = array.array("I", range(100_000))
        self.assertEqual(within(PATIENCE, lambda: process.communicate(input)), (input.tobytes(), b""))

    def test_input_fits_whatever_the_limit_of_messages(self):
        command = [*procwire.shlex.split(os.environ["PROCWIRE"]), "--max-message-bytes"]
        data = os.urandom(300_000)
        with Server([*command, "2000"]) as server:
            self.assertEqual(within(PATIENCE, lambda: server.run(["cat"], input=data)).stdout, data)
        # Where nothing can be written at all, it is said.
        with Server([*command, "2000"]) as server:
            process = server.popen(["cat"], stdin=PIPE)
            server.info["limits"]["maxMessageBytes"] = 100
            with self.assertRaisesRegex(ValueError, "limit of 100"):
                process.stdin.write(data)
            server.info["limits"]["maxMessageBytes"] = 130
            with self.assertRaisesRegex(ValueError, "limit of 130"):
                within(PATIENCE, lambda: process.communicate(data))


class Terminals(TestCase):
    def test_a_terminal_of_its_own(self):
        process = self.popen(
            ["sh", "-c", "stty size; tty; read x; stty size"], tty=True, size=(30, 100), text=True
        )
        self.assertEqual(process.stdout.readline(), "30 100\n")
        self.assertRegex(process.stdout.readline(), "^/dev/pts/")
        self.assertIsNone(process.stderr)
        process.resize(50, 132)
        process.stdin.write("go\n")
        process.stdin.flush()
        self.assertEqual(process.stdout.read(), "go\n50 132\n")
        self.assertEqual(process.wait(PATIENCE), 0)

    def test_closing_stdin_types_end_of_file(self):
        process = self.popen(["sh", "-c", "stty -echo; echo ready; cat; echo end"], tty=True)
        self.assertEqual(process.stdout.readline(), b"ready\r\n")
        process.stdin.write(b"abc\n")
        process.stdin.close()
        self.assertEqual(process.stdout.read(), b"abc\r\nend\r\n")

    def test_only_a_terminal_can_be_resized(self):
        process = self.popen(NEVER)
        with self.assertRaises(RpcError) as caught:
            process.resize(3, 4)
        self.assertEqual(caught.exception.code, -32600)
        with self.assertRaises(ValueError):
            self.popen(["true"], size=(3, 4))
        terminal = self.popen(NEVER, tty=True)
        with self.assertRaises(ValueError):
            terminal.resize(0, 4)


class Ends(TestCase):
    def test_signals(self):
        for send, expected in [
            (lambda p: p.kill(), "SIGKILL"),
            (lambda p: p.terminate(), "SIGTERM"),
            (lambda p: p.send_signal(signal.SIGINT), "SIGINT"),
            (lambda p: p.send_signal("USR1"), "SIGUSR1"),
            (lambda p: p.send_signal(34), "SIGRTMIN"),
        ]:
            for tty in [False, True]:
                process = self.popen(NEVER, tty=tty)
                self.assertIsNone(process.poll())
                send(process)
                number = getattr(signal, expected)
                self.assertEqual(process.wait(PATIENCE), -number, expected)
                self.assertEqual((process.exit.signal, process.exit.code), (expected, 128 + number))
                send(process)  # Nothing is left to be signalled, and that is not an error.

    def test_terminate_with_grace(self):
        process = self.popen(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1000; done"])
        process.stdout.readline()
        process.terminate(grace=0.1)
        self.assertEqual(process.wait(PATIENCE), -signal.SIGKILL)

    def test_a_signal_that_is_none(self):
        process = self.popen(NEVER)
        with self.assertRaises(ValueError):
            process.send_signal("SIGNOTHING")

    def test_waiting_no_longer_than(self):
        process = self.popen(["sh", "-c", "echo begun; read x; echo $x"], stdin=PIPE)
        with self.assertRaises(TimeoutExpired):
            process.wait(timeout=0.05)
        self.assertIsNone(process.returncode)
        process.stdin.write(b"more\n")
        process.stdin.flush()
        self.assertEqual(process.communicate(timeout=PATIENCE)[0], b"begun\nmore\n")

    def test_nothing_is_lost_when_communicate_is_called_again(self):
        process = self.popen(
            ["sh", "-c", "cat; while ! [ -e /proc/$0/fd/99 ]; do sleep 0.3; exit; done", "1"], stdin=PIPE
        )
        with self.assertRaises(TimeoutExpired):
            process.communicate(b"input", timeout=0.05)
        self.assertEqual(process.communicate(timeout=PATIENCE), (b"input", b""))
        self.assertEqual(process.communicate(), (b"input", b""))

    def test_a_timeout_of_the_server(self):
        process = self.popen(NEVER, timeout=0.05)
        process.wait(PATIENCE)
        self.assertTrue(process.exit.timed_out)
        self.assertEqual(process.exit.code, 124)

    def test_leaving_a_with_statement_waits(self):
        with self.popen(["sh", "-c", "read x; exit 5"], stdin=PIPE) as process:
            pass
        self.assertEqual(process.returncode, 5)


class Refusals(TestCase):
    def test_a_program_that_is_not_there(self):
        with self.assertRaises(FileNotFoundError) as caught:
            self.popen(["no-such-program"])
        error = caught.exception
        self.assertIsInstance(error, SpawnError)
        self.assertEqual((error.errno, error.stage, error.filename), (2, "lookup", "no-such-program"))
        self.assertIn("no-such-program", error.__cause__.message)

    def test_a_program_that_cannot_be_run(self):
        for tty in [False, True]:
            with self.assertRaises(PermissionError) as caught:
                self.popen(["/etc/passwd"], tty=tty)
            self.assertEqual((caught.exception.errno, caught.exception.stage), (13, "exec"))

    def test_a_directory_that_is_not_there(self):
        with self.assertRaises(FileNotFoundError) as caught:
            self.popen(["true"], cwd="/no/such/directory")
        self.assertEqual(caught.exception.stage, "cwd")

    def test_arguments_that_do_not_fit(self):
        for arguments, options in [
            ([[]], {}),
            ([["true"]], {"cwd": "relative"}),
            ([["true"]], {"env": {"a=b": "c"}}),
            # The server could not read these, nor say whose they are.
            ([["true", "\udcff"]], {}),
            ([["true"]], {"output_cap": float("nan")}),
        ]:
            with self.assertRaises(ValueError):
                within(PATIENCE, lambda: self.popen(*arguments, **options))
        for options in [{"encoding": "none"}, {"bufsize": "1"}]:
            with self.assertRaises((LookupError, TypeError)):
                self.popen(NEVER, **{"stdin": PIPE, "text": True, **options})
        self.assertEqual(self.server.list(), [])
        with self.assertRaises(ValueError):
            self.popen(["true"], stdout=STDOUT)
        with self.assertRaisesRegex(ValueError, "limit"):
            self.popen(["true", "x" * (17 << 20)])
        self.assertEqual(self.server._live, {})
        self.assertEqual(self.server.run(["echo", "x"]).stdout, b"x\n")


class Shape(TestCase):
    """What is done by `subprocess` and by the client, with the same outcome."""

    def both(self):
        yield subprocess.Popen
        yield self.server.popen

    def test_a_text_is_what_any_of_four_options_makes_it(self):
        for options in [
            {"text": True},
            {"universal_newlines": True},
            {"encoding": "utf-8"},
            {"errors": "replace"},
            {"encoding": "utf-8", "errors": "ignore"},
            {"text": True, "universal_newlines": True},
            {"text": False, "encoding": "utf-8"},
        ]:
            for start in self.both():
                with start(["printf", r"a\r\nb\rc\n"], stdout=PIPE, **options) as process:
                    self.assertEqual(process.stdout.read(), "a\nb\nc\n", options)
        for options in [{}, {"text": False}, {"universal_newlines": False}, {"errors": ""}]:
            for start in self.both():
                with start(["printf", r"a\r\n"], stdout=PIPE, **options) as process:
                    self.assertEqual(process.stdout.read(), b"a\r\n", options)
        for start in self.both():
            with self.assertRaises(procwire.SubprocessError):
                start(["true"], text=True, universal_newlines=False)
        self.assertEqual(self.server.run(["printf", r"\344"], encoding="latin-1").stdout, "ä")
        self.assertEqual(self.server.run(["printf", r"\344"], errors="backslashreplace").stdout, "\\xe4")
        with self.assertRaises(UnicodeDecodeError):
            self.server.run(["printf", r"\344"], text=True)

    def test_the_name_in_an_error_is_what_was_asked_for(self):
        for args, options in [
            (["true"], {"cwd": "/no/such/directory"}),
            (["true"], {"cwd": b"/no/such/directory"}),
            (["true"], {"cwd": Path("/no/such/directory")}),
            (["true"], {"cwd": "/etc/passwd"}),
            (["no-such-program"], {}),
            ([b"no-such-program"], {}),
            ([Path("/no/such/program"), "x"], {}),
            (["true"], {"executable": "/no/such/program"}),
            ("true", {"shell": True, "executable": b"/no/such/shell"}),
            (["/etc/passwd"], {}),
            ("/etc/passwd", {}),
        ]:
            seen = []
            for start in self.both():
                with self.assertRaises(OSError) as caught:
                    start(args, **options)
                error = caught.exception
                self.assertIsInstance(error.filename, (str, bytes, Path))
                # Newer versions of `subprocess` make a text of a path.
                seen.append((error.errno, error.strerror, os.fspath(error.filename)))
            self.assertEqual(seen[0], seen[1])

    def test_arguments_may_be_bytes_and_paths(self):
        for args, options in [
            ([b"echo", "a", Path("b")], {}),
            (b"echo a b", {"shell": True}),
            ([b"echo $0 $1", b"a", Path("b")], {"shell": True}),
            (["x", "-c", "echo a b"], {"executable": "/bin/sh"}),
            (["x", "-c", "echo a b"], {"executable": b"sh"}),
            (["x", "-c", "echo a b"], {"executable": Path("/bin/sh")}),
            ("echo a b", {"shell": True, "executable": "/bin/bash"}),
            (["echo", "a", "b"], {"cwd": b"/"}),
        ]:
            for start in self.both():
                with start(args, stdout=PIPE, **options) as process:
                    self.assertEqual(process.stdout.read(), b"a b\n", args)
        for start in self.both():
            with start("echo $0", shell=True, executable="/bin/bash", stdout=PIPE) as process:
                self.assertEqual(process.stdout.read(), b"/bin/bash\n")
            with start(Path("/bin/pwd"), stdout=PIPE, cwd="/") as process:
                self.assertEqual(process.stdout.read(), b"/\n")
            with self.assertRaises(TypeError):
                start(Path("/bin/pwd"), shell=True)
            for args in [5, ["echo", 5], ["echo", None]]:
                with self.assertRaises(TypeError):
                    start(args)
        for args, options in [(["echo", b"\xff"], {}), (["true"], {"cwd": "/\udcff"}), ([b"\xff"], {})]:
            with self.assertRaisesRegex(ValueError, r"(an argument|cwd) is not UTF-8.*(xff|udcff)"):
                self.popen(args, **options)

    def test_the_size_of_a_buffer_may_be_none(self):
        for start in self.both():
            with start(["echo", "x"], stdout=PIPE, bufsize=None) as process:
                self.assertIsInstance(process.stdout, io.BufferedReader)
            with start(["echo", "x"], stdout=PIPE, bufsize=0) as process:
                self.assertIsInstance(process.stdout, io.RawIOBase)
            with self.assertRaises(TypeError):
                start(["echo", "x"], bufsize="1")
            with self.assertWarnsRegex(RuntimeWarning, "line buffering"):
                start(["cat"], stdin=PIPE, stdout=PIPE, bufsize=1).communicate()

    def test_a_timeout_has_what_came_until_then(self):
        script = "echo out; echo err >&2; echo begun > $0; exec sleep 1000"
        for options in [{}, {"text": True}, {"bufsize": 0}]:
            for start in self.both():
                with tempfile.TemporaryDirectory() as folder:
                    begun = Path(folder, "begun")
                    with start(
                        ["sh", "-c", script, str(begun)], stdout=PIPE, stderr=PIPE, **options
                    ) as process:
                        wait_until("it has begun", begun.exists)
                        deadline = time.monotonic() + PATIENCE
                        while True:
                            with self.assertRaises(TimeoutExpired) as caught:
                                process.communicate(timeout=0.1) if process.poll() is None else None
                            expired = caught.exception
                            if expired.stdout and expired.stderr or time.monotonic() > deadline:
                                break
                        self.assertEqual((expired.stdout, expired.stderr), (b"out\n", b"err\n"))
                        self.assertIs(expired.output, expired.stdout)
                        process.kill()
                        whole = process.communicate()
                        self.assertEqual(
                            whole, ("out\n", "err\n") if options.get("text") else (b"out\n", b"err\n")
                        )

    def test_a_timeout_that_saw_nothing_has_none(self):
        for start in self.both():
            with start(NEVER, stdout=PIPE, stderr=PIPE) as process:
                with self.assertRaises(TimeoutExpired) as caught:
                    process.communicate(timeout=0.05)
                self.assertEqual((caught.exception.stdout, caught.exception.stderr), (None, None))
                process.kill()

    def test_a_timeout_has_what_was_read_ahead(self):
        with self.popen(["sh", "-c", "echo one; echo two; exec sleep 1000"]) as process:
            self.assertEqual(process.stdout.readline(), b"one\n")
            wait_until("the second line is there", lambda: process.stdout.peek().endswith(b"two\n"))
            with self.assertRaises(TimeoutExpired) as caught:
                process.communicate(timeout=0)
            self.assertEqual(caught.exception.stdout, b"two\n")
            process.kill()
            self.assertEqual(process.communicate(), (b"two\n", b""))

    def test_run_has_what_came_before_its_timeout(self):
        for run in [subprocess.run, self.server.run]:
            for text in [False, True]:
                with self.assertRaises(TimeoutExpired) as caught:
                    run(
                        ["sh", "-c", "echo begun; exec sleep 1000"], timeout=2, capture_output=True, text=text
                    )
                self.assertEqual((caught.exception.stdout, caught.exception.stderr), (b"begun\n", None))

    def test_leaving_a_with_statement_tells_a_broken_pipe(self):
        for start in self.both():
            # After its end, so that the first byte that is flushed has no reader.
            process = start(["true"], stdin=PIPE)
            process.wait(PATIENCE)
            with self.assertRaises(BrokenPipeError), process:
                process.stdin.write(b"x")
            self.assertEqual((process.returncode, process.stdin.closed), (0, True))
            # And while it runs: what it does not read is more than a pipe holds.
            process = start(
                ["sh", "-c", "exec <&-; echo closed; sleep 0.1; exit 3"],
                stdin=PIPE,
                stdout=PIPE,
                bufsize=9 << 20,
            )
            self.assertEqual(process.stdout.readline(), b"closed\n")
            with self.assertRaises(BrokenPipeError), process:
                process.stdin.write(bytes(8 << 20))
            self.assertEqual(process.returncode, 3)
            # Communicate hides it.
            process = start(["true"], stdin=PIPE)
            process.wait(PATIENCE)
            process.communicate(b"x")
            # What was flushed, and was not read, is not an error.
            with start(["sleep", "0.1"], stdin=PIPE) as process:
                process.stdin.write(b"x")
                process.stdin.flush()

    def test_arguments_that_exclude_each_other(self):
        for module in [subprocess, self.server]:
            for use in [
                lambda: module.run(["cat"], input=b"x", stdin=PIPE),
                lambda: module.run(["cat"], input=b"x", stdin=DEVNULL),
                lambda: module.check_output(["cat"], input=b"x", stdin=DEVNULL),
                lambda: module.run(["true"], capture_output=True, stdout=PIPE),
                lambda: module.run(["true"], capture_output=True, stderr=STDOUT),
                lambda: module.check_output(["true"], stdout=None),
            ]:
                with self.assertRaisesRegex(ValueError, "argument"):
                    use()
        # Older versions of `subprocess` have another error for this.
        with self.assertRaisesRegex(ValueError, "check argument"):
            self.server.check_output(["true"], check=False)
        self.assertEqual(self.server.list(), [])

    def test_the_functions_of_the_module(self):
        for module in [subprocess, self.server]:
            quiet = {"stdout": DEVNULL, "stderr": DEVNULL}
            self.assertEqual(module.call(["sh", "-c", "exit 3"], **quiet), 3)
            self.assertEqual(module.check_call(["true"], **quiet), 0)
            with self.assertRaises(procwire.CalledProcessError) as caught:
                module.check_call(["sh", "-c", "kill -9 $$"], **quiet)
            self.assertEqual((caught.exception.returncode, caught.exception.cmd[0]), (-9, "sh"))
            with self.assertRaises(TimeoutExpired):
                module.call(NEVER, timeout=0.05, **quiet)
            self.assertEqual(module.check_output(["cat"], input="x", text=True), "x")
            self.assertEqual(module.check_output(["cat"], input=None, stderr=DEVNULL), b"")
            self.assertEqual(module.check_output(["printf", "ü"], encoding="utf-8"), "ü")
            with self.assertRaises(procwire.CalledProcessError) as caught:
                module.check_output(["sh", "-c", "echo a; exit 5"])
            self.assertEqual((caught.exception.returncode, caught.exception.output), (5, b"a\n"))
            with self.assertRaises(TimeoutExpired) as caught:
                module.check_output(["sh", "-c", "echo a; exec sleep 1000"], timeout=2)
            self.assertEqual(caught.exception.output, b"a\n")
            self.assertEqual(module.getoutput("echo a; echo; echo b >&2"), "a\n\nb")
            self.assertEqual(module.getstatusoutput("printf a; exit 7"), (7, "a"))
            done = module.run(["sh", "-c", "echo a; echo b >&2"], capture_output=True, text=True)
            self.assertEqual((done.stdout, done.stderr, done.returncode), ("a\n", "b\n", 0))

    def test_the_return_code_is_known_once_it_is_asked_for(self):
        for start in self.both():
            process = start(["sh", "-c", "exit 3"], stdout=DEVNULL)
            wait_until("it has ended", lambda: not is_alive(process.pid))
            self.assertIsNone(process.returncode)
            self.assertEqual(wait_for(process.poll), 3)
            self.assertEqual(process.returncode, 3)
            self.assertEqual(repr(process), "<Popen: returncode: 3 args: ['sh', '-c', 'exit 3']>")
            process = start(["sh", "-c", "exit 3", "x" * 100], stdout=DEVNULL)
            self.assertEqual(
                repr(process), f"<Popen: returncode: None args: ['sh', '-c', 'exit 3', '{'x' * 21}...>"
            )
            self.assertEqual(
                process.communicate(), (None, None) if start is subprocess.Popen else (None, b"")
            )

    def test_signal_0_is_only_a_question(self):
        for start in self.both():
            process = start(["cat"], stdin=PIPE)
            process.send_signal(0)
            process.send_signal(signal.Signals(signal.SIGCONT))
            process.communicate()
            process.send_signal(0)
            self.assertEqual(process.returncode, 0)
        process = self.popen(NEVER)
        self.server.close()
        process.send_signal(0)
        with Server() as server:
            process = server.popen(NEVER)
            server._gone = "it is gone"
            with self.assertRaises(ServerGone):
                process.send_signal(0)
            server._gone = None


class Environments(TestCase):
    UNDECODABLE = {"PROCWIRE_TEST_ODD": "a\udcffb", "PROCWIRE_TEST_\udcfe": "x"}

    def test_variables_that_are_not_utf_8_are_inherited(self):
        script = [
            sys.executable,
            "-c",
            "import os, sys; sys.stdout.buffer.write(os.environb[b'PROCWIRE_TEST_ODD'])",
        ]
        environment = {**os.environ, **self.UNDECODABLE}
        with Server(env=environment) as server:
            for env in [
                {**environment, "A": "b"},
                {os.fsencode(name): os.fsencode(value) for name, value in environment.items()},
                {"PROCWIRE_TEST_ODD": "a\udcffb", "PROCWIRE_TEST_\udcfe": "x"},
                {b"PROCWIRE_TEST_ODD": b"a\xffb", b"PROCWIRE_TEST_\xfe": b"x"},
            ]:
                self.assertEqual(server.run(script, env=env).stdout, b"a\xffb")
                self.assertEqual(server.run(script, env=env, inherit_env=True).stdout, b"a\xffb")
            # Nothing else comes with it.
            env = {"PROCWIRE_TEST_ODD": "a\udcffb", "A": "b"}
            with self.assertRaisesRegex(ValueError, "of a variable that the server has is not UTF-8"):
                server.run(["env"], env=env)
            env[b"PROCWIRE_TEST_\xfe".decode("utf-8", "surrogateescape")] = "x"
            printed = server.run(["/usr/bin/env", "-0"], env=env).stdout
            expected = [b"A=b", b"PROCWIRE_TEST_ODD=a\xffb", b"PROCWIRE_TEST_\xfe=x"]
            self.assertEqual(sorted(printed.split(b"\0")[:-1]), expected)
            # One that the server has not, or has otherwise.
            for name, value in [
                ("PROCWIRE_TEST_ODD", "\udcff"),
                ("PROCWIRE_TEST_NEW", "a\udcffb"),
                ("PROCWIRE_TEST_\udcfe", "y"),
                ("PROCWIRE_TEST_\udcfe", None),
                (b"PROCWIRE_TEST_NEW", b"\xff"),
            ]:
                with self.assertRaisesRegex(ValueError, "not UTF-8"):
                    server.run(["true"], env={name: value}, inherit_env=True)
        self.server.run(["true"], env={"PROCWIRE_TEST_\udcfe": None}, inherit_env=True)
        with self.assertRaisesRegex(ValueError, "the variable PROCWIRE_TEST_ODD is not UTF-8"):
            self.server.run(["true"], env=environment)
        with self.assertRaises(TypeError):
            self.server.run(["true"], env={"A": 1})

    def test_the_environment_of_this_program_is_taken_as_it_is(self):
        env = {**os.environ, "PROCWIRE_TEST_A": "ü", "PROCWIRE_TEST_EMPTY": ""}
        done = self.server.run(["sh", "-c", 'echo "$PROCWIRE_TEST_A-${PROCWIRE_TEST_EMPTY-unset}"'], env=env)
        self.assertEqual(done.stdout, "ü-\n".encode())
        self.assertEqual(self.server.run(["/bin/sh", "-c", "echo $A"], env={b"A": Path("b")}).stdout, b"b\n")

    def test_sizes_and_directories_of_this_program_are_not_inherited(self):
        own = {"COLUMNS": "33", "LINES": "11", "PWD": "/nowhere"}
        for name, value in own.items():
            old = os.environ.get(name)
            os.environ[name] = value
            self.addCleanup(
                lambda name=name, old=old: os.environ.pop(name) and old and os.environ.update({name: old})
            )
        script = ["/usr/bin/env"]

        def seen(**options):
            printed = server.run(script, text=True, **options).stdout
            pairs = dict(line.split("=", 1) for line in printed.splitlines() if "=" in line)
            return tuple(pairs.get(name) for name in own)

        with Server() as server:
            self.assertEqual(seen(), ("33", "11", "/nowhere"))
            for options in [
                {"env": None},
                {"env": {}, "inherit_env": True},
                {"env": {}, "inherit_env": ["LINES", "COLUMNS", "P*"]},
                {"env": dict(os.environ)},
                {"env": dict(os.environ), "inherit_env": True},
            ]:
                self.assertEqual(seen(**options, tty=True), (None, None, "/nowhere"))
                self.assertEqual(seen(**options, cwd="/usr"), ("33", "11", "/usr"))
                self.assertEqual(seen(**options, cwd=b"/usr", tty=True, size=(5, 6)), (None, None, "/usr"))
            given = {"COLUMNS": "44", "LINES": "12", "PWD": "/bin"}
            self.assertEqual(seen(env=given, cwd="/usr", tty=True), ("44", "12", "/bin"))
            self.assertEqual(seen(env={"PWD": None}, inherit_env=True, cwd="/usr"), ("33", "11", None))
            # Exactly what is asked for.
            self.assertEqual(seen(env={"A": "b"}, cwd="/usr", tty=True), (None, None, None))


class Files(TestCase):
    def test_streams_may_be_files_and_descriptors(self):
        data = os.urandom(3_000_000)
        with (
            tempfile.TemporaryFile() as source,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
        ):
            source.write(b"skipped" + data)
            source.flush()
            source.seek(7)
            process = self.popen(
                ["sh", "-c", "cat; echo err >&2; exit 3"], stdin=source, stdout=out.fileno(), stderr=err
            )
            self.assertEqual((process.stdin, process.stdout, process.stderr), (None, None, None))
            # Those of this program may be closed: the program has its own.
            self.assertEqual(process.wait(PATIENCE), 3)
            for file in [out, err]:
                file.seek(0)
            self.assertEqual((out.read(), err.read()), (data, b"err\n"))
            self.assertEqual(process.communicate(), (None, None))

    def test_files_have_all_of_the_output_once_a_program_has_ended(self):
        for _ in range(20):
            with tempfile.TemporaryFile() as out:
                process = self.popen(["head", "-c", "1000000", "/dev/zero"], stdout=out, stderr=STDOUT)
                wait_for(process.poll)
                self.assertEqual(os.fstat(out.fileno()).st_size, 1_000_000)

    def test_both_outputs_may_go_to_one_file(self):
        script = ["sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do echo out$i; echo err$i >&2; done"]
        expected = "".join(f"out{i}\nerr{i}\n" for i in range(1, 10)).encode()
        # A pipe, and a file that both ends of it are: the order is that in which it was written.
        self.assertEqual(self.server.run(script, stderr=STDOUT).stdout, expected)
        self.assertEqual(self.server.getoutput("echo a; echo b >&2; echo c"), "a\nb\nc")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "out")
            with open(path, "wb") as out, open(path, "ab") as one, open(path, "ab") as two:
                for options in [
                    {"stdout": out, "stderr": STDOUT},
                    {"stdout": out, "stderr": out},
                    {"stdout": out.fileno(), "stderr": out},
                    {"stdout": one, "stderr": two},
                    {"stdout": path, "stderr": STDOUT},
                    {"stdout": path, "stderr": path},
                ]:
                    out.seek(0)
                    out.truncate()
                    self.assertEqual(self.server.call(script, **options), 0)
                    self.assertEqual(path.read_bytes(), expected, options)
            # Two files that are opened for themselves write over each other, as they do anywhere.
            with open(path, "wb") as one, open(path, "wb") as two:
                self.server.call(["sh", "-c", "printf outout; printf err >&2"], stdout=one, stderr=two)
            self.assertIn(path.read_bytes(), [b"errout", b"outout"])
        reader, writer = os.pipe()
        with open(reader, "rb") as end:
            self.server.call(script, stdout=writer, stderr=os.dup(writer))
            os.close(writer)
            self.assertEqual(os.read(end.fileno(), 1000), expected)

    def test_the_server_opens_what_is_a_path(self):
        with tempfile.TemporaryDirectory() as folder:
            source, out, err = (Path(folder, name) for name in ("in", "out", "err"))
            source.write_bytes(b"given\n")
            out.write_bytes(b"much longer than what comes\n")
            script = ["sh", "-c", "cat; echo err >&2; readlink /proc/self/fd/1 >&2"]
            process = self.popen(script, stdin=source, stdout=str(out), stderr=File(err))
            self.assertEqual((process.stdin, process.stdout, process.stderr), (None, None, None))
            self.assertEqual(process.wait(PATIENCE), 0)
            self.assertEqual(out.read_bytes(), b"given\n")
            self.assertEqual(err.read_bytes(), f"err\n{err}\n".encode())
            self.assertEqual((process.exit.stdout_bytes, process.communicate()), (0, (None, None)))
            self.server.run(["echo", "more"], stdout=File(os.fsencode(out), append=True))
            self.assertEqual(out.read_bytes(), b"given\nmore\n")
            # It goes on when this program has gone.
            with Server() as server:
                detached = server.popen(
                    ["sh", "-c", "sleep 0.3; echo late; echo done >&2"], stdout=out, stderr=err, detach=True
                )
            wait_until("it has written", lambda: err.read_bytes() == b"done\n")
            self.assertEqual(out.read_bytes(), b"late\n")
            self.assertIsNone(detached.poll())
            for options, kind, stage in [
                ({"stdin": Path(folder, "none")}, FileNotFoundError, "stdin"),
                ({"stdout": Path(folder, "none", "x")}, FileNotFoundError, "stdout"),
                ({"stderr": folder}, IsADirectoryError, "stderr"),
            ]:
                with self.assertRaises(kind) as caught:
                    self.popen(["true"], **options)
                self.assertEqual(caught.exception.stage, stage)
                self.assertEqual(os.fspath(caught.exception.filename), os.fspath(options[stage]))
            for options in [{"stdout": "relative"}, {"stdin": Path()}, {"stdout": out, "tty": True}]:
                with self.assertRaises(ValueError):
                    self.popen(["true"], **options)
            self.assertEqual(self.server.list(), [])

    def test_none_is_what_this_program_has(self):
        script = """
            import os, sys
            from procwire import Server
            with Server() as server:
                assert server.call(["sh", "-c", "echo out; echo err >&2; exit 4"]) == 4
                server.check_call(["sh", "-c", "wc -c; echo more"])
                os.close(1)
                assert server.call(["echo", "lost"]) == 0
            """
        done = subprocess.run(
            [sys.executable, "-B", "-c", textwrap.dedent(script)],
            cwd=CLIENTS,
            input=b"not read",
            capture_output=True,
            timeout=PATIENCE,
        )
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, b"out\n0\nmore\n", b"err\n"))

    def test_programs_may_be_connected(self):
        for close in [True, False]:
            first = self.popen(["cat"], stdin=PIPE)
            second = self.popen(["tr", "a-z", "A-Z"], stdin=first.stdout, text=True)
            if close:
                first.stdout.close()
            first.stdin.write(b"abc" * 100_000)
            first.stdin.close()
            self.assertEqual(second.communicate(timeout=PATIENCE), ("ABC" * 100_000, ""))
            self.assertEqual((first.wait(PATIENCE), second.returncode), (0, 0))
        # One that could not be started takes nothing.
        first = self.popen(["echo", "x"])
        with self.assertRaises(FileNotFoundError):
            self.popen(["no-such-program"], stdin=first.stdout)
        self.assertEqual(first.stdout.read(), b"x\n")
        # And what writes on is told that its reader has gone.
        first = self.popen(["yes"], stderr=DEVNULL)
        second = self.popen(["head", "-n", "2"], stdin=first.stdout)
        first.stdout.close()
        self.assertEqual(second.communicate(timeout=PATIENCE)[0], b"y\ny\n")
        self.assertEqual(first.wait(PATIENCE), -signal.SIGPIPE)

    def test_a_program_that_ends_leaves_its_input_to_others(self):
        reader, writer = os.pipe()
        with open(reader, "rb", buffering=0), open(writer, "wb", buffering=0) as end:
            end.write(b"one\n")
            process = self.popen(["sh", "-c", "read x; echo $x"], stdin=reader, text=True)
            self.assertEqual(process.communicate(timeout=PATIENCE)[0], "one\n")
            wait_until("nothing reads it any more", lambda: not copiers())
            end.write(b"two\n")
            self.assertEqual(os.read(reader, 100), b"two\n")

    def test_a_file_that_takes_nothing_holds_up_nothing(self):
        reader, writer = os.pipe()
        try:
            process = self.popen(["head", "-c", "1000000", "/dev/zero"], stdout=writer)
            with self.assertRaises(TimeoutExpired):
                process.wait(timeout=0.05)
            process.kill()
            self.assertIn(within(PATIENCE, process.wait), [0, -signal.SIGKILL])
            self.assertIsNotNone(process.poll())
        finally:
            os.close(reader)
            os.close(writer)
        wait_until("the copier has noticed", lambda: not copiers())

    def test_files_that_cannot_be_used(self):
        with open(os.devnull) as closed:
            pass
        for options in [
            {"stdin": STDOUT},
            {"stdout": STDOUT},
            {"stdout": -5},
            {"stdin": closed},
            {"stderr": io.BytesIO()},
            {"stdout": 1 << 30},
        ]:
            with self.assertRaises((ValueError, OSError)):
                self.popen(["true"], **options)
        self.assertEqual((self.server.list(), self.server._live, copiers()), ([], {}, []))
        with tempfile.TemporaryFile() as out, self.assertRaises(FileNotFoundError):
            before = os.listdir("/proc/self/fd")
            try:
                self.popen(["no-such-program"], stdout=out, stderr=out, stdin=out)
            finally:
                self.assertEqual(os.listdir("/proc/self/fd"), before)


class Closing(TestCase):
    def test_a_closed_stream_is_a_pipe_without_a_reader(self):
        python = "import sys\ntry:\n  while True: print('y')\nexcept BrokenPipeError: sys.stderr.close(); sys.exit(3)"
        for command, options in [
            (["yes"], {}),
            (["yes"], {"text": True, "bufsize": 1}),
            (["yes"], {"bufsize": 0}),
            (["sh", "-c", "yes; exit 4"], {}),
            (["sh", "-c", "yes | cat"], {}),
            (["yes"], {"stderr": STDOUT}),
            # What ignores the signal gets the error.
            (["sh", "-c", "trap '' PIPE; while echo y; do :; done 2>&-; exit 5"], {}),
            ([sys.executable, "-c", python], {}),
        ]:
            seen = []
            for start in [subprocess.Popen, self.server.popen]:
                with self.subTest(command=command, **options):

                    def leave():
                        with start(command, **{"stdout": PIPE, "stderr": PIPE, **options}) as process:
                            self.assertIn(process.stdout.readline().strip(), [b"y", "y"])
                        return process.returncode

                    seen.append(within(PATIENCE, leave))
            self.assertEqual(seen[0], seen[1], command)

    def test_a_terminal_that_is_closed_hangs_up(self):
        def leave():
            with self.popen(["yes"], tty=True) as process:
                self.assertEqual(process.stdout.readline(), b"y\r\n")
            return process.exit.signal

        self.assertEqual(within(PATIENCE, leave), "SIGHUP")

    def test_a_closed_stderr_ends_what_writes_it(self):
        with self.popen(["sh", "-c", "exec yes >&2"]) as process:
            process.stderr.readline()
            process.stderr.close()
            self.assertEqual(process.stdout.read(), b"")
            self.assertEqual(within(PATIENCE, process.wait), -signal.SIGPIPE)

    def test_a_stream_that_is_closed_unread_ends_what_writes_it_later(self):
        with self.popen(["sh", "-c", "read x; while :; do echo y; done"], stdin=PIPE) as process:
            process.stdout.close()
            self.assertIsNone(process.poll())
        self.assertEqual(process.returncode, -signal.SIGPIPE)

    def test_a_stream_that_is_garbage_is_closed(self):
        for options in [{}, {"text": True}, {"bufsize": 0}, {"stdin": PIPE}]:
            process = self.popen(["yes"], **options)
            process.stdout.read(2)
            del process
            gc.collect()
            wait_until("it has ended", lambda: not self.server.list())
        # A terminal hangs up.
        process = self.popen(["yes"], tty=True)
        process.stdout.read(2)
        del process
        gc.collect()
        wait_until("it has ended", lambda: not self.server.list())
        # Its stdin as well.
        for options in [{}, {"text": True}, {"bufsize": 0}]:
            process = self.popen(["cat"], stdin=PIPE, **options)
            del process
            gc.collect()
            wait_until("it has ended", lambda: not self.server.list())
        # A stream that is kept is enough.
        numbers = self.popen(["seq", "100000"]).stdout
        gc.collect()
        self.assertEqual(sum(1 for _ in numbers), 100000)
        with self.popen(["cat"], stdin=PIPE).stdin as stdin:
            gc.collect()
            stdin.write(b"x")
        wait_until("it has ended", lambda: not self.server.list())

    def test_what_was_written_before_the_close_ends_nothing(self):
        # In one write: what it would write after the close would kill it.
        script = "printf 'one\\ntwo\\nthree\\n'; echo err >&2; read x; exit 7"
        with self.popen(["sh", "-c", script], stdin=PIPE) as process:
            self.assertEqual(process.stdout.readline(), b"one\n")
            process.stdout.close()
            self.assertEqual(process.stderr.readline(), b"err\n")
        self.assertEqual(process.returncode, 7)

    def test_a_program_that_closes_its_output_has_ended_it(self):
        for options in [{}, {"text": True}, {"bufsize": 0}]:
            for script in [
                "echo x; exec >&- 2>&-; read y; exit 3",
                "exec 2>&-; echo x; exec >&-; read y; exit 3",
            ]:
                process = self.popen(["sh", "-c", script], stdin=PIPE, **options)
                self.assertIn(within(PATIENCE, process.stdout.read), ["x\n", b"x\n"])
                self.assertIn(within(PATIENCE, process.stderr.read), ["", b""])
                self.assertIsNone(process.poll())
                process.stdin.close()
                self.assertEqual(process.wait(PATIENCE), 3)
        # What another program reads, and a file, end there as well.
        first = self.popen(["sh", "-c", "echo x; exec >&-; sleep 1000"])
        second = self.popen(["cat"], stdin=first.stdout)
        self.assertEqual(within(PATIENCE, second.stdout.read), b"x\n")
        self.assertIsNone(first.poll())


class Older(unittest.TestCase):
    """Servers that know less."""

    def server(self, kind):
        server = Server([sys.executable, str(HERE / "older_server.py"), kind])
        self.addCleanup(server.close)
        return server

    def both(self):
        return [self.server("before"), self.server("base")]

    def test_what_they_know_is_as_ever(self):
        for server in self.both():
            done = server.run(["sh", "-c", "cat; echo err >&2; pwd; exit 3"], input=b"in\n")
            self.assertEqual(done.returncode, 3)
            self.assertEqual((done.stdout, done.stderr), (f"in\n{os.getcwd()}\n".encode(), b"err\n"))
            done = server.run(["sh", "-c", "echo out; echo err >&2"], stderr=STDOUT)
            self.assertEqual(sorted(done.stdout.split()), [b"err", b"out"])
            done = server.run(["sh", "-c", "echo out; echo err >&2"], stdout=DEVNULL)
            self.assertEqual((done.stdout, done.stderr), (None, b"err\n"))
            self.assertEqual(
                server.run(["true"], stdout=DEVNULL, stderr=DEVNULL, stdin=DEVNULL).returncode, 0
            )
            with tempfile.TemporaryFile() as out:
                server.call(["echo", "x"], stdout=out, stderr=out)
                out.seek(0)
                self.assertEqual(out.read(), b"x\n")
            process = server.popen(["cat"], tty=True)
            process.sendline(b"hello")
            self.assertEqual(process.expect_exact("hello\r\nhello\r\n"), 0)
            process.kill()
            self.assertIn(process.wait(PATIENCE), [-signal.SIGKILL, 128 + signal.SIGKILL])
            with self.assertRaises(FileNotFoundError) as caught:
                server.popen(["no-such-program"])
            self.assertEqual(caught.exception.filename, "no-such-program")

    def test_an_environment_is_what_it_is_asked_to_be(self):
        for server in self.both():
            env = ["/usr/bin/env"]
            self.assertEqual(server.run(env, env={"A": "b"}).stdout, b"A=b\n")
            path = f"PATH={os.environ['PATH']}".encode()
            self.assertIn(path, server.run(env, env={"A": "b"}, inherit_env=True).stdout.splitlines())
            inherited = server.run(env, env={"A": "b"}, inherit_env=["PAT*"]).stdout
            self.assertEqual(sorted(inherited.splitlines()), [b"A=b", path])

    def test_what_they_do_not_know_is_an_error(self):
        for server in self.both():
            running = server.popen(["cat"], stdin=PIPE)
            for use in [
                lambda: server.popen(["true"], stdout="/dev/null"),
                lambda: server.popen(["true"], stdin=File("/dev/null")),
                lambda: server.popen(["true"], limits={"open_files": 20}),
                lambda: server.popen(["true"], keep="tail", output_cap=3),
                lambda: server.popen(["true"], keep=(1, 2)),
                lambda: server.popen(["true"], timeout=10, timeout_grace=1),
                lambda: running.wait_for(exit=True),
                running.inspect,
            ]:
                with self.assertRaisesRegex(
                    NotImplementedError, "older_server.py .* is a server that cannot"
                ):
                    use()
            self.assertEqual(running.communicate(b"x"), (b"x", b""))
        server = self.server("base")
        running = server.popen(["cat"], stdin=PIPE)
        for use in [
            server.list,
            lambda: server.popen(["true"], detach=True),
            lambda: running.pid,
            running.terminate,
            lambda: running.send_signal(signal.SIGINT),
        ]:
            with self.assertRaises(NotImplementedError):
                use()
        self.assertEqual(running.communicate(b"x"), (b"x", b""))
        self.assertEqual((running.exit.signal, running.exit.max_rss), (None, -1))

    def test_a_closed_stream_ends_what_writes_it(self):
        server = self.server("before")
        for command, options, expected in [
            (["yes"], {}, "SIGPIPE"),
            (["sh", "-c", "yes"], {}, "SIGPIPE"),
            (["sh", "-c", "yes | cat"], {}, "SIGPIPE"),
            (["yes"], {"tty": True}, "SIGHUP"),
            (["yes"], {"stderr": STDOUT}, "SIGPIPE"),
            # What ignores the signal.
            ([sys.executable, "-c", "while True: print('y')"], {}, "SIGKILL"),
        ]:
            with self.subTest(command=command, **options):

                def leave():
                    with server.popen(command, **options) as process:
                        self.assertIn(process.stdout.readline().strip(), [b"y", "y"])
                    return process

                process = within(PATIENCE, leave)
                self.assertEqual(process.exit.signal, expected)
                self.assertEqual(process.returncode, -getattr(signal, expected))
        process = server.popen(["yes"])
        process.stdout.read(2)
        del process
        gc.collect()
        wait_until("it has ended", lambda: not server.list())
        process = self.server("base").popen(["yes"])
        process.stdout.close()
        self.assertEqual(within(PATIENCE, process.wait), 128 + signal.SIGKILL)

    def test_what_was_written_before_the_close_ends_nothing(self):
        # In one write: what it would write after the close would kill it.
        script = "printf 'one\\ntwo\\nthree\\n'; echo err >&2; read x; exit 7"
        # However long the rest of it is on its way.
        with mock.patch.object(procwire, "_CLOSE_GRACE", 1000):
            with self.server("before").popen(["sh", "-c", script], stdin=PIPE) as process:
                self.assertEqual(process.stdout.readline(), b"one\n")
                process.stdout.close()
                self.assertEqual(process.stderr.readline(), b"err\n")
        self.assertEqual(process.returncode, 7)

    def test_a_program_that_takes_the_signal_and_writes_no_more_goes_on(self):
        script = "trap 'echo signal >&2' PIPE; read x; echo y; while read y; do :; done; exit 7"
        with mock.patch.object(procwire, "_CLOSE_GRACE", 0):
            with self.server("before").popen(["sh", "-c", script], stdin=PIPE, bufsize=0) as process:
                process.stdout.close()
                wait_until("it is not known", lambda: process._process.refusals)
                process.stdin.write(b"go\n")
                self.assertEqual(process.stderr.readline(), b"signal\n")
        self.assertEqual(process.returncode, 7)


class Expecting(TestCase):
    def test_a_dialogue(self):
        script = "printf 'name? '; read x; echo hello $x; printf 'age? '; read y; echo $y years; exit 3"
        for options in [{}, {"bufsize": 0}, {"text": True}, {"tty": True}, {"stderr": STDOUT, "text": True}]:
            process = self.popen(["sh", "-c", script], **{"stdin": PIPE, **options})
            of = (lambda text: text) if options.get("text") else str.encode
            self.assertEqual(process.expect(r"(\w+)\? "), 0)
            self.assertEqual(
                (process.before, process.after, process.match[1]), (of(""), of("name? "), of("name"))
            )
            process.sendline(of("bob"))
            self.assertEqual(process.expect_exact([EOF, "ello bob", "hello bob", TIMEOUT]), 2)
            self.assertEqual(process.match_index, 2)
            # The first that comes, and not the first in the list.
            self.assertEqual(process.expect([re.compile(r"\? "), re.compile(b"a(g)e")]), 1)
            self.assertEqual((process.before.strip(), process.match.group(1)), (of(""), of("g")))
            # What is after it is read next.
            self.assertEqual(process.stdout.read(2), of("? "))
            process.send(of("9\n"))
            self.assertEqual(process.expect([TIMEOUT, EOF]), 1)
            self.assertEqual((process.match, process.after), (EOF, EOF))
            self.assertTrue(process.before.endswith((of("9 years\n"), of("9 years\r\n"))))
            self.assertEqual(process.expect(EOF), 0)
            self.assertEqual((process.before, process.wait(PATIENCE)), (of(""), 3))

    def test_it_is_as_pexpect_has_it(self):
        """The order of matches, and what is left, for the same output."""
        process = self.popen(["printf", "one two three two"], text=True)
        self.assertEqual(process.expect(["three", "t.o", "two"]), 1)
        self.assertEqual(process.expect(".*?"), 0)
        self.assertEqual((process.before, process.after), ("", ""))
        self.assertEqual(process.expect(" .*"), 0)  # as much as is there
        self.assertEqual(process.after, " three two")
        process = self.popen(["printf", "a\nb"])
        self.assertEqual((process.expect("a.b"), process.after), (0, b"a\nb"))
        process = self.popen(["printf", "A.B"])
        self.assertEqual(process.expect_exact(["a.b", EOF]), 1)
        process = self.popen(["printf", "xxxxxabc"])
        process.wait()
        self.assertEqual(process.expect([re.compile("ABC", re.IGNORECASE)]), 0)

    def test_an_end_and_a_time_that_are_not_expected(self):
        process = self.popen(["sh", "-c", "printf something; read x; printf more"], stdin=PIPE, text=True)
        for kind in (TIMEOUT, TimeoutExpired, TimeoutError):
            with self.assertRaises(kind):
                process.expect("no[t]", timeout=0.05)
        self.assertEqual(process.expect([TIMEOUT], timeout=0), 0)
        process.expect("some")
        with self.assertRaisesRegex(TIMEOUT, "0.2 seconds; what came ends with 'thing'"):
            process.expect("not", timeout=0.2)
        self.assertEqual((process.before, process.after, process.match), ("thing", TIMEOUT, None))
        # Nothing of it is lost.
        process.stdin.close()
        with self.assertRaisesRegex(EOF, "not found: 'not'; the output ends with 'thingmore'"):
            process.expect("not")
        self.assertEqual((process.before, process.after, process.match_index), ("thingmore", EOF, None))
        self.assertIsInstance(EOF(), EOFError)

    def test_what_is_left_is_read_like_anything_else(self):
        lines = "a1 b1\na2 b2\na3 b3\na4 b4"
        for text in [False, True]:
            of = (lambda text: text) if text else str.encode

            def at(size):
                process = self.popen(["printf", lines], text=text)
                process.wait()
                process.stdout.read(size)
                self.assertEqual(process.expect("b1"), 0)
                return process

            self.assertEqual(at(0).stdout.read(), of(lines[5:]))
            self.assertEqual(list(at(1).stdout), [of(line) for line in lines[5:].splitlines(True)])
            self.assertEqual([line for line in at(2).stdout.readlines()][1], of("a2 b2\n"))
            self.assertEqual(at(1).communicate(), (of(lines[5:]), of("")))
            process = at(1)
            self.assertEqual([process.stdout.read(n) for n in (1, 0, 4)], [of("\n"), of(""), of("a2 b")])
            self.assertEqual([process.stdout.readline(n) for n in (1, 9, 2)], [of("2"), of("\n"), of("a3")])
            self.assertEqual(process.expect("b3"), 0)
            self.assertEqual((process.before, process.stdout.read()), (of(" "), of("\na4 b4")))
            # A line of which the end is yet to come.
            process = self.popen(["sh", "-c", "printf 'a b'; read x; printf 'c\nd'"], stdin=PIPE, text=text)
            process.expect("a")
            process.send(of("\n"))
            self.assertEqual([process.stdout.readline(), process.stdout.read()], [of(" bc\n"), of("d")])

    def test_half_a_character_waits_for_the_other(self):
        script = r"printf 'a\303'; read x; printf '\274b\r'; read x; printf '\nc'"
        process = self.popen(["sh", "-c", script], stdin=PIPE, text=True)
        self.assertEqual(process.expect([TIMEOUT, "ab"], timeout=0.2), 0)
        self.assertEqual(process.before, "a")
        process.sendline("")
        self.assertEqual(process.expect("üb"), 0)
        process.sendline("")
        self.assertEqual((process.expect("c"), process.before), (0, "\n"))

    def test_what_is_no_pattern(self):
        process = self.popen(["echo", "x"])
        for wanted in [None, 3, [3], [None], [["x"]]]:
            with self.assertRaises(TypeError):
                process.expect(wanted)
        with self.assertRaises(re.error):
            process.expect("(")
        self.assertEqual(process.stdout.read(), b"x\n")
        with self.assertRaises(ValueError):
            self.popen(["echo", "x"], stdout=DEVNULL).expect("x")
        process = self.popen(["echo", "x"])
        process.stdout.fileno()
        with self.assertRaises(io.UnsupportedOperation):
            process.expect("x")
        process = self.popen(["echo", "x"])
        process.stdout.close()
        with self.assertRaises(ValueError):
            process.expect("x")

    def test_much_that_is_not_expected_is_an_error(self):
        with Server(max_unread=1 << 16) as server:
            process = server.popen(["head", "-c", "300000", "/dev/zero"])
            with self.assertRaises(OSError) as caught:
                process.expect("x")
            self.assertEqual(caught.exception.errno, errno.ENOBUFS)
            # And lost it is not.
            self.assertEqual(len(process.stdout.read()), 300_000)
            process = server.popen(["sh", "-c", "yes | head -n 300; echo end"])
            self.assertEqual(process.expect("end", searchwindowsize=10), 0)

    def test_the_end_of_a_server_ends_it(self):
        server = Server(stderr=DEVNULL)
        process = server.popen(["sh", "-c", "printf begun; exec sleep 1000"])
        process.expect("beg")
        os.kill(int(Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()), signal.SIGKILL)
        with self.assertRaises(ServerGone):
            within(PATIENCE, lambda: process.expect("x", timeout=None))
        server.close()


class Waiting(TestCase):
    def test_for_a_text(self):
        process = self.popen(
            ["sh", "-c", "while read x; do echo got $x; echo err $x >&2; done"], stdin=PIPE, text=True
        )
        held = process.wait_for(["none", "got one"], send="one\n", timeout=PATIENCE)
        self.assertEqual(
            (held.condition, held.text, held.stream, held.offset), ("text", "got one", "stdout", 7)
        )
        held = process.wait_for([b"rr two", "got none"], send="two\n", stream="stderr", timeout=PATIENCE)
        self.assertEqual((held.text, held.stream), (b"rr two", "stderr"))
        # Nothing of it is read, and nothing from before is found.
        with self.assertRaises(TimeoutExpired):
            process.wait_for("got one", timeout=0.05)
        self.assertEqual(process.stdout.readline(), "got one\n")
        process.stdin.close()
        with self.assertRaises(EOF):
            process.wait_for("got none")
        process.wait()
        with self.assertRaises(EOF):
            process.wait_for("got none")

    def test_for_anything_else(self):
        process = self.popen(
            ["sh", "-c", "echo x; read x; exec >&- 2>&-; read x; exit 3"], stdin=PIPE, text=True
        )
        self.assertEqual(process.wait_for(quiet=0.05, exit=True).condition, "quiet")
        self.assertEqual(process.wait_for("x", eof=True, send="\n").condition, "eof")
        self.assertEqual(process.wait_for("x", exit=True, send="\n").condition, "exit")
        self.assertEqual(process.wait(PATIENCE), 3)
        self.assertEqual(process.wait_for("x", exit=True).condition, "exit")
        for options in [
            {},
            {"text": []},
            {"text": ["x"] * 65},
            {"text": "", "quiet": -1},
            {"stream": "x", "eof": 1},
        ]:
            with self.assertRaises((ValueError, TypeError)):
                self.popen(NEVER).wait_for(**options)
        with self.assertRaises(ValueError):
            self.popen(NEVER).wait_for("x", send="y")

    def test_for_input(self):
        process = self.popen(["sh", "-c", "read x; sleep 0.3; read y"], stdin=PIPE, text=True)
        if not self.server.info["guarantees"]["inspect"]:
            self.skipTest("this machine does not tell")
        for _ in range(2):
            self.assertEqual(process.wait_for(input=True, timeout=PATIENCE).condition, "input")
            process.sendline("x")
        process.wait()

    def test_what_a_program_does_can_be_inspected(self):
        process = self.popen(
            ["sh", "-c", "stty -echo; echo ready; read x; exec sleep 1000"], tty=True, size=(33, 99)
        )
        process.expect("ready")
        process.wait_for(input=True, timeout=PATIENCE)
        seen = process.inspect()
        self.assertEqual((seen.pid, seen.waits_for_input), (process.pid, True))
        terminal = seen.terminal
        self.assertEqual(
            (terminal.canonical, terminal.echo, terminal.rows, terminal.columns), (True, False, 33, 99)
        )
        self.assertEqual(seen.foreground["pid"], process.pid)
        (shell,) = seen.processes
        self.assertEqual((shell.pid, shell.command[0], shell.threads), (process.pid, "sh", 1))
        self.assertGreater(shell.rss, 0)
        self.assertGreaterEqual(shell.cpu_time, 0)
        plain = self.popen(["sh", "-c", "sleep 1000 & echo ready; read x"], stdin=PIPE)
        plain.expect("ready")
        seen = plain.inspect()
        self.assertEqual((seen.terminal, len(seen.processes)), (None, 2))
        self.assertEqual(seen.processes[1].parent_pid, plain.pid)
        plain.kill()
        plain.wait()
        with self.assertRaises(ProcessLookupError):
            plain.inspect()


class Limiting(TestCase):
    def test_what_is_kept_of_much(self):
        text = "".join(f"{number}\n" for number in range(1, 100_001))
        seq = ["seq", "100000"]
        for options, expected in [
            ({"keep": (10, 20)}, text[:10] + text[-20:]),
            ({"keep": (0, 20)}, text[-20:]),
            ({"keep": (10, 0)}, text[:10]),
            ({"keep": "tail", "output_cap": 20}, text[-20:]),
            ({"keep": "head", "output_cap": 20}, text[:20]),
            ({"keep": (1 << 20, 20)}, text),
            ({"keep": "tail"}, text),
        ]:
            process = self.popen(seq, text=True, **options)
            self.assertEqual(process.communicate(), (expected, ""), options)
            self.assertEqual(process.exit.stdout_bytes, len(text))
            self.assertEqual(process.exit.stdout_omitted, len(text) - len(expected), options)
            self.assertEqual(process.exit.stderr_omitted, 0)
        for options in [
            {"keep": (1, 2), "output_cap": 3},
            {"keep": "middle"},
            {"keep": (-1, 2)},
            {"keep": 3},
        ]:
            with self.assertRaises((ValueError, TypeError)):
                self.popen(seq, **options)

    def test_limits(self):
        done = self.server.run(
            "ulimit -n; ulimit -c; ulimit -t",
            shell=True,
            text=True,
            limits={"open_files": 30, "core_bytes": 0, "cpu_seconds": 7},
        )
        self.assertEqual(done.stdout, "30\n0\n7\n")
        with tempfile.TemporaryDirectory() as folder:
            process = self.popen(
                ["head", "-c", "100000", "/dev/zero"], stdout=Path(folder, "x"), limits={"file_bytes": 1000}
            )
            self.assertEqual(process.wait(PATIENCE), -signal.SIGXFSZ)
        for limits in [{"no_such": 1}, {"openFiles": 3}, {"open_files": -1}, {"open_files": 1.5}]:
            with self.assertRaises(ValueError):
                self.popen(["true"], limits=limits)
        with self.assertRaises(OSError) as caught:
            self.popen(["true"], limits={"open_files": 1 << 62})
        self.assertEqual((caught.exception.stage, caught.exception.limit), ("limits", "open_files"))
        self.assertEqual(self.server.run(["true"], limits={}).returncode, 0)

    def test_a_timeout_with_a_grace(self):
        script = "trap 'echo term; exit 3' TERM; echo ready; while :; do sleep 0.01; done"
        process = self.popen(["sh", "-c", script], timeout=0.3, timeout_grace=PATIENCE)
        self.assertEqual(process.communicate()[0], b"ready\nterm\n")
        self.assertEqual((process.exit.timed_out, process.exit.code), (True, 124))
        script = "trap '' TERM; echo ready; while :; do sleep 0.01; done"
        process = self.popen(["sh", "-c", script], timeout=0.1, timeout_grace=0.1)
        process.wait(PATIENCE)
        self.assertEqual((process.exit.timed_out, process.exit.code), (True, 124))
        # And that of `run`, which this program sees to.
        script = "trap 'echo term; exit 3' TERM; echo ready; while :; do sleep 0.01; done"
        with self.assertRaises(TimeoutExpired) as caught:
            self.server.run(["sh", "-c", script], timeout=0.5, timeout_grace=PATIENCE)
        self.assertEqual(caught.exception.stdout, b"ready\nterm\n")
        with tempfile.TemporaryFile() as out:
            with self.assertRaises(TimeoutExpired):
                self.server.call(
                    ["sh", "-c", script], timeout=0.5, timeout_grace=PATIENCE, stdout=out, stderr=DEVNULL
                )
            out.seek(0)
            self.assertEqual(out.read(), b"ready\nterm\n")


class Starting(unittest.TestCase):
    """Servers that do not start, and servers that mean no good."""

    def refused(self, *arguments, **options):
        with self.assertRaises(ServerGone) as caught:
            within(PATIENCE, lambda: Server(*arguments, **options))
        text = str(caught.exception)
        self.assertTrue(text.isprintable(), ascii(text))
        return text

    def test_the_error_names_the_command_and_how_it_ended(self):
        for command, options, expected in [
            (["sh", "-c", "exit 3"], {}, "sh -c 'exit 3' has ended with exit status 3"),
            ("false", {}, "false has ended with exit status 1"),
            ("true --flag", {}, "true --flag has ended with exit status 0"),
            (["sh", "-c", "kill -9 $$"], {}, "sh -c 'kill -9 $$' was killed by signal SIGKILL"),
            (["printf", "no line"], {}, "printf 'no line' has ended with exit status 0"),
            (
                ["sh", "-c", r"echo first >&2; printf 'host: \033[31mno route\n\n' >&2; exit 255"],
                {"stderr": PIPE},
                r"has ended with exit status 255: host: \x1b[31mno route",
            ),
            (["sh", "-c", "exec >&-; exec sleep 1000"], {}, "has closed its output"),
        ]:
            self.assertIn(expected, self.refused(command, **options))
        with self.assertRaises(FileNotFoundError) as caught:
            Server(["/no/such/server"])
        self.assertEqual(caught.exception.filename, "/no/such/server")
        with self.assertRaises(PermissionError):
            Server("/etc/passwd")

    def test_a_server_that_is_not_installed_is_said_to_be_needed(self):
        environment = dict(os.environ, PATH="/nowhere")
        del environment["PROCWIRE"]
        script = "import procwire\ntry: procwire.Server()\nexcept FileNotFoundError as error: print(error)"
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=CLIENTS, env=environment, capture_output=True, text=True
        )
        self.assertRegex(done.stdout, "cargo install.*PROCWIRE.*'procwire'", done)
        self.assertIn("cargo install --path .", procwire.__doc__)

    def test_a_server_that_never_speaks_is_given_up(self):
        for command in [["sleep", "1000"], ["sh", "-c", "exec sleep 1000"], ["tail", "-f", "/dev/null"]]:
            before = time.monotonic()
            text = self.refused(command, handshake_timeout=0.2)
            self.assertIn("has not answered in 0.2 s", text)
            self.assertIn(command[0], text)
            self.assertLess(time.monotonic() - before, 9)
        # An echo is not an answer.
        self.assertIn("cat sent a line that is not a message of the protocol", self.refused("cat"))
        default = inspect.signature(Server).parameters["handshake_timeout"].default
        self.assertEqual(default, 10.0)

    def test_a_handshake_may_take_its_time(self):
        command = ["sh", "-c", 'sleep 0.5; exec "$@"', "sh", *procwire.shlex.split(os.environ["PROCWIRE"])]
        for timeout in [PATIENCE, None]:
            with Server(command, handshake_timeout=timeout) as server:
                self.assertEqual(server.run(["echo", "x"]).stdout, b"x\n")

    def test_answers_to_the_handshake_that_are_none(self):
        for answer in [
            {"result": None},
            {"result": []},
            {"result": {}},
            {"result": {"limits": None}},
            {"result": {"limits": {}}},
            {"result": {"limits": {"maxMessageBytes": "1"}}},
            {"result": {"limits": {"maxMessageBytes": 0}}},
            {"error": 5},
            {"error": {"code": "x", "message": "y"}},
            {"error": {"code": 1, "message": ["y"]}},
            {"error": {"code": 1, "message": "y", "data": [1]}},
        ]:
            self.refused(says(json.dumps({"id": 1, **answer})))

    def test_what_a_server_says_is_quoted_in_part_and_escaped(self):
        evil = "\x1b]0;pwned\x07\x1b[2J\u009b31m\u202e\r\n" + "x" * 10_000
        answers = [
            {"id": 1, "error": {"code": -32603, "message": evil}},
            {"id": None, "error": {"code": -32600, "message": evil}},
            {"id": 1, "result": evil},
            {"method": evil},
        ]
        for answer in answers:
            for ascii_only in [True, False]:
                line = json.dumps(answer, ensure_ascii=ascii_only)
                with self.assertRaises((ServerGone, RpcError)) as caught:
                    within(PATIENCE, lambda: Server(says(line)))
                text = str(caught.exception)
                self.assertTrue(text.isprintable(), ascii(text))
                self.assertLess(len(text), 600)
                if "error" in answer:
                    self.assertIn(r"\x1b]0;pwned\x07\x1b[2J\x9b31m\u202e\r\n", text)
        raw = ["sh", "-c", r"printf '\033]0;pwned\007\n'; cat > /dev/null"]
        self.assertIn(r"\x1b]0;pwned\x07", self.refused(raw))

    def test_a_server_that_floods_is_given_up_in_bounded_memory(self):
        delta = {"processHandle": "none", "stream": "stdout", "deltaBase64": "QUFB" * 16_000, "offset": 0}
        message = json.dumps({"method": "process/outputDelta", "params": {**delta, "capReached": False}})
        done = run_limited(f"""
            import time
            from procwire import Server, ServerGone
            for command in [["cat", "/dev/zero"], ["yes"], ["yes", {message!r}]]:
                try:
                    Server(command, handshake_timeout=1)
                except ServerGone as error:
                    print(str(error)[:40])
            """)
        self.assertEqual(len(done.splitlines()), 3, done)

    def test_a_server_that_floods_after_the_handshake_is_given_up_in_bounded_memory(self):
        hello = json.dumps({"id": 1, "result": {"limits": {"maxMessageBytes": 1000}}})
        spawned = json.dumps({"id": 3, "result": {"pid": 1}})
        delta = json.dumps({
            "method": "process/outputDelta",
            "params": {"processHandle": "2", "stream": "stdout", "deltaBase64": "QQ==", "offset": 0},
        })
        many = [delta] * 1000
        script = f"read x; echo {shlex.quote(hello)}; read x; echo {shlex.quote(spawned)};"
        done = run_limited(f"""
            import procwire, sys
            from procwire import Server, ServerGone
            procwire._FLOOD_WAIT = 0.1
            # A line without an end.
            server = Server(["sh", "-c", {script + "cat /dev/zero"!r}])
            try:
                server.popen(["x"]).wait()
            except ServerGone as error:
                print("longer than" in str(error))
            server.close()
            # Single bytes without an end, of a program that is waited for.
            server = Server(["sh", "-c", {script!r} + {"while :; do echo '" + chr(10).join(many) + "'; done"!r}], max_unread=1 << 16)
            process = server.popen(["x"])
            while not process._process.outputs["stdout"].overflowed:
                try:
                    process.wait(timeout=0.1)
                except Exception:
                    pass
            read = 0
            try:
                while True:
                    read += len(process.stdout.read1(1))
            except OSError as error:
                print(1000 < read < 1 << 20, error.errno)
            server._process.kill()
            server.close()
            """)
        self.assertEqual(done, f"True\nTrue {errno.ENOBUFS}\n")


class Connections(TestCase):
    def test_many_programs_and_threads_at_once(self):
        failures = []

        def work(number):
            try:
                for _ in range(5):
                    data = f"{number} ".encode() * 5000
                    done = self.server.run(["sh", "-c", f"cat; exit {number}"], input=data, timeout=PATIENCE)
                    assert (done.stdout, done.returncode) == (data, number), done.returncode
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(4 * PATIENCE)
        self.assertEqual(failures, [])

    def test_closing_kills_what_runs(self):
        process = self.popen(["sh", "-c", "setsid sleep 1000 & echo $!; wait"])
        other = int(process.stdout.readline())
        self.server.close()
        self.assertFalse(is_alive(process.pid))
        self.assertFalse(is_alive(other))
        # The server has told how it ended.
        self.assertEqual(process.wait(PATIENCE), -signal.SIGKILL)
        self.assertEqual(process.stdout.read(), b"")
        process.kill()
        for use in [lambda: self.popen(["true"]), self.server.list]:
            with self.assertRaises(ServerGone):
                use()
        self.server.close()

    def test_the_death_of_the_server_is_noticed_by_all(self):
        process = self.popen(["sh", "-c", "echo ready; sleep 1000"], stdin=PIPE)
        self.assertEqual(process.stdout.readline(), b"ready\n")
        noticed = []

        def wait_for(use):
            try:
                use()
            except ServerGone as error:
                noticed.append(error)

        waits = [
            process.wait,
            process.stdout.read,
            process.stderr.readline,
            lambda: process.stdin.write(bytes(32 << 20)),
        ]
        threads = [threading.Thread(target=wait_for, args=(use,)) for use in waits]
        for thread in threads:
            thread.start()
        wait_until("the writer waits", lambda: self.server.list()[0]["stdinPendingBytes"] > 1 << 20)
        # The process that was started is the guard; the one below it is the server.
        with open(f"/proc/{self.server.pid}/task/{self.server.pid}/children") as children:
            os.kill(int(children.read().split()[0]), signal.SIGKILL)
        for thread in threads:
            thread.join(PATIENCE)
        self.assertEqual(len(noticed), 4)
        with self.assertRaises(ServerGone):
            self.popen(["true"])
        self.assertIsNone(process.poll())
        wait_until("the program is gone as well", lambda: not is_alive(process.pid))

    def test_what_is_no_server_is_noticed(self):
        with self.assertRaisesRegex(ServerGone, "not a message of the protocol"):
            Server(["echo", "hello"])
        with self.assertRaises(ServerGone):
            Server("false")
        with self.assertRaises(FileNotFoundError):
            Server(["/no/such/server"])

    def test_whatever_is_no_message_ends_the_connection(self):
        for line in ["1", "null", "[]", '"x"', "[" * 100_000, "{}", '{"id": []}', '{"method": "x"}']:
            with self.assertRaisesRegex(ServerGone, "not a message of the protocol"):
                within(PATIENCE, lambda: Server(says(line)))

    def test_a_request_that_the_server_could_not_read_ends_the_connection(self):
        for code in [-32600, -32700]:
            line = json.dumps({"id": None, "error": {"code": code, "message": "what it was"}})
            with self.assertRaisesRegex(ServerGone, "could not read a request: what it was"):
                within(PATIENCE, lambda: Server(says(line)))
        # The client knows the limit of this server too late.
        with Server() as server:
            process = server.popen(NEVER)
            server.info["limits"]["maxMessageBytes"] = 1 << 30
            with self.assertRaisesRegex(ServerGone, "could not read a request: .*16777216"):
                within(PATIENCE, lambda: server.run(["true", "x" * (17 << 20)]))
            for use in [process.wait, server.list]:
                with self.assertRaises(ServerGone):
                    within(PATIENCE, use)
            wait_until("the program is gone as well", lambda: not is_alive(process.pid))

    def test_any_command_may_lead_to_the_server(self):
        with Server(["sh", "-c", 'exec "$@"', "sh", *procwire.shlex.split(os.environ["PROCWIRE"])]) as server:
            self.assertEqual(server.run(["echo", "x"]).stdout, b"x\n")

    def test_a_program_that_is_forgotten_holds_up_nothing(self):
        for _ in range(20):
            self.popen(["head", "-c", "200000", "/dev/zero"], stdin=PIPE)
        self.assertEqual(self.server.run(["echo", "x"]).stdout, b"x\n")
        wait_until("they have ended", lambda: not self.server.list())
        wait_until("nothing is kept of them", lambda: not self.server._live)

    def test_the_end_of_the_client_ends_everything(self):
        pid = int(
            run_script("""
                from procwire import PIPE, Server
                process = Server().popen(["sleep", "1000"], stdin=PIPE)
                process.stdin.write(b"not flushed")
                print(process.pid)
                """)
        )
        wait_until("the program is gone", lambda: not is_alive(pid))

    def test_a_process_that_was_forked_holds_up_nothing(self):
        self.assertEqual(
            run_script("""
                import os, signal, sys, warnings
                from procwire import PIPE, Server, ServerGone

                warnings.simplefilter("ignore", DeprecationWarning)  # There are threads, as it warns.
                server = Server()
                cat = server.popen(["cat"], stdin=PIPE)
                cat.stdin.write(b"not flushed")
                started, start = os.pipe()
                end, ended = os.pipe()
                child = os.fork()
                if child == 0:
                    os.close(ended)
                    for use in [server.list, cat.wait, cat.kill, lambda: cat.stdout.read(1)]:
                        try:
                            use()
                        except ServerGone as error:
                            os.write(start, b".")
                    server.close()
                    os.write(start, b"\\n")
                    os.read(end, 1)
                    sys.exit()
                os.close(start)
                with open(started, "rb") as said:
                    print(said.readline())
                # Nothing of this is the child's.
                print(cat.communicate(b"!", timeout=20)[0])
                server.close()
                print(server._process.returncode)
                os.close(ended)
                print(os.waitpid(child, 0)[1])
                """),
            "b'....\\n'\nb'not flushed!'\n0\n0\n",
        )

    def test_detached_programs_outlive_the_connection(self):
        with Server() as server:
            process = server.popen(NEVER, detach=True, stdout=DEVNULL, stderr=DEVNULL)
        self.addCleanup(os.kill, process.pid, signal.SIGKILL)
        self.assertTrue(is_alive(process.pid))


class Descriptors(TestCase):
    def test_a_stream_has_a_descriptor(self):
        size = 3_000_000
        copier = self.server.popen(["sh", "-c", "echo err >&2; exec cat"], stdin=PIPE)
        begun = copier.stderr.read(2)  # What was read before stays read.

        def write():
            left = memoryview(bytes(range(250)) * (size // 250))
            while left:
                left = left[os.write(copier.stdin.fileno(), left) :]
            copier.stdin.close()

        writer = threading.Thread(target=write)
        writer.start()
        hashed, streams = hashlib.sha256(), {copier.stdout.fileno(): b"", copier.stderr.fileno(): begun}
        # The rest of it is in the buffer, as with any file.
        said = streams.pop(copier.stderr.fileno()) + copier.stderr.read()
        total = 0
        while streams:
            for fd in select.select(list(streams), [], [], PATIENCE)[0]:
                data = os.read(fd, 100_000)
                total += len(data)
                hashed.update(data)
                if not data:
                    del streams[fd]
        writer.join()
        self.assertEqual(said, b"err\n")
        self.assertEqual(copier.wait(), 0)
        expected = hashlib.sha256(bytes(range(250)) * (size // 250))
        self.assertEqual((total, hashed.hexdigest()), (size, expected.hexdigest()))

    def test_a_program_of_this_machine_reads_from_one_of_the_server(self):
        with self.server.popen(["seq", "100000"]) as numbers:
            counted = subprocess.run(["wc", "-l"], stdin=numbers.stdout, stdout=PIPE, timeout=PATIENCE)
        self.assertEqual(counted.stdout.strip(), b"100000")

    def test_what_is_there_can_be_read_at_once(self):
        echo = self.server.popen(["echo", "apple"], bufsize=0)
        echo.wait()
        self.assertEqual(echo.stdout.read(2), b"ap")
        self.assertEqual(select.select([echo.stdout], [], [], 0)[0], [echo.stdout])
        self.assertEqual(echo.stdout.read(), b"ple\n")

    def test_a_descriptor_ends_with_the_stream(self):
        yes = self.server.popen(["yes"])
        self.assertEqual(os.read(yes.stdout.fileno(), 2), b"y\n")
        yes.stdout.close()
        self.assertEqual(within(PATIENCE, yes.wait), -signal.SIGPIPE)
        cat = self.server.popen(["cat"], stdin=PIPE)
        cat.stdin.fileno()
        self.assertEqual(cat.communicate(b"x" * 300_000), (b"x" * 300_000, b""))
        true = self.server.popen(["true"], stdin=PIPE)
        fd = true.stdin.fileno()
        true.wait()

        def write():
            while True:
                os.write(fd, bytes(100_000))

        with self.assertRaises(BrokenPipeError):
            within(PATIENCE, write)
        true.stdin.close()
        with self.assertRaises(ValueError):
            true.stdin.fileno()

    def test_an_end_that_is_none_is_told(self):
        server = Server(stderr=DEVNULL)
        self.addCleanup(server.close)
        cat = server.popen(["cat"], stdin=PIPE)
        cat.stdout.fileno()
        # Below its guard, so that it cannot tell how the program ends.
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()
        os.kill(int(children), signal.SIGKILL)
        with self.assertRaises(ServerGone):
            within(PATIENCE, cat.stdout.read)

    def test_a_fork_does_not_keep_a_descriptor_open(self):
        self.assertEqual(
            run_script("""
                import os, signal, warnings
                from procwire import PIPE, Server

                warnings.simplefilter("ignore")
                with Server() as server:
                    cat = server.popen(["cat"], stdin=PIPE)
                    cat.stdin.fileno(), cat.stdout.fileno()
                    child = os.fork()
                    if child == 0:
                        signal.pause()
                    cat.stdin.close()
                    print(cat.stdout.read(), cat.wait())
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                """),
            "b'' 0\n",
        )


# What a script begins with that stops and continues its server, and waits in a thread of its own,
# so that a signal interrupts what it is about.
STOPPED = """
    import array, fcntl, os, pathlib, signal, sys, termios, threading, time
    import procwire
    from procwire import DEVNULL, PIPE, Server

    server = Server(stderr=DEVNULL)
    cat = server.popen(["cat"], stdin=PIPE, bufsize=0)
    with open(f"/proc/{server.pid}/task/{server.pid}/children") as children:
        pids = [server.pid, *map(int, children.read().split())]

    def send(number):
        for pid in pids:
            os.kill(pid, number)

    def in_a_write():
        # The pipe is full, so a line is half on its way.
        held = array.array("i", [0])
        while held[0] < 60_000:
            fcntl.ioctl(server._process.stdin, termios.FIONREAD, held)
            time.sleep(0.001)

    handled = []

    def interrupt(number):
        in_a_write()
        # Python notices a signal that comes right before a wait only at its end, or with the next one.
        while not handled:
            os.kill(os.getpid(), number)
            time.sleep(0.1)

    def is_stopped(pid):
        tasks = [f"/proc/{pid}/task/{task}/stat" for task in os.listdir(f"/proc/{pid}/task")]
        return all(pathlib.Path(task).read_bytes().rsplit(b") ", 1)[1][:1] == b"T" for task in tasks)

    send(signal.SIGSTOP)
    # What is not yet stopped when its parent is killed is not continued by that either.
    while not all(map(is_stopped, pids)):
        time.sleep(0.001)
"""


class Interruptions(unittest.TestCase):
    def test_a_signal_handler_may_use_the_server_wherever_it_comes(self):
        # In the middle of a wait, where it came too early or had a lock that the handler wanted.
        self.assertEqual(
            run_script("""
                import signal, time
                from procwire import Server

                server = Server()
                cat = server.popen(["sleep", "1000"])
                signal.signal(signal.SIGUSR1, lambda *_: cat.kill())
                monotonic = time.monotonic

                def interrupted():
                    time.monotonic = monotonic
                    signal.raise_signal(signal.SIGUSR1)
                    return monotonic()

                def once():
                    time.monotonic = interrupted
                    return monotonic()

                time.monotonic = once
                print(cat.wait(timeout=1000))
                """),
            "-9\n",
        )
        # And wherever else.
        self.assertEqual(
            run_script("""
                import signal
                from procwire import PIPE, Server

                server = Server()
                cat = server.popen(["cat"], stdin=PIPE, bufsize=0)
                handled = 0

                def handler(*_):
                    global handled
                    handled += 1
                    server.list()
                    signal.setitimer(signal.ITIMER_REAL, 0.0003)

                signal.signal(signal.SIGALRM, handler)
                signal.setitimer(signal.ITIMER_REAL, 0.0003)
                while handled < 2000:
                    cat.stdin.write(b"x")
                    assert cat.stdout.read(1) == b"x"
                signal.setitimer(signal.ITIMER_REAL, 0)
                print(server.run(["echo", "x"], text=True).stdout, end="")
                """),
            "x\n",
        )

    def test_a_signal_handler_may_use_the_server_while_another_request_is_written(self):
        self.assertEqual(
            run_script(
                STOPPED
                + """
    def handler(*_):
        if not handled:
            handled.append(True)
            send(signal.SIGCONT)
            print(len(server.list()))

    signal.signal(signal.SIGUSR1, handler)
    threading.Thread(target=interrupt, args=(signal.SIGUSR1,), daemon=True).start()
    print(cat.stdin.write(bytes(200_000)))
"""
            ),
            "1\n200000\n",
        )

    def test_an_interrupt_leaves_no_half_a_request(self):
        self.assertEqual(
            run_script(
                STOPPED
                + """
    def handler(*_):
        if not handled:
            handled.append(True)
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handler)
    threading.Thread(target=interrupt, args=(signal.SIGINT,), daemon=True).start()
    try:
        cat.stdin.write(bytes(200_000))
    except KeyboardInterrupt:
        print("interrupted")
    send(signal.SIGCONT)
    cat.stdin.close()
    print(len(cat.stdout.readall()), server.run(["echo", "x"]).stdout)
"""
            ),
            "interrupted\n200000 b'x\\n'\n",
        )

    def test_a_start_that_is_interrupted_leaves_nothing_running(self):
        self.assertEqual(
            run_script(
                STOPPED
                + """
    class Interrupted(Exception):
        pass

    def handler(*_):
        if not handled:
            handled.append(True)
            raise Interrupted

    def interrupt_a_call():
        while not server._calls:
            time.sleep(0.001)
        while not handled:
            os.kill(os.getpid(), signal.SIGALRM)
            time.sleep(0.1)

    signal.signal(signal.SIGALRM, handler)
    threading.Thread(target=interrupt_a_call, daemon=True).start()
    try:
        server.popen(["sleep", "1000"], detach=True)
    except Interrupted:
        print("interrupted")
    send(signal.SIGCONT)
    # It has been started, and is killed at once.
    while len(server.list()) != 1:
        time.sleep(0.001)
    # So has one for which there is no thread.
    real = threading.Thread.start
    def start(thread):
        if thread.name == "procwire-copy":
            raise RuntimeError("can't start new thread")
        real(thread)
    threading.Thread.start = start
    try:
        server.popen(["sleep", "1000"], stdout=sys.stdout)
    except RuntimeError as error:
        print(error)
    while len(server.list()) != 1 or len(server._live) != 1:
        time.sleep(0.001)
    print(server.list()[0]["command"])
"""
            ),
            "interrupted\ncan't start new thread\n['cat']\n",
        )

    def test_a_server_that_does_not_answer_is_given_up(self):
        for use in (
            "server.list()",
            "server.popen(['true'])",
            "server.run(['true'], timeout=1)",
            "cat.kill()",
            "cat.terminate(1)",
            "cat.resize(1, 1)",
            "cat.stdin.write(bytes(200_000))",
            "server.getoutput('true')",
        ):
            with self.subTest(use):
                said = run_script(
                    STOPPED
                    + f"""
    procwire._PATIENCE = 0.2
    server._answer_timeout = 0.05
    try:
        {use}
    except procwire.ServerGone as error:
        print(error)
    # Nothing waits for it any more.
    for use in (lambda: cat.wait(), lambda: cat.stdout.read(), lambda: server.list()):
        try:
            use()
        except procwire.ServerGone:
            print("gone")
    cat.stdin.close()
    send(signal.SIGCONT)
"""
                )
                self.assertRegex(said, r"has sent nothing for \d+ s\ngone\ngone\ngone\n$")
        # One that answers late is not.
        self.assertEqual(
            run_script("""
                from procwire import PIPE, Server

                with Server(answer_timeout=0.5) as server:
                    # The answer to a write that is more than fits comes when it is read.
                    slow = server.popen(["sh", "-c", "sleep 1.5; exec wc -c"], stdin=PIPE, text=True)
                    print(slow.communicate("x" * 4_000_000)[0], end="")
                """),
            "4000000\n",
        )

    def test_a_server_that_is_stuck_is_killed(self):
        self.assertEqual(
            run_script(
                STOPPED
                + """
    def write():
        try:
            cat.stdin.write(bytes(200_000))
        except procwire.ServerGone:
            pass  # Or the server is continued by the end of its parent, and does it.

    procwire._PATIENCE = 0.2
    writer = threading.Thread(target=write)
    writer.start()
    in_a_write()
    server.close()
    writer.join()
    print(server._process.returncode)
"""
            ),
            "-9\n",
        )

    def test_a_program_ends_with_requests_on_their_way(self):
        self.assertEqual(
            run_script(
                STOPPED
                + """
    procwire._PATIENCE = 0.2
    threading.excepthook = lambda _: None  # They are told that the connection is closed.
    threading.Thread(target=cat.communicate, args=(bytes(5_000_000),), daemon=True).start()
    threading.Thread(target=cat.wait, daemon=True).start()
    in_a_write()
    print("end")
"""
            ),
            "end\n",
        )


class Result(unittest.TestResult):
    """One line a test."""

    def _line(self, word, test):
        print(f"{word:<7} python: {test._testMethodName.replace('_', ' ')[5:]}", flush=True)

    def addSuccess(self, test):
        super().addSuccess(test)
        self._line("ok", test)

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self._line("FAILED", test)
        print(textwrap.indent(self.failures[-1][1], "    "))

    def addSubTest(self, test, subtest, error):
        super().addSubTest(test, subtest, error)
        if error is not None:
            self._line("FAILED", test)
            print(textwrap.indent((self.failures + self.errors)[-1][1], "    "))

    def addError(self, test, error):
        super().addError(test, error)
        name = getattr(test, "_testMethodName", None)
        if name is None:
            print(f"FAILED  python: {test}")
        else:
            self._line("FAILED", test)
        print(textwrap.indent(self.errors[-1][1], "    "))


if __name__ == "__main__":
    loader = unittest.TestLoader()
    if len(sys.argv) > 1:
        loader.testNamePatterns = [f"*{pattern}*" for pattern in sys.argv[1:]]
    result = Result()
    loader.loadTestsFromModule(sys.modules["__main__"]).run(result)
    sys.exit(0 if result.wasSuccessful() and result.testsRun else 1)
