"""Programs through a procwire server, in the shape of `subprocess`.

    from procwire import PIPE, Server

    with Server() as server:
        with server.popen(["tr", "a-z", "A-Z"], stdin=PIPE, text=True) as shout:
            print(shout.communicate("hello\\n")[0], end="")

`Server()` starts the command in the variable PROCWIRE, or the binary that the package has, or
`procwire` from PATH, where `cargo install --path .` in procwire's sources puts it.
`Server(["ssh", "host", "procwire"])` starts programs on another machine. One server carries any
number of programs, from any number of threads. When it is closed, or this program ends, everything
it has started is gone.

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
import math
import os
import queue
import re
import select
import shlex
import signal as signals
import stat
import subprocess
import threading
import time
import types
import warnings
import weakref
from collections import deque
from dataclasses import dataclass, replace
from subprocess import (
    DEVNULL,
    PIPE,
    STDOUT,
    CalledProcessError,
    CompletedProcess,
    SubprocessError,
    TimeoutExpired,
)
from types import TracebackType
from typing import (
    IO,
    TYPE_CHECKING,
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
    Pattern,
    Sequence,
    Set,
    Tuple,
    Type,
    TypedDict,
    TypeVar,
    Union,
    cast,
    overload,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack  # Known to every type checker, and not needed to run.

__all__ = [
    "DEVNULL",
    "EOF",
    "PIPE",
    "STDOUT",
    "TIMEOUT",
    "CalledProcessError",
    "CompletedProcess",
    "Exit",
    "File",
    "Inspection",
    "Limits",
    "Member",
    "Popen",
    "RpcError",
    "Server",
    "ServerGone",
    "SpawnError",
    "SubprocessError",
    "Terminal",
    "TimeoutExpired",
    "Waited",
]

#: A path, an argument, or a name or value in an environment. Bytes have to be UTF-8.
Text = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]
Args = Union[Text, Sequence[Text]]
Env = Union[Mapping[str, Optional[Text]], Mapping[bytes, Optional[Text]]]


@dataclass(frozen=True)
class File:
    """A file of the server's machine, which the server opens: for reading as `stdin`; as `stdout` or
    `stderr` it is created, and emptied unless `append`."""

    path: Text
    append: bool = False


#: PIPE, DEVNULL, STDOUT, a descriptor or an open file of this program, None, or a file of the server's
#: machine: a `File` or its path, absolute.
Stream = Union[None, int, IO[Any], File, str, "os.PathLike[str]"]
Signal = Union[int, str]
#: What `expect` looks for: a regular expression, EOF or TIMEOUT.
Wanted = Union[str, bytes, Pattern[str], Pattern[bytes], Type["EOF"], Type["TIMEOUT"]]
_T = TypeVar("_T")


class Limits(TypedDict, total=False):
    """What the machine holds a program to, and everything that it starts. `setrlimit` has the meanings."""

    cpu_seconds: int
    file_bytes: int
    data_bytes: int
    core_bytes: int
    open_files: int
    processes: int
    stack_bytes: int
    nice: int
    oom_score_adj: int


class Options(TypedDict, total=False):
    """What `Popen` and every function that starts a program take."""

    bufsize: Optional[int]
    executable: Optional[Text]
    stdin: Stream
    stdout: Stream
    stderr: Stream
    shell: bool
    cwd: Optional[Text]
    env: Optional[Env]
    inherit_env: Union[None, bool, Sequence[str]]
    tty: bool
    size: Optional[Tuple[int, int]]
    timeout_grace: Optional[float]
    output_cap: Optional[int]
    keep: Union[None, Literal["head", "tail"], Tuple[int, int]]
    limits: Optional[Limits]
    detach: bool


# The binary of the package that this file comes in; a copied file has none beside it.
_PACKAGED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bin", "procwire")
# What one write to a program's stdin carries at most. The server answers a write when there is room
# for the next one, so a program that does not read slows the thread that writes, and no other.
_CHUNK = 256 * 1024
# How long a server that is closed, or that has stopped reading, may take to end. It needs three seconds.
_PATIENCE = 10.0
# What may lie unread in the streams of running programs before the connection is read no further.
_UNREAD = 64 * 1024 * 1024
# While this program waits for something, the connection is read all the same. A stream that holds this
# many times as much is cut off then, unless some of it is read within so many seconds.
_FLOOD = 16
_FLOOD_WAIT = 5.0
# What a piece of output costs in addition to its bytes, so that a flood of small ones is bounded as well.
_PIECE_COST = 256
# How long a line of the server may be before its answer to the handshake, and after it.
_MAX_HELLO_BYTES = 1024 * 1024
_MAX_LINE_BYTES = 64 * 1024 * 1024
# What an empty pipe takes without waiting.
_PIPE_ROOM = 4096
# What an exception quotes of what the server has sent, in characters.
_MAX_QUOTED = 200
# Output that comes sooner after its stream was closed may have been written before.
_CLOSE_GRACE = 0.25
# How long a program may go on to write after the signal for that.
_SIGNAL_GRACE = 1.0
# How long an end is waited for: of a server that closes its output, and, after the end of a program,
# of a file that takes none of the program's output.
_END_WAIT = 3.0
_DRAIN_WAIT = 2.0
# How long `expect` waits by default, as in pexpect.
_EXPECT_WAIT = 30.0
# What an exit says that a server does not tell.
_UNTOLD: Mapping[str, Any] = {
    "signal": None,
    "coreDumped": False,
    "timedOut": False,
    "durationMs": math.nan,
    "usage": {"userMs": math.nan, "systemMs": math.nan, "maxRssBytes": -1},
    "stdoutBytes": -1,
    "stderrBytes": -1,
}
# What a server takes that does not say how long a request may be.
_MAX_MESSAGE_BYTES = 1024 * 1024


def _quoted(said: Union[str, bytes]) -> str:
    """What the server has said, in a form that is harmless in a terminal and a log."""
    text = said if isinstance(said, str) else said[: 4 * _MAX_QUOTED].decode(errors="backslashreplace")
    escaped = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[:_MAX_QUOTED]
    )
    cut = len(said) > _MAX_QUOTED or len(escaped) > _MAX_QUOTED
    return f"{escaped[: _MAX_QUOTED - 3]}..." if cut else escaped


def _utf8(value: Text, what: str) -> str:
    text = os.fspath(value)
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{what} is not UTF-8, which the protocol carries: {ascii(value)[:_MAX_QUOTED]}"
        ) from None
    return text


class RpcError(Exception):
    """The server has refused a request."""

    def __init__(self, code: int, message: str, data: Optional[Mapping[str, Any]] = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data: Mapping[str, Any] = data or {}


class SpawnError(OSError):
    """A program could not be started. Also a FileNotFoundError and so on, as `errno` says."""

    #: What failed: "cwd", "lookup", "exec", "pty", "pipe", "stdin", "stdout", "stderr", "limits" or
    #: "thread"; and of the limits which, by its name in `Limits`.
    stage: str = ""
    limit: Optional[str] = None

    @staticmethod
    def _of(error: RpcError, names: Mapping[str, Text]) -> Exception:
        """`names` has what was asked for, in the form in which it was, by the stage it is for."""
        number = error.data.get("errno")
        # A server without `data` has it in its text.
        in_text = re.search(r"\(os error ([0-9]{1,4})\)$", error.message)
        if in_text and error.code == -32603:
            number = number or int(in_text.group(1))
        if not isinstance(number, int):
            return ValueError(error.message)
        reason, stage = os.strerror(number), _quoted(str(error.data.get("stage", "")))
        kind = type(OSError(number, reason))
        both = SpawnError if kind is OSError else type(kind.__name__, (SpawnError, kind), {})
        spawn_error = cast(SpawnError, both(number, reason, *([names[stage]] if stage in names else [])))
        spawn_error.stage = stage
        limit = error.data.get("limit")
        if isinstance(limit, str):
            spawn_error.limit = _quoted(_snake(limit))
        return spawn_error


class ServerGone(ConnectionError):
    """The server has ended or broken the connection, and with it everything it had started."""


class EOF(EOFError):
    """The output of a program has ended, and what was waited for did not come."""


class TIMEOUT(TimeoutExpired, TimeoutError):
    """What was expected of a program did not come in time."""

    def __str__(self) -> str:
        return f"{super().__str__()}; what came ends with {self.output!r}"


def _snake(name: str) -> str:
    """A name of the protocol, as Python writes it."""
    return re.sub("[A-Z]", lambda capital: f"_{capital.group().lower()}", name)


def _camel(name: str) -> str:
    return re.sub("_(.)", lambda letter: letter.group(1).upper(), name)


@dataclass(frozen=True)
class Exit:
    """How a program ended, and what it used. Times are in seconds. What a server does not tell, as
    `codex app-server`, is NaN and -1."""

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
    stdout_omitted: int = 0  # bytes of it that are missing in what was delivered, because of its cap
    stderr_omitted: int = 0

    @property
    def returncode(self) -> int:
        """As `subprocess` has it: -n after signal n."""
        if self.signal is None:
            return self.code
        known = signals.Signals.__members__.get(self.signal)
        return 128 - self.code if known is None else -known


@dataclass(frozen=True)
class Waited:
    """The condition of a `wait_for` that held."""

    condition: str  # "text", "quiet", "eof", "exit" or "input"
    text: Union[None, str, bytes] = None  # the one that came
    stream: Optional[str] = None  # where it came, and the position in the stream after it
    offset: Optional[int] = None


@dataclass(frozen=True)
class Terminal:
    """The terminal of a program: whether lines are edited before they are read, whether what is typed
    is shown, and how large it is."""

    canonical: bool
    echo: bool
    rows: int
    columns: int


@dataclass(frozen=True)
class Member:
    """A program, or one of those it has started."""

    pid: int
    parent_pid: Optional[int]
    command: Optional[List[str]]
    state: Optional[str]
    threads: Optional[int]
    cpu_time: Optional[float]  # seconds
    rss: Optional[int]  # bytes


@dataclass(frozen=True)
class Inspection:
    """What a program is doing now. None is what the machine does not tell."""

    pid: int
    terminal: Optional[Terminal]
    foreground: Optional[Mapping[str, Any]]  # pid and command of what has the terminal
    waits_for_input: Optional[bool]
    processes: List[Member]  # oldest first
    processes_omitted: int = 0  # how many more there are

    @staticmethod
    def _of(answer: Mapping[str, Any]) -> Inspection:
        terminal = answer.get("terminal")
        return Inspection(
            pid=answer["pid"],
            terminal=terminal
            and Terminal(terminal["canonical"], terminal["echo"], terminal["rows"], terminal["cols"]),
            foreground=answer.get("foreground"),
            waits_for_input=answer.get("waitsForInput"),
            processes=[
                Member(
                    pid=one["pid"],
                    parent_pid=one.get("parentPid"),
                    command=one.get("command"),
                    state=one.get("state"),
                    threads=one.get("threads"),
                    cpu_time=None if one.get("cpuMs") is None else one["cpuMs"] / 1000,
                    rss=one.get("rssBytes"),
                )
                for one in answer["processes"]
            ],
            processes_omitted=answer.get("processesOmitted", 0),
        )


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
        handshake_timeout: Optional[float] = 10.0,
        answer_timeout: Optional[float] = 30.0,
    ) -> None:
        """Starts `command`, which speaks the protocol on its stdin and stdout. `cwd`, `env`, `stderr` and
        `start_new_session` are those of `subprocess.Popen`; with `stderr=PIPE` the last line of it is
        part of the error if the server ends. A command that has not answered after `handshake_timeout`
        seconds is killed. A server that has sent nothing for `answer_timeout` seconds while a request
        waits for its answer is asked for a sign of life, and is given up after as long again: then the
        connection ends. Where more than `max_unread` bytes of output are not read and this program
        waits for nothing, the connection is not read either: then programs that write wait until their
        output is read, or something is waited for."""
        by_default = command is None and not os.environ.get("PROCWIRE")
        if command is None:
            command = os.environ.get("PROCWIRE") or [_PACKAGED if os.path.exists(_PACKAGED) else "procwire"]
        self.command: List[str] = shlex.split(command) if isinstance(command, str) else list(command)
        self._name = _quoted(" ".join(shlex.quote(os.fsdecode(word)) for word in self.command))
        # There are no locks here: a signal handler may use the server in the middle of anything that
        # this does, and so would wait for itself. What threads share is only changed in single steps,
        # and each thread that waits has a queue of its own, so that nothing comes too early for it.
        self._ids = itertools.count(1)
        self._calls: Dict[int, _Putting] = {}
        self._live: Dict[str, _Process] = {}
        self._waiting: Set[_Putting] = set()
        # What is to be sent, and None at the end. Nearly all of it is waited for, so it does not grow.
        self._lines: queue.SimpleQueue[Optional[bytes]] = queue.SimpleQueue()
        self._resume: Optional[_Wake] = None
        self._max_unread = max_unread
        self._gone: Optional[str] = None
        self._closing = False
        self._environment: Optional[Dict[bytes, bytes]] = None
        self._max_line_bytes = _MAX_HELLO_BYTES
        self._answer_timeout = answer_timeout
        # When the server has sent something.
        self._heard = 0.0
        try:
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
        except FileNotFoundError as error:
            if not by_default or error.filename != "procwire":
                raise
            reason = "not on PATH; `cargo install --path .` puts it there, or the variable PROCWIRE names it"
            raise FileNotFoundError(errno.ENOENT, reason, "procwire") from None
        self._log = b""
        self._logger = threading.Thread(target=self._read_log, name="procwire-log", daemon=True)
        self._reader = threading.Thread(target=self._read, name="procwire", daemon=True)
        self._writer = threading.Thread(target=self._write, name="procwire-write", daemon=True)
        for thread in (self._logger, self._reader, self._writer):
            thread.start()
        _open_servers.add(self)
        try:
            # The capability is what `codex app-server` has its processes behind.
            hello = {
                "clientInfo": {"name": "procwire.py", "version": "1"},
                "capabilities": {"experimentalApi": True},
            }
            #: What the server says about itself; its defaults and limits are in `info["limits"]`, and
            #: what it is able to enforce in `info["guarantees"]`.
            self.info: Mapping[str, Any] = self._call("initialize", hello, handshake_timeout)
            # Another server of the protocol's base, such as `codex app-server`, reports no limits.
            self._is_other = "limits" not in self.info and isinstance(self.info.get("userAgent"), str)
            limits = {} if self._is_other else self._member(self.info, "limits", dict)
            if not self._is_other and self._member(limits, "maxMessageBytes", int) < 1:
                raise ServerGone(errno.EPROTO, f"{self._name} takes no messages")
            #: Whether it knows `stdout`, `inheritEnv`, `limits` and so on, `process/closeOutput`, `process/wait`.
            self._is_current = isinstance(self.info.get("guarantees"), dict)
            if self._is_other:
                self._lines.put(b'{"method":"initialized"}\n')
            self._cwd = os.path.abspath(cwd or os.curdir)
        except BaseException:
            # Nothing has been started that would have to be killed, and it may not listen.
            self._process.kill()
            self._close(patience=1.0)
            raise

    def _needs(self, current: bool, what: str) -> None:
        """Refuses what this server would ignore."""
        if not current:
            raise NotImplementedError(f"{self._name} is a server that cannot {what}")

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
        encoding: Optional[str] = ...,
        errors: Optional[str] = ...,
        universal_newlines: Optional[bool] = ...,
        timeout: Optional[float] = ...,
        **options: Unpack[Options],
    ) -> Popen[str]: ...

    @overload
    def popen(
        self,
        args: Args,
        *,
        encoding: str,
        text: Optional[bool] = ...,
        errors: Optional[str] = ...,
        universal_newlines: Optional[bool] = ...,
        timeout: Optional[float] = ...,
        **options: Unpack[Options],
    ) -> Popen[str]: ...

    @overload
    def popen(
        self,
        args: Args,
        *,
        text: Optional[Literal[False]] = ...,
        encoding: None = ...,
        errors: None = ...,
        universal_newlines: Optional[Literal[False]] = ...,
        timeout: Optional[float] = ...,
        **options: Unpack[Options],
    ) -> Popen[bytes]: ...

    @overload
    def popen(
        self,
        args: Args,
        *,
        text: Optional[bool] = ...,
        encoding: Optional[str] = ...,
        errors: Optional[str] = ...,
        universal_newlines: Optional[bool] = ...,
        timeout: Optional[float] = ...,
        **options: Unpack[Options],
    ) -> Popen[Any]: ...

    def popen(self, args: Args, **options: Any) -> Any:
        """Starts a program: see `Popen`."""
        return Popen(self, args, **options)

    @overload
    def run(
        self,
        args: Args,
        *,
        text: Literal[True],
        encoding: Optional[str] = ...,
        errors: Optional[str] = ...,
        universal_newlines: Optional[bool] = ...,
        input: Optional[str] = ...,
        capture_output: bool = ...,
        timeout: Optional[float] = ...,
        check: bool = ...,
        **options: Unpack[Options],
    ) -> CompletedProcess[str]: ...

    @overload
    def run(
        self,
        args: Args,
        *,
        encoding: str,
        text: Optional[bool] = ...,
        errors: Optional[str] = ...,
        universal_newlines: Optional[bool] = ...,
        input: Optional[str] = ...,
        capture_output: bool = ...,
        timeout: Optional[float] = ...,
        check: bool = ...,
        **options: Unpack[Options],
    ) -> CompletedProcess[str]: ...

    @overload
    def run(
        self,
        args: Args,
        *,
        text: Optional[Literal[False]] = ...,
        encoding: None = ...,
        errors: None = ...,
        universal_newlines: Optional[Literal[False]] = ...,
        input: Optional[bytes] = ...,
        capture_output: bool = ...,
        timeout: Optional[float] = ...,
        check: bool = ...,
        **options: Unpack[Options],
    ) -> CompletedProcess[bytes]: ...

    @overload
    def run(
        self,
        args: Args,
        *,
        text: Optional[bool] = ...,
        encoding: Optional[str] = ...,
        errors: Optional[str] = ...,
        universal_newlines: Optional[bool] = ...,
        input: Optional[Any] = ...,
        capture_output: bool = ...,
        timeout: Optional[float] = ...,
        check: bool = ...,
        **options: Unpack[Options],
    ) -> CompletedProcess[Any]: ...

    def run(
        self,
        args: Args,
        *,
        input: Any = None,
        capture_output: bool = False,
        timeout: Optional[float] = None,
        check: bool = False,
        **options: Any,
    ) -> Any:
        """As `subprocess.run`: starts a program and waits for its end. Its output is captured unless
        `stdout` and `stderr` say otherwise. When the time is up, it is killed; with `timeout_grace`, it
        gets SIGTERM first, and so many seconds."""
        if input is not None:
            if options.get("stdin") is not None:
                raise ValueError("stdin and input arguments may not both be used.")
            options["stdin"] = PIPE
        if capture_output and (options.get("stdout") is not None or options.get("stderr") is not None):
            raise ValueError("stdout and stderr arguments may not be used with capture_output.")
        if capture_output:
            options.update(stdout=PIPE, stderr=PIPE)
        process: Popen[Any] = Popen(self, args, **options)
        with process:
            try:
                stdout, stderr = process.communicate(input, timeout)
            except TimeoutExpired as expired:
                process._give_up(options.get("timeout_grace"))
                process.wait()
                # With what came until the end. Bytes, as everywhere in this exception.
                expired.stdout, expired.stderr = process._so_far("stdout"), process._so_far("stderr")
                raise
            except BaseException:
                process.kill()
                raise
            completed: CompletedProcess[Any] = CompletedProcess(process.args, process.wait(), stdout, stderr)
        if check:
            completed.check_returncode()
        return completed

    def call(self, args: Args, *, timeout: Optional[float] = None, **options: Unpack[Options]) -> int:
        """As `subprocess.call`: starts a program and waits for its end. Its output goes where this
        program's goes, unless `stdout` and `stderr` say otherwise."""
        options.setdefault("stdout", None)
        options.setdefault("stderr", None)
        process: Popen[Any] = Popen(self, args, **options)
        with process:
            try:
                return process.wait(timeout)
            except TimeoutExpired:
                process._give_up(options.get("timeout_grace"))
                raise
            except BaseException:
                process.kill()
                raise

    def check_call(self, args: Args, *, timeout: Optional[float] = None, **options: Unpack[Options]) -> int:
        """As `call`, and an exit code other than 0 is a `CalledProcessError`."""
        returncode = self.call(args, timeout=timeout, **options)
        if returncode:
            raise CalledProcessError(returncode, cast(Any, args))
        return 0

    @overload
    def check_output(
        self,
        args: Args,
        *,
        text: Literal[True],
        encoding: Optional[str] = ...,
        errors: Optional[str] = ...,
        universal_newlines: Optional[bool] = ...,
        input: Optional[str] = ...,
        timeout: Optional[float] = ...,
        **options: Unpack[Options],
    ) -> str: ...

    @overload
    def check_output(
        self,
        args: Args,
        *,
        encoding: str,
        text: Optional[bool] = ...,
        errors: Optional[str] = ...,
        universal_newlines: Optional[bool] = ...,
        input: Optional[str] = ...,
        timeout: Optional[float] = ...,
        **options: Unpack[Options],
    ) -> str: ...

    @overload
    def check_output(
        self,
        args: Args,
        *,
        text: Optional[Literal[False]] = ...,
        encoding: None = ...,
        errors: None = ...,
        universal_newlines: Optional[Literal[False]] = ...,
        input: Optional[bytes] = ...,
        timeout: Optional[float] = ...,
        **options: Unpack[Options],
    ) -> bytes: ...

    @overload
    def check_output(
        self,
        args: Args,
        *,
        text: Optional[bool] = ...,
        encoding: Optional[str] = ...,
        errors: Optional[str] = ...,
        universal_newlines: Optional[bool] = ...,
        input: Optional[Any] = ...,
        timeout: Optional[float] = ...,
        **options: Unpack[Options],
    ) -> Any: ...

    def check_output(self, args: Args, **options: Any) -> Any:
        """As `subprocess.check_output`: what it printed; an exit code other than 0 is a
        `CalledProcessError`."""
        for taken in ("stdout", "check"):
            if taken in options:
                raise ValueError(f"{taken} argument not allowed, it will be overridden.")
        return self.run(args, stdout=PIPE, check=True, **options).stdout

    def getstatusoutput(
        self, command: str, *, encoding: Optional[str] = None, errors: Optional[str] = None
    ) -> Tuple[int, str]:
        """As `subprocess.getstatusoutput`: the return code of a shell command, and all it printed
        without a last newline."""
        done = self.run(command, shell=True, text=True, stderr=STDOUT, encoding=encoding, errors=errors)
        output: str = done.stdout
        return done.returncode, output[:-1] if output.endswith("\n") else output

    def getoutput(self, command: str, *, encoding: Optional[str] = None, errors: Optional[str] = None) -> str:
        """As `getstatusoutput`, without the return code."""
        return self.getstatusoutput(command, encoding=encoding, errors=errors)[1]

    def list(self) -> List[Mapping[str, Any]]:
        """What is running, oldest first, as `process/list` reports it."""
        self._needs(not self._is_other, "list what runs")
        answer = self._call("process/list", {})
        return cast("List[Mapping[str, Any]]", self._member(answer, "processes", list))

    def close(self) -> None:
        """Ends the connection: everything it has started is killed. A second call changes nothing."""
        if self in _open_servers:
            self._close(_PATIENCE)

    def _close(self, patience: float) -> None:
        self._closing = True
        self._close_inputs()
        self._wake_reader()
        self._lines.put(None)
        try:
            self._process.wait(timeout=patience)
        except TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in (self._reader, self._writer):
            if thread is not threading.current_thread():
                thread.join(timeout=patience)
        # What a command leaves behind, such as a master of ssh, may keep its stderr open.
        self._logger.join(timeout=0.1)
        _open_servers.discard(self)

    def _close_inputs(self) -> None:
        """Below their buffers, so that these do not complain at the exit about what is not wanted."""
        for process in list(self._live.values()):
            stdin = process.input()
            if stdin is not None:
                stdin.close()

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

    def _call(
        self, method: str, params: Mapping[str, Any], timeout: Optional[float] = None
    ) -> Mapping[str, Any]:
        """Sends a request and waits for its answer."""
        answer: _Answer = queue.SimpleQueue()
        number = next(self._ids)
        try:
            self._ask(number, answer, method, params)
            answered = self._await(answer) if timeout is None else answer.get(timeout=timeout)
        except queue.Empty:
            raise ServerGone(errno.ETIMEDOUT, f"{self._name} has not answered in {timeout:g} s") from None
        finally:
            self._calls.pop(number, None)
        return self._result(answered)

    def _ask(self, number: int, answer: _Putting, method: str, params: Mapping[str, Any]) -> None:
        """Sends a request, whose answer is put there."""
        line = self._encode(number, method, params)
        if method != "initialize" and len(line) > self._max_message_bytes():
            limit = self._max_message_bytes()
            raise ValueError(f"a request of {len(line)} bytes, which is over the server's limit of {limit}")
        self._calls[number] = answer
        self._check_gone()
        self._lines.put(line)
        self._wake_reader()

    def _result(self, answered: _Answered) -> Mapping[str, Any]:
        if answered is None:
            raise self._error()
        if isinstance(answered, RpcError):
            raise answered
        return answered

    def _await(self, answer: _Answer) -> _Answered:
        """Waits for an answer, which may take its time, but not for a server that does not answer at all."""
        probed: Optional[float] = None
        while True:
            try:
                return answer.get(timeout=self._answer_timeout)
            except queue.Empty:
                probed = self._probe(probed)

    def _probe(self, probed: Optional[float]) -> Optional[float]:
        """An answer is late: asks for a sign of life, and ends the connection if there was none since it
        was asked for the last time. When it was asked for."""
        now, patience = time.monotonic(), cast(float, self._answer_timeout)
        if now - self._heard < patience:
            return None
        if probed is not None and self._heard <= probed:
            self._end(f"{self._name} has sent nothing for {now - self._heard:.0f} s")
            return probed
        # There is no such program, which is an error at once.
        self._post("process/kill", {"processHandle": "0", "signal": 0})
        return now

    def _post(self, method: str, params: Mapping[str, Any]) -> None:
        """Sends a request whose answer nothing waits for."""
        self._lines.put(self._encode(next(self._ids), method, params))

    @staticmethod
    def _encode(number: int, method: str, params: Mapping[str, Any]) -> bytes:
        message = {"id": number, "method": method, "params": params}
        # What is not JSON or not Unicode is refused here, where it is known whose it is.
        text = json.dumps(message, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode() + b"\n"

    def _max_message_bytes(self) -> int:
        return _MAX_MESSAGE_BYTES if self._is_other else cast(int, self.info["limits"]["maxMessageBytes"])

    def _member(self, answer: Mapping[str, Any], name: str, kind: Type[_T]) -> _T:
        """A member of an answer that has to be there."""
        value = answer.get(name)
        if not isinstance(value, kind):
            raise ServerGone(errno.EPROTO, f"{self._name} has sent an answer without {name!r}")
        return value

    def _error(self) -> ServerGone:
        return ServerGone(errno.EPIPE, self._gone)

    def _inherited(self) -> Dict[bytes, bytes]:
        """The server's own environment, asked for once."""
        if self._environment is None:
            try:
                printed = self.run(["env", "-0"], stderr=DEVNULL).stdout
            except SpawnError as error:
                raise NotImplementedError(
                    f"{self._name} has no program `env` to ask for its environment"
                ) from error
            pairs = (line.partition(b"=") for line in printed.split(b"\0"))
            self._environment = {known: held for known, equals, held in pairs if equals}
        return self._environment

    def _check_gone(self) -> None:
        if self._gone is not None:
            raise self._error()

    def _wait(self, process: _Process, over: Callable[[], bool], deadline: Optional[float]) -> bool:
        """Waits until it is over, the server is gone, or the deadline has passed: false then."""
        wake: _Wake = queue.SimpleQueue()
        try:
            # Before the first look, so that what comes after it is not missed.
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
        for the main thread; and a thread that closes the connection does not have to wait for its turn."""
        stdin = cast(io.BufferedWriter, self._process.stdin).raw
        try:
            for line in iter(self._lines.get, None):
                left = memoryview(line)
                while left:
                    left = left[cast(int, stdin.write(left)) :]
        except OSError as error:
            # It reads no more; the thread that reads knows better why, unless the server stays.
            self._reader.join(timeout=_PATIENCE)
            self._end(f"the connection to {self._name} has failed: {error.strerror or error}")
        stdin.close()

    # ---- the thread that reads what a server logs ----

    def _read_log(self) -> None:
        """Keeps the end of it, if it was asked for."""
        stderr = self._process.stderr
        if stderr is None:
            return
        for piece in iter(lambda: cast(io.BufferedReader, stderr).read1(4096), b""):
            self._log = (self._log + piece)[-4096:]
        stderr.close()

    # ---- the thread that reads ----

    def _read(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        line = b""
        unread = 0
        gone: Optional[str] = None
        try:
            while True:
                line = stdout.readline(self._max_line_bytes + 1)
                if len(line) > self._max_line_bytes:
                    raise ValueError(f"longer than {self._max_line_bytes} bytes")
                if not line.endswith(b"\n"):
                    break  # A server that ends may have written a part of one.
                self._heard = time.monotonic()
                unread += self._take(line)
                if unread > self._max_unread:
                    unread = self._pause()
        except ServerGone as error:
            gone = f"{self._name} {error.strerror}"
        except OSError as error:
            gone = f"the connection to {self._name} has failed: {error.strerror or error}"
        except Exception as error:
            said, why = _quoted(line.rstrip()), f"{type(error).__name__}: {error}"
            gone = f"{self._name} sent a line that is not a message of the protocol: {said} ({why[:80]})"
        line = b""
        stdout.close()
        self._end(gone or f"{self._name} {self._how_it_ended()}")

    def _how_it_ended(self) -> str:
        if self._closing:
            return ""
        try:
            status = self._process.wait(timeout=_END_WAIT)
        except TimeoutExpired:
            return "has closed its output"
        self._logger.join(timeout=_END_WAIT)
        said = [line for line in self._log.splitlines() if line.strip()]
        how = f"has ended with exit status {status}"
        if status < 0:
            names = {int(number): number.name for number in signals.Signals}
            how = f"was killed by signal {names.get(-status, -status)}"
        return f"{how}: {_quoted(said[-1].strip())}" if said else how

    def _pause(self) -> int:
        """Waits while there is too much that is not read, and this program waits for nothing. Returns
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

    def _is_read(self, stream: _Output) -> bool:
        """Whether a stream that holds more than it should is read at all. If it is, waits for that,
        unless there are requests without an answer, for which its reader may be waiting."""
        resume: _Wake = queue.SimpleQueue()
        self._resume = resume
        read = True
        while stream.unread() > _FLOOD * self._max_unread and not (self._closing or self._gone):
            if stream.taken != stream.taken_before:
                stream.taken_before, stream.read_until = stream.taken, time.monotonic() + _FLOOD_WAIT
            left = stream.read_until - time.monotonic()
            read = left > 0
            if not read or self._calls:
                break
            try:
                resume.get(timeout=left)
            except queue.Empty:
                pass
        self._resume = None
        return read

    def _take(self, line: bytes) -> int:
        """Takes a message; how many bytes of output are to be read because of it."""
        message: Dict[str, Any] = json.loads(line)
        method = message.get("method")
        if method is None:
            number, refused = message["id"], message.get("error")
            answered: Union[Dict[str, Any], RpcError]
            if refused is None:
                answered = message["result"]
                if number is None or not isinstance(answered, dict):
                    raise TypeError("a result of another form")
            else:
                code, reason, data = refused["code"], refused["message"], refused.get("data")
                if not (isinstance(code, int) and isinstance(reason, str) and isinstance(data or {}, dict)):
                    raise TypeError("an error of another form")
                answered = RpcError(code, _quoted(reason), data)
            if number is None:
                # It is not known whose request it was, so none may wait any longer.
                raise ServerGone(errno.EPROTO, f"could not read a request: {answered}")
            answer = self._calls.pop(number, None)
            if answer is not None:
                # It has answered the handshake.
                self._max_line_bytes = _MAX_LINE_BYTES
                answer.put(answered)
            return 0
        if "id" in message:
            raise TypeError("a request")
        params = message["params"]
        # Other servers have other notifications.
        process = self._live.get(params.get("processHandle"))
        if process is None:
            return 0
        if method == "process/outputDelta":
            data = binascii.a2b_base64(params["deltaBase64"])
            name = params["stream"]
            process.delivered[name] = process.delivered.get(name, 0) + len(data)
            stream = process.outputs.get(name)
            if stream is None:
                self._refuse(process, name)
                return 0
            ended = params.get("eof") is True
            if not data or (ended and stream.refused):
                stream.ended = stream.ended or ended
                process.wake()
                return 0
            if stream.unread() > _FLOOD * self._max_unread and not self._is_read(stream):
                stream.overflowed = True
                stream.refuse()
                process.wake()
            if stream.refused:
                self._refuse(process, stream.name)
                return 0
            stream.received += len(data) + _PIECE_COST
            stream.chunks.append(memoryview(data))
            stream.ended = ended
            process.wake()
            return len(data) + _PIECE_COST
        elif method == "process/exited":
            # What is left to be read grows no more, so it does not count any more.
            self._live.pop(process.handle, None)
            if self._is_other:
                # One that reports no more than this; what it delivers it has not counted.
                params = {**_UNTOLD, **params}
            usage, delivered = params["usage"], process.delivered
            if not isinstance(params["exitCode"], int) or not isinstance(params["signal"], (str, type(None))):
                raise TypeError("an exit of another form")
            process.ended = time.monotonic()
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
                stdout_omitted=max(0, params["stdoutBytes"] - delivered.get("stdout", 0)),
                stderr_omitted=max(0, params["stderrBytes"] - delivered.get("stderr", 0)),
            )
            process.wake()
        return 0

    def _refuse(self, process: _Process, name: str) -> None:
        """Output has come of a stream that is closed, and that the server has not closed: a terminal, or
        an older server. The program gets the signal that it would get; what ignores it and goes on to
        write is killed."""
        refusal = process.refusals.get(name)
        if refusal is None or not refusal.signals or time.monotonic() < refusal.after:
            return
        signal = refusal.signals.pop(0)
        refusal.after = time.monotonic() + _SIGNAL_GRACE
        params = {"processHandle": process.handle, **({"signal": signal} if signal else {})}
        self._post("process/kill", params)


