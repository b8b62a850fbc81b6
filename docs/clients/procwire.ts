/**
 * Starts and controls programs through a procwire server, with the interface of `node:child_process`.
 *
 *     // `procwire` is on your PATH (`cargo install --path .` in its repository), or PROCWIRE names it.
 *     import { Server } from "./procwire.ts";
 *     const server = new Server();
 *     const hello = server.spawn("echo", ["hello"]);
 *     hello.stdout.pipe(process.stdout);
 *     hello.on("close", () => server.close());
 *
 * `new Server()` starts `procwire`, or the command in the variable PROCWIRE;
 * `new Server(["ssh", "host", "procwire"])` starts programs on that host. One server carries any number
 * of programs. When it is closed, or this program ends, everything it started is killed.
 *
 * Names of `node:child_process` mean the same here, with these differences: `pid` is undefined until
 * "spawn", because the server has to answer first; a signal goes to the whole process group; "exit"
 * comes after the last byte of output.
 *
 * A server that does not know what this file asks for, such as an older one or `codex app-server`, is not
 * asked for it: that is an error with the code ENOTSUP.
 *
 * One file, no dependencies, Node 18 or newer: copy it into your project.
 */

import { type ChildProcess, spawn as spawnChild } from "node:child_process";
import { EventEmitter } from "node:events";
import { constants, createReadStream, createWriteStream, fstatSync, openSync, readFileSync, WriteStream } from "node:fs";
import { PassThrough, Readable, Writable } from "node:stream";
import { fileURLToPath } from "node:url";
import { getSystemErrorName, inspect, promisify } from "node:util";

/** The most that one write to a program's stdin carries. The server answers it when there is room for the next one. */
const MAX_WRITE_BYTES = 256 * 1024;
/** How much unread output of running programs is kept before the client stops reading the connection. */
const MAX_UNREAD_BYTES = 64 * 1024 * 1024;
/** How much more is read while a request waits for its answer, which may come after output. */
const ANSWER_SLACK_BYTES = 64 * 1024 * 1024;
/** The memory that an unread chunk of output takes besides its bytes. */
const CHUNK_OVERHEAD_BYTES = 256;
/** The longest message accepted from a server. Only a list of very many programs is long. */
const MAX_MESSAGE_BYTES = 64 * 1024 * 1024;
/** How many characters of the server's text an error quotes. */
const MAX_QUOTED = 200;
/** How long a server may take to answer the handshake. */
const HANDSHAKE_TIMEOUT_MS = 10_000;
/** How long a server gets to finish after it exits, closes its output or gets SIGTERM. */
const SERVER_EXIT_WAIT_MS = 2_000;
/** How long `close` waits before it kills the server, which needs three seconds at most to kill everything. */
const CLOSE_TIMEOUT_MS = 10_000;
/** How long a program may go on writing after SIGPIPE before it is killed. */
const SIGPIPE_WAIT_MS = 1_000;
/** How many characters `expect` keeps to search in. */
const MAX_SEARCHED = 1024 * 1024;
/** How many bytes of a stream `exec` and `execFile` keep. */
const MAX_BUFFER_BYTES = 1024 * 1024;
const INVALID_REQUEST = -32600;
const INTERNAL_ERROR = -32603;

/** The signals of Linux, where servers run. */
const SIGNALS = new Set(
  (
    "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU " +
    "URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"
  ).split(" "),
);

export interface ServerOptions {
  /** The directory of the server's process. */
  cwd?: string | undefined;
  /** The environment of the server's process. */
  env?: NodeJS.ProcessEnv | undefined;
  /** Where the server's logs go. */
  stderr?: "inherit" | "ignore" | undefined;
  /**
   * How many bytes of unread output are kept in all. Above this the client stops reading the connection
   * (64 MiB later while a request waits for its answer), so programs that write wait until you read.
   * Read the streams you asked for, `resume()` them, or ask for "ignore".
   */
  maxUnread?: number | undefined;
  /** How many milliseconds a server has to answer the handshake. 10,000 if left out; 0 waits without a limit. */
  handshakeTimeout?: number | undefined;
}

/**
 * A file of the server's machine, which the server opens: for reading as stdin; as stdout or stderr it is
 * created if need be, and emptied unless `append`. The path is absolute, or a file URL.
 */
export interface ServerFile {
  file: string | URL;
  append?: boolean | undefined;
}

/**
 * As in Node. A stream must be a `Readable` for stdin and a `Writable` for the others, and a descriptor be
 * that of a regular file, or 0, 1 or 2; these are piped. A `ServerFile` is not. As the third entry, "stdout"
 * puts stderr into stdout, in the order of the writes.
 */
export type StdioEntry =
  | "pipe"
  | "overlapped"
  | "ignore"
  | "inherit"
  | "stdout"
  | number
  | ServerFile
  | Readable
  | Writable
  | null
  | undefined;

/** What a program, and everything it starts, may use; setrlimit(2) has the meanings. */
export interface Limits {
  /** Processor time of each process. */
  cpuSeconds?: number | undefined;
  fileBytes?: number | undefined;
  dataBytes?: number | undefined;
  coreBytes?: number | undefined;
  openFiles?: number | undefined;
  /** Processes and threads of the server's user in all. */
  processes?: number | undefined;
  stackBytes?: number | undefined;
  /** The nice value itself, -20 to 19. */
  nice?: number | undefined;
  /** -1000 to 1000. */
  oomScoreAdj?: number | undefined;
}

export interface SpawnOptions {
  /** A directory on the server's machine: an absolute path or a file URL. */
  cwd?: string | URL | null | undefined;
  /**
   * As in Node, the whole environment, unless `inheritEnv` says otherwise; null and undefined leave a
   * variable out. Without it, the server's environment is inherited. Unless they are named here, `cwd` also
   * sets an inherited PWD, and `tty` removes an inherited COLUMNS and LINES.
   */
  env?: Record<string, string | null | undefined> | undefined;
  /**
   * What of the server's environment `env` is laid over: true for all of it, false for nothing, or names, of
   * which one that ends in `*` stands for all that begin so. False if left out where there is an `env`.
   */
  inheritEnv?: boolean | readonly string[] | undefined;
  /**
   * As in Node: "pipe", "ignore", "inherit", or an array of up to three of these, of streams or of files. A
   * stream of the process that is not a pipe is null. Because a server cannot get descriptors, "inherit" and
   * streams are piped through this program, which may read more of a stdin than the program takes.
   */
  stdio?: "pipe" | "overlapped" | "ignore" | "inherit" | readonly StdioEntry[] | undefined;
  /** "pipe" if left out: a program that reads to the end of its input waits for `stdin.end()`. */
  stdin?: "pipe" | "ignore" | ServerFile | undefined;
  /** "pipe" if left out. If not a pipe, the stream of the process is not null, as with `stdio`, but at its end. */
  stdout?: "pipe" | "ignore" | ServerFile | undefined;
  /** "pipe" if left out. */
  stderr?: "pipe" | "ignore" | "stdout" | ServerFile | undefined;
  /** Puts stderr into stdout, in the order of the writes: the same as `stderr: "stdout"`. */
  mergeStderr?: boolean | undefined;
  /** Runs the command in a shell on the server's machine: true for /bin/sh, or the path of a shell. */
  shell?: boolean | string | undefined;
  /** Gives it a terminal: all output comes on `stdout`, and ending `stdin` types end-of-file. */
  tty?: boolean | undefined;
  /** Of the terminal. */
  size?: Size | undefined;
  /** Sends `killSignal` after that many milliseconds. If that is SIGKILL, the server keeps the time and kills the tree. */
  timeout?: number | undefined;
  /** Kills what is left so many milliseconds after `timeout` has sent `killSignal`: the program and all that it started. */
  timeoutGraceMs?: number | undefined;
  /** The signal that `timeout` and `signal` send. SIGTERM if left out. */
  killSignal?: string | number | undefined;
  /** When it is aborted, `killSignal` is sent, "error" has an AbortError, and `exited` rejects with it. */
  signal?: AbortSignal | undefined;
  /** How many bytes of each stream are sent; the rest is dropped. */
  outputCap?: number | undefined;
  /**
   * What is kept of a stream that outgrows its cap: its beginning, as when left out, its end, which comes when
   * the stream has ended, or so many bytes of both, which are the cap then.
   */
  keep?: "head" | "tail" | { head: number; tail: number } | undefined;
  limits?: Limits | undefined;
  /** Lets it outlive the connection. */
  detached?: boolean | undefined;
  /** Output comes as strings in this encoding instead of as buffers. */
  encoding?: BufferEncoding | "buffer" | null | undefined;
  /** Accepted; it has no effect on Linux. */
  windowsHide?: boolean | undefined;
  /** Accepted; it has no effect on Linux. */
  windowsVerbatimArguments?: boolean | undefined;
  /** Accepted; it has no effect without a channel for messages. */
  serialization?: "json" | "advanced" | undefined;
}

/** Of `exec` and `execFile`. */
export interface ExecOptions extends Omit<SpawnOptions, "stdio" | "stdin" | "stdout" | "stderr"> {
  /** When a stream gets longer than that many bytes, `killSignal` is sent and the result is an error. 1 MiB if left out. */
  maxBuffer?: number | undefined;
}

const SPAWN_OPTIONS: Record<keyof SpawnOptions, true> = {
  cwd: true,
  env: true,
  inheritEnv: true,
  stdio: true,
  stdin: true,
  stdout: true,
  stderr: true,
  mergeStderr: true,
  shell: true,
  tty: true,
  size: true,
  timeout: true,
  timeoutGraceMs: true,
  killSignal: true,
  signal: true,
  outputCap: true,
  keep: true,
  limits: true,
  detached: true,
  encoding: true,
  windowsHide: true,
  windowsVerbatimArguments: true,
  serialization: true,
};

const LIMITS: Record<keyof Limits, true> = {
  cpuSeconds: true,
  fileBytes: true,
  dataBytes: true,
  coreBytes: true,
  openFiles: true,
  processes: true,
  stackBytes: true,
  nice: true,
  oomScoreAdj: true,
};

const SERVER_OPTIONS: Record<keyof ServerOptions, true> = {
  cwd: true,
  env: true,
  stderr: true,
  maxUnread: true,
  handshakeTimeout: true,
};

export interface Size {
  rows: number;
  cols: number;
}

/** How a program ended, and what it used. */
export interface Exit {
  /** null if a signal has killed it. */
  code: number | null;
  /** The name of that signal. */
  signal: string | null;
  coreDumped: boolean;
  timedOut: boolean;
  durationMs: number;
  userMs: number;
  systemMs: number;
  maxRssBytes: number;
  /** What it wrote to its pipe. */
  stdoutBytes: number;
  stderrBytes: number;
  /** How many of these did not come, because of `outputCap` or `keep`. */
  stdoutOmittedBytes: number;
  stderrOmittedBytes: number;
  /** Something kept an output open for two seconds after the exit. */
  drainTimedOut: boolean;
}

/** What `list` shows of a program. */
export interface Listed {
  processHandle: string;
  pid: number;
  command: string[];
  cwd: string | null;
  tty: boolean;
  startedAtMs: number;
  stdoutBytes: number;
  stderrBytes: number;
  stdinPendingBytes: number;
}

/** What the server says about itself. A codex app-server says none of it. */
export interface Info {
  serverInfo?: { name: string; version: string };
  limits?: { maxMessageBytes: number } & Record<string, unknown>;
  /** What it enforces where it runs. */
  guarantees?: Record<string, boolean>;
}

