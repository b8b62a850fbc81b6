"""Programs through a procwire server, in the shape of `subprocess`.

    from procwire import PIPE, Server

    with Server() as server:
        with server.popen(["tr", "a-z", "A-Z"], stdin=PIPE, text=True) as shout:
            print(shout.communicate("hello\\n")[0], end="")

`Server()` starts `procwire` (or what the variable PROCWIRE says); `Server(["ssh", "host", "procwire"])`
starts programs over there. One server carries any number of programs, from any number of threads.
When it is closed, or this program ends, everything it has started is gone.

One file, standard library only, Python 3.9 or newer: copy it into your project.
"""

from __future__ import annotations

import atexit
import base64
import binascii
import errno
import io
import itertools
import json
import os
import queue
import shlex
import signal as signals
import subprocess
import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass
from subprocess import DEVNULL, PIPE, STDOUT, CompletedProcess, TimeoutExpired
from types import TracebackType
from typing import (
    IO,
    Any,
    AnyStr,
    Callable,
    Deque,
    Dict,
    Generic,
    List,
    Literal,
    Mapping,
    NoReturn,
    Optional,
    Sequence,
    Set,
    Tuple,
    Type,
    Union,
    cast,
    overload,
)

__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "CompletedProcess",
    "Exit",
    "Popen",
    "RpcError",
    "Server",
    "ServerGone",
    "SpawnError",
    "TimeoutExpired",
]

Args = Union[str, "os.PathLike[str]", Sequence[Union[str, "os.PathLike[str]"]]]
Signal = Union[int, str]

# What one write to a program's stdin carries at most. The server answers a write when there is room
# for the next one, so a program that does not read slows the thread that writes, and no other.
_CHUNK = 256 * 1024
# How long a server that is closed, or that has stopped reading, may take to end. It needs three seconds.
_PATIENCE = 10.0
# What may lie unread in the streams of running programs before the connection is read no further.
_UNREAD = 64 * 1024 * 1024