class Popen(Generic[AnyStr]):
    """A program that has been started; in use like `subprocess.Popen`.

    What differs:
    - `stdin` is DEVNULL if left out or None, and PIPE with `tty`; `stdout` and `stderr` are PIPE if left
      out. None is for them, as in `subprocess`, what this program has itself.
    - Where a stream is a descriptor or a file of this program (a stream of another `Popen` as well, for
      `stdin`), a thread of this program copies from or to it. Where it is a path or a `File`, the server
      opens it on its machine, and the program has the file itself.
    - Output that is not read does not hold up the program, up to the server's `max_unread`. A stream
      that is closed, or garbage, is a pipe without a reader: the program gets SIGPIPE when it writes.
      With `tty` it gets SIGHUP when it writes a moment later, and SIGKILL if it still does after a second.
    - A stream has a descriptor when `fileno` is asked for it: that of a pipe within this program, which
      a thread copies from or to.
    - `executable` is `argv[0]` as well.
    - `env` is all of the environment, unless `inherit_env` is True or a list of names (`["PATH", "LC_*"]`):
      then it is laid over what of the server's is inherited, and None removes a variable. COLUMNS and
      LINES are removed with `tty`, and PWD is set to `cwd`, where they are inherited, or are this
      program's own.
    - `cwd` is a directory of the server's machine, absolute.
    - The protocol carries UTF-8. Anything else in arguments and `cwd` is a ValueError, and so it is in
      `env`, except for what the server's own environment has as well. It is the default encoding, too.
    - `tty` gives it a terminal of `size` (rows, columns); all output comes on `stdout`, and closing
      `stdin` types end-of-file.
    - `timeout` (seconds) makes the server kill it, with `timeout_grace` after SIGTERM and so many seconds
      more; `output_cap` drops what is more than so many bytes of a stream, from its end or with
      `keep="tail"` from its beginning, and `keep=(head, tail)` what is between so many bytes of both;
      `limits` has the names of `Limits`; `detach` lets it outlive the connection.
    - `exit` reports more than `returncode`, and at any time.
    - `expect` is pexpect's; `wait_for` and `inspect` ask the server.
    - What an older server, or `codex app-server`, does not know is a NotImplementedError.
    """

    args: Args
    #: Set by `poll`, `wait` and `communicate`: None while it runs, -n after signal n.
    returncode: Optional[int]
    stdin: Optional[IO[AnyStr]]
    stdout: Optional[IO[AnyStr]]
    stderr: Optional[IO[AnyStr]]
    #: What came before what the last `expect` has found, what it has found, and how.
    before: Optional[AnyStr]
    after: Any
    match: Any
    match_index: Optional[int]

    if not TYPE_CHECKING:
        __class_getitem__ = classmethod(types.GenericAlias)

    def __init__(
        self,
        server: Server,
        args: Args,
        *,
        bufsize: Optional[int] = -1,
        executable: Optional[Text] = None,
        stdin: Stream = None,
        stdout: Stream = PIPE,
        stderr: Stream = PIPE,
        shell: bool = False,
        cwd: Optional[Text] = None,
        env: Optional[Env] = None,
        inherit_env: Union[None, bool, Sequence[str]] = None,
        tty: bool = False,
        size: Optional[Tuple[int, int]] = None,
        timeout: Optional[float] = None,
        timeout_grace: Optional[float] = None,
        output_cap: Optional[int] = None,
        keep: Union[None, Literal["head", "tail"], Tuple[int, int]] = None,
        limits: Optional[Limits] = None,
        detach: bool = False,
        text: Optional[bool] = None,
        universal_newlines: Optional[bool] = None,
        encoding: Optional[str] = None,
        errors: Optional[str] = None,
    ) -> None:
        if bufsize is None:
            bufsize = -1
        if not isinstance(bufsize, int):
            raise TypeError("bufsize must be an integer")
        if text is not None and universal_newlines is not None and bool(universal_newlines) != bool(text):
            raise SubprocessError("text and universal_newlines are supplied, but different")
        if stdin is None:
            stdin = PIPE if tty else DEVNULL
        stdout, stderr = _own(stdout, 1), _own(stderr, 2)
        if stdin == STDOUT or stdout == STDOUT:
            raise ValueError("STDOUT is for stderr only")
        stdin, stdout, stderr = (
            File(file) if isinstance(file, (str, os.PathLike)) else file for file in (stdin, stdout, stderr)
        )
        self.args = args
        self.returncode = None
        self.before = self.after = self.match = self.match_index = None
        self._text: bool = bool(text or universal_newlines or encoding or errors)
        line_buffering: bool = self._text and bufsize == 1
        if bufsize == 1 and not self._text:
            reason = "line buffering (bufsize=1) is only for text; the default size is used"
            warnings.warn(reason, RuntimeWarning, stacklevel=3)
        buffer_size: int = io.DEFAULT_BUFFER_SIZE if bufsize in (-1, 1) else bufsize

        command, program = self._command(args, shell, executable)
        directory = None if cwd is None else _utf8(cwd, "cwd")
        params: Dict[str, Any] = {
            "command": command,
            "processHandle": f"{next(server._ids)}",
            "streamStdin": not (stdin == DEVNULL or isinstance(stdin, File)),
            "streamStdoutStderr": True,
            "outputBytesCap": output_cap,
            "timeoutMs": None if timeout is None else max(0, round(timeout * 1000)),
        }
        if directory is not None or server._is_other:
            params["cwd"] = directory or server._cwd  # Another server has to have one.
        params.update(self._variables(server, env, inherit_env, tty, directory))
        if tty:
            params["tty"] = True
        if size is not None:
            params["size"] = {"rows": size[0], "cols": size[1]}
        if timeout is not None and timeout_grace is not None:
            server._needs(server._is_current, "send SIGTERM before it kills")
            params["timeoutGraceMs"] = max(0, round(timeout_grace * 1000))
        if keep is not None and keep != "head":
            server._needs(server._is_current, "keep the end of what outgrows its cap")
            if keep == "tail":
                params["outputKeep"] = "tail"
            else:
                if output_cap is not None:
                    raise ValueError("output_cap and keep=(head, tail) exclude each other")
                del params["outputBytesCap"]
                params["outputKeep"] = {"head": keep[0], "tail": keep[1]}
        if limits is not None:
            server._needs(server._is_current, "limit a program")
            unknown = set(limits) - set(Limits.__annotations__)
            if unknown:
                raise ValueError(
                    f"{unknown.pop()!r} is not one of the limits: {', '.join(Limits.__annotations__)}"
                )
            params["limits"] = {_camel(name): value for name, value in limits.items()}
        if detach:
            server._needs(not server._is_other, "leave a program running")
            params["detach"] = True
        # Where the server puts the streams itself, and what is asked for under the name of each stage.
        names: Dict[str, Text] = {"lookup": program, "exec": program}
        if cwd is not None:
            names["cwd"] = cwd
        else:
            names[""] = program  # A server that reports no stage had nothing else to find.
        for name, file in (("stdin", stdin), ("stdout", stdout), ("stderr", stderr)):
            if isinstance(file, File):
                server._needs(server._is_current, f"open a file as {name}")
                params[name] = {"file": _utf8(file.path, f"the path of {name}")}
                if file.append:
                    params[name]["append"] = True
                names[name] = file.path
        if server._is_current and not tty:
            if _same_file(stdout, stderr):
                stderr = STDOUT
            if stdout == DEVNULL:
                params["stdout"] = "null"
            if stderr == DEVNULL:
                params["stderr"] = "null"
            if stderr == STDOUT:
                params["stderr"] = "stdout"
        elif stdout == DEVNULL and (tty or stderr in (DEVNULL, STDOUT)):
            # Output of which nothing is wanted is not sent in the first place.
            params["outputBytesCap"] = 0

        process = _Process(server, params["processHandle"])
        self._server: Server = server
        self._process: _Process = process
        raw_stdin = _Input(process) if params["streamStdin"] else None
        # Only those that are wanted, because one that is garbage is closed.
        raws: Dict[str, _Output] = {}
        if not (stdout == DEVNULL or isinstance(stdout, File)):
            raws["stdout"] = _Output(process, "stdout", tty)
        if not (stderr in (DEVNULL, STDOUT) or isinstance(stderr, File) or tty):
            raws["stderr"] = _Output(process, "stderr", tty)
        process.outputs.update(raws)
        if stderr == STDOUT and "stdout" in raws:
            process.outputs["stderr"] = raws["stdout"]  # From a server that does not have them in one.

        def opened(raw: io.RawIOBase) -> IO[AnyStr]:
            binary: Any = raw
            if buffer_size > 0 or self._text:
                kind = io.BufferedWriter if raw.writable() else io.BufferedReader
                binary = cast(Any, kind)(raw, max(buffer_size, 1))
            if not self._text:
                return cast("IO[AnyStr]", binary)
            wrapped = (_Text if raw.readable() else io.TextIOWrapper)(
                binary,
                encoding or "utf-8",
                errors,
                line_buffering=line_buffering,
                write_through=raw.writable(),
            )
            return cast("IO[AnyStr]", wrapped)

        if raw_stdin is not None:
            process.input = weakref.ref(raw_stdin)
        # Before the program, which would run on if something is wrong with the encoding or a file.
        self.stdin = opened(cast(Any, raw_stdin)) if stdin == PIPE else None
        self.stdout = opened(raws["stdout"]) if stdout == PIPE else None
        self.stderr = opened(raws["stderr"]) if stderr == PIPE and not tty else None
        copies: List[_Copy] = []
        started = False
        try:
            if raw_stdin is not None and stdin != PIPE:
                copies.append(_Copy(process, _source(stdin), raw_stdin))
            for name, file in (("stdout", stdout), ("stderr", stderr)):
                if file != PIPE and name in raws:
                    copies.append(_Copy(process, raws[name], _Descriptor(cast(Any, file))))
            server._live[process.handle] = process
            answer = server._call("process/spawn", params)
            self._pid = None if server._is_other else server._member(answer, "pid", int)
            started = True
            process.copies = [copy for copy in copies if isinstance(copy.target, _Descriptor)]
            for copy in copies:
                copy.thread.start()
        except BaseException as error:
            if not started:
                server._live.pop(process.handle, None)
            for copy in copies:
                if not copy.runs():
                    copy.give_back()
            if not isinstance(error, RpcError):
                # It may run, or start yet, and then nothing else would kill it.
                server._post("process/kill", {"processHandle": process.handle})
                raise
            # `from` keeps the server's own words.
            raise SpawnError._of(error, names) from error
        self._writer: Optional[threading.Thread] = None
        self._communicating = False
        self._feed_error: Optional[Exception] = None
        self._collected: Dict[str, Any] = {}

    @staticmethod
    def _command(args: Args, shell: bool, executable: Optional[Text]) -> Tuple[List[str], Text]:
        """The argument vector, and what is executed in the form in which it was given."""
        if isinstance(args, os.PathLike) and shell:
            raise TypeError("path-like args is not allowed when shell is true")
        given = [args] if isinstance(args, (str, bytes, os.PathLike)) else list(args)
        if shell:
            given[:0] = ["/bin/sh", "-c"]
        if executable is not None:
            given[:1] = [executable]
        return [_utf8(argument, "an argument") for argument in given], given[0] if given else ""

    @staticmethod
    def _variables(
        server: Server,
        env: Optional[Env],
        inherit: Union[None, bool, Sequence[str]],
        tty: bool,
        cwd: Optional[str],
    ) -> Dict[str, Any]:
        """The members of a spawn that say what its environment is."""
        if isinstance(inherit, (str, bytes)):
            raise TypeError("inherit_env is True, False or a list of names")
        inherits = env is None if inherit is None else inherit if isinstance(inherit, bool) else list(inherit)
        variables: Dict[str, Optional[str]] = {}
        held: Set[bytes] = set()
        for name, value in cast(Mapping[Text, Optional[Text]], env or {}).items():
            if value is None and inherits is False:
                raise TypeError(f"a variable is None, which is for what is inherited: {name!r}")
            try:
                text = _utf8(name, "the name of a variable")
                variables[text] = None if value is None else _utf8(value, f"the variable {text}")
            except ValueError:
                # What the program may inherit need not be sent.
                known = os.fsencode(name)
                if server._inherited().get(known) != (None if value is None else os.fsencode(value)):
                    raise
                held.add(known)
        # Those of another terminal and another directory say nothing about its own.
        stale: Dict[str, Optional[str]] = {"COLUMNS": None, "LINES": None} if tty else {}
        if cwd is not None:
            stale["PWD"] = cwd
        for name, value in stale.items():
            given = variables.get(name)
            if given is not None and given == os.environ.get(name):
                del variables[name]
            if name not in variables and (inherits is not False or (given is not None and value is not None)):
                variables[name] = value
        if inherits is not True and (held or not server._is_current):
            # All is inherited, then, and removed again.
            patterns = [os.fsencode(name) for name in inherits or ()]
            unwanted = [
                known
                for known in server._inherited()
                if not any(
                    known.startswith(name[:-1]) if name.endswith(b"*") else known == name for name in patterns
                )
            ]
            for known in set(unwanted) - held - {os.fsencode(name) for name in variables}:
                variables[_utf8(known, "the name of a variable that the server has")] = None
            inherits = True
        members: Dict[str, Any] = {} if inherits is True else {"inheritEnv": inherits}
        if variables:
            members["env"] = variables
        return members

    @property
    def pid(self) -> int:
        """On the server's machine."""
        self._server._needs(self._pid is not None, "tell the pid of a program")
        return cast(int, self._pid)

    @property
    def exit(self) -> Optional[Exit]:
        """How it ended; None while it runs."""
        return self._process.exit

    def poll(self) -> Optional[int]:
        """The return code if it has ended. Never waits."""
        process = self._process
        if process.exit is not None:
            # As after a wait: files have all of its output.
            if time.monotonic() > process.ended + _DRAIN_WAIT or not any(
                copy.runs() for copy in process.copies
            ):
                self.returncode = process.exit.returncode
        return self.returncode

    def wait(self, timeout: Optional[float] = None) -> int:
        """Waits for its end; the return code. Output that is not read does not keep it from ending."""
        deadline = None if timeout is None else time.monotonic() + timeout
        process, server = self._process, self._server
        ended = server._wait(process, lambda: process.exit is not None, deadline)
        if ended and process.exit is None:
            server._check_gone()
        for copy in process.copies if ended else []:
            ended = copy.wait(deadline) and ended
        if not ended:
            assert timeout is not None
            raise TimeoutExpired(cast(Any, self.args), timeout)
        assert process.exit is not None
        self.returncode = process.exit.returncode
        return self.returncode

    def communicate(self, input: Optional[AnyStr] = None, timeout: Optional[float] = None) -> Tuple[Any, Any]:
        """Writes `input`, closes stdin, and waits; what it printed, and None for what is not PIPE.
        Nothing is lost by a timeout, whose exception has what came until then: call it again."""
        if self._communicating and input:
            raise ValueError("cannot send input: communicate has been called before")
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
            raise ValueError("cannot send input: there is no stdin")
        self._communicating = True
        # All of it is wanted, however much it is.
        outputs = set(self._process.outputs.values())
        try:
            for output in outputs:
                output.collected = True
            self.wait(timeout)
        except TimeoutExpired as expired:
            expired.stdout, expired.stderr = self._so_far("stdout"), self._so_far("stderr")
            raise
        finally:
            for output in outputs:
                output.collected = False
        if self._writer is not None:
            self._writer.join()
            if self._feed_error is not None:
                raise self._feed_error
        empty: Any = "" if self._text else b""
        for name, stream in (("stdout", self.stdout), ("stderr", self.stderr)):
            if name not in self._collected:
                self._collected[name] = None if stream is None else empty if stream.closed else stream.read()
                if stream is not None:
                    stream.close()
        return self._collected["stdout"], self._collected["stderr"]

    def _so_far(self, name: str) -> Optional[bytes]:
        """What has come of a stream and was not read, which it is not by this either."""
        stream: Any = getattr(self, name)
        if stream is None or stream.closed:
            return None
        binary = stream.buffer if self._text else stream
        raw: _Output = self._process.outputs[name]
        begun = b""
        raw.impatient = threading.get_ident()
        try:
            begun = b"" if binary is raw else binary.peek()
        except OSError:
            pass  # Nothing is there yet, or more came than is kept.
        finally:
            raw.impatient = None
        ahead = stream.ahead.encode(stream.encoding, stream.errors) if self._text else b""
        # What is in its pipe cannot be looked at without being read, and what comes after that is left out.
        return b"".join([ahead, begun, *(list(raw.chunks) if raw.pipe is None else [])]) or None

    def _feed(self, stdin: IO[bytes], left: memoryview) -> None:
        try:
            try:
                try:
                    stdin.flush()  # What was written before.
                except ValueError:
                    pass  # It is closed, which a write reports.
                while left:
                    left = left[stdin.write(left) :]  # Without a buffer, a part is written.
            finally:
                # Its end is what the program waits for.
                stdin.close()
        except OSError:
            pass  # It did not want to read everything, or has ended.
        except Exception as error:
            self._feed_error = error

    def expect(
        self,
        pattern: Union[Wanted, Sequence[Wanted]],
        timeout: Optional[float] = _EXPECT_WAIT,
        searchwindowsize: Optional[int] = None,
    ) -> int:
        """Reads `stdout` until one of the patterns matches, and returns which. As in pexpect: a `str` or
        `bytes` is a regular expression with DOTALL; the first match in the output counts, and at the
        same place the first in the list; `before`, `match` and `after` tell more, and what comes behind
        the match is what is read next. Where the time is up or the output has ended, TIMEOUT or EOF is
        raised, or its index is returned if it is in the list. None waits forever, and -1 as long as by default."""
        return self._expect(_Search(pattern, self._text, False, searchwindowsize), timeout)

    def expect_exact(
        self,
        pattern: Union[Wanted, Sequence[Wanted]],
        timeout: Optional[float] = _EXPECT_WAIT,
        searchwindowsize: Optional[int] = None,
    ) -> int:
        """As `expect`, of texts that are found as they are."""
        return self._expect(_Search(pattern, self._text, True, searchwindowsize), timeout)

    def _expect(self, search: _Search, timeout: Optional[float]) -> int:
        stream: Any = self.stdout
        if stream is None:
            raise ValueError("expect reads stdout, which is not PIPE")
        if stream.closed:
            raise ValueError("I/O operation on closed file")
        raw, server = self._process.outputs["stdout"], self._server
        if raw.pipe is not None:
            raise io.UnsupportedOperation("what is read through a descriptor is not there for expect")
        timeout = _EXPECT_WAIT if timeout == -1 else timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        held: Any = "" if self._text else b""
        rest: Optional[int] = 0  # what is read next begins there
        try:
            while True:
                more, ended = self._at_hand(stream, raw)
                held += more
                found = search.find(held, len(more))
                if found:
                    index, match = found
                    rest = match.end()
                    self.before, self.after = held[: match.start()], match.group()
                    self.match, self.match_index = match, index
                    return index
                if ended:
                    rest = len(held)
                    return self._missed(search, EOF, held, search.at_end(held))
                server._check_gone()
                if len(held) > server._max_unread:
                    raise OSError(
                        errno.ENOBUFS,
                        f"more than {server._max_unread} bytes have nothing of what is expected",
                    )
                if not server._wait(self._process, raw.has_news, deadline):
                    late = TIMEOUT(cast(Any, self.args), cast(float, timeout), held[-100:])
                    return self._missed(search, TIMEOUT, held, late)
        finally:
            if self._text:
                stream.give_back(held[rest:])
            elif held[rest:]:
                raw.give_back(held[rest:])

    def _missed(self, search: _Search, kind: Any, before: Any, error: Exception) -> int:
        index = search.ends.get(kind)
        self.before, self.after, self.match_index = before, kind, index
        self.match = None if index is None else kind
        if index is None:
            raise error
        return index

    def _at_hand(self, stream: Any, raw: _Output) -> Tuple[Any, bool]:
        """What of stdout is here, which is taken, and whether that was the end."""
        raw.impatient = threading.get_ident()
        try:
            if self._text:
                return cast(_Text, stream).at_hand()
            read: Callable[[int], bytes] = stream.read if stream is raw else stream.read1
            pieces: List[bytes] = []
            try:
                pieces.extend(iter(lambda: read(_CHUNK), b""))
            except BlockingIOError:
                return b"".join(pieces), False
            except BaseException:
                raw.give_back(b"".join(pieces))
                raise
            return b"".join(pieces), True
        finally:
            raw.impatient = None

    def wait_for(
        self,
        text: Union[None, str, bytes, Sequence[Union[str, bytes]]] = None,
        *,
        quiet: Optional[float] = None,
        eof: bool = False,
        exit: bool = False,
        input: bool = False,
        stream: Optional[Literal["stdout", "stderr"]] = None,
        timeout: Optional[float] = None,
        send: Optional[AnyStr] = None,
    ) -> Waited:
        """Waits on the server until one of these holds, and returns which: its output has one of the texts
        (nothing from before is searched), no output has come for `quiet` seconds, the output has ended,
        the program has ended, or it waits for input. Reads nothing. `stream` has it look at one only.
        `send` is written to stdin when the wait has begun, so that no answer to it is missed. A
        TimeoutExpired if none holds in time, and EOF if none can hold any more."""
        conditions = _conditions(text, quiet, eof, exit, input)
        params = self._wait_params(conditions, stream, timeout)
        if self._process.exit is not None:
            return self._waited(conditions, None, timeout)
        answer: _Answer = queue.SimpleQueue()
        number = next(self._server._ids)
        try:
            self._server._ask(number, answer, "process/wait", params)
            if send is not None:
                self.send(send)
            answered = self._server._await(answer)
        finally:
            self._server._calls.pop(number, None)
        return self._waited(conditions, answered, timeout)

    def _wait_params(
        self,
        conditions: Sequence[Tuple[Mapping[str, Any], Waited]],
        stream: Optional[str],
        timeout: Optional[float],
    ) -> Dict[str, Any]:
        self._server._needs(self._server._is_current, "wait for output")
        until = [condition for condition, _ in conditions]
        params: Dict[str, Any] = {"processHandle": self._process.handle, "until": until}
        if stream is not None:
            params["stream"] = stream
        if timeout is not None:
            params["timeoutMs"] = max(0, round(timeout * 1000))
        return params

    def _waited(
        self,
        conditions: Sequence[Tuple[Mapping[str, Any], Waited]],
        answered: _Answered,
        timeout: Optional[float],
    ) -> Waited:
        """What the answer says, or the end of the program."""
        answer: Optional[Mapping[str, Any]] = None
        if self._process.exit is None or answered is not None:
            try:
                answer = self._server._result(answered)
            except RpcError as error:
                if not self._ended(error):
                    raise self._translated(error) from None
        if answer is None:
            for _, held in conditions:
                if held.condition in ("exit", "eof", "quiet"):
                    return held
        elif isinstance(answer.get("index"), int):
            held = conditions[answer["index"]][1]
            return replace(held, stream=answer.get("stream"), offset=answer.get("offset"))
        elif answer.get("timedOut"):
            raise TimeoutExpired(cast(Any, self.args), cast(float, timeout))
        raise EOF("the program has ended before that")

    def send(self, text: AnyStr) -> None:
        """Writes to stdin at once."""
        if self.stdin is None:
            raise ValueError("there is no stdin")
        self.stdin.write(text)
        self.stdin.flush()

    def sendline(self, text: AnyStr) -> None:
        """As `send`, and ends the line."""
        end: Any = "\n" if self._text else b"\n"
        self.send(text + end)

    def inspect(self) -> Inspection:
        """What it does now, as `process/inspect` shows it: whether it waits for input, its terminal, and
        the processes it consists of."""
        self._server._needs(self._server._is_current, "look at a program")
        return self._inspection(self._request("process/inspect", {}))

    def _inspection(self, answer: Mapping[str, Any]) -> Inspection:
        try:
            return Inspection._of(answer)
        except (KeyError, TypeError, AttributeError) as error:
            raise ServerGone(
                errno.EPROTO, f"{self._server._name} has sent an answer of another form"
            ) from error

    def send_signal(self, signal: Signal) -> None:
        """Sends a signal, a number or a name, to the program's process group. 0 sends nothing."""
        self._server._needs(not self._server._is_other, "send signals: it only kills")
        if isinstance(signal, int) and int(signal) == 0:
            if self.poll() is None:
                self._server._check_gone()
            return
        self._signal({"signal": int(signal) if isinstance(signal, int) else signal})

    def terminate(self, grace: Optional[float] = None) -> None:
        """Sends SIGTERM; and SIGKILL after `grace` seconds, if that is given and it is still there then."""
        self._server._needs(not self._server._is_other, "send signals: it only kills")
        params: Dict[str, Any] = {"signal": "SIGTERM"}
        if grace is not None:
            params["graceMs"] = round(grace * 1000)
        self._signal(params)

    def kill(self) -> None:
        """Kills it and everything it has started."""
        self._signal({})

    def _give_up(self, grace: Optional[float]) -> None:
        if grace is None:
            self.kill()
        else:
            self.terminate(grace)

    def _signal(self, params: Dict[str, Any]) -> None:
        if self.poll() is not None:
            return
        try:
            self._request("process/kill", params)
        except ProcessLookupError:
            pass  # As with a child that has been waited for.

    def resize(self, rows: int, columns: int) -> None:
        """Resizes its terminal."""
        self._request("process/resizePty", {"size": {"rows": rows, "cols": columns}})

    def _ended(self, error: RpcError) -> bool:
        return "no active process" in error.message

    def _request(self, method: str, params: Dict[str, Any]) -> Mapping[str, Any]:
        if self._process.exit is not None:
            raise ProcessLookupError(errno.ESRCH, "the program has ended")
        try:
            return self._server._call(method, {"processHandle": self._process.handle, **params})
        except RpcError as error:
            translated = self._translated(error)
            if translated is error:
                raise
            raise translated from error

    def _translated(self, error: RpcError) -> Exception:
        """The error that Python has for it."""
        if error.code == -32602:
            return ValueError(error.message)
        if self._ended(error):
            return ProcessLookupError(errno.ESRCH, "the program has ended")
        number = error.data.get("errno")
        return OSError(number, os.strerror(number)) if isinstance(number, int) else error

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
            # It may have to be flushed, and that fails if the program has ended.
            if self.stdin is not None and self._writer is None:
                self.stdin.close()
        finally:
            if not isinstance(error, KeyboardInterrupt):
                self.wait()

    def __repr__(self) -> str:
        text = f"<{type(self).__name__}: returncode: {self.returncode} args: {self.args!r}>"
        return text if len(text) <= 80 else f"{text[:76]}...>"