/** Of `expect` and `waitFor`. */
export interface WaitOptions {
  /** The stream that is looked at. `expect` looks at stdout if it is left out, and `waitFor` at both. */
  stream?: StreamName | undefined;
  /** After that many milliseconds it is a `WaitError`. */
  timeout?: number | undefined;
}

/** What `expect` has found. */
export interface Found {
  /** Which of the patterns it was. */
  index: number;
  /** As `RegExp.exec` returns it. A string matches as itself. */
  match: RegExpExecArray;
  /** What came before it. */
  before: string;
}

/** What `waitFor` waits for. */
export type Condition =
  /** The program writes this. */
  | { text: string }
  | { bytes: Uint8Array }
  /** It has written nothing for so many milliseconds. */
  | { quiet: number }
  /** Its output has ended. */
  | { eof: true }
  /** It has exited. */
  | { exit: true }
  /** It waits for input. */
  | { input: true };

/** The condition of a `waitFor` that held. */
export interface Waited {
  /** Which of the conditions it was. */
  index: number;
  /** Where the text came, and the position in that stream after it. */
  stream?: StreamName;
  offset?: number;
}

/** What the server's machine shows of a program. What it does not show is null. */
export interface Inspection {
  pid: number;
  terminal: { canonical: boolean; echo: boolean; rows: number; cols: number } | null;
  /** What the terminal's keys go to. */
  foreground: { pid: number; command: string[] | null } | null;
  waitsForInput: boolean | null;
  /** The program and all below it, oldest first. */
  processes: {
    pid: number;
    parentPid: number | null;
    command: string[] | null;
    state: string | null;
    threads: number | null;
    cpuMs: number | null;
    rssBytes: number | null;
  }[];
  /** How many more there are. */
  processesOmitted?: number;
}

/** The server refused a request. The message is the server's, with control characters escaped, cut at 200 characters. */
export class RpcError extends Error {
  readonly code: number;
  readonly data: unknown;

  constructor(code: number, message: string, data?: unknown) {
    super(message);
    this.name = "RpcError";
    this.code = code;
    this.data = data;
  }
}

/** A program could not be started. The message, `code`, `errno`, `syscall`, `path` and `spawnargs` are Node's. */
export class SpawnError extends Error {
  readonly code: string;
  readonly errno: number;
  readonly syscall: string;
  readonly path: string;
  readonly spawnargs: string[];
  /** What failed: "cwd", "lookup", "exec", "pty", "pipe", "thread", "stdin", "stdout", "stderr" or "limits". */
  readonly stage: string;
  /** Which of the limits. */
  readonly limit: string | undefined;

  /** `cause` is the server's own error. */
  constructor(argv: readonly string[], data: SystemError, named: Record<string, string | undefined>, cause: Error) {
    const [file = "", ...args] = argv;
    const { stage, limit } = data;
    const name = limit ?? (Object.hasOwn(named, stage) ? named[stage] : undefined);
    // Node's message names the program even if the directory is missing.
    const what = name === undefined ? "" : ` (${stage === "cwd" ? "directory" : stage} ${name})`;
    super(`spawn ${file} ${data.code}${what}`, { cause });
    this.name = "SpawnError";
    this.code = data.code;
    this.errno = -data.errno;
    this.syscall = `spawn ${file}`;
    this.path = file;
    this.spawnargs = args;
    this.stage = stage;
    this.limit = limit;
  }
}

/** The server has ended or broken the connection, and with it everything it had started. */
export class ServerGone extends Error {
  readonly code = "EPIPE";

  constructor(message: string) {
    super(message);
    this.name = "ServerGone";
  }
}

/** The server is one that cannot do what was asked for, because it does not know of it. */
export class NotSupported extends Error {
  readonly code = "ENOTSUP";

  constructor(message: string) {
    super(message);
    this.name = "NotSupported";
  }
}

/** What `expect` or `waitFor` waited for did not come. */
export class WaitError extends Error {
  /** In time, or before the end. */
  readonly code: "ETIMEDOUT" | "EOF";
  /** Of `expect`: what came in place of it, the last 1,048,576 characters of it at most. */
  readonly before: string;

  constructor(code: "ETIMEDOUT" | "EOF", message: string, before = "") {
    super(message);
    this.name = "WaitError";
    this.code = code;
    this.before = before;
  }
}

/** The `signal` of a program was aborted. */
class AbortError extends Error {
  readonly code = "ABORT_ERR";

  constructor(reason: unknown) {
    super("The operation was aborted", { cause: reason });
    this.name = "AbortError";
  }
}

interface Call {
  resolve: (result: unknown) => void;
  reject: (error: Error) => void;
}

/** What the data of an error says. */
interface SystemError {
  errno: number;
  code: string;
  stage: string;
  limit: string | undefined;
}

/** An object from the server, whose members have to be checked before they are used. */
type Untrusted = Record<string, unknown>;

/** The callback of `exec` and `execFile`. */
export type ExecCallback = (error: Error | null, stdout: string | Buffer, stderr: string | Buffer) => void;

/** The result of the promisified `exec` and `execFile`, as in Node. */
export type ExecPromise = Promise<{ stdout: string; stderr: string }> & { child: Process };

/** `child_process.exec`; works with `util.promisify`. */
export interface Exec {
  (command: string, callback?: ExecCallback | null): Process;
  (command: string, options: ExecOptions | null | undefined, callback?: ExecCallback | null): Process;
  readonly [promisify.custom]: (command: string, options?: ExecOptions | null) => ExecPromise;
}

/** `child_process.execFile`; works with `util.promisify`. */
export interface ExecFile {
  (file: string, callback?: ExecCallback | null): Process;
  (file: string, args: readonly unknown[] | null | undefined, callback?: ExecCallback | null): Process;
  (file: string, options: ExecOptions, callback?: ExecCallback | null): Process;
  (
    file: string,
    args: readonly unknown[] | null | undefined,
    options: ExecOptions | null | undefined,
    callback?: ExecCallback | null,
  ): Process;
  readonly [promisify.custom]: (
    file: string,
    args?: readonly unknown[] | ExecOptions | null,
    options?: ExecOptions | null,
  ) => ExecPromise;
}

/**
 * A procwire server and the connection to it. It keeps this program running only while a program it
 * started runs or a request waits for its answer.
 */
export class Server {
  /** What the server says about itself, such as its limits. Rejects if it is not a server. */
  readonly info: Promise<Info>;
  /** `child_process.exec` on this server. */
  readonly exec: Exec;
  /** `child_process.execFile` on this server. */
  readonly execFile: ExecFile;

  readonly #child: ChildProcess;
  readonly #input: Writable;
  readonly #output: Readable;
  readonly #ended: Promise<true>;
  /** How errors name the server. */
  readonly #name: string;
  readonly #calls = new Map<number, Call>();
  readonly #live = new Map<string, Process<null>>();
  /** The handles of the programs that keep this one running. */
  readonly #refs = new Set<string>();
  readonly #maxUnread: number;
  #lastId = 0;
  #maxMessage = 16 * 1024 * 1024;
  /** Whether it knows all that this file may ask for; undefined until the handshake is over. */
  #isCurrent: boolean | undefined;
  /** Where it is another server, which has to be told a directory. */
  #needsCwd = false;
  /** Requests that wait for the handshake, because the first of them is only for a server that knows of it. */
  #queue: (() => void)[] | undefined;
  #partial: Buffer[] = [];
  #partialBytes = 0;
  #unread = 0;
  #gone: ServerGone | undefined;
  #closing = false;
  /** The server ends: the little output that is left is read even if much lies unread. */
  #ending = false;
  /** `ended` was asked for. */
  #awaited = false;
  #over = false;
  /** What is started where neither an argument nor the variable PROCWIRE names a command. */
  static defaultCommand: readonly string[] = ["procwire"];

  /** Whether it keeps this program running. */
  #held = true;

