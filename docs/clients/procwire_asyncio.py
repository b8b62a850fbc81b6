"""Programs through a procwire server, in the shape of `asyncio.subprocess`.

    import asyncio
    from procwire_asyncio import AsyncServer

    async def main():
        async with AsyncServer() as server:
            process = await server.aopen(["ping", "-c", "3", "localhost"])
            async for line in process.stdout:
                print(line.decode(), end="")
            await process.wait()

    asyncio.run(main())

One server carries the programs of one event loop, or of several. The loop is never blocked: a
connection has the three threads that it has without asyncio, a start has one until the program runs,
and nothing else has any. A task that is cancelled while it starts a program, or in `run`, leaves no
program behind; one that is cancelled in any other wait leaves the program as it is.

Beside procwire.py, standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import threading
import time
from subprocess import PIPE, CompletedProcess, TimeoutExpired
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Iterable,
    List,
    Literal,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Type,
    TypeVar,
    Union,
    cast,
)

import procwire
from procwire import EOF, TIMEOUT, Args, Exit, Inspection, Options, Popen, Server, ServerGone, Waited, Wanted

if TYPE_CHECKING:
    from typing_extensions import Unpack  # Known to every type checker, and not needed to run.

__all__ = ["AsyncProcess", "AsyncServer", "StreamReader", "StreamWriter"]

_T = TypeVar("_T")
# What a writer holds before `drain` waits, as asyncio has it.
_HIGH_WATER = 64 * 1024
_CHUNK = 64 * 1024


class AsyncServer:
    """A procwire server and the connection to it, for `async with`."""

    def __init__(self, server: Union[None, str, Sequence[str], Server] = None, **options: Any) -> None:
        """`server` and the options are those of `procwire.Server`; or it is one that runs already, which
        is left running."""
        self._command = server
        self._options = options
        self._server: Optional[Server] = server if isinstance(server, Server) else None

    async def start(self) -> None:
        """Starts the server, unless it runs."""
        if self._server is None:
            command = cast("Union[None, str, Sequence[str]]", self._command)
            options = self._options
            started: Server = await _in_thread(lambda: Server(command, **options), Server.close)
            self._server = started

    async def close(self) -> None:
        """Ends the connection: everything it has started is killed."""
        server = self._server
        if server is not None and server is not self._command:
            await asyncio.shield(_in_thread(server.close, lambda _: None))

    async def __aenter__(self) -> AsyncServer:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        await self.close()

    @property
    def server(self) -> Server:
        """The same server for what does not wait for an event loop."""
        if self._server is None:
            raise RuntimeError("the server is not started: use `async with`, or `await server.start()`")
        return self._server

    @property
    def info(self) -> Mapping[str, Any]:
        """What the server says about itself."""
        return self.server.info

    @property
    def pid(self) -> int:
        """Of the server's process, or of what leads to it."""
        return self.server.pid

    async def aopen(
        self, args: Args, *, timeout: Optional[float] = None, **options: Unpack[Options]
    ) -> AsyncProcess:
        """Starts a program: see `procwire.Popen` for what it takes. The streams carry bytes."""
        for name in ("text", "universal_newlines", "encoding", "errors", "bufsize"):
            if cast(Dict[str, Any], options).pop(name, None):
                raise ValueError(f"{name} is not for asyncio, whose streams carry bytes and have no buffer")
        server, given = self.server, dict(options)
        if given.get("stdin") is not None:
            given["stdin"] = getattr(given["stdin"], "raw", given["stdin"])

        def start() -> Popen[bytes]:
            popen: Popen[bytes] = Popen(server, args, timeout=timeout, bufsize=0, **cast(Any, given))
            return popen

        return AsyncProcess(await _in_thread(start, _abandon))

    async def create_subprocess_exec(
        self, program: procwire.Text, *args: procwire.Text, **options: Unpack[Options]
    ) -> AsyncProcess:
        """As `asyncio.create_subprocess_exec`, with what `aopen` takes."""
        return await self.aopen([program, *args], **options)

    async def create_subprocess_shell(self, cmd: procwire.Text, **options: Unpack[Options]) -> AsyncProcess:
        """As `asyncio.create_subprocess_shell`, with what `aopen` takes."""
        options["shell"] = True
        return await self.aopen(cmd, **options)

    async def run(
        self,
        args: Args,
        *,
        input: Optional[bytes] = None,
        capture_output: bool = False,
        timeout: Optional[float] = None,
        check: bool = False,
        **options: Unpack[Options],
    ) -> CompletedProcess[bytes]:
        """As `procwire.Server.run`: starts a program and waits for its end. If the task is cancelled, the
        program is killed."""
        if input is not None:
            if options.get("stdin") is not None:
                raise ValueError("stdin and input arguments may not both be used.")
            options["stdin"] = PIPE
        if capture_output:
            if options.get("stdout") is not None or options.get("stderr") is not None:
                raise ValueError("stdout and stderr arguments may not be used with capture_output.")
            options["stdout"] = options["stderr"] = PIPE
        grace = options.get("timeout_grace")
        async with await self.aopen(args, **options) as process:
            communicates = asyncio.ensure_future(process.communicate(input))
            try:
                done, _ = await asyncio.wait({communicates}, timeout=timeout)
            except BaseException:
                communicates.cancel()
                raise
            if not done:
                await (process.kill() if grace is None else process.terminate(grace))
            stdout, stderr = await communicates
            if not done:
                raise TimeoutExpired(cast(Any, process.args), cast(float, timeout), stdout, stderr)
            completed = CompletedProcess(cast(Any, args), await process.wait(), stdout, stderr)
        if check:
            completed.check_returncode()
        return completed

    async def list(self) -> List[Mapping[str, Any]]:
        """What is running, oldest first, as `process/list` reports it."""
        self.server._needs(not self.server._is_other, "list what runs")
        answer = await _call(self.server, "process/list", {})
        return cast("List[Mapping[str, Any]]", self.server._member(answer, "processes", list))


