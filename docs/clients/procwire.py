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
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._resume = threading.Condition(self._lock)
        self._ids = itertools.count(1)
        self._calls: Dict[int, _Call] = {}
        self._live: Dict[str, _Process] = {}
        self._waiting = 0
        self._unread = 0
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
        self._reader.start()
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
        with self._lock:
            self._closing = True
            self._resume.notify_all()
        with self._sending:
            try:
                if self._process.stdin:
                    self._process.stdin.close()
            except OSError:
                pass
        try:
            # The server needs three seconds at most.
            self._process.wait(timeout=10)
        except TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if threading.current_thread() is not self._reader:
            self._reader.join(timeout=10)
        _open_servers.discard(self)

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
        call = _Call(threading.Condition(self._lock))
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        # What is no JSON or no Unicode is refused here, where it is known whose it is.
        text = json.dumps(message, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        line = text.encode() + b"\n"
        limit = self.info["limits"]["maxMessageBytes"] if method != "initialize" else len(line)
        if len(line) > limit:
            raise ValueError(f"a request of {len(line)} bytes, which is over the server's limit of {limit}")
        with self._lock:
            self._check_gone()
            self._calls[number] = call
            self._wake_reader(1)
        try:
            self._send(line)
            with self._lock:
                self._wait(call.changed, lambda: call.done, None)
                if not call.done:
                    self._check_gone()
        finally:
            with self._lock:
                self._waiting -= 1
                self._calls.pop(number, None)
        if call.error is not None:
            raise RpcError(call.error["code"], call.error["message"], call.error.get("data"))
        return call.result

    def _send(self, line: bytes) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        try:
            with self._sending:
                stdin.write(line)
                stdin.flush()
        except (OSError, ValueError):
            # It reads no more; the reader finds out why.
            self._reader.join(timeout=10)
            with self._lock:
                self._check_gone()
            raise

    def _check_gone(self) -> None:
        if self._gone is not None:
            raise ServerGone(errno.EPIPE, self._gone)

    # ---- waiting; the lock is held ----

    def _wait(
        self, changed: threading.Condition, over: Callable[[], bool], deadline: Optional[float]
    ) -> bool:
        """Waits until it is over, the server is gone, or the deadline has passed: false then."""
        self._wake_reader(1)
        try:
            while not over() and self._gone is None:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                changed.wait(left)
            return True
        finally:
            self._waiting -= 1

    def _wake_reader(self, waiting: int = 0) -> None:
        self._waiting += waiting
        self._resume.notify_all()

    # ---- the thread that reads ----

    def _read(self) -> None:
        gone = "the server has ended the connection"
        line = b""
        stdout = self._process.stdout
        assert stdout is not None
        try:
            for line in stdout:
                self._take(line)
                with self._lock:
                    while self._unread > self._max_unread and not self._waiting and not self._closing:
                        self._resume.wait()
        except OSError as error:
            gone = f"the connection has failed: {error.strerror or error}"
        except Exception as error:
            gone = f"{self.command[0]} said what is no message of the protocol: {line[:200]!r} ({error})"
        stdout.close()
        with self._lock:
            self._gone = "the connection is closed" if self._closing else gone
            for call in self._calls.values():
                call.changed.notify_all()
            for process in self._live.values():
                process.changed.notify_all()
        self._live = {}

    def _take(self, line: bytes) -> None:
        message: Dict[str, Any] = json.loads(line)
        method = message.get("method")
        if method is None:
            if message["id"] is None:
                # Nobody knows whose request it was, so nobody may wait any longer.
                reason = message["error"]["message"]
                raise ServerGone(errno.EPROTO, f"the server could not read a request: {reason}")
            with self._lock:
                call = self._calls.get(message["id"])
                if call is not None:
                    call.result, call.error, call.done = message.get("result"), message.get("error"), True
                    call.changed.notify_all()
            return
        params = message["params"]
        process = self._live.get(params["processHandle"])
        if process is None:
            return
        if method == "process/outputDelta":
            data = binascii.a2b_base64(params["deltaBase64"])
            with self._lock:
                stream = process.outputs.get(params["stream"])
                if stream is not None and data and not stream.abandoned:
                    stream.chunks.append(memoryview(data))
                    stream.unread += len(data)
                    self._unread += len(data)
                    process.changed.notify_all()
        elif method == "process/exited":
            usage = params["usage"]
            with self._lock:
                del self._live[params["processHandle"]]
                for output in set(process.outputs.values()):
                    # What is left to be read grows no more, so it does not count any more.
                    self._unread -= output.unread
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
                process.changed.notify_all()
            process.owner = None


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
        self._server = server
        self._process = process = _Process(server, params["processHandle"], self)
        raw_stdout, raw_stderr = _Output(process), _Output(process)
        if stdout == PIPE:
            process.outputs["stdout"] = raw_stdout
        if stderr == STDOUT and stdout == PIPE:
            process.outputs["stderr"] = raw_stdout
        if stderr == PIPE and not tty:
            process.outputs["stderr"] = raw_stderr
        with server._lock:
            server._live[process.handle] = process
        try:
            self.pid = server._call("process/spawn", params)["pid"]
        except RpcError as error:
            raw_stdout.abandoned = raw_stderr.abandoned = True
            server._live.pop(process.handle, None)
            # `from` keeps the server's own words.
            raise SpawnError._of(error) from error

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

        self.stdin = opened(_Input(process)) if stdin == PIPE else None
        self.stdout = opened(raw_stdout) if stdout == PIPE else None
        self.stderr = opened(raw_stderr) if process.outputs.get("stderr") is raw_stderr else None
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
        with server._lock:
            if not server._wait(process.changed, lambda: process.exit is not None, deadline):
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


class _Call:
    """A request that waits for its answer."""

    def __init__(self, changed: threading.Condition) -> None:
        self.changed = changed
        self.done = False
        self.result: Any = None
        self.error: Optional[Dict[str, Any]] = None


class _Process:
    """What the thread that reads knows of a program. The server's lock is for all of it."""

    def __init__(self, server: Server, handle: str, owner: Popen[Any]) -> None:
        self.server = server
        self.handle = handle
        # While the program runs, nothing of it is garbage: a stream that is collected is closed, and
        # that must not wait for a lock wherever the collector happens to run.
        self.owner: Optional[Popen[Any]] = owner
        self.changed = threading.Condition(server._lock)
        self.outputs: Dict[str, _Output] = {}
        self.exit: Optional[Exit] = None


class _Output(io.RawIOBase):
    """A stream that a program writes."""

    def __init__(self, process: _Process) -> None:
        self._of = process
        self.chunks: Deque[memoryview] = deque()
        self.unread = 0
        self.abandoned = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        process, server = self._of, self._of.server
        target = memoryview(buffer).cast("B")
        if not target:
            return 0
        with server._lock:
            server._wait(process.changed, lambda: bool(self.chunks) or process.exit is not None, None)
            if not self.chunks:
                if process.exit is None:
                    # It had more to say, so this is no end of file.
                    server._check_gone()
                return 0
            done = 0
            while self.chunks and done < len(target):
                chunk = self.chunks[0]
                part = min(len(chunk), len(target) - done)
                target[done : done + part] = chunk[:part]
                done += part
                if part < len(chunk):
                    self.chunks[0] = chunk[part:]
                else:
                    self.chunks.popleft()
            self._count_off(done)
            return done

    def close(self) -> None:
        if not self.abandoned:
            self.abandoned = True
            if self._of.exit is None and self._of.server._gone is None:
                with self._of.server._lock:
                    self.chunks.clear()
                    self._count_off(self.unread)
        super().close()

    def _count_off(self, count: int) -> None:
        self.unread -= count
        if self._of.exit is None:
            self._of.server._unread -= count
            self._of.server._wake_reader()


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
            if self._of.exit is None and self._of.server._gone is None:
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