  /** Starts `command`, which speaks the protocol on its stdin and stdout: a shell's, or a program with its arguments. */
  constructor(command: string | readonly string[] = process.env["PROCWIRE"] || Server.defaultCommand, options: ServerOptions = {}) {
    checkNames(options, SERVER_OPTIONS);
    const [program = "", ...args] = typeof command === "string" ? ["/bin/sh", "-c", `exec ${command}`] : command;
    this.#name = `the server "${quote(typeof command === "string" ? command : command.join(" "))}"`;
    this.#maxUnread = options.maxUnread ?? MAX_UNREAD_BYTES;
    this.exec = makeExec(this);
    this.execFile = makeExecFile(this);
    const child = spawnChild(program, args, {
      cwd: options.cwd,
      env: options.env,
      stdio: ["pipe", "pipe", options.stderr ?? "inherit"],
    });
    this.#child = child;
    // If this process has no descriptors left, there are no pipes, and "error" follows.
    this.#input = child.stdin ?? new PassThrough();
    this.#output = child.stdout ?? new PassThrough();
    this.#input.on("error", () => {}); // The output of the server ends as well.
    this.#output.on("data", (chunk: Buffer) => this.#read(chunk));
    // Usually the output ends with the server, and "close" follows at once. But another process may hold
    // the output open, or the server may go on without it.
    let timer: NodeJS.Timeout | undefined;
    const end = (reason: string): void => {
      timer ??= setTimeout(() => {
        this.#break(reason);
        this.#output.destroy();
      }, SERVER_EXIT_WAIT_MS);
    };
    const ended = (code: number | null, signal: string | null): string =>
      signal === null ? `exited with status ${code}` : `was killed by ${signal}`;
    this.#output.on("end", () => end("closed its output"));
    child.on("exit", (code, signal) => {
      this.#ending = true;
      this.#flow();
      end(ended(code, signal));
    });
    this.#ended = new Promise((resolve) => {
      const over = (reason: string): void => {
        clearTimeout(timer);
        this.#end(reason);
        this.#over = true;
        this.#hold();
        resolve(true);
      };
      child.on("error", (error) => {
        const hint = program === "procwire" ? " (put procwire on your PATH, or name it in the variable PROCWIRE)" : "";
        if (child.pid === undefined) over(`did not start: ${error.message}${hint}`);
      });
      child.on("close", (code, signal) => over(ended(code, signal)));
    });
    this.info = quiet(this.#greet(options.handshakeTimeout ?? HANDSHAKE_TIMEOUT_MS));
  }

  /** Resolves to true when the server has ended, in whatever way. Reading it keeps this program running until then. */
  get ended(): Promise<true> {
    this.#awaited = true;
    this.#hold();
    return this.#ended;
  }

  /** The pid of the command that was started: the server, or for example ssh. */
  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** Starts a program. Returns at once; "spawn" or "error" follows, as in Node. Throws for unknown options. */
  spawn(command: string, options: SpawnOptions & { stdio?: "pipe" | undefined }): Process;
  spawn(
    command: string,
    args?: readonly unknown[] | null,
    options?: SpawnOptions & { stdio?: "pipe" | undefined },
  ): Process;
  spawn(command: string, options: SpawnOptions): Process<null>;
  spawn(command: string, args: readonly unknown[] | null | undefined, options: SpawnOptions): Process<null>;
  spawn(command: string, second?: unknown, third?: unknown): Process<null> {
    const { argv, options } = readArguments(command, second, third);
    const { tty = false, cwd, env, signal, timeout, graceMs, killSignal, stdio, encoding, keep } = options;
    const handle = String(++this.#lastId);
    const silent = stdio[1].entry === "ignore" && (tty || stdio[2].entry === "ignore");
    const graceful = timeout > 0 && graceMs !== undefined && killSignal !== "SIGKILL";
    // The server has its own timeout, which kills the whole tree; what it sends before is SIGTERM.
    const kept = timeout > 0 && (killSignal === "SIGKILL" || (graceful && killSignal === "SIGTERM"));
    const params: Record<string, unknown> = {
      command: argv,
      processHandle: handle,
      streamStdin: !(stdio[0].entry === "ignore" || isServerFile(stdio[0].entry)),
      streamStdoutStderr: true,
      timeoutMs: kept ? timeout : null,
    };
    /** What only a server that is current can do. */
    let needs: string | undefined;
    const need = (what: string, name: string, value: unknown): void => {
      needs ??= what;
      params[name] = value;
    };
    if (isObject(keep)) need("keep the end of an output", "outputKeep", keep);
    // Output that is ignored is not sent.
    else params["outputBytesCap"] = silent ? 0 : (options.outputCap ?? null);
    if (keep === "tail") need("keep the end of an output", "outputKeep", keep);
    if (cwd !== undefined) params["cwd"] = cwd;
    else if (this.#needsCwd) params["cwd"] = process.cwd();
    if (Object.keys(env).length > 0) params["env"] = env;
    if (options.inheritEnv !== true) {
      need("keep its environment from a program: `inheritEnv: true` lays `env` over it", "inheritEnv", options.inheritEnv);
    }
    if (tty) params["tty"] = true;
    if (options.size !== undefined) params["size"] = options.size;
    if (options.detached) params["detach"] = true;
    if (options.limits !== undefined) need("limit a program", "limits", options.limits);
    if (graceful && kept) need("send SIGTERM before it kills", "timeoutGraceMs", graceMs);
    else if (graceful) needs ??= `send ${killSignal} before it kills`;
    for (const [index, name] of (["stdin", "stdout", "stderr"] as const).entries()) {
      const entry = stdio[index]!.entry;
      if (isServerFile(entry)) need(`open a file as ${name}`, name, entry);
      else if (entry === "stdout") need("put stderr into stdout", name, entry);
      // One that does not know this sends the output, which is dropped here.
      else if (entry === "ignore" && index > 0 && !tty) params[name] = "null";
    }

    const connection: Connection = {
      // The message has to hold it as base64.
      chunk: () => Math.min(MAX_WRITE_BYTES, Math.floor(this.#maxMessage / 2)),
      call: (method, more) => this.#call(method, { processHandle: handle, ...more }),
      callCurrent: (what, method, more) => this.#callCurrent(what, method, { processHandle: handle, ...more }),
      mayBeCurrent: () => this.#isCurrent !== false,
      list: () => this.list(),
      changeUnread: (bytes) => {
        this.#unread += bytes;
        this.#flow();
      },
      ref: (wanted) => {
        if (!wanted) this.#refs.delete(handle);
        else if (this.#live.has(handle)) this.#refs.add(handle);
        this.#hold();
      },
    };
    const ownGraceMs = graceful ? graceMs : undefined;
    const plan: Plan = { handle, argv, cwd, tty, stdio, encoding, signal, timeout: kept ? 0 : timeout, killSignal, graceMs: ownGraceMs };
    const started = new Process<null>(connection, plan);
    this.#live.set(handle, started);
    this.#refs.add(handle);
    const call: Call = {
      resolve: (result) => queueMicrotask(() => started._started(isObject(result) ? result["pid"] : undefined)),
      // Later than the promise of the handshake, whose answer may have come with this.
      reject: (error) =>
        queueMicrotask(() => {
          if (!this.#live.has(handle)) return; // It was told when the server went.
          if (error instanceof RpcError && this.#needsCwd && params["cwd"] === undefined) {
            params["cwd"] = process.cwd();
            this.#request("process/spawn", params, call, needs);
            return;
          }
          this.#forget(handle);
          started._failed(error);
        }),
    };
    this.#request("process/spawn", params, call, needs);
    return started;
  }

  /** What is running, oldest first. */
  async list(): Promise<Listed[]> {
    const result = await this.#call("process/list", {});
    if (!isObject(result) || !Array.isArray(result["processes"])) throw new TypeError(`${this.#name} sent no list of processes`);
    return result["processes"] as Listed[];
  }

  /** Ends the connection: everything it has started is killed. Waits until the server has ended. */
  async close(): Promise<void> {
    this.#closing = this.#ending = true;
    this.#flow();
    this.#input.end();
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), CLOSE_TIMEOUT_MS);
    await this.ended;
    clearTimeout(timer);
  }

  /** As `close`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #greet(timeoutMs: number): Promise<Info> {
    const seconds = timeoutMs / 1000;
    // The timer need not keep this program running, because the request does. A longer one cannot be set.
    const timer =
      timeoutMs > 0 && timeoutMs < 2 ** 31
        ? setTimeout(() => this.#break(`did not answer the handshake within ${seconds} s`), timeoutMs).unref()
        : undefined;
    try {
      const info = await this.#call("initialize", {
        clientInfo: { name: "procwire.ts", version: "1" },
        // `codex app-server` has its processes behind it.
        capabilities: { experimentalApi: true },
      });
      const said: Untrusted = isObject(info) ? info : {};
      const limit = isObject(said["limits"]) ? said["limits"]["maxMessageBytes"] : undefined;
      if (typeof limit === "number" && limit > 0) this.#maxMessage = limit;
      this.#isCurrent = isObject(said["guarantees"]);
      this.#needsCwd = !isObject(said["limits"]) && typeof said["userAgent"] === "string";
      return said as Info;
    } finally {
      clearTimeout(timer);
      this.#isCurrent ??= false;
      const queue = this.#queue ?? [];
      this.#queue = undefined;
      for (const send of queue) send();
    }
  }

  #call(method: string, params: Record<string, unknown>): Promise<unknown> {
    return new Promise((resolve, reject) => this.#request(method, params, { resolve, reject }));
  }

  /** For a method that only a server has that is current. It is sent at once, because it may have to come right after a spawn. */
  async #callCurrent(what: string, method: string, params: Record<string, unknown>): Promise<unknown> {
    const refusal = new NotSupported(`${this.#name} cannot ${what}`);
    if (this.#isCurrent === false) throw refusal;
    try {
      return await this.#call(method, params);
    } catch (error) {
      throw error instanceof RpcError && !this.#isCurrent ? refusal : error;
    }
  }

  /** `needs` is what only a server that is current can do. An older one ignores what it does not know. */
  #request(method: string, params: Record<string, unknown>, call: Call, needs?: string): void {
    if (this.#gone !== undefined || this.#closing) {
      call.reject(this.#gone ?? new ServerGone("the connection is closed"));
      return;
    }
    if (needs !== undefined && this.#isCurrent === undefined) this.#queue ??= [];
    if (this.#queue !== undefined) {
      // Requests are sent in their order.
      this.#queue.push(() => this.#request(method, params, call, needs));
      return;
    }
    if (needs !== undefined && !this.#isCurrent) {
      call.reject(new NotSupported(`${this.#name} cannot ${needs}`));
      return;
    }
    const id = ++this.#lastId;
    const line = `${JSON.stringify({ id, method, params })}\n`;
    if (line.length > this.#maxMessage / 4 && Buffer.byteLength(line) > this.#maxMessage) {
      call.reject(new RangeError(`a request is longer than the server's limit of ${this.#maxMessage} bytes`));
      return;
    }
    this.#calls.set(id, call);
    this.#input.write(line);
    this.#flow();
    this.#hold();
  }

  /** Stops reading the connection while too much output lies unread. */
  #flow(): void {
    const most = this.#maxUnread + (this.#calls.size > 0 ? ANSWER_SLACK_BYTES : 0);
    const stop = this.#unread > most && !this.#ending;
    if (stop !== this.#output.isPaused()) {
      if (stop) this.#output.pause();
      else this.#output.resume();
    }
  }

  /** Keeps this program running while there is a reason. */
  #hold(): void {
    const busy = this.#calls.size > 0 || this.#refs.size > 0;
    const held = !this.#over && (busy || this.#gone !== undefined || this.#closing || this.#awaited);
    if (held === this.#held) return;
    this.#held = held;
    for (const part of [this.#child, this.#input, this.#output] as { ref?(): void; unref?(): void }[]) {
      if (held) part.ref?.();
      else part.unref?.();
    }
  }

  #read(chunk: Buffer): void {
    let start = 0;
    for (let end = chunk.indexOf(10); end >= 0 && this.#gone === undefined; end = chunk.indexOf(10, start)) {
      this.#partial.push(chunk.subarray(start, end));
      const line = this.#partial.length === 1 ? this.#partial[0]! : Buffer.concat(this.#partial);
      this.#partial = [];
      this.#partialBytes = 0;
      start = end + 1;
      this.#take(line.toString("utf8"));
    }
    if (this.#gone === undefined && start < chunk.length) {
      this.#partial.push(chunk.subarray(start));
      this.#partialBytes += chunk.length - start;
      if (this.#partialBytes > MAX_MESSAGE_BYTES) this.#break(`sent a message of more than ${MAX_MESSAGE_BYTES} bytes`);
    }
    // Possible only while the server ends, when reading does not stop for unread output.
    if (this.#unread > this.#maxUnread + 2 * ANSWER_SLACK_BYTES) this.#break("sent more output at its end than can be kept");
    this.#flow();
    this.#hold();
  }

  #take(line: string): void {
    let message: unknown;
    try {
      message = JSON.parse(line);
    } catch {
      message = undefined;
    }
    if (!isObject(message)) {
      this.#break(`sent a line that is not a JSON-RPC message: "${quote(line)}"`);
      return;
    }
    const { id, method, error } = message;
    if (typeof method === "string") {
      this.#notify(method, isObject(message["params"]) ? message["params"] : {});
      return;
    }
    const failure = isObject(error) ? new RpcError(number(error["code"]), quote(error["message"]), error["data"]) : undefined;
    if (failure !== undefined && typeof id !== "number" && typeof id !== "string") {
      // The server could not read a request, and does not know which.
      this.#break(`could not read a request: ${failure.message}`);
      return;
    }
    const call = this.#calls.get(id as number);
    if (call === undefined) return;
    this.#calls.delete(id as number);
    if (failure === undefined) call.resolve(message["result"]);
    else call.reject(failure);
  }

  #notify(method: string, params: Untrusted): void {
    const handle = String(params["processHandle"]);
    const running = this.#live.get(handle);
    if (running === undefined) return;
    // Each message is delivered in its own microtask: in order, after the promises of earlier answers, and
    // so that an exception of one listener does not stop the delivery of other messages.
    if (method === "process/outputDelta") {
      queueMicrotask(() => running._output(params));
    } else if (method === "process/exited") {
      this.#forget(handle);
      queueMicrotask(() => running._exited(params));
    }
  }

  #forget(handle: string): void {
    this.#live.delete(handle);
    this.#refs.delete(handle);
    this.#hold();
  }

  #break(reason: string): void {
    this.#end(reason);
    this.#partial = [];
    this.#child.kill();
    setTimeout(() => this.#over || this.#child.kill("SIGKILL"), SERVER_EXIT_WAIT_MS).unref();
  }

  #end(reason: string): void {
    if (this.#gone !== undefined) return;
    const gone = new ServerGone(this.#closing ? "the connection is closed" : `${this.#name} ${reason}`);
    this.#gone = gone;
    for (const call of this.#calls.values()) call.reject(gone);
    this.#calls.clear();
    for (const running of this.#live.values()) {
      // The caller of `close` expects it.
      if (this.#closing) running.exited.catch(() => {});
      queueMicrotask(() => running._failed(gone));
    }
    this.#live.clear();
    this.#refs.clear();
    this.#hold();
  }
}

/** What a process needs of its server. */
interface Connection {
  /** How many bytes one write may carry. */
  chunk(): number;
  call(method: string, params: Record<string, unknown>): Promise<unknown>;
  /** For a method that only a server has that is current; `what` says what it does. */
  callCurrent(what: string, method: string, params: Record<string, unknown>): Promise<unknown>;
  /** Whether it is, or the handshake is not over yet. */
  mayBeCurrent(): boolean;
  list(): Promise<Listed[]>;
  changeUnread(bytes: number): void;
  ref(wanted: boolean): void;
}

interface CheckedFile {
  file: string;
  append: boolean;
}

/** Where a stream of a program goes. */
interface Wiring {
  /** A number is the descriptor of a regular file of this program. */
  entry: "pipe" | "ignore" | "stdout" | number | CheckedFile | Readable | Writable;
  /** Ignored by one of our options: the process has a stream that has ended, and not null. */
  ended: boolean;
}

/** What a process is started with. */
interface Plan {
  handle: string;
  argv: string[];
  cwd: string | undefined;
  tty: boolean;
  stdio: [Wiring, Wiring, Wiring];
  encoding: BufferEncoding | undefined;
  signal: AbortSignal | undefined;
  timeout: number;
  killSignal: string | number;
  /** How long after the signal of the timeout what is left is killed, if that is not the server's to do. */
  graceMs: number | undefined;
}

interface ProcessEvents {
  /** It runs, and `pid` is set. */
  spawn: [];
  /** It could not be started, a signal could not be sent, its `signal` was aborted, or its server is gone. */
  error: [error: Error];
  /** It has ended; its streams may still hold output. */
  exit: [code: number | null, signal: string | null];
  /** It has ended, and so have its streams. Also follows "error"; `code` is the `errno` if it could not be started. */
  close: [code: number | null, signal: string | null];
}

export type StreamName = "stdout" | "stderr";

/** A program on a server, used like a `ChildProcess`. With `stdio`, streams may be null. */
export class Process<Missing extends null = never> extends EventEmitter {
  readonly spawnfile: string;
  readonly spawnargs: string[];
  /** Writes wait until the program has read enough. Ended from the start with `stdin: "ignore"`. */
  readonly stdin: Writable | Missing;
  /**
   * Ended from the start with `stdout: "ignore"`. When this is destroyed, the program's pipe has no reader
   * any more: at its next write it gets SIGPIPE or EPIPE. A terminal, or an older server, cannot do that: if
   * the program writes on, its process group gets SIGHUP (SIGPIPE on a pipe), and if it still writes a
   * second later, it and everything it started is killed.
   */
  readonly stdout: Readable | Missing;
  /** As `stdout`. Ended from the start on a terminal. */
  readonly stderr: Readable | Missing;
  /** `stdin`, `stdout` and `stderr`. */
  readonly stdio: [Writable | Missing, Readable | Missing, Readable | Missing];
  /** How it ended. Rejects if it could not be started, was aborted, or its server is gone. */
  readonly exited: Promise<Exit>;
  /** Known from "spawn" on. */
  pid: number | undefined;
  /** null while it runs, and if a signal has killed it; negative if it could not be started. */
  exitCode: number | null = null;
  signalCode: string | null = null;
  /** Whether this client sent it a signal. */
  killed = false;
  /** There is no IPC channel. */
  readonly connected = false;

  readonly #connection: Connection;
  readonly #plan: Plan;
  readonly #input: Input;
  readonly #outputs: Record<StreamName, Output | undefined>;
  /** What outputs are written into, by the descriptor that names it. */
  readonly #files = new Map<number, Writable>();
  /** How many bytes of each stream have come. */
  readonly #received: Record<StreamName, number> = { stdout: 0, stderr: 0 };
  #over = false;
  /** It could not be started, was aborted, or its server is gone. */
  #failure: Error | undefined;
  /** How many calls of `expect` and `waitFor` there are. */
  #waits = 0;
  #timedOut = false;
  /** Removes timers and listeners when it ends. */
  #unwatch: () => void = () => {};
  #resolve!: (exit: Exit) => void;
  #reject!: (error: Error) => void;

  /** Use `Server.spawn`. */
  constructor(connection: Connection, plan: Plan) {
    super();
    this.#connection = connection;
    this.#plan = plan;
    this.spawnfile = plan.argv[0] ?? "";
    this.spawnargs = plan.argv;
    this.exited = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    const [stdin, stdout, stderr] = plan.stdio;
    const isFed = !(stdin.entry === "ignore" || isServerFile(stdin.entry));
    this.#input = new Input(connection, () => this.#over || !isFed);
    if (!isFed) this.#input.destroy();
    this.#outputs = { stdout: this.#connect("stdout", stdout), stderr: plan.tty ? undefined : this.#connect("stderr", stderr) };
    const shown = (wiring: Wiring, output: Output | undefined): Readable | null => {
      if (wiring.entry === "pipe") return output ?? Readable.from([]);
      return wiring.ended ? Readable.from([]) : null;
    };
    const all = [
      stdin.entry === "pipe" || stdin.ended ? this.#input : null,
      shown(stdout, this.#outputs.stdout),
      shown(stderr, this.#outputs.stderr),
    ] as [Writable | Missing, Readable | Missing, Readable | Missing];
    this.stdio = all;
    [this.stdin, this.stdout, this.stderr] = all;
    if (typeof stdin.entry === "number") this.#feedFrom(openAgain(stdin.entry, "read") as Readable, true);
    else if (isFed && typeof stdin.entry !== "string") this.#feedFrom(stdin.entry as Readable);
    if (plan.signal !== undefined) this.#watch(plan.signal);
  }

  /**
   * Sends a signal to its process group, by default SIGTERM: a name, or a number of the server's machine.
   * Returns true if the program has not ended yet; 0 sends nothing. It does not wait for the server: "exit"
   * follows if the program ends, and "error" if the signal cannot be sent.
   */
  kill(signal: string | number = "SIGTERM"): boolean {
    const wanted = toSignal(signal);
    if (this.#over) return false;
    if (wanted === 0) return true;
    this.killed = true;
    this.#signal({ signal: wanted }).catch((error: unknown) => {
      const data = error instanceof RpcError ? errnoOf(error.data) : undefined;
      const { code = "UNKNOWN", errno = 0 } = data ?? {};
      const failure = Object.assign(new Error(`kill ${code}`, { cause: error }), { code, errno: -errno, syscall: "kill" });
      if (this.listenerCount("error") > 0) this.emit("error", failure);
    });
    return true;
  }

  /**
   * Kills it and everything it started. With `graceMs`, its group gets `signal` first, and that many
   * milliseconds to end. Resolves to true when the server has done so, to false if it or the server had ended.
   */
  killTree(graceMs?: number, signal: string | number = "SIGTERM"): Promise<boolean> {
    const params = graceMs === undefined ? {} : { signal: toSignal(signal), graceMs };
    if (!this.#over) this.killed = true;
    return quiet(this.#signal(params));
  }

  /** Resizes its terminal. */
  resize(rows: number, cols: number): Promise<void> {
    return quiet(this.#connection.call("process/resizePty", { size: { rows, cols } }).then(() => {}));
  }

  /**
   * Waits until its output has one of the patterns, and returns which it was, the match, and what came before
   * it. Output is searched from the start, or from after the last match, and is taken from the stream up to
   * the end of the match: what follows is left for the next reader. A listener for "data" or a pipe gets all
   * of the output nevertheless, and what it got before the first `expect` is not searched. A pattern is tried
   * whenever output comes, so one that ends in `.*` or `$` may match a part of a line. Rejects with a
   * `WaitError` if the stream ends or the time is up.
   */
  expect(patterns: string | RegExp | readonly (string | RegExp)[], options: WaitOptions = {}): Promise<Found> {
    return quiet(this.#await(this.#expect(patterns, options)));
  }

  async #expect(patterns: string | RegExp | readonly (string | RegExp)[], options: WaitOptions): Promise<Found> {
    const wanted = (Array.isArray(patterns) ? patterns : [patterns]) as (string | RegExp)[];
    for (const pattern of wanted) {
      if (typeof pattern !== "string" && !(pattern instanceof RegExp)) throw wrongType("patterns", "of type string or RegExp", pattern);
    }
    const { stream, timeout } = readWait(options);
    const output = this.#outputs[stream ?? "stdout"];
    if (output === undefined) throw wrongValue(`The ${stream ?? "stdout"} of this process is not read`, patterns);
    return output.search.find(wanted, timeout);
  }

  /**
   * Waits for the first of the conditions to hold, as the server sees it: what was written before it got this
   * request is not looked at, and right after `spawn` that is nothing. A string is a text that the program
   * writes. Takes nothing from the streams. Rejects with a `WaitError` if the time is up, or if the program
   * ends and none of them can hold any more.
   */
  waitFor(conditions: string | Condition | readonly (string | Condition)[], options: WaitOptions = {}): Promise<Waited> {
    return quiet(this.#await(this.#waitFor(conditions, options)));
  }

  async #waitFor(conditions: string | Condition | readonly (string | Condition)[], options: WaitOptions): Promise<Waited> {
    const wanted = (Array.isArray(conditions) ? conditions : [conditions]) as (string | Condition)[];
    const { stream, timeout } = readWait(options);
    const params: Record<string, unknown> = { until: wanted.map(toCondition) };
    if (stream !== undefined) params["stream"] = stream;
    if (timeout > 0) params["timeoutMs"] = timeout;
    const exit = wanted.findIndex((condition) => typeof condition === "object" && "exit" in condition);
    let answer: unknown;
    try {
      answer = this.#over ? undefined : await this.#connection.callCurrent("wait for a condition", "process/wait", params);
    } catch (error) {
      // Requests for what has exited are refused.
      if (!(error instanceof RpcError && error.code === INVALID_REQUEST)) throw error;
    }
    const held: Untrusted = isObject(answer) ? answer : {};
    const { index, stream: where, offset } = held;
    if (typeof index === "number") {
      return where === undefined ? { index } : { index, stream: where === "stderr" ? "stderr" : "stdout", offset: number(offset) };
    }
    if (held["timedOut"] === true) throw new WaitError("ETIMEDOUT", `the time is up: ${quote(inspect(wanted))} did not come`);
    if (answer === undefined && exit >= 0) return { index: exit };
    throw new WaitError("EOF", `the program has ended: ${quote(inspect(wanted))} did not come`);
  }

  /** If the program fails, that is what the one that waits is told, and `exited` need not tell it as well. */
  async #await<T>(awaited: Promise<T>): Promise<T> {
    this.#waits += 1;
    try {
      return await awaited;
    } catch (error) {
      if (this.#failure !== undefined || error instanceof ServerGone) this.exited.catch(() => {});
      throw this.#failure ?? error;
    } finally {
      this.#waits -= 1;
    }
  }

  /** What the server's machine shows of it now: what it has started, its terminal, whether it waits for input. */
  inspect(): Promise<Inspection> {
    return quiet(this.#connection.callCurrent("inspect a program", "process/inspect", {}) as Promise<Inspection>);
  }

  /** Lets this program end while it runs. That ends the connection, which kills it unless it is `detached`. */
  unref(): void {
    this.#connection.ref(false);
  }

  /** Keeps this program running until it has ended, which is the default. */
  ref(): void {
    this.#connection.ref(true);
  }

  /** The lines of its stdout, without their ends. Leaving the loop destroys stdout. */
  async *[Symbol.asyncIterator](): AsyncGenerator<string, void, undefined> {
    const { stdout } = this;
    if (stdout === null) throw wrongValue("The stdout of this process is not read", stdout);
    const decoder = new TextDecoder();
    let line = "";
    for await (const chunk of stdout as AsyncIterable<Buffer | string>) {
      const lines = (typeof chunk === "string" ? chunk : decoder.decode(chunk, { stream: true })).split("\n");
      lines[0] = line + lines[0];
      line = lines.pop()!;
      for (const whole of lines) yield whole.endsWith("\r") ? whole.slice(0, -1) : whole;
    }
    line += decoder.decode();
    if (line !== "") yield line;
  }

  /** Sends SIGTERM, unless a signal was sent before. */
  [Symbol.dispose](): void {
    if (!this.killed) this.kill();
  }

  /** Kills it and everything it started, and waits until it has ended. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.killTree();
    await this.exited.catch(() => {});
  }

  /** @internal */
  _started(pid: unknown): void {
    if (typeof pid === "number") this.pid = pid;
    const { timeout, killSignal, graceMs } = this.#plan;
    if (timeout > 0) {
      const end = (): void => {
        this.#timedOut = !this.#over;
        if (graceMs === undefined) this.kill(killSignal);
        else void this.killTree(graceMs, killSignal);
      };
      const timer = setTimeout(end, Math.min(timeout, 2 ** 31 - 1)).unref();
      const before = this.#unwatch;
      this.#unwatch = () => {
        before();
        clearTimeout(timer);
      };
    }
    this.emit("spawn");
  }

  /** @internal */
  _output(params: Untrusted): void {
    const name = params["stream"] === "stderr" ? "stderr" : "stdout";
    const output = this.#outputs[name];
    const base64 = params["deltaBase64"];
    const chunk = Buffer.from(typeof base64 === "string" ? base64 : "", "base64");
    this.#received[name] += chunk.length;
    if (output === undefined) return;
    if (!output.destroyed) output.feed(chunk);
    else if (chunk.length > 0) this.#refuse(output, number(params["offset"], Infinity) + chunk.length);
    // The stream has ended, and the program goes on.
    if (params["eof"] === true) output.finish();
  }

  /** @internal */
  _exited(params: Untrusted): void {
    const usage = isObject(params["usage"]) ? params["usage"] : {};
    const signal = typeof params["signal"] === "string" ? quote(params["signal"]) : null;
    const code = signal === null ? number(params["exitCode"]) : null;
    const timedOut = this.#timedOut || params["timedOut"] === true;
    this.#finish();
    this.exitCode = code;
    this.signalCode = signal;
    if (timedOut) this.killed = true;
    for (const output of Object.values(this.#outputs)) output?.finish();
    // If a write is left, the server refuses it, and that error ends the stream.
    if (this.#input.writableLength === 0) this.#input.destroy();
    const omitted = (name: StreamName): number => Math.max(0, number(params[`${name}Bytes`]) - this.#received[name]);
    // A codex app-server sends the code alone.
    this.#resolve({
      code,
      signal,
      coreDumped: params["coreDumped"] === true,
      timedOut,
      durationMs: number(params["durationMs"]),
      userMs: number(usage["userMs"]),
      systemMs: number(usage["systemMs"]),
      maxRssBytes: number(usage["maxRssBytes"]),
      stdoutBytes: number(params["stdoutBytes"]),
      stderrBytes: number(params["stderrBytes"]),
      stdoutOmittedBytes: omitted("stdout"),
      stderrOmittedBytes: omitted("stderr"),
      drainTimedOut: params["outputDrainTimedOut"] === true,
    });
    this.#closeWhenRead();
    this.#dropUnread();
    this.emit("exit", code, signal);
  }

  /** @internal */
  _failed(error: Error): void {
    const data = error instanceof RpcError ? (errnoOf(error.data) ?? errnoIn(error)) : undefined;
    const failure = data === undefined ? error : new SpawnError(this.#plan.argv, data, this.#named(), error);
    this.#failure ??= failure;
    this.#finish();
    // Without an error: "error" of the process has it, and a source that is piped in does not handle one.
    this.#input.destroy();
    for (const stream of new Set([this.stdout, this.stderr, this.#outputs.stdout, this.#outputs.stderr])) {
      // A reader must not take this for the end of the output. Without a listener the error would be thrown.
      stream?.destroy(stream.listenerCount("error") > 0 ? failure : undefined);
    }
    if (failure instanceof SpawnError) this.exitCode = failure.errno;
    this.#closeWhenRead();
    this.#tell(failure);
  }

  /** What was asked for, by the stage that it may fail in. */
  #named(): Record<string, string | undefined> {
    const [stdin, stdout, stderr] = this.#plan.stdio.map(({ entry }) => (isServerFile(entry) ? entry.file : undefined));
    return { cwd: this.#plan.cwd, stdin, stdout, stderr };
  }

  /** As in Node, an error without a listener is thrown, here by `exited`; with one, it is not thrown again. */
  #tell(failure: Error): void {
    this.#failure ??= failure;
    this.#reject(failure);
    if (this.#waits > 0) this.exited.catch(() => {});
    if (this.listenerCount("error") > 0) {
      this.exited.catch(() => {});
      this.emit("error", failure);
    }
  }

  /** Resolves to false if the process or its server has ended. */
  async #signal(params: Record<string, unknown>): Promise<boolean> {
    if (this.#over) return false;
    try {
      await this.#connection.call("process/kill", params);
      return true;
    } catch (error) {
      if (isOver(error)) return false;
      throw error;
    }
  }

  #watch(signal: AbortSignal): void {
    const abort = (): void => {
      if (this.kill(this.#plan.killSignal)) this.#tell(new AbortError(signal.reason));
    };
    if (signal.aborted) {
      process.nextTick(abort);
      return;
    }
    signal.addEventListener("abort", abort, { once: true });
    this.#unwatch = () => signal.removeEventListener("abort", abort);
  }

  /** Pipes a stream into the program until the program ends. */
  #feedFrom(source: Readable, own = false): void {
    const end = (): void => void this.#input.end();
    this.#input.on("error", () => {}); // As with a descriptor, a broken pipe is the program's affair.
    if (source.readableEnded || source.destroyed) return end();
    source.pipe(this.#input);
    source.once("close", end);
    this.#unwatch = () => {
      source.unpipe(this.#input);
      source.off("close", end);
      if (own) source.destroy();
    };
  }

  #connect(name: StreamName, { entry }: Wiring): Output | undefined {
    if (entry === "ignore" || entry === "stdout" || isServerFile(entry)) return undefined;
    const output = new Output(
      name,
      (bytes) => this.#over || this.#connection.changeUnread(bytes),
      () => void this.#closeOutput(name),
    );
    if (typeof entry === "number") this.#write(output, entry);
    else if (typeof entry !== "string") output.pipe(entry as Writable, { end: false });
    else if (this.#plan.encoding !== undefined) output.setEncoding(this.#plan.encoding);
    return output;
  }

  /** Writes an output into a file of this program; two outputs that name one descriptor into one. */
  #write(output: Output, descriptor: number): void {
    const file = this.#files.get(descriptor) ?? (openAgain(descriptor, "write") as Writable);
    this.#files.set(descriptor, file);
    file.on("error", () => output.destroy()); // What writes more has no reader then.
    output.pipe(file, { end: false });
    output.once("close", () => {
      const open = Object.values(this.#outputs).some((other) => other !== undefined && !other.closed);
      if (!open) file.end();
    });
  }

  /** An output was destroyed: from now on the program's pipe has no reader. */
  async #closeOutput(name: StreamName): Promise<void> {
    if (this.#over) return;
    if (!this.#plan.tty && this.#connection.mayBeCurrent()) {
      try {
        await this.#connection.call("process/closeOutput", { stream: name });
        return;
      } catch {
        // It may be over, or the server does not know the method.
      }
    }
    await this.#measure(name);
  }

  /** Asks how much the program had written when an output was destroyed, which is not a reason to signal it. */
  async #measure(name: StreamName): Promise<void> {
    const output = this.#outputs[name];
    if (this.#over || output === undefined) return;
    output.ownedBytes = Infinity;
    try {
      const listed = (await this.#connection.list()).find(({ processHandle }) => processHandle === this.#plan.handle);
      output.ownedBytes = number(listed?.[`${name}Bytes`]);
    } catch (error) {
      if (this.#over || error instanceof ServerGone) return;
      output.ownedBytes = 0; // The server has no `process/list`.
    }
    this.#refuse(output, output.lastByte);
  }

  /** A destroyed output has got data up to `lastByte`: signals the program if it wrote after the destroy. */
  #refuse(output: Output, lastByte: number): void {
    output.lastByte = Math.max(output.lastByte, lastByte);
    if (this.#over || output.lastByte <= output.ownedBytes) return;
    const { warned } = output;
    output.warned = true;
    void quiet(this.#signal(warned ? {} : { signal: this.#plan.tty ? "SIGHUP" : "SIGPIPE" }));
    // What comes until then was written before the signal arrived; anything later is a reason to kill.
    output.ownedBytes = Infinity;
    setTimeout(() => (output.ownedBytes = -1), SIGPIPE_WAIT_MS).unref();
  }

  /** Called before "exit" and "error" are emitted, because their listeners may throw. */
  #closeWhenRead(): void {
    const close = (): void => {
      // As in Node, all is in a file by then, also in one of the caller's.
      const files = new Set(this.#plan.stdio.map(({ entry }) => entry).filter((entry) => entry instanceof WriteStream));
      let unwritten = files.size + 1;
      const written = (): unknown => --unwritten === 0 && this.emit("close", this.exitCode, this.signalCode);
      for (const file of files) whenWritten(file, written);
      written();
    };
    const open = [...Object.values(this.#outputs), ...this.#files.values()].filter((stream) => stream !== undefined && !stream.closed);
    let left = open.length;
    if (left === 0) process.nextTick(close);
    for (const stream of open) stream?.once("close", () => --left === 0 && close());
  }

  /**
   * Drops output that is not read, as Node does at the exit, so that "close" and "end" come; but only where
   * there is a listener for them. Otherwise it is kept for a later reader.
   */
  #dropUnread(): void {
    const outputs = Object.values(this.#outputs).filter((output) => output !== undefined && !output.readableEnded);
    if (outputs.length === 0) return;
    // Later than the promise of the exit, so that its handlers can start to read.
    const drop = (): void =>
      void setImmediate(() => {
        for (const output of outputs) {
          const ends = (output?.listenerCount("end") ?? 0) > 0;
          if (ends || this.listenerCount("close") > 0) output?.resume();
        }
      });
    drop();
    (this as EventEmitter).on("newListener", (event) => event === "close" && drop());
  }

  /** Its unread output does not grow any more, and is not counted any more. */
  #finish(): void {
    const unread = (this.#outputs.stdout?.unread ?? 0) + (this.#outputs.stderr?.unread ?? 0);
    this.#connection.changeUnread(-unread);
    this.#over = true;
    this.#unwatch();
  }
}

export interface Process<Missing extends null = never> {
  on<K extends keyof ProcessEvents>(event: K, listener: (...args: ProcessEvents[K]) => void): this;
  once<K extends keyof ProcessEvents>(event: K, listener: (...args: ProcessEvents[K]) => void): this;
  off<K extends keyof ProcessEvents>(event: K, listener: (...args: ProcessEvents[K]) => void): this;
  emit<K extends keyof ProcessEvents>(event: K, ...args: ProcessEvents[K]): boolean;
}

/** A stream that a program writes. */
class Output extends Readable {
  /** Bytes that were received and not read, with their overhead. */
  unread = 0;
  /** After a `destroy`: how many bytes the program may write without a signal; those from before it. */
  ownedBytes = Infinity;
  /** After a `destroy`: the position up to which output was received. */
  lastByte = 0;
  /** The program got a signal because of that. */
  warned = false;
  readonly search: Search;
  readonly #changeUnread: (bytes: number) => void;
  readonly #onDestroyed: () => void;
  readonly #chunks: Buffer[] = [];
  #wanted = false;
  #finished = false;

  constructor(name: StreamName, changeUnread: (bytes: number) => void, onDestroyed: () => void) {
    super();
    this.search = new Search(name, this);
    this.#changeUnread = changeUnread;
    this.#onDestroyed = onDestroyed;
  }

  feed(chunk: Buffer): void {
    if (chunk.length === 0) return;
    this.#chunks.push(chunk);
    this.#count(chunk.length + CHUNK_OVERHEAD_BYTES);
    this.#serve();
  }

  finish(): void {
    this.#finished = true;
    this.#serve();
  }

  override _read(): void {
    this.#wanted = true;
    this.#serve();
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    this.#chunks.length = 0;
    this.#count(-this.unread);
    if (!this.#finished) this.#onDestroyed();
    callback(error);
  }

  #serve(): void {
    while (this.#wanted && this.#chunks.length > 0) {
      const chunk = this.#chunks.shift()!;
      this.#count(-chunk.length - CHUNK_OVERHEAD_BYTES);
      this.#wanted = this.push(chunk);
    }
    if (this.#finished && this.#chunks.length === 0 && !this.readableEnded && !this.destroyed) {
      this.#wanted = false;
      this.push(null);
      // An empty stream ends without a reader.
      if (this.readableLength === 0) this.resume();
    }
  }

  #count(bytes: number): void {
    this.unread += bytes;
    this.#changeUnread(bytes);
  }
}

/** What `expect` does with one stream. */
class Search {
  readonly #name: StreamName;
  readonly #stream: Readable;
  /** The `expect` before. */
  #turn: Promise<unknown> = Promise.resolve();
  /** What came after the last match, where another reader takes the output; undefined where none does. */
  #seen: Searched | undefined;
  #onSeen: () => void = () => {};

  constructor(name: StreamName, stream: Readable) {
    this.#name = name;
    this.#stream = stream;
  }

  /** Those that wait together find one match after the other. */
  find(patterns: (string | RegExp)[], timeoutMs: number): Promise<Found> {
    const found = this.#turn.then(() => this.#find(patterns, timeoutMs));
    this.#turn = found.catch(() => {});
    return quiet(found);
  }

  #find(patterns: (string | RegExp)[], timeoutMs: number): Promise<Found> {
    const stream = this.#stream;
    if (stream.listenerCount("data") > 0 || stream.readableFlowing === true) this.#watch();
    const shared = this.#seen !== undefined;
    const searched = this.#seen ?? new Searched();
    return new Promise((resolve, reject) => {
      let timer: NodeJS.Timeout | undefined;
      const settle = (): void => {
        clearTimeout(timer);
        this.#onSeen = () => {};
        stream.off("readable", take);
        stream.off("end", end);
        stream.off("close", end);
      };
      const look = (): boolean => {
        const found = searched.find(patterns);
        if (found === undefined) return false;
        settle();
        this.#putBack(searched.takeTo(found.match.index + found.match[0].length), shared);
        resolve(found);
        return true;
      };
      const take = (): void => {
        for (let chunk; (chunk = stream.read() as Buffer | string | null) !== null; ) {
          searched.add(chunk);
          if (look()) return;
        }
      };
      const fail = (code: "ETIMEDOUT" | "EOF", why: string): void => {
        settle();
        const before = searched.text;
        if (code === "ETIMEDOUT") this.#putBack(searched.takeTo(0), shared);
        reject(new WaitError(code, `${why}: ${quote(inspect(patterns))} did not come on ${this.#name}`, before));
      };
      const end = (): void => {
        if (!look()) fail("EOF", "the output has ended");
      };
      if (look()) return;
      if (stream.readableEnded || stream.destroyed) return fail("EOF", "the output has ended");
      if (timeoutMs > 0) timer = setTimeout(() => fail("ETIMEDOUT", "the time is up"), Math.min(timeoutMs, 2 ** 31 - 1));
      if (shared) this.#onSeen = look;
      else stream.on("readable", take);
      stream.once("end", end);
      stream.once("close", end);
    });
  }

  /** Another reader takes the output: from now on all that it gets is looked at as well. */
  #watch(): void {
    if (this.#seen !== undefined) return;
    const seen = (this.#seen = new Searched());
    this.#stream.on("data", (chunk: Buffer | string) => {
      seen.add(chunk);
      this.#onSeen();
    });
  }

  /** Leaves what was not matched to the next reader. */
  #putBack(left: (Buffer | string)[], shared: boolean): void {
    if (shared) return left.forEach((chunk) => this.#seen?.add(chunk));
    // A listener for "data" that was added meanwhile has got it.
    const seen = this.#stream.listenerCount("data") > 0;
    if (seen) this.#watch();
    for (const chunk of left.reverse()) {
      if (seen) this.#seen?.add(chunk);
      else if (chunk.length > 0) this.#stream.unshift(chunk, this.#stream.readableEncoding ?? undefined);
    }
  }
}

/** Output that is searched, as text, and the chunks it came in. */
class Searched {
  text = "";
  #pieces: { chunk: Buffer | string; characters: number }[] = [];
  /** The beginning of a character. */
  #unfinished = Buffer.alloc(0);

  add(added: Buffer | string): void {
    let chunk = added;
    if (typeof chunk !== "string") {
      const all = Buffer.concat([this.#unfinished, chunk]);
      chunk = all.subarray(0, all.length - unfinishedBytes(all));
      this.#unfinished = all.subarray(chunk.length);
    }
    const text = chunk.toString();
    this.text += text;
    this.#pieces.push({ chunk, characters: text.length });
    while (this.text.length > MAX_SEARCHED && this.#pieces.length > 1) {
      this.text = this.text.slice(this.#pieces.shift()!.characters);
    }
  }

  /** The match that begins first, and of several the one whose pattern comes first. */
  find(patterns: (string | RegExp)[]): Found | undefined {
    let found: Found | undefined;
    for (const [index, pattern] of patterns.entries()) {
      const match = typeof pattern === "string" ? this.#findText(pattern) : this.#findMatch(pattern);
      if (match !== null && (found === undefined || match.index < found.match.index)) {
        found = { index, match, before: this.text.slice(0, match.index) };
      }
    }
    return found;
  }

  /** Forgets everything, and returns what is after so many characters. */
  takeTo(characters: number): (Buffer | string)[] {
    const left: (Buffer | string)[] = [];
    let before = 0;
    for (const { chunk, characters: length } of this.#pieces) {
      const skipped = Math.min(Math.max(characters - before, 0), length);
      before += length;
      if (skipped === length) continue;
      left.push(typeof chunk === "string" ? chunk.slice(skipped) : chunk.subarray(bytesOf(chunk, skipped)));
    }
    if (this.#unfinished.length > 0) left.push(this.#unfinished);
    this.text = "";
    this.#pieces = [];
    this.#unfinished = Buffer.alloc(0);
    return left;
  }

  #findText(pattern: string): RegExpExecArray | null {
    const index = this.text.indexOf(pattern);
    return index < 0 ? null : (Object.assign([pattern], { index, input: this.text }) as unknown as RegExpExecArray);
  }

  /** Where a pattern of flag g or y has been before does not matter. */
  #findMatch(pattern: RegExp): RegExpExecArray | null {
    return new RegExp(pattern.source, pattern.flags.replace(/[gy]/g, "")).exec(this.text);
  }
}

/** The stdin of a program. */
class Input extends Writable {
  /** As in Node, where this is a socket. */
  readonly readable = false;
  readonly #connection: Connection;
  readonly #over: () => boolean;

  constructor(connection: Connection, over: () => boolean) {
    super({ highWaterMark: MAX_WRITE_BYTES, decodeStrings: true });
    this.#connection = connection;
    this.#over = over;
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: (error?: Error | null) => void): void {
    this.#send(chunk).then(() => callback(), callback);
  }

  override _writev(
    chunks: { chunk: Buffer; encoding: BufferEncoding }[],
    callback: (error?: Error | null) => void,
  ): void {
    this.#send(Buffer.concat(chunks.map(({ chunk }) => chunk))).then(() => callback(), callback);
  }

  override _final(callback: (error?: Error | null) => void): void {
    this.#call({ closeStdin: true }).then(
      () => callback(),
      () => callback(), // It is closed already.
    );
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    // As with a pipe, the program gets end-of-file after what was written.
    if (!this.writableFinished && !this.#over()) this.#call({ closeStdin: true }).catch(() => {});
    callback(error);
  }

  async #send(bytes: Buffer): Promise<void> {
    for (let start = 0, end; start < bytes.length; start = end) {
      end = start + this.#connection.chunk();
      await this.#call({ deltaBase64: bytes.subarray(start, end).toString("base64") });
    }
  }

  async #call(params: Record<string, unknown>): Promise<void> {
    try {
      if (this.#over()) throw new RpcError(INVALID_REQUEST, "the program has ended");
      await this.#connection.call("process/writeStdin", params);
    } catch (error) {
      if (!(error instanceof RpcError)) throw error;
      throw Object.assign(new Error("write EPIPE", { cause: error }), { code: "EPIPE", errno: -32, syscall: "write" });
    }
  }
}

/** The options of a spawn, after they were checked. */
interface Checked {
  cwd: string | undefined;
  env: Record<string, string | null>;
  stdio: [Wiring, Wiring, Wiring];
  tty: boolean;
  size: Size | undefined;
  timeout: number;
  graceMs: number | undefined;
  killSignal: string | number;
  signal: AbortSignal | undefined;
  outputCap: number | undefined;
  keep: SpawnOptions["keep"];
  limits: Record<string, number> | undefined;
  inheritEnv: boolean | readonly string[];
  detached: boolean;
  encoding: BufferEncoding | undefined;
}

/** Checks the arguments of `spawn`, with Node's errors. */
function readArguments(command: unknown, second: unknown, third: unknown): { argv: string[]; options: Checked } {
  if (typeof command !== "string") throw wrongType("file", "of type string", command);
  if (command === "") throw wrongValue("The argument 'file' cannot be empty", command);
  noNul("The argument 'file'", command);
  const isOptions = second != null && !Array.isArray(second);
  if (isOptions && typeof second !== "object") throw wrongType("args", "an array", second);
  const given = isOptions ? second : third === undefined ? {} : third;
  if (!isObject(given)) throw wrongType("options", "of type object", given);
  checkNames(given, SPAWN_OPTIONS);
  const args = Array.isArray(second) ? second.map(String) : [];
  args.forEach((arg, index) => noNul(`The argument 'args[${index}]'`, arg));
  // A property of Object.prototype is not an option.
  const options = Object.assign(Object.create(null), given) as SpawnOptions;
  const { shell, signal, encoding } = options;
  if (shell != null && typeof shell !== "boolean" && typeof shell !== "string") {
    throw wrongType("options.shell", "of type boolean or string", shell);
  }
  if (typeof shell === "string") noNul("The property 'options.shell'", shell);
  if (signal !== undefined && (typeof signal !== "object" || signal === null || !("aborted" in signal))) {
    throw wrongType("options.signal", "an AbortSignal", signal);
  }
  if (options.detached != null && typeof options.detached !== "boolean") {
    throw wrongType("options.detached", "of type boolean", options.detached);
  }
  const file = shell === true ? "/bin/sh" : shell;
  const cwd = readCwd(options.cwd);
  const tty = options.tty ?? false;
  const inheritEnv = readInheritEnv(options.inheritEnv, options.env == null);
  return {
    argv: file ? [file, "-c", [command, ...args].join(" ")] : [command, ...args],
    options: {
      cwd,
      env: readEnv(options.env, tty, cwd, inheritEnv),
      inheritEnv,
      stdio: readStdio(options),
      tty,
      size: options.size,
      timeout: readUnsigned("timeout", options.timeout) ?? 0,
      graceMs: readUnsigned("timeoutGraceMs", options.timeoutGraceMs),
      killSignal: readKillSignal(options.killSignal),
      signal,
      outputCap: options.outputCap,
      keep: readKeep(options),
      limits: readLimits(options.limits),
      detached: options.detached ?? false,
      encoding: Buffer.isEncoding(encoding as string) ? (encoding as BufferEncoding) : undefined,
    },
  };
}

/** Options of `child_process` that are not supported, and why. */
const REFUSED: Record<string, string> = {
  uid: "programs run as the server's user",
  gid: "programs run with the server's group",
  argv0: "a program's argv[0] is its name",
};

function checkNames(options: object, known: object, prefix = "options"): void {
  for (const [name, value] of Object.entries(options)) {
    if (Object.hasOwn(known, name) || value == null) continue;
    const reason = Object.hasOwn(REFUSED, name) ? `is not supported: ${REFUSED[name]}` : "is not known";
    const isId = name === "uid" || name === "gid";
    const code = isId && value !== ((value as number) | 0) ? "ERR_INVALID_ARG_TYPE" : "ERR_INVALID_ARG_VALUE";
    throw nodeError(TypeError, code, `The property '${prefix}.${name}' ${reason}. Received ${inspect(value)}`);
  }
}

function readCwd(cwd: unknown): string | undefined {
  if (cwd == null || cwd === "") return undefined;
  const path = cwd instanceof URL ? fileURLToPath(cwd) : cwd;
  if (typeof path !== "string") throw wrongType("options.cwd", "of type string or an instance of URL", cwd);
  noNul("The property 'options.cwd'", path);
  return path;
}

function readInheritEnv(given: unknown, otherwise: boolean): boolean | readonly string[] {
  if (given == null) return otherwise;
  if (typeof given === "boolean") return given;
  if (Array.isArray(given) && given.every((name) => typeof name === "string")) return given as string[];
  throw wrongType("options.inheritEnv", "of type boolean or an array of strings", given);
}

/** Also keeps variables with the server's terminal's size and its directory's name from the program. */
function readEnv(
  given: unknown,
  tty: boolean,
  cwd: string | undefined,
  inherited: boolean | readonly string[],
): Record<string, string | null> {
  const env = Object.create(null) as Record<string, string | null>;
  const inherits = (name: string): boolean =>
    typeof inherited === "boolean"
      ? inherited
      : inherited.some((entry) => (entry.endsWith("*") ? name.startsWith(entry.slice(0, -1)) : name === entry));
  for (const name of tty ? ["COLUMNS", "LINES"] : []) if (inherits(name)) env[name] = null;
  if (cwd !== undefined && inherits("PWD")) env["PWD"] = cwd;
  if (given == null) return env;
  if (!isObject(given)) throw wrongType("options.env", "of type object", given);
  for (const name in given) {
    const value = given[name];
    noNul("A name in 'options.env'", name);
    if (value != null) noNul(`The property 'options.env['${name}']'`, String(value));
    env[name] = value == null ? null : String(value);
  }
  return env;
}

function readKeep({ keep, outputCap }: SpawnOptions): SpawnOptions["keep"] {
  if (keep == null || keep === "head" || keep === "tail") return keep ?? undefined;
  if (!isObject(keep)) throw wrongValue('The property \'options.keep\' must be "head", "tail" or { head, tail }', keep);
  if (outputCap != null) throw wrongValue("The property 'options.keep' with head and tail excludes outputCap", keep);
  checkNames(keep, { head: true, tail: true }, "options.keep");
  const { head, tail } = keep as { head: number; tail: number };
  return { head: readUnsigned("keep.head", head) ?? 0, tail: readUnsigned("keep.tail", tail) ?? 0 };
}

function readLimits(given: unknown): Record<string, number> | undefined {
  if (given == null) return undefined;
  if (!isObject(given)) throw wrongType("options.limits", "of type object", given);
  checkNames(given, LIMITS, "options.limits");
  const limits: Record<string, number> = {};
  for (const [name, value] of Object.entries(given)) {
    if (value == null) continue;
    if (!Number.isSafeInteger(value)) {
      throw nodeError(RangeError, "ERR_OUT_OF_RANGE", `The value of "limits.${name}" is out of range. It must be an integer. Received ${inspect(value)}`);
    }
    limits[name] = value as number;
  }
  return limits;
}

function isServerFile(entry: unknown): entry is CheckedFile {
  return isObject(entry) && "file" in entry && typeof entry["pipe"] !== "function" && typeof entry["write"] !== "function";
}

function isRegularFile(descriptor: unknown): boolean {
  try {
    return typeof descriptor === "number" && fstatSync(descriptor).isFile();
  } catch {
    return false; // It is not open.
  }
}

/** Calls back when all that was written to a file is in it. */
function whenWritten(file: WriteStream, done: () => void): void {
  if (file.destroyed || file.writableLength === 0) done();
  else if (file.writableEnded) file.once("close", done);
  else file.write("", () => done());
}

/**
 * A stream on the file of a descriptor, from where that is now. As in Node, the caller may close its own as
 * soon as the program is spawned.
 */
function openAgain(descriptor: number, mode: "read" | "write"): Readable | Writable {
  // On other systems it is a duplicate, which has the same position.
  const facts = process.platform === "linux" ? readFileSync(`/proc/self/fdinfo/${descriptor}`, "utf8") : "";
  const append = parseInt(/^flags:\s*([0-7]+)/m.exec(facts)?.[1] ?? "0", 8) & constants.O_APPEND;
  const position = /^pos:\s*([0-9]+)/m.exec(facts)?.[1];
  const start = append || position === undefined ? {} : { start: Number(position) };
  const fd = openSync(`/dev/fd/${descriptor}`, mode === "read" ? constants.O_RDONLY : constants.O_WRONLY | append);
  return mode === "read" ? createReadStream("", { fd, ...start }) : createWriteStream("", { fd, ...start });
}

function readFile(name: string, entry: Untrusted): CheckedFile {
  const { file, append } = entry;
  checkNames(entry, { file: true, append: true }, name);
  const path = file instanceof URL ? fileURLToPath(file) : file;
  if (typeof path !== "string") throw wrongType(`${name}.file`, "of type string or an instance of URL", file);
  noNul(`The property '${name}.file'`, path);
  if (!path.startsWith("/")) throw wrongValue(`The property '${name}.file' must be absolute: it is a path of the server's machine`, path);
  if (append != null && typeof append !== "boolean") throw wrongType(`${name}.append`, "of type boolean", append);
  return { file: path, append: append ?? false };
}

function readStdio(options: SpawnOptions): [Wiring, Wiring, Wiring] {
  const { tty, mergeStderr } = options;
  if (mergeStderr != null && typeof mergeStderr !== "boolean") throw wrongType("options.mergeStderr", "of type boolean", mergeStderr);
  const stdio = readEntries(options);
  if (options.detached && stdio.some(({ entry }) => typeof entry === "number")) {
    // It outlives this program, and would lose it without notice.
    throw wrongValue("The property 'options.detached' excludes descriptors, which are piped by this program: use { file, append }", true);
  }
  const [, stdout, stderr] = stdio;
  if (mergeStderr) {
    if (stderr.entry !== "pipe" && stderr.entry !== "stdout") {
      throw wrongValue("The property 'options.mergeStderr' excludes another place for stderr", mergeStderr);
    }
    stderr.entry = "stdout";
    stderr.ended = options.stdio == null;
  }
  if (tty) {
    if (stdio.some(({ entry }) => isServerFile(entry))) throw wrongValue("The property 'options.tty' excludes files", tty);
    // On a terminal all output is one stream.
    if (stderr.entry === "stdout") stderr.entry = "pipe";
  } else if (stderr.entry === "stdout" && stdout.entry === "ignore") {
    stderr.entry = "ignore";
  } else if (isServerFile(stdout.entry) && isServerFile(stderr.entry) && stdout.entry.file === stderr.entry.file) {
    // Opened twice, they would overwrite each other.
    stderr.entry = "stdout";
  }
  return stdio;
}

function readEntries({ stdio, stdin, stdout, stderr }: SpawnOptions): [Wiring, Wiring, Wiring] {
  const own = [stdin, stdout, stderr];
  if (stdio == null) {
    return own.map((entry, index) => {
      const name = `options.${["stdin", "stdout", "stderr"][index]}`;
      if (isServerFile(entry)) return { entry: readFile(name, entry as unknown as Untrusted), ended: true };
      if (entry != null && entry !== "pipe" && entry !== "ignore" && !(entry === "stdout" && index === 2)) {
        throw wrongValue(`The property '${name}' must be "pipe" or "ignore", or a file of the server's machine`, entry);
      }
      return { entry: entry ?? "pipe", ended: entry != null && entry !== "pipe" };
    }) as [Wiring, Wiring, Wiring];
  }
  if (own.some((entry) => entry != null)) throw wrongValue("The property 'options.stdio' excludes stdin, stdout and stderr", stdio);
  const named = ["pipe", "overlapped", "ignore", "inherit"];
  if (!Array.isArray(stdio) && !named.includes(stdio as string)) throw wrongValue("The property 'options.stdio' is invalid", stdio);
  const entries = (Array.isArray(stdio) ? stdio : [stdio, stdio, stdio]) as unknown[];
  if (entries.filter((entry) => entry === "ipc").length > 1) {
    throw nodeError(Error, "ERR_IPC_ONE_PIPE", "Child process can have only one IPC pipe");
  }
  if (entries.slice(3).some((entry) => entry != null && entry !== "ignore")) throw wrongValue("The property 'options.stdio' can have three entries: there are no other descriptors", stdio);
  const streams = (): unknown[] => [process.stdin, process.stdout, process.stderr];
  return [0, 1, 2].map((index) => {
    let entry: unknown = entries[index] ?? "pipe";
    const name = `options.stdio[${index}]`;
    if (isServerFile(entry)) return { entry: readFile(name, entry as unknown as Untrusted), ended: false };
    if (entry === "stdout" && index === 2) return { entry, ended: false };
    if (entry === "inherit") entry = streams()[index];
    else if (entry === 0 || entry === 1 || entry === 2) entry = streams()[entry];
    else if (entry === "overlapped") entry = "pipe";
    else if (isRegularFile(entry)) return { entry: entry as number, ended: false };
    const fits = isObject(entry) && typeof entry[index === 0 ? "pipe" : "write"] === "function";
    if (!fits && entry !== "pipe" && entry !== "ignore") {
      throw wrongValue(`The property '${name}' is not supported: descriptors and messages do not reach a server`, entry);
    }
    return { entry: entry as Wiring["entry"], ended: false };
  }) as [Wiring, Wiring, Wiring];
}

/** An integer that is not negative. */
function readUnsigned(name: string, value: unknown): number | undefined {
  if (value == null) return undefined;
  if (Number.isSafeInteger(value) && (value as number) >= 0) return value as number;
  throw nodeError(RangeError, "ERR_OUT_OF_RANGE", `The value of "${name}" is out of range. It must be an unsigned integer. Received ${inspect(value)}`);
}

function readWait({ stream, timeout }: WaitOptions): { stream: StreamName | undefined; timeout: number } {
  if (stream != null && stream !== "stdout" && stream !== "stderr") {
    throw wrongValue("The property 'options.stream' must be \"stdout\" or \"stderr\"", stream);
  }
  return { stream: stream ?? undefined, timeout: readUnsigned("timeout", timeout) ?? 0 };
}

/** A condition as the protocol has it. */
function toCondition(condition: string | Condition): Record<string, unknown> {
  if (typeof condition === "string") return { text: condition };
  if (!isObject(condition)) throw wrongType("conditions", "of type string or object", condition);
  checkNames(condition, { text: true, bytes: true, quiet: true, eof: true, exit: true, input: true }, "condition");
  const { bytes, quiet: quietMs, ...others } = condition as Untrusted;
  if (bytes instanceof Uint8Array) return { ...others, bytesBase64: Buffer.from(bytes).toString("base64") };
  if (bytes != null) throw wrongType("condition.bytes", "an instance of Uint8Array", bytes);
  return quietMs == null ? others : { ...others, quietMs: readUnsigned("condition.quiet", quietMs) };
}

/** How many bytes at the end of a chunk begin a UTF-8 character that goes on after it. */
function unfinishedBytes(chunk: Buffer): number {
  for (let back = 1; back <= Math.min(3, chunk.length); back += 1) {
    const byte = chunk[chunk.length - back]!;
    if ((byte & 0xc0) === 0x80) continue;
    const length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
    return length > back ? back : 0;
  }
  return 0;
}

/** How many bytes of a chunk so many characters of its text take. */
function bytesOf(chunk: Buffer, characters: number): number {
  let [least, most] = [0, chunk.length];
  if (characters === 0) return 0;
  // The longest beginning that has no more characters than that.
  while (least < most) {
    const middle = Math.ceil((least + most) / 2);
    if (chunk.toString("utf8", 0, middle).length <= characters) least = middle;
    else most = middle - 1;
  }
  return least;
}

function readKillSignal(signal: unknown): string | number {
  if (signal == null) return "SIGTERM";
  if (typeof signal !== "string" && typeof signal !== "number") throw wrongType("options.killSignal", "of type string or number", signal);
  return toSignal(signal);
}

/** A signal as the protocol has it. */
function toSignal(signal: unknown): string | number {
  if (typeof signal === "number" && Number.isInteger(signal) && signal >= 0 && signal <= 64) {
    return signal === 9 ? "SIGKILL" : signal;
  }
  const name = String(signal).toUpperCase().replace(/^SIG/, "");
  const same = name === "IOT" ? "ABRT" : name === "POLL" ? "IO" : name;
  if (typeof signal === "string" && SIGNALS.has(same)) return `SIG${same}`;
  throw nodeError(TypeError, "ERR_UNKNOWN_SIGNAL", `Unknown signal: ${String(signal)}`);
}

function makeExec(server: Server): Exec {
  const exec = (command: unknown, ...rest: unknown[]): Process => {
    if (typeof command !== "string") throw wrongType("command", "of type string", command);
    const { options, callback } = splitExec([[], ...rest]);
    return collect(server, command, [], { ...options, shell: options.shell || true }, callback);
  };
  return withPromise(exec) as Exec;
}

function makeExecFile(server: Server): ExecFile {
  const execFile = (file: unknown, ...rest: unknown[]): Process => {
    const { args, options, callback } = splitExec(rest);
    return collect(server, file as string, args, options, callback);
  };
  return withPromise(execFile) as ExecFile;
}

/** The arguments of `execFile` after the program; each may be left out. */
function splitExec(rest: readonly unknown[]): { args: unknown[]; options: ExecOptions; callback: ExecCallback | undefined } {
  const left = [...rest];
  const args = Array.isArray(left[0]) || left[0] == null ? (left.shift() ?? []) : [];
  const options = typeof left[0] === "function" ? {} : (left.shift() ?? {});
  if (!isObject(options)) throw wrongType("options", "of type object", options);
  const callback = left.shift() ?? undefined;
  if (callback !== undefined && typeof callback !== "function") throw wrongType("callback", "of type function", callback);
  return { args: args as unknown[], options, callback: callback as ExecCallback | undefined };
}

function withPromise(run: (...args: unknown[]) => Process): object {
  const promised = (...args: unknown[]): ExecPromise => {
    let settle: ExecCallback = () => {};
    const promise = new Promise<{ stdout: string; stderr: string }>((resolve, reject) => {
      settle = (error, stdout, stderr) => {
        if (error === null) resolve({ stdout, stderr } as { stdout: string; stderr: string });
        else reject(Object.assign(error, { stdout, stderr }));
      };
    });
    // Not inside the promise, because the caller must get what this throws.
    return Object.assign(promise, { child: run(...args, settle) });
  };
  return Object.defineProperty(run, promisify.custom, { value: promised });
}

/** Starts a program, collects its output and calls back. */
function collect(server: Server, file: string, args: unknown[], given: ExecOptions, callback?: ExecCallback): Process {
  const { encoding, maxBuffer, ...options } = { encoding: "utf8" as const, maxBuffer: MAX_BUFFER_BYTES, ...given };
  if (typeof maxBuffer !== "number" || !(maxBuffer >= 0)) {
    throw nodeError(RangeError, "ERR_OUT_OF_RANGE", `The value of "options.maxBuffer" is out of range. It must be a positive number. Received ${inspect(maxBuffer)}`);
  }
  for (const name of ["stdio", "stdout", "stderr"]) {
    if (name in options) throw wrongValue(`The property 'options.${name}' is not for what collects output`, name);
  }
  const text = Buffer.isEncoding(encoding as string);
  const child: Process = server.spawn(file, args, { ...options, encoding });
  const command = [file, ...args].join(" ");
  const kept: Record<StreamName, (string | Buffer)[]> = { stdout: [], stderr: [] };
  let failure: Error | undefined;
  let told = false;

  /** The caller may have set an encoding on the stream. */
  const joined = (name: StreamName): string | Buffer => {
    const pieces = kept[name];
    return text || typeof pieces[0] === "string" ? pieces.join("") : Buffer.concat(pieces as Buffer[]);
  };
  const tell = (code: number | null, signal: string | null): void => {
    if (told) return;
    told = true;
    const [stdout, stderr] = [joined("stdout"), joined("stderr")];
    if (failure === undefined && code === 0 && signal === null) return callback?.(null, stdout, stderr);
    failure ??= Object.assign(new Error(`Command failed: ${command}\n${stderr}`), {
      code: code !== null && code < 0 ? getSystemErrorName(code) : code,
      killed: child.killed,
      signal,
    });
    callback?.(Object.assign(failure, { cmd: command }), stdout, stderr);
  };
  const fail = (error: Error): void => {
    failure ??= error;
    for (const stream of [child.stdout, child.stderr]) stream.destroy();
  };

  for (const name of ["stdout", "stderr"] as const) {
    let length = 0;
    child[name].on("data", (chunk: string | Buffer) => {
      if (failure !== undefined) return;
      const size = Buffer.byteLength(chunk);
      length += size;
      if (length <= maxBuffer) return void kept[name].push(chunk);
      kept[name].push(chunk.slice(0, maxBuffer - (length - size)));
      const error = nodeError(RangeError, "ERR_CHILD_PROCESS_STDIO_MAXBUFFER", `${name} maxBuffer length exceeded`);
      // What ignores that, and that it has no reader any more, is killed all the same.
      void child.killTree(SIGPIPE_WAIT_MS, options.killSignal ?? "SIGTERM");
      fail(error);
    });
  }
  child.on("error", (error) => {
    fail(error);
    tell(null, null);
  });
  child.on("close", tell);
  return child;
}

function isObject(value: unknown): value is Untrusted {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function number(value: unknown, otherwise = 0): number {
  return typeof value === "number" && Number.isFinite(value) ? value : otherwise;
}

/** Makes a promise that may be ignored: its rejection is not an unhandled one. */
function quiet<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {});
  return promise;
}

/** Text of the server for an error message: control and bidirectional characters escaped, cut at 200 characters. */
function quote(text: unknown): string {
  let quoted = "";
  for (const character of String(text).slice(0, 2 * MAX_QUOTED)) {
    const plain = !/[\p{C}\p{Zl}\p{Zp}]/u.test(character);
    const piece = plain ? character : `\\u{${character.codePointAt(0)?.toString(16)}}`;
    if (quoted.length + piece.length > MAX_QUOTED) return `${quoted}…`;
    quoted += piece;
  }
  return quoted;
}

/** Whether a request failed because the process or its server has ended. */
function isOver(error: unknown): boolean {
  return error instanceof ServerGone || (error instanceof RpcError && error.code === INVALID_REQUEST);
}

/** The errno in the data of an error, if it has one. */
function errnoOf(data: unknown): SystemError | undefined {
  if (!isObject(data) || typeof data["errno"] !== "number") return undefined;
  const { errno, code, stage, limit } = data;
  return {
    errno,
    code: /^E[A-Z0-9]{1,30}$/.test(String(code)) ? String(code) : "UNKNOWN",
    stage: quote(stage ?? ""),
    limit: limit == null ? undefined : quote(limit),
  };
}

/** The errno in the text of an error: a codex app-server sends no data. */
function errnoIn({ code, message }: RpcError): SystemError | undefined {
  const errno = Number(/\(os error ([0-9]{1,4})\)$/.exec(message)?.[1]);
  if (code !== INTERNAL_ERROR || !(errno > 0)) return undefined;
  return { errno, code: getSystemErrorName(-errno), stage: "", limit: undefined };
}

/** An error like Node's own, whose text includes the code. */
function nodeError(Kind: ErrorConstructor, code: string, message: string): NodeJS.ErrnoException {
  const error = Object.assign(new Kind(message), { code });
  const toString = (): string => `${error.name} [${code}]: ${error.message}`;
  return Object.defineProperty(error, "toString", { value: toString, enumerable: false });
}

function wrongType(name: string, wanted: string, value: unknown): Error {
  const kind = name.includes(".") ? "property" : "argument";
  return nodeError(TypeError, "ERR_INVALID_ARG_TYPE", `The "${name}" ${kind} must be ${wanted}. Received ${inspect(value)}`);
}

function wrongValue(what: string, value: unknown): Error {
  return nodeError(TypeError, "ERR_INVALID_ARG_VALUE", `${what}. Received ${inspect(value)}`);
}

function noNul(what: string, value: string): void {
  if (value.includes("\0")) throw wrongValue(`${what} must be a string without null bytes`, value);
}