class AsyncProcess:
    """A program that has been started; in use like `asyncio.subprocess.Process`. What it can do besides
    is said by `procwire.Popen`. `async with` closes its streams and waits for its end, and kills it if
    the block is left by an exception or cancelled."""

    stdin: Optional[StreamWriter]
    stdout: Optional[StreamReader]
    stderr: Optional[StreamReader]
    #: What came before what the last `expect` has found, what it has found, and how.
    before: Optional[bytes] = None
    after: Any = None
    match: Any = None
    match_index: Optional[int] = None

    def __init__(self, popen: Popen[bytes]) -> None:
        self._popen = popen
        self._process = popen._process
        self._server = popen._server
        self.args: Args = popen.args
        self.stdin = None if popen.stdin is None else StreamWriter(cast(Any, popen.stdin))
        self.stdout = None if popen.stdout is None else StreamReader(cast(Any, popen.stdout))
        self.stderr = None if popen.stderr is None else StreamReader(cast(Any, popen.stderr))
        # They are garbage when their reader or writer is.
        popen.stdin = popen.stdout = popen.stderr = None

    @property
    def pid(self) -> int:
        """On the server's machine."""
        return self._popen.pid

    @property
    def exit(self) -> Optional[Exit]:
        """How it ended; None while it runs."""
        return self._popen.exit

    @property
    def returncode(self) -> Optional[int]:
        """None while it runs, -n after signal n."""
        return None if self._process.exit is None else self._process.exit.returncode

    async def wait(self) -> int:
        """Waits for its end; the return code. Output that is not read does not keep it from ending."""
        await _until(self._process, lambda: self._process.exit is not None, None)
        if self._process.exit is None:
            raise self._server._error()
        if any(copy.runs() for copy in self._process.copies):
            # Files have all of its output then.
            return await _in_thread(self._popen.wait, lambda _: None)
        return self._process.exit.returncode

    async def communicate(self, input: Optional[bytes] = None) -> Tuple[Optional[bytes], Optional[bytes]]:
        """Writes `input`, closes stdin, and waits; what it printed, and None for what is not PIPE."""
        if input and self.stdin is None:
            raise ValueError("cannot send input: there is no stdin")
        stdout, stderr, _ = await asyncio.gather(
            _nothing() if self.stdout is None else self.stdout.read(),
            _nothing() if self.stderr is None else self.stderr.read(),
            self._feed(input),
        )
        await self.wait()
        return stdout, stderr

    async def _feed(self, input: Optional[bytes]) -> None:
        stdin = self.stdin
        if stdin is None:
            return
        try:
            if input:
                stdin.write(input)
            stdin.close()
            await stdin.wait_closed()
        except (BrokenPipeError, ConnectionResetError):
            pass  # It did not want to read everything, or has ended.

    def send_signal(self, signal: procwire.Signal) -> asyncio.Future[None]:
        """Sends a signal, a number or a name, to the program's process group, at once. What is returned
        may be awaited, and says if it was refused."""
        self._server._needs(not self._server._is_other, "send signals: it only kills")
        return self._signal({"signal": int(signal) if isinstance(signal, int) else signal})

    def terminate(self, grace: Optional[float] = None) -> asyncio.Future[None]:
        """Sends SIGTERM; and SIGKILL after `grace` seconds, if that is given and it is still there then."""
        self._server._needs(not self._server._is_other, "send signals: it only kills")
        params: Dict[str, Any] = {"signal": "SIGTERM"}
        if grace is not None:
            params["graceMs"] = round(grace * 1000)
        return self._signal(params)

    def kill(self) -> asyncio.Future[None]:
        """Kills it and everything it has started."""
        return self._signal({})

    def _signal(self, params: Dict[str, Any]) -> asyncio.Future[None]:
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._process.exit is not None:
            sent.set_result(None)
            return sent

        def answered(answer: procwire._Answered) -> None:
            if sent.done():
                return
            # A server that is gone has taken the program with it.
            if isinstance(answer, procwire.RpcError) and not self._popen._ended(answer):
                sent.set_exception(self._popen._translated(answer))
            else:
                sent.set_result(None)

        _ask(self._server, "process/kill", {"processHandle": self._process.handle, **params}, answered)
        return sent

    async def resize(self, rows: int, columns: int) -> None:
        """Resizes its terminal."""
        await self._request("process/resizePty", {"size": {"rows": rows, "cols": columns}})

    async def inspect(self) -> Inspection:
        """What it does now: see `procwire.Popen.inspect`."""
        self._server._needs(self._server._is_current, "look at a program")
        return self._popen._inspection(await self._request("process/inspect", {}))

    async def _request(self, method: str, params: Dict[str, Any]) -> Mapping[str, Any]:
        if self._process.exit is not None:
            raise ProcessLookupError(errno.ESRCH, "the program has ended")
        try:
            return await _call(self._server, method, {"processHandle": self._process.handle, **params})
        except procwire.RpcError as error:
            raise self._popen._translated(error) from None

    async def wait_for(
        self,
        text: Union[None, str, bytes, Sequence[Union[str, bytes]]] = None,
        *,
        quiet: Optional[float] = None,
        eof: bool = False,
        exit: bool = False,
        input: bool = False,
        stream: Optional[Literal["stdout", "stderr"]] = None,
        timeout: Optional[float] = None,
        send: Optional[bytes] = None,
    ) -> Waited:
        """Waits on the server until one of these holds: see `procwire.Popen.wait_for`."""
        conditions = procwire._conditions(text, quiet, eof, exit, input)
        params = self._popen._wait_params(conditions, stream, timeout)
        if self._process.exit is not None:
            return self._popen._waited(conditions, None, timeout)

        def begun() -> None:
            if send is not None and self.stdin is not None:
                self.stdin.write(send)

        if send is not None and self.stdin is None:
            raise ValueError("there is no stdin")
        answered = await _answer(self._server, "process/wait", params, begun)
        return self._popen._waited(conditions, answered, timeout)

    async def expect(
        self,
        pattern: Union[Wanted, Sequence[Wanted]],
        timeout: Optional[float] = procwire._EXPECT_WAIT,
        searchwindowsize: Optional[int] = None,
    ) -> int:
        """Reads `stdout` until one of the patterns matches: see `procwire.Popen.expect`."""
        return await self._expect(procwire._Search(pattern, False, False, searchwindowsize), timeout)

    async def expect_exact(
        self,
        pattern: Union[Wanted, Sequence[Wanted]],
        timeout: Optional[float] = procwire._EXPECT_WAIT,
        searchwindowsize: Optional[int] = None,
    ) -> int:
        """As `expect`, of texts that are found as they are."""
        return await self._expect(procwire._Search(pattern, False, True, searchwindowsize), timeout)

    async def _expect(self, search: procwire._Search, timeout: Optional[float]) -> int:
        reader = self.stdout
        if reader is None:
            raise ValueError("expect reads stdout, which is not PIPE")
        timeout = procwire._EXPECT_WAIT if timeout == -1 else timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        with reader._alone("expect"):
            new = len(reader._buffer)
            while True:
                before = len(reader._buffer)
                ended = reader._fill()
                new += len(reader._buffer) - before
                held = bytes(reader._buffer)
                found = search.find(held, new)
                new = 0
                if found:
                    index, match = found
                    del reader._buffer[: match.end()]
                    self.before, self.after = held[: match.start()], match.group()
                    self.match, self.match_index = match, index
                    return index
                if ended:
                    reader._buffer.clear()
                    return self._missed(search, EOF, held, search.at_end(held))
                reader._check_size()
                if not await reader._news(deadline):
                    late = TIMEOUT(cast(Any, self.args), cast(float, timeout), held[-100:])
                    return self._missed(search, TIMEOUT, held, late)

    def _missed(self, search: procwire._Search, kind: Any, before: bytes, error: Exception) -> int:
        index = search.ends.get(kind)
        self.before, self.after, self.match_index = before, kind, index
        self.match = None if index is None else kind
        if index is None:
            raise error
        return index

    async def __aenter__(self) -> AsyncProcess:
        return self

    async def __aexit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        for stream in (self.stdout, self.stderr, self.stdin):
            if stream is not None:
                stream.close()
        if error is not None:
            _abandon(self._popen)
        try:
            await self.wait()
        except asyncio.CancelledError:
            _abandon(self._popen)
            raise

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: returncode: {self.returncode} args: {self.args!r}>"