# ---- inside ----


# Answers come as the server has sent them; None says that it is gone.
#: What a request is answered with; None if the connection has ended.
_Answered = Union[None, Dict[str, Any], RpcError]
_Answer = queue.SimpleQueue[_Answered]
_Wake = queue.SimpleQueue[None]
#: What has `put`, which the thread that reads calls: one of these, or what wakes an event loop.
_Putting = Any


class _Process:
    """What the thread that reads knows of a program."""

    def __init__(self, server: Server, handle: str) -> None:
        self.server = server
        self.handle = handle
        self.waiting: Set[_Putting] = set()
        # Those who use its streams have them; what they drop is closed.
        self.input: Callable[[], Optional[_Input]] = lambda: None
        self.outputs: weakref.WeakValueDictionary[str, _Output] = weakref.WeakValueDictionary()
        # How many bytes have come of each stream, and what is done about those that come when it is closed.
        self.delivered: Dict[str, int] = {}
        self.refusals: Dict[str, _Refusal] = {}
        self.exit: Optional[Exit] = None
        self.ended = 0.0
        # What copies its output to files.
        self.copies: List[_Copy] = []

    def wake(self) -> None:
        for wake in list(self.waiting):
            wake.put(None)

    def refuse_later(self, name: str, tty: bool) -> None:
        """Has the program signalled if more comes of a stream, where the server does not close it."""
        # None kills it, which another server does whatever the signal.
        signals: List[Optional[str]] = [None]
        if not self.server._is_other:
            signals.insert(0, "SIGHUP" if tty else "SIGPIPE")
        self.refusals[name] = _Refusal(signals, time.monotonic() + _CLOSE_GRACE)