class RpcError(Exception):
    """The server has refused a request."""

    def __init__(self, code: int, message: str, data: Optional[Mapping[str, Any]] = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data: Mapping[str, Any] = data or {}


class SpawnError(OSError):
    """A program could not be started. Also a FileNotFoundError, PermissionError and so on, as `errno` says."""

    #: What failed: "cwd", "lookup", "exec", "pty", "pipe" or "thread".
    stage: str = ""

    @staticmethod
    def _of(error: RpcError) -> Exception:
        number = error.data.get("errno")
        if not isinstance(number, int):
            return ValueError(error.message)
        reason, program = os.strerror(number), str(error.data.get("program", ""))
        kind = type(OSError(number, reason))
        both = SpawnError if kind is OSError else type(kind.__name__, (SpawnError, kind), {})
        spawn_error = cast(SpawnError, both(number, reason, program))
        spawn_error.stage = str(error.data.get("stage", ""))
        return spawn_error


class ServerGone(ConnectionError):
    """The server has ended or broken the connection, and with it everything it had started."""


@dataclass(frozen=True)
class Exit:
    """How a program ended, and what it used. Times are in seconds."""

    code: int  # 128 + n after signal n, 124 after a timeout
    signal: Optional[str]
    core_dumped: bool
    timed_out: bool
    duration: float
    user_time: float
    system_time: float
    max_rss: int  # bytes
    stdout_bytes: int
    stderr_bytes: int
    drain_timed_out: bool  # something kept an output open for two seconds after the exit

    @property
    def returncode(self) -> int:
        """As `subprocess` has it: -n after signal n."""
        if self.signal is None:
            return self.code
        number = getattr(signals, self.signal, None)
        return -int(number) if number is not None else 128 - self.code


class Server:
    """A procwire server and the connection to it."""

    def __init__(
        self,
        command: Union[None, str, Sequence[str]] = None,
        *,
        cwd: Union[None, str, "os.PathLike[str]"] = None,
        env: Optional[Mapping[str, str]] = None,
        stderr: Union[None, int, IO[Any]] = None,
        start_new_session: bool = False,
        max_unread: int = _UNREAD,
    ) -> None:
        """Starts `command`, which speaks the protocol on its stdin and stdout. The other arguments
        are those of `subprocess.Popen`. Where more than `max_unread` bytes of output are not read
        and nobody waits for anything, the connection is not read either: then programs that write
        wait until somebody reads, or waits for one of them."""
        if command is None:
            command = os.environ.get("PROCWIRE") or "procwire"
        self.command: List[str] = shlex.split(command) if isinstance(command, str) else list(command)
        # There are no locks here: a signal handler may use the server in the middle of anything that
        # this does, and so would wait for itself. What threads share is only changed in single steps,
        # and whoever waits does it on a queue of its own, so that nothing comes too early for it.
        self._ids = itertools.count(1)
        self._calls: Dict[int, _Answer] = {}
        self._live: Dict[str, _Process] = {}
        self._waiting: Set[_Wake] = set()
        # What is to be sent, and None at the end. Everyone waits for the answer, so it does not grow.
        self._lines: queue.SimpleQueue[Optional[bytes]] = queue.SimpleQueue()
        self._resume: Optional[_Wake] = None
        self._max_unread = max_unread
        self._gone: Optional[str] = None
        self._closing = False
        self._process = subprocess.Popen(
            self.command,
            bufsize=_CHUNK,
            stdin=PIPE,
            stdout=PIPE,
            stderr=stderr,
            cwd=cwd,
            env=env,
            start_new_session=start_new_session,
        )
        self._reader = threading.Thread(target=self._read, name="procwire", daemon=True)
        self._writer = threading.Thread(target=self._write, name="procwire-write", daemon=True)
        self._reader.start()
        self._writer.start()
        _open_servers.add(self)
        try:
            hello = {"clientInfo": {"name": "procwire.py", "version": "1"}}
            #: What the server says about itself; its defaults and limits are in `info["limits"]`.
            self.info: Mapping[str, Any] = self._call("initialize", hello)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Of the server's process, or of what leads to it."""
        return self._process.pid

    @overload
    def popen(
        self,
        args: Args,
        *,
        text: Literal[True],
        stdin: Optional[int] = ...,
        stdout: int = ...,
        stderr: int = ...,
        shell: bool = ...,
        cwd: Union[None, str, "os.PathLike[str]"] = ...,
        env: Optional[Mapping[str, Optional[str]]] = ...,
        tty: bool = ...,
        size: Optional[Tuple[int, int]] = ...,
        timeout: Optional[float] = ...,
        output_cap: Optional[int] = ...,
        detach: bool = ...,
        bufsize: int = ...,
        encoding: str = ...,
        errors: str = ...,
    ) -> Popen[str]: ...

    @overload
    def popen(
        self,
        args: Args,
        *,
        text: Literal[False] = ...,
        stdin: Optional[int] = ...,
        stdout: int = ...,
        stderr: int = ...,
        shell: bool = ...,
        cwd: Union[None, str, "os.PathLike[str]"] = ...,
        env: Optional[Mapping[str, Optional[str]]] = ...,
        tty: bool = ...,
        size: Optional[Tuple[int, int]] = ...,
        timeout: Optional[float] = ...,
        output_cap: Optional[int] = ...,
        detach: bool = ...,
        bufsize: int = ...,
        encoding: str = ...,
        errors: str = ...,
    ) -> Popen[bytes]: ...

    def popen(self, args: Args, *, text: bool = False, **options: Any) -> Any:
        """Starts a program: see `Popen`."""
        return Popen(self, args, text=text, **options)

    @overload
    def run(
        self,
        args: Args,
        *,
        text: Literal[True],
        input: Optional[str] = ...,
        timeout: Optional[float] = ...,
        check: bool = ...,
        **options: Any,
    ) -> CompletedProcess[str]: ...

    @overload
    def run(
        self,
        args: Args,
        *,
        text: Literal[False] = ...,
        input: Optional[bytes] = ...,
        timeout: Optional[float] = ...,
        check: bool = ...,
        **options: Any,
    ) -> CompletedProcess[bytes]: ...

    def run(
        self,
        args: Args,
        *,
        text: bool = False,
        input: Any = None,
        timeout: Optional[float] = None,
        check: bool = False,
        **options: Any,
    ) -> Any:
        """As `subprocess.run` with `capture_output`: starts a program and waits for its end."""
        if input is not None:
            options["stdin"] = PIPE
        process: Popen[Any] = Popen(self, args, text=text, **options)
        try:
            stdout, stderr = process.communicate(input, timeout)
        except TimeoutExpired as expired:
            process.kill()
            expired.stdout, expired.stderr = process.communicate()
            raise
        except BaseException:
            process.kill()
            raise
        completed: CompletedProcess[Any] = CompletedProcess(process.args, process.wait(), stdout, stderr)
        if check:
            completed.check_returncode()
        return completed

    def list(self) -> List[Mapping[str, Any]]:
        """What is running, oldest first, as `process/list` tells it."""
        return cast("List[Mapping[str, Any]]", self._call("process/list", {})["processes"])

    def close(self) -> None:
        """Ends the connection: everything it has started is killed. A second call changes nothing."""
        if self not in _open_servers:
            return
        self._closing = True
        self._close_inputs()
        self._wake_reader()
        self._lines.put(None)
        try:
            self._process.wait(timeout=_PATIENCE)
        except TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in (self._reader, self._writer):
            if thread is not threading.current_thread():
                thread.join(timeout=_PATIENCE)
        _open_servers.discard(self)

    def _close_inputs(self) -> None:
        """Below their buffers, so that these do not complain at the exit about what nobody wants."""
        for process in list(self._live.values()):
            if process.input is not None:
                process.input.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    # ---- requests ----

    def _call(self, method: str, params: Mapping[str, Any]) -> Any:
        """Sends a request and waits for its answer."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        # What is no JSON or no Unicode is refused here, where it is known whose it is.
        text = json.dumps(message, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        line = text.encode() + b"\n"
        limit = self.info["limits"]["maxMessageBytes"] if method != "initialize" else len(line)
        if len(line) > limit:
            raise ValueError(f"a request of {len(line)} bytes, which is over the server's limit of {limit}")
        answer: _Answer = queue.SimpleQueue()
        try:
            self._calls[number] = answer
            self._check_gone()
            self._lines.put(line)
            self._wake_reader()
            answered = answer.get()
        finally:
            self._calls.pop(number, None)
        if answered is None:
            raise ServerGone(errno.EPIPE, self._gone)
        error = answered.get("error")
        if error is not None:
            raise RpcError(error["code"], error["message"], error.get("data"))
        return answered.get("result")

    def _check_gone(self) -> None:
        if self._gone is not None:
            raise ServerGone(errno.EPIPE, self._gone)

    def _wait(self, process: _Process, over: Callable[[], bool], deadline: Optional[float]) -> bool:
        """Waits until it is over, the server is gone, or the deadline has passed: false then."""
        wake: _Wake = queue.SimpleQueue()
        try:
            # Before the first look, so that what comes behind it is not missed.
            process.waiting.add(wake)
            self._waiting.add(wake)
            self._wake_reader()
            while not over() and self._gone is None:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                try:
                    wake.get(timeout=left)
                except queue.Empty:
                    pass
            return True
        finally:
            self._waiting.discard(wake)
            process.waiting.discard(wake)

    def _wake_reader(self) -> None:
        resume = self._resume
        if resume is not None:
            resume.put(None)

    def _end(self, reason: str) -> None:
        """Tells everyone that nothing comes any more, and the server that nothing will."""
        if self._gone is None:
            self._gone = "the connection is closed" if self._closing else reason
        for answer in list(self._calls.values()):
            answer.put(None)
        for process in list(self._live.values()):
            process.wake()
        self._live = {}
        self._lines.put(None)
        self._wake_reader()

    # ---- the thread that writes ----

    def _write(self) -> None:
        """An interrupt or a signal handler never comes in the middle of a line, because they are
        for the main thread; and whoever closes the connection does not have to wait for its turn."""
        stdin = cast(io.BufferedWriter, self._process.stdin).raw
        try:
            for line in iter(self._lines.get, None):
                left = memoryview(line)
                while left:
                    left = left[cast(int, stdin.write(left)) :]
        except OSError as error:
            # It reads no more; the thread that reads knows better why, unless the server stays.
            self._reader.join(timeout=_PATIENCE)
            self._end(f"the connection has failed: {error.strerror or error}")
        stdin.close()

    # ---- the thread that reads ----

    def _read(self) -> None:
        gone = "the server has ended the connection"
        line = b""
        stdout = self._process.stdout
        assert stdout is not None
        unread = 0
        try:
            for line in stdout:
                unread += self._take(line)
                if unread > self._max_unread:
                    unread = self._pause()
        except OSError as error:
            gone = f"the connection has failed: {error.strerror or error}"
        except Exception as error:
            gone = f"{self.command[0]} said what is no message of the protocol: {line[:200]!r} ({error})"
        stdout.close()
        self._end(gone)

    def _pause(self) -> int:
        """Waits while there is too much that nobody has read, and nobody waits for anything. Returns
        how much it is then."""
        resume: _Wake = queue.SimpleQueue()
        self._resume = resume
        while True:
            outputs = {o for process in list(self._live.values()) for o in process.outputs.values()}
            unread = sum(output.unread() for output in outputs)
            if unread <= self._max_unread or self._waiting or self._calls or self._closing or self._gone:
                self._resume = None
                return unread
            resume.get()

    def _take(self, line: bytes) -> int:
        """Takes a message; how many bytes of output are to be read because of it."""
        message: Dict[str, Any] = json.loads(line)
        method = message.get("method")
        if method is None:
            if message["id"] is None:
                # Nobody knows whose request it was, so nobody may wait any longer.
                reason = message["error"]["message"]
                raise ServerGone(errno.EPROTO, f"the server could not read a request: {reason}")
            answer = self._calls.pop(message["id"], None)
            if answer is not None:
                answer.put(message)
            return 0
        params = message["params"]
        process = self._live.get(params["processHandle"])
        if process is None:
            return 0
        if method == "process/outputDelta":
            data = binascii.a2b_base64(params["deltaBase64"])
            stream = process.outputs.get(params["stream"])
            if stream is not None and data and not stream.abandoned:
                stream.received += len(data)
                stream.chunks.append(memoryview(data))
                process.wake()
                return len(data)
        elif method == "process/exited":
            usage = params["usage"]
            # What is left to be read grows no more, so it does not count any more.
            self._live.pop(process.handle, None)
            process.exit = Exit(
                code=params["exitCode"],
                signal=params["signal"],
                core_dumped=params["coreDumped"],
                timed_out=params["timedOut"],
                duration=params["durationMs"] / 1000,
                user_time=usage["userMs"] / 1000,
                system_time=usage["systemMs"] / 1000,
                max_rss=usage["maxRssBytes"],
                stdout_bytes=params["stdoutBytes"],
                stderr_bytes=params["stderrBytes"],
                drain_timed_out=params["outputDrainTimedOut"],
            )
            process.wake()
            process.owner = None
        return 0


class Popen(Generic[AnyStr]):
    """A program that has been started; in use like `subprocess.Popen`.

    What differs:
    - `stdin` is DEVNULL or PIPE, and DEVNULL if left out; `stdout` and `stderr` are PIPE or DEVNULL,
      and PIPE if left out. `stderr=STDOUT` puts both into one stream, in the order they were read.
    - Output that is not read does not hold up the program, up to the server's `max_unread`.
    - `env` is laid over the server's environment; None removes a variable.
    - `cwd` is a directory of the server's machine, absolute.
    - `tty` gives it a terminal of `size` (rows, columns); all output comes on `stdout`, `stdin` is
      PIPE unless it is said, and closing it types end-of-file.
    - `timeout` (seconds) makes the server kill it; `output_cap` drops what is more than so many bytes
      of a stream; `detach` lets it outlive the connection.
    - `returncode` is -n after signal n, and `exit` tells more.
    """

    args: Args
    pid: int
    stdin: Optional[IO[AnyStr]]
    stdout: Optional[IO[AnyStr]]
    stderr: Optional[IO[AnyStr]]

    def __init__(
        self,
        server: Server,
        args: Args,
        *,
        stdin: Optional[int] = None,
        stdout: int = PIPE,
        stderr: int = PIPE,
        shell: bool = False,
        cwd: Union[None, str, "os.PathLike[str]"] = None,
        env: Optional[Mapping[str, Optional[str]]] = None,
        tty: bool = False,
        size: Optional[Tuple[int, int]] = None,
        timeout: Optional[float] = None,
        output_cap: Optional[int] = None,
        detach: bool = False,
        bufsize: int = -1,
        text: bool = False,
        encoding: str = "utf-8",
        errors: str = "strict",
    ) -> None:
        if stdin is None:
            stdin = PIPE if tty else DEVNULL
        if stdin not in (PIPE, DEVNULL) or stdout not in (PIPE, DEVNULL):
            raise ValueError("stdin and stdout are PIPE or DEVNULL")
        if stderr not in (PIPE, DEVNULL, STDOUT):
            raise ValueError("stderr is PIPE, DEVNULL or STDOUT")
        self.args = args
        if isinstance(args, (str, os.PathLike)):
            command = ["/bin/sh", "-c", os.fspath(args)] if shell else [os.fspath(args)]
        else:
            command = [os.fspath(argument) for argument in args]
            if shell:
                command[:0] = ["/bin/sh", "-c"]
        # Output of which nothing is wanted is not sent in the first place.
        silent = stdout == DEVNULL and (tty or stderr != PIPE)
        params: Dict[str, Any] = {
            "command": command,
            "processHandle": f"{next(server._ids)}",
            "streamStdin": stdin == PIPE,
            "streamStdoutStderr": True,
            "outputBytesCap": 0 if silent else output_cap,
            "timeoutMs": None if timeout is None else max(0, round(timeout * 1000)),
        }
        if cwd is not None:
            params["cwd"] = os.fspath(cwd)
        if env is not None:
            params["env"] = dict(env)
        if tty:
            params["tty"] = True
        if size is not None:
            params["size"] = {"rows": size[0], "cols": size[1]}
        if detach:
            params["detach"] = True
        process = _Process(server, params["processHandle"], self)
        self._server: Server = server
        self._process: _Process = process
        raw_stdout, raw_stderr = _Output(process), _Output(process)
        if stdout == PIPE:
            process.outputs["stdout"] = raw_stdout
        if stderr == STDOUT and stdout == PIPE:
            process.outputs["stderr"] = raw_stdout
        if stderr == PIPE and not tty:
            process.outputs["stderr"] = raw_stderr

        def opened(raw: io.RawIOBase) -> IO[AnyStr]:
            size = io.DEFAULT_BUFFER_SIZE if bufsize in (-1, 1) else bufsize
            binary: Any = raw
            if size > 0 or text:
                kind = io.BufferedWriter if raw.writable() else io.BufferedReader
                binary = cast(Any, kind)(raw, max(size, 1))
            if not text:
                return cast("IO[AnyStr]", binary)
            wrapped = io.TextIOWrapper(
                binary, encoding, errors, line_buffering=bufsize == 1, write_through=raw.writable()
            )
            return cast("IO[AnyStr]", wrapped)

        if stdin == PIPE:
            process.input = _Input(process)
        # Before the program, which would run on if something is wrong with the encoding.
        self.stdin = opened(process.input) if process.input is not None else None
        self.stdout = opened(raw_stdout) if stdout == PIPE else None
        self.stderr = opened(raw_stderr) if process.outputs.get("stderr") is raw_stderr else None
        server._live[process.handle] = process
        try:
            self.pid = server._call("process/spawn", params)["pid"]
        except BaseException as error:
            server._live.pop(process.handle, None)
            if not isinstance(error, RpcError):
                raise
            # `from` keeps the server's own words.
            raise SpawnError._of(error) from error
        self._text = text
        self._writer: Optional[threading.Thread] = None
        self._feed_error: Optional[Exception] = None
        self._collected: Dict[str, Any] = {}

    @property
    def returncode(self) -> Optional[int]:
        """None while it runs; -n after signal n."""
        exit = self._process.exit
        return None if exit is None else exit.returncode

    @property
    def exit(self) -> Optional[Exit]:
        """How it ended; None while it runs."""
        return self._process.exit

    def poll(self) -> Optional[int]:
        """The return code if it has ended. Never waits."""
        return self.returncode

    def wait(self, timeout: Optional[float] = None) -> int:
        """Waits for its end; the return code. Output that nobody reads does not keep it from ending."""
        deadline = None if timeout is None else time.monotonic() + timeout
        process, server = self._process, self._server
        if not server._wait(process, lambda: process.exit is not None, deadline):
            assert timeout is not None
            raise TimeoutExpired(cast(Any, self.args), timeout)
        if process.exit is None:
            server._check_gone()
        assert process.exit is not None
        return process.exit.returncode

    def communicate(
        self, input: Optional[AnyStr] = None, timeout: Optional[float] = None
    ) -> Tuple[AnyStr, AnyStr]:
        """Writes `input`, closes stdin, and waits; what it printed. Nothing is lost by a timeout:
        call it again. Where a stream is not PIPE, its part is empty."""
        if self.stdin is not None and self._writer is None:
            # Input of a wrong kind raises here, before anything is waited for.
            stdin, data = cast(Any, self.stdin), cast(Any, input or b"")
            if self._text:
                data = str.encode(cast(Any, input or ""), stdin.encoding, stdin.errors)
            self._writer = threading.Thread(
                target=self._feed,
                args=(stdin.buffer if self._text else stdin, memoryview(data).cast("B")),
                name="procwire-input",
                daemon=True,
            )
            self._writer.start()
        elif input:
            raise ValueError("cannot send input: there is no stdin, or communicate has been called before")
        self.wait(timeout)
        if self._writer is not None:
            self._writer.join()
            if self._feed_error is not None:
                raise self._feed_error
        empty: Any = "" if self._text else b""
        for name, stream in (("stdout", self.stdout), ("stderr", self.stderr)):
            if name not in self._collected:
                self._collected[name] = empty if stream is None or stream.closed else stream.read()
                if stream is not None:
                    stream.close()
        return self._collected["stdout"], self._collected["stderr"]

    def _feed(self, stdin: IO[bytes], left: memoryview) -> None:
        try:
            try:
                while left:
                    left = left[stdin.write(left) :]  # Without a buffer, a part is written.
            finally:
                # Its end is what the program waits for.
                stdin.close()
        except OSError:
            pass  # It did not want to read everything, or has ended.
        except Exception as error:
            self._feed_error = error

    def send_signal(self, signal: Signal) -> None:
        """Sends a signal, a number or a name, to the program's process group."""
        self._signal({"signal": int(signal) if isinstance(signal, int) else signal})

    def terminate(self, grace: Optional[float] = None) -> None:
        """Sends SIGTERM; and SIGKILL after `grace` seconds, if that is given and it is still there then."""
        params: Dict[str, Any] = {"signal": "SIGTERM"}
        if grace is not None:
            params["graceMs"] = round(grace * 1000)
        self._signal(params)

    def kill(self) -> None:
        """Kills it and everything it has started."""
        self._signal({})

    def _signal(self, params: Dict[str, Any]) -> None:
        try:
            self._request("process/kill", params)
        except ProcessLookupError:
            pass  # As with a child that has been waited for.

    def resize(self, rows: int, columns: int) -> None:
        """Resizes its terminal."""
        self._request("process/resizePty", {"size": {"rows": rows, "cols": columns}})

    def _request(self, method: str, params: Dict[str, Any]) -> None:
        if self._process.exit is not None:
            raise ProcessLookupError(errno.ESRCH, "the program has ended")
        try:
            self._server._call(method, {"processHandle": self._process.handle, **params})
        except RpcError as error:
            if error.code == -32602:
                raise ValueError(error.message) from error
            if "no active process" in error.message:
                raise ProcessLookupError(errno.ESRCH, "the program has ended") from error
            raise

    def __enter__(self) -> Popen[AnyStr]:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        try:
            if self.stdin is not None and self._writer is None:
                self.stdin.close()
        except BrokenPipeError:
            pass
        finally:
            if not isinstance(error, KeyboardInterrupt):
                self.wait()

    def __repr__(self) -> str:
        return f"<Popen: returncode: {self.returncode} args: {self.args!r}>"


# ---- inside ----


# Answers come as the server has sent them; None says that it is gone.
_Answer = queue.SimpleQueue[Optional[Dict[str, Any]]]
_Wake = queue.SimpleQueue[None]


class _Process:
    """What the thread that reads knows of a program."""

    def __init__(self, server: Server, handle: str, owner: Popen[Any]) -> None:
        self.server = server
        self.handle = handle
        # While the program runs, nothing of it is garbage: a stream that is collected is closed, and
        # that must not wait for the server wherever the collector happens to run.
        self.owner: Optional[Popen[Any]] = owner
        self.waiting: Set[_Wake] = set()
        self.input: Optional[_Input] = None
        self.outputs: Dict[str, _Output] = {}
        self.exit: Optional[Exit] = None

    def wake(self) -> None:
        for wake in list(self.waiting):
            wake.put(None)


class _Output(io.RawIOBase):
    """A stream that a program writes."""

    def __init__(self, process: _Process) -> None:
        self._of = process
        # For those who read without a buffer. The thread that reads the connection never takes it.
        self._taking = threading.RLock()
        self.chunks: Deque[memoryview] = deque()
        self.received = 0
        self.taken = 0
        self.abandoned = False

    def unread(self) -> int:
        return 0 if self.abandoned else self.received - self.taken

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        process, server = self._of, self._of.server
        target = memoryview(buffer).cast("B")
        if not target:
            return 0
        while True:
            if not self.chunks:
                server._wait(process, lambda: bool(self.chunks) or process.exit is not None, None)
            # The end comes behind all the output, so it is looked for first.
            ended = process.exit is not None
            with self._taking:
                if self.chunks:
                    chunk = self.chunks.popleft()
                    part = min(len(chunk), len(target))
                    target[:part] = chunk[:part]
                    if part < len(chunk):
                        self.chunks.appendleft(chunk[part:])
                    self.taken += part
                    server._wake_reader()
                    return part
            if ended:
                return 0
            # It had more to say, so this is no end of file.
            server._check_gone()

    def close(self) -> None:
        self.abandoned = True
        self.chunks.clear()
        self._of.server._wake_reader()
        super().close()


class _Input(io.RawIOBase):
    """The stdin of a program."""

    def __init__(self, process: _Process) -> None:
        self._of = process

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        # Base64 makes 4 bytes of 3, and the message has to stay below the server's limit.
        limit: int = self._of.server.info["limits"]["maxMessageBytes"]
        chunk = memoryview(data).cast("B")[: min(_CHUNK, limit // 2)]
        if len(chunk):
            self._call({"deltaBase64": base64.b64encode(chunk).decode("ascii")})
        return len(chunk)

    def close(self) -> None:
        if self.closed:
            return
        try:
            if self._of.handle in self._of.server._live and not self._of.server._closing:
                self._call({"closeStdin": True})
        except (BrokenPipeError, ServerGone):
            pass  # It is closed.
        finally:
            super().close()

    def _call(self, params: Dict[str, Any]) -> None:
        process = self._of
        if process.exit is not None:
            self._broken(None)
        try:
            process.server._call("process/writeStdin", {"processHandle": process.handle, **params})
        except RpcError as error:
            self._broken(error)

    def _broken(self, cause: Optional[RpcError]) -> NoReturn:
        raise BrokenPipeError(errno.EPIPE, cause.message if cause else "the program has ended") from cause


_open_servers: "weakref.WeakSet[Server]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for server in list(_open_servers):
        server.close()


def _forget_all() -> None:
    """In a process that was forked: the threads of the connections have stayed behind, and a server
    would not notice the end of its client as long as anybody else had its pipes."""
    for server in list(_open_servers):
        server._gone = "the connection belongs to the process that this one was forked from"
        server._close_inputs()
        for stream in (server._process.stdin, server._process.stdout):
            # Below the buffer: that of stdout may be locked by the thread that reads.
            cast(Any, stream).raw.close()
    _open_servers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