class StreamReader:
    """A stream that a program writes; in use like `asyncio.StreamReader`, without its limit of a line."""

    def __init__(self, raw: procwire._Output) -> None:
        #: The stream for what does not wait for an event loop, such as the `stdin` of another program.
        self.raw = raw
        self._buffer = bytearray()
        self._ended = False
        self._reads: Optional[str] = None

    async def read(self, n: int = -1) -> bytes:
        """At most `n` bytes, and at least one unless it has ended; all of it without `n`."""
        if n == 0:
            return b""
        with self._alone("read"):
            if n < 0:
                pieces: List[bytes] = []
                while await self._more():
                    pieces.append(self._taken(len(self._buffer)))
                return b"".join([*pieces, self._taken(len(self._buffer))])
            if not self._buffer:
                await self._more()
            return self._taken(min(n, len(self._buffer)))

    async def readline(self) -> bytes:
        """A line with its end, or what is left of one."""
        try:
            return await self.readuntil(b"\n")
        except asyncio.IncompleteReadError as error:
            return error.partial

    async def readuntil(self, separator: bytes = b"\n") -> bytes:
        """All up to the separator and with it, or an asyncio.IncompleteReadError."""
        if not separator:
            raise ValueError("Separator should be at least one-byte string")
        with self._alone("readuntil"):
            searched = 0
            while True:
                at = self._buffer.find(separator, searched)
                if at >= 0:
                    return self._taken(at + len(separator))
                searched = max(0, len(self._buffer) - len(separator) + 1)
                self._check_size()
                if not await self._more():
                    raise asyncio.IncompleteReadError(self._taken(len(self._buffer)), None)

    async def readexactly(self, n: int) -> bytes:
        """So many bytes, or an asyncio.IncompleteReadError."""
        if n < 0:
            raise ValueError("readexactly size can not be less than zero")
        with self._alone("readexactly"):
            while len(self._buffer) < n:
                if not await self._more():
                    raise asyncio.IncompleteReadError(self._taken(len(self._buffer)), n)
            return self._taken(n)

    def at_eof(self) -> bool:
        """Whether all has been read, and the end has come."""
        return self._ended and not self._buffer

    def close(self) -> None:
        """Reads no more: the program gets SIGPIPE when it writes. What is here may still be read."""
        self.raw.close()

    def __aiter__(self) -> StreamReader:
        return self

    async def __anext__(self) -> bytes:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    def _alone(self, what: str) -> _Alone:
        return _Alone(self, what)

    def _taken(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _check_size(self) -> None:
        limit = self.raw._of.server._max_unread
        if len(self._buffer) > limit:
            raise asyncio.LimitOverrunError(
                f"more than {limit} bytes have nothing of what is read for", limit
            )

    def _fill(self, all_of_it: bool = True) -> bool:
        """Takes what is here. Whether that was the end."""
        raw = self.raw
        if self._ended or raw.closed:
            self._ended = True
            return True
        raw.impatient = threading.get_ident()
        try:
            while True:
                data = raw.read(_CHUNK)
                if not data:
                    self._ended = True
                    return True
                self._buffer += data
                if not all_of_it:
                    return False
        except BlockingIOError:
            return False
        finally:
            raw.impatient = None

    async def _more(self) -> bool:
        """Waits for more, and takes some of it. False at the end."""
        before = len(self._buffer)
        while True:
            ended = self._fill(all_of_it=False)
            if len(self._buffer) > before:
                return True
            if ended:
                return False
            await self._news(None)

    async def _news(self, deadline: Optional[float]) -> bool:
        """Waits for more or the end. False if the time is up."""
        raw = self.raw
        came = await _until(raw._of, lambda: raw.closed or raw.has_news(), deadline)
        if came and not (raw.closed or raw.has_news()):
            raise raw._of.server._error()
        return came


class _Alone:
    """Refuses a read while another waits, as asyncio does."""

    def __init__(self, reader: StreamReader, what: str) -> None:
        self._reader = reader
        self._what = what

    def __enter__(self) -> None:
        if self._reader._reads is not None:
            raise RuntimeError(
                f"{self._what}() called while another coroutine is already waiting for incoming data"
            )
        self._reader._reads = self._what

    def __exit__(self, *_: object) -> None:
        self._reader._reads = None


class StreamWriter:
    """The stdin of a program; in use like `asyncio.StreamWriter`."""

    def __init__(self, raw: procwire._Input) -> None:
        self._raw = raw
        # Garbage must not wait in an event loop.
        raw.posts = True
        self._process = raw._of
        self._loop = asyncio.get_running_loop()
        self._pending = bytearray()
        self._sent = 0  # what is on its way
        self._asked = False
        self._closing = False
        self._closed = False
        self._error: Optional[Exception] = None
        self._changed = asyncio.Event()

    def write(self, data: Union[bytes, bytearray, memoryview]) -> None:
        """Sends this as soon as what is before it has been taken. `drain` waits until that is so."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self._error is not None:
            return  # `drain` says so.
        if self._closing:
            raise RuntimeError("Cannot call write() after write_eof()")
        self._pending += data
        self._go_on()

    def writelines(self, data: Iterable[Union[bytes, bytearray, memoryview]]) -> None:
        """Writes each of these."""
        self.write(b"".join(data))

    async def drain(self) -> None:
        """Waits until not much is left to be sent. A BrokenPipeError if the program does not read it."""
        await self._while(lambda: len(self._pending) + self._sent > _HIGH_WATER)
        if self._error is not None:
            raise self._error

    def can_write_eof(self) -> bool:
        """It can."""
        return True

    def write_eof(self) -> None:
        """Closes it, once what was written is sent."""
        self._closing = True
        self._go_on()

    def close(self) -> None:
        """Closes it, once what was written is sent."""
        self.write_eof()

    def is_closing(self) -> bool:
        """Whether it is closed, or will be."""
        return self._closing

    async def wait_closed(self) -> None:
        """Waits until it is closed. A BrokenPipeError if the program did not read everything."""
        await self._while(lambda: not self._closed)
        if self._error is not None:
            raise self._error

    async def _while(self, condition: Callable[[], bool]) -> None:
        while condition() and self._error is None:
            self._changed.clear()
            await self._changed.wait()

    def _go_on(self) -> None:
        """Sends the next piece, unless one is on its way."""
        if self._asked or self._closed or self._error is not None:
            return
        limit = self._process.server._max_message_bytes()
        piece = bytes(self._pending[: max(1, min(procwire._CHUNK, limit // 2))])
        if piece:
            params: Dict[str, Any] = {"deltaBase64": base64.b64encode(piece).decode("ascii")}
        elif self._closing:
            params = {"closeStdin": True}
        else:
            return
        del self._pending[: len(piece)]
        self._sent, self._asked = len(piece), True
        if self._process.exit is not None:
            self._answered(procwire.RpcError(-32600, "the program has ended"))
            return
        params["processHandle"] = self._process.handle
        try:
            _ask(self._process.server, "process/writeStdin", params, self._answered, self._loop)
        except (ServerGone, ValueError) as error:
            self._fail(error)

    def _answered(self, answer: procwire._Answered) -> None:
        was_close = self._sent == 0
        self._sent, self._asked = 0, False
        if was_close:
            self._closed = True
            self._raw.posts = True
        elif answer is None:
            self._fail(self._process.server._error())
        elif isinstance(answer, procwire.RpcError):
            self._fail(BrokenPipeError(errno.EPIPE, answer.message))
        self._changed.set()
        self._go_on()

    def _fail(self, error: Exception) -> None:
        self._error = error
        self._closed = self._closing = True
        self._pending.clear()
        self._changed.set()


# ---- between the threads of a connection and event loops ----


class _Bell:
    """Wakes a coroutine from another thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._event = asyncio.Event()
        self._rung = False

    def put(self, _: object) -> None:
        if not self._rung:
            self._rung = True
            _later(self._loop, self._event.set)

    def clear(self) -> None:
        self._rung = False
        self._event.clear()

    async def wait(self) -> None:
        await self._event.wait()


async def _until(process: procwire._Process, over: Callable[[], bool], deadline: Optional[float]) -> bool:
    """Waits until it is over, the server is gone, or the deadline has passed: false then."""
    server, loop = process.server, asyncio.get_running_loop()
    if over():
        return True
    bell = _Bell(loop)
    timer: Optional[asyncio.TimerHandle] = None
    try:
        # Before the first look, so that what comes after it is not missed.
        process.waiting.add(bell)
        server._waiting.add(bell)
        server._wake_reader()
        while True:
            bell.clear()
            if over() or server._gone is not None:
                return True
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                timer = loop.call_later(left, bell.put, None)
            await bell.wait()
            if timer is not None:
                timer.cancel()
    finally:
        if timer is not None:
            timer.cancel()
        server._waiting.discard(bell)
        process.waiting.discard(bell)


class _Reply:
    """Takes an answer to an event loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, answered: Callable[[procwire._Answered], None]
    ) -> None:
        self._loop = loop
        self._answered = answered

    def put(self, answer: procwire._Answered) -> None:
        _later(self._loop, self._answered, answer)


def _later(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *arguments: object) -> bool:
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:
        return False  # It is closed, and nothing waits any more.
    return True


def _ask(
    server: Server,
    method: str,
    params: Mapping[str, Any],
    answered: Callable[[procwire._Answered], None],
    loop: Optional[asyncio.AbstractEventLoop] = None,
) -> int:
    """Sends a request, whose answer is handed over in the event loop."""
    number = next(server._ids)
    try:
        server._ask(number, _Reply(loop or asyncio.get_running_loop(), answered), method, params)
    except BaseException:
        server._calls.pop(number, None)
        raise
    return number


async def _answer(
    server: Server, method: str, params: Mapping[str, Any], begun: Callable[[], None] = lambda: None
) -> procwire._Answered:
    """Sends a request and waits for its answer, but not for a server that does not answer at all."""
    future: asyncio.Future[procwire._Answered] = asyncio.get_running_loop().create_future()

    def answered(answer: procwire._Answered) -> None:
        if not future.done():
            future.set_result(answer)

    number = _ask(server, method, params, answered)
    try:
        begun()
        probed: Optional[float] = None
        while True:
            done, _ = await asyncio.wait({future}, timeout=server._answer_timeout)
            if done:
                return future.result()
            probed = server._probe(probed)
    finally:
        server._calls.pop(number, None)


async def _call(server: Server, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
    return server._result(await _answer(server, method, params))


def _abandon(popen: Popen[Any]) -> None:
    """Kills a program that nothing waits for."""
    if popen._process.exit is None:
        popen._server._post("process/kill", {"processHandle": popen._process.handle})


async def _nothing() -> None:
    return None


async def _in_thread(work: Callable[[], _T], undo: Callable[[_T], object]) -> _T:
    """What `work` returns, from a thread of its own. If the task is cancelled meanwhile, it is undone."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def deliver(result: Optional[_T], error: Optional[BaseException]) -> None:
        if future.cancelled():
            if error is None:
                threading.Thread(target=undo, args=(result,), name="procwire-undo", daemon=True).start()
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(cast(_T, result))

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            _later(loop, deliver, None, error)
        else:
            if not _later(loop, deliver, result, None):
                undo(result)

    threading.Thread(target=run, name="procwire-start", daemon=True).start()
    return await future