@dataclass
class _Refusal:
    """The signals that are yet to be sent, and when the next one is."""

    signals: List[Optional[str]]
    after: float


class _Output(io.RawIOBase):
    """A stream that a program writes."""

    def __init__(self, process: _Process, name: str, tty: bool) -> None:
        self._of = process
        self.name = name
        self._tty = tty
        # For those who read without a buffer. The thread that reads the connection never takes it.
        self._taking = threading.RLock()
        self.chunks: Deque[memoryview] = deque()
        self.received = 0
        self.taken = 0
        # Of one that holds too much: how much of it had been read, and until when more has to be.
        self.taken_before = -1
        self.read_until = 0.0
        #: The thread that takes only what is here, and never waits.
        self.impatient: Optional[int] = None
        #: Whether its end has come, which may be long before that of the program.
        self.ended = False
        #: Whether what comes is wanted as soon as the program ends.
        self.collected = False
        #: Whether another program reads it.
        self.piped = False
        #: Whether more came than is kept, or it is closed: then nothing is kept any more.
        self.overflowed = False
        self.refused = False

    #: A pipe of this program that has the output, once a descriptor was asked for, and what its end means.
    pipe: Optional[_Descriptor] = None
    trouble: Optional[OSError] = None

    def fileno(self) -> int:
        """The reading end of a pipe of this program, which a thread fills from now on."""
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if self.pipe is None:
            reader, writer = _pipe()
            with self._taking:
                if self.chunks:
                    # So that what is here can be read at once.
                    first = bytearray(min(len(self.chunks[0]), _PIPE_ROOM))
                    writer.write(first[: self._take(first)])
            self.pipe = reader
            threading.Thread(target=self._fill, args=(writer,), name="procwire-pipe", daemon=True).start()
        return self.pipe.fileno()

    def _fill(self, pipe: _Descriptor) -> None:
        buffer = bytearray(_CHUNK)
        try:
            while True:
                size = self._take(buffer)
                if size == 0:
                    break
                left = memoryview(buffer)[: size or 0]
                while left:
                    left = left[pipe.write(left) :]
        except OSError as error:
            self.trouble = error
        finally:
            pipe.close()

    def unread(self) -> int:
        return 0 if self.refused or self.collected else self.received - self.taken

    def refuse(self) -> None:
        self.refused = True
        process, server = self._of, self._of.server
        if process.handle not in server._live or self.ended:
            return
        if self._tty or server._is_other:
            process.refuse_later(self.name, self._tty)
            return
        try:
            # From whatever thread: nothing waits for the answer.
            params = {"processHandle": process.handle, "stream": self.name}
            server._ask(next(server._ids), _Closed(process, self.name), "process/closeOutput", params)
        except ServerGone:
            pass

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> Optional[int]:
        if self.pipe is None:
            return self._take(buffer)
        size = self.pipe.readinto(buffer)
        while size is None and not self._hurries():
            size = self.pipe.readinto(buffer)
        if size is None:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        if size == 0 and self.trouble is not None:
            raise self.trouble
        return size

    def _take(self, buffer: Any) -> Optional[int]:
        target = memoryview(buffer).cast("B")
        if not target:
            return 0
        while True:
            ended = self._ready()
            with self._taking:
                if self.chunks:
                    chunk = self.chunks.popleft()
                    part = min(len(chunk), len(target))
                    target[:part] = chunk[:part]
                    self.taken += part
                    if part < len(chunk):
                        self.chunks.appendleft(chunk[part:])
                    else:
                        self.taken += _PIECE_COST
                    self._of.server._wake_reader()
                    return part
            if ended:
                return 0
            if self._hurries():
                # Those above this would take None for the end.
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def _hurries(self) -> bool:
        return self.impatient == threading.get_ident()

    def give_back(self, data: bytes) -> None:
        """What is read next, because it was taken too early."""
        with self._taking:
            self.chunks.appendleft(memoryview(data))
            self.taken -= len(data) + _PIECE_COST

    def readall(self) -> bytes:
        if self.pipe is not None:
            return super().readall()
        pieces: List[memoryview] = []
        while True:
            ended = self._ready()
            before = len(pieces)
            with self._taking:
                while self.chunks:
                    pieces.append(self.chunks.popleft())
                    self.taken += len(pieces[-1]) + _PIECE_COST
            self._of.server._wake_reader()
            if ended and len(pieces) == before:
                return b"".join(pieces)

    def has_news(self) -> bool:
        return bool(self.chunks) or self.ended or self.overflowed or self._of.exit is not None

    def _ready(self) -> bool:
        """Waits for output. Whether its end has come, and only what is here remains."""
        process, server = self._of, self._of.server
        hurries = self._hurries()
        while True:
            if not (hurries or self.has_news()):
                server._wait(process, self.has_news, None)
            # The end comes after all the output, so it is looked for first.
            ended = self.ended or process.exit is not None
            if self.chunks:
                return ended
            if self.overflowed:
                raise OSError(errno.ENOBUFS, "more output than is kept was not read, and the rest is dropped")
            if ended or hurries:
                return ended
            # It had more to say, so this is not the end of it.
            server._check_gone()

    def close(self) -> None:
        super().close()
        if not self.piped:
            self.abandon()

    def abandon(self) -> None:
        """Nothing reads it any more."""
        if self.pipe is not None:
            self.pipe.close()
        if not self.refused:
            self.refuse()
        self.chunks.clear()
        self._of.server._wake_reader()


class _Closed:
    """Takes the answer to the end of a stream."""

    def __init__(self, process: _Process, name: str) -> None:
        self._process = process
        self._name = name

    def put(self, answered: _Answered) -> None:
        # A server that does not know of this yet.
        if isinstance(answered, RpcError) and answered.code == -32601:
            self._process.refuse_later(self._name, False)


class _Text(io.TextIOWrapper):
    """A text that can be looked at before it is read."""

    ahead = ""

    def at_hand(self) -> Tuple[str, bool]:
        """What is here, and whether that is all there will be. With a raw stream that hurries."""
        pieces, self.ahead = [self.ahead], ""
        try:
            # One by one, because what a longer read has when it has to wait is lost.
            for character in iter(lambda: io.TextIOWrapper.read(self, 1), ""):
                pieces.append(character)
        except BlockingIOError:
            return "".join(pieces), False
        except BaseException:
            self.give_back("".join(pieces))
            raise
        return "".join(pieces), True

    def give_back(self, text: str) -> None:
        """What is read next."""
        if text:
            self.ahead = text + self.ahead
            # Only then, so that other texts are read as fast as any.
            cast(Any, self).__class__ = _TextAhead


class _TextAhead(_Text):
    """A text of which some has been given back. It is iterated by way of `readline`."""

    def read(self, size: Optional[int] = -1, /) -> str:
        ahead, all_of_it = self.ahead, size is None or size < 0
        if not all_of_it and cast(int, size) <= len(ahead):
            self.ahead = ahead[size:]
            return ahead[:size]
        self.ahead = ""
        return ahead + super().read(-1 if all_of_it else cast(int, size) - len(ahead))

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]
        ahead = self.ahead
        if not ahead:
            return super().readline(size)
        end = ahead.find("\n") + 1 or len(ahead)
        end = end if size < 0 else min(end, size)
        line, self.ahead = ahead[:end], ahead[end:]
        if self.ahead or line.endswith("\n") or len(line) == size:
            return line
        return line + super().readline(-1 if size < 0 else size - len(line))


class _Search:
    """What `expect` looks for. As in pexpect: what comes first in the output, and of what comes at the
    same place the first in the list."""

    def __init__(
        self, wanted: Union[Wanted, Sequence[Wanted]], text: bool, exact: bool, window: Optional[int]
    ) -> None:
        one = isinstance(wanted, (str, bytes, re.Pattern, type))
        listed = cast("List[Wanted]", [wanted] if one else list(cast("Sequence[Wanted]", wanted)))
        self.said = wanted
        self._window = window
        self._patterns: List[Tuple[int, Any]] = []
        self.ends: Dict[Any, int] = {}
        for index, each in enumerate(listed):
            if each is EOF or each is TIMEOUT:
                self.ends.setdefault(each, index)
            else:
                self._patterns.append((index, self._compiled(each, text, exact)))

    @staticmethod
    def _compiled(wanted: Any, text: bool, exact: bool) -> Any:
        flags: int = re.DOTALL
        if isinstance(wanted, re.Pattern) and not exact:
            # Some flags are for texts only, and some for bytes.
            wanted, flags = wanted.pattern, wanted.flags & ~(re.UNICODE | re.DEBUG)
            flags &= ~re.LOCALE if text else -1
        if not isinstance(wanted, (str, bytes)):
            raise TypeError(f"not a pattern, EOF or TIMEOUT: {wanted!r}")
        if isinstance(wanted, str) and not text:
            wanted = wanted.encode()
        if isinstance(wanted, bytes) and text:
            wanted = wanted.decode()
        pattern: Any = wanted
        return re.compile(re.escape(pattern) if exact else pattern, flags)

    def at_end(self, held: Any) -> EOF:
        return EOF(f"not found: {self.said!r}; the output ends with {held[-100:]!r}")

    def find(self, held: Any, new: int) -> Optional[Tuple[int, Any]]:
        """The index and the match in what is held, of which so much is new."""
        start = 0 if self._window is None else max(0, len(held) - new - self._window)
        found: Optional[Tuple[int, Any]] = None
        for index, pattern in self._patterns:
            match = pattern.search(held, start)
            if match and (found is None or match.start() < found[1].start()):
                found = index, match
        return found


def _conditions(
    text: Union[None, str, bytes, Sequence[Union[str, bytes]]],
    quiet: Optional[float],
    eof: bool,
    exit: bool,
    input: bool,
) -> List[Tuple[Mapping[str, Any], Waited]]:
    """The conditions of a wait, each with what it is when it holds."""
    conditions: List[Tuple[Mapping[str, Any], Waited]] = []
    for one in [text] if isinstance(text, (str, bytes)) else text or ():
        wanted = {"text": one} if isinstance(one, str) else {"bytesBase64": base64.b64encode(one).decode()}
        conditions.append((wanted, Waited("text", one)))
    if quiet is not None:
        conditions.append(({"quietMs": max(0, round(quiet * 1000))}, Waited("quiet")))
    for name, asked in (("eof", eof), ("exit", exit), ("input", input)):
        if asked:
            conditions.append(({name: True}, Waited(name)))
    if not conditions:
        raise ValueError("nothing to wait for")
    return conditions


class _Input(io.RawIOBase):
    """The stdin of a program."""

    def __init__(self, process: _Process) -> None:
        self._of = process

    #: A pipe of this program into it, once a descriptor was asked for.
    pipe: Optional[_Descriptor] = None
    #: Whether nothing waits for the answers.
    posts = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        """The writing end of a pipe of this program, which a thread empties from now on."""
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if self.pipe is None:
            reader, self.pipe = _pipe()
            threading.Thread(target=self._empty, args=(reader,), name="procwire-pipe", daemon=True).start()
        return self.pipe.fileno()

    def _empty(self, pipe: _Descriptor) -> None:
        buffer = bytearray(_CHUNK)
        try:
            while self._of.exit is None:
                self._of.server._check_gone()
                size = pipe.readinto(buffer)
                if size == 0:
                    break
                left = memoryview(buffer)[: size or 0]
                while left:
                    left = left[self._send(left) :]
            self._finish()
        except OSError:
            pass  # The writer learns it from the close, as from a broken pipe.
        finally:
            pipe.close()

    def write(self, data: Any, /) -> int:
        return self._send(data) if self.pipe is None else self.pipe.write(data)

    def _send(self, data: Any) -> int:
        # Base64 makes 4 bytes of 3, and the message has to stay below the server's limit.
        limit = self._of.server._max_message_bytes()
        chunk = memoryview(data).cast("B")[: max(1, min(_CHUNK, limit // 2))]
        if len(chunk):
            self._call({"deltaBase64": base64.b64encode(chunk).decode("ascii")})
        return len(chunk)

    def close(self) -> None:
        if self.closed:
            return
        try:
            if self.pipe is None:
                self._finish()
            else:
                self.pipe.close()
        finally:
            super().close()

    def _finish(self) -> None:
        try:
            if self._of.handle in self._of.server._live and not self._of.server._closing:
                self._call({"closeStdin": True})
        except (BrokenPipeError, ServerGone):
            pass  # It is closed.

    def _call(self, params: Dict[str, Any]) -> None:
        process, server = self._of, self._of.server
        if process.exit is not None:
            self._broken(None)
        params = {"processHandle": process.handle, **params}
        if self.posts or threading.current_thread() in (server._reader, server._writer):
            # Garbage, which happens to be collected there: they cannot wait for themselves.
            server._post("process/writeStdin", params)
            return
        try:
            server._call("process/writeStdin", params)
        except RpcError as error:
            self._broken(error)

    def _broken(self, cause: Optional[RpcError]) -> NoReturn:
        raise BrokenPipeError(errno.EPIPE, cause.message if cause else "the program has ended") from cause


def _same_file(one: Stream, other: Stream) -> bool:
    """Whether it makes no difference to which of two files something is written: the same descriptor, or
    one file where each write goes to the end."""
    if isinstance(one, File) or isinstance(other, File):
        return one == other
    try:
        fds = [file if isinstance(file, int) else cast("IO[Any]", file).fileno() for file in (one, other)]
        about = [os.fstat(fd) for fd in fds]
    except (AttributeError, OSError, ValueError, OverflowError):
        return False  # It is reported where it is used.
    if fds[0] == fds[1]:
        return True
    if os.name != "posix" or not os.path.samestat(*about):
        return False
    if not stat.S_ISREG(about[0].st_mode):
        return True
    import fcntl  # Not everywhere.

    return all(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND for fd in fds)


class _Descriptor(io.RawIOBase):
    """A descriptor or a file of this program, for as long as a program has it."""

    _fd: Optional[int] = None

    def __init__(self, file: Union[int, IO[Any]]) -> None:
        if isinstance(file, int) and file < 0:
            raise ValueError(f"no descriptor is {file}")
        self._fd = self._copied(file if isinstance(file, int) else file.fileno())

    def fileno(self) -> int:
        if self._fd is None:
            raise ValueError("I/O operation on closed file")
        return self._fd

    def _copied(self, fd: int) -> int:
        """A copy above 2, because a program that has closed one of those may open it again."""
        copy = os.dup(fd)
        if copy > 2:
            return copy
        try:
            return self._copied(fd)
        finally:
            os.close(copy)

    def readinto(self, buffer: Any, /) -> Optional[int]:
        """None if there is nothing yet, after a moment."""
        if not self._wait(0.1, False):
            return None
        data = os.read(cast(int, self._fd), len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: Any, /) -> int:
        while True:
            try:
                return os.write(cast(int, self._fd), data)
            except BlockingIOError:
                self._wait(1.0, True)

    def _wait(self, seconds: float, writing: bool) -> bool:
        if not hasattr(select, "poll"):
            return True
        poll = select.poll()
        poll.register(cast(int, self._fd), select.POLLOUT if writing else select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
        super().close()


def _pipe() -> Tuple[_Descriptor, _Descriptor]:
    """A pipe within this program: the end that is read, and the one that is written."""
    ends = os.pipe()
    try:
        reader, writer = _Descriptor(ends[0]), _Descriptor(ends[1])
    finally:
        for end in ends:
            os.close(end)
    _open_pipes.update((reader, writer))
    return reader, writer


def _own(file: Stream, number: int) -> Stream:
    """What None stands for: nothing, if this program has it closed."""
    if file is not None:
        return file
    try:
        os.fstat(number)
    except OSError:
        return DEVNULL
    return number


def _source(file: Stream) -> Union[_Output, _Descriptor]:
    """What a program reads whose stdin is this."""
    raw = getattr(file, "buffer", file)
    raw = getattr(raw, "raw", raw)
    if not isinstance(raw, _Output):
        return _Descriptor(cast(Any, file))
    # As a pipe that two programs have: this one may close its end.
    raw.piped = True
    return raw


class _Copy:
    """Copies between a program and a file or another program, on a thread of its own."""

    def __init__(
        self, process: _Process, source: Union[_Output, _Descriptor], target: Union[_Input, _Descriptor]
    ) -> None:
        self.process = process
        self.source = source
        self.target = target
        self.copied = 0
        self.thread = threading.Thread(target=self._run, name="procwire-copy", daemon=True)

    def _run(self) -> None:
        process, buffer = self.process, bytearray(_CHUNK)
        try:
            while True:
                if isinstance(self.target, _Input):
                    # What the program reads is of no use after its end.
                    process.server._check_gone()
                    if process.exit is not None:
                        break
                size = self.source.readinto(buffer)
                if size == 0:
                    break
                left = memoryview(buffer)[: size or 0]
                while left:
                    left = left[self.target.write(left) :]
                self.copied += size or 0
        except OSError:
            pass  # The program learns it from the close, as from a broken pipe.
        finally:
            self.close()

    def runs(self) -> bool:
        return self.thread.is_alive()

    def wait(self, deadline: Optional[float]) -> bool:
        """Waits until the file has everything, however slow it is, unless it takes nothing any more, as a
        full pipe does. False if the deadline has passed."""
        while self.runs():
            left = _DRAIN_WAIT if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return False
            copied = self.copied
            self.thread.join(min(left, _DRAIN_WAIT))
            if left >= _DRAIN_WAIT and self.copied == copied:
                break
        return True

    def give_back(self) -> None:
        """Instead of a start."""
        if isinstance(self.source, _Output):
            self.source.piped = False
        else:
            self.source.close()
        self.target.close()

    def close(self) -> None:
        if isinstance(self.source, _Output):
            self.source.abandon()
        else:
            self.source.close()
        self.target.close()


_open_servers: "weakref.WeakSet[Server]" = weakref.WeakSet()
_open_pipes: "weakref.WeakSet[_Descriptor]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for server in list(_open_servers):
        server.close()


def _forget_all() -> None:
    """In a process that was forked: the threads of the connections have stayed behind, and a server
    would not notice the end of its client as long as another process had its pipes."""
    # As long as they are open here, their other ends do not see the end.
    for pipe in list(_open_pipes):
        pipe.close()
    _open_pipes.clear()
    for server in list(_open_servers):
        server._gone = "the connection belongs to the process that this one was forked from"
        server._close_inputs()
        for stream in (server._process.stdin, server._process.stdout):
            # Below the buffer: that of stdout may be locked by the thread that reads.
            cast(Any, stream).raw.close()
    _open_servers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
