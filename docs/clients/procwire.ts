/**
 * Programs through a procwire server, in the shape of `node:child_process`.
 *
 *     import { Server } from "./procwire.js";
 *     const server = new Server();
 *     const hello = server.spawn("echo", ["hello"]);
 *     hello.stdout.pipe(process.stdout);
 *     hello.on("close", () => server.close());
 *
 * `new Server()` starts `procwire` (or what the variable PROCWIRE says);
 * `new Server(["ssh", "host", "procwire"])` starts programs over there. One server carries any number
 * of programs. When it is closed, or this program ends, everything it has started is gone.
 *
 * One file, no dependencies, Node 18 or newer: copy it into your project.
 */

import { type ChildProcess, spawn as spawnChild } from "node:child_process";
import { EventEmitter } from "node:events";
import { Readable, Writable } from "node:stream";

/** What one write to a program's stdin carries at most. The server answers a write when there is room for the next one. */
const CHUNK = 256 * 1024;
/** What may lie unread in the streams of running programs before the connection is read no further. */
const UNREAD = 64 * 1024 * 1024;

/** How many milliseconds are left for the rest when a server has exited, or has closed its output. */
const REST = 2_000;

export interface ServerOptions {
  /** The directory of the server's process. */
  cwd?: string;
  /** The environment of the server's process. */
  env?: NodeJS.ProcessEnv;
  /** Where the server's logs go. */
  stderr?: "inherit" | "ignore";
  /**
   * How many bytes of output may lie unread in all. Past that the connection is not read, unless a
   * request waits for its answer: programs that write then wait until somebody reads. Read what you
   * have asked for, `resume()` it, or ask for "ignore".
   */
  maxUnread?: number;
}

export interface SpawnOptions {
  /** A directory of the server's machine, absolute. */
  cwd?: string;
  /** Laid over the server's environment; null and undefined remove a variable. */
  env?: Record<string, string | null | undefined>;
  /** "pipe" if left out: a program that reads to the end of its input waits for `stdin.end()`. */
  stdin?: "pipe" | "ignore";
  /** "pipe" if left out. */
  stdout?: "pipe" | "ignore";
  /** "pipe" if left out. */
  stderr?: "pipe" | "ignore";
  /** Gives it a terminal: all output comes on `stdout`, and ending `stdin` types end-of-file. */
  tty?: boolean;
  /** Of the terminal. */
  size?: Size;
  /** After so many milliseconds the server kills it. */
  timeout?: number;
  /** Drops what is more than so many bytes of a stream. */
  outputCap?: number;
  /** Lets it outlive the connection. */
  detached?: boolean;
}

export interface Size {
  rows: number;
  cols: number;
}

/** How a program ended, and what it used. */
export interface Exit {
  /** null if a signal has ended it. */
  code: number | null;
  /** The name of that signal. */
  signal: string | null;
  coreDumped: boolean;
  timedOut: boolean;
  durationMs: number;
  userMs: number;
  systemMs: number;
  maxRssBytes: number;
  stdoutBytes: number;
  stderrBytes: number;
  /** Something kept an output open for two seconds after the exit. */
  drainTimedOut: boolean;
}

/** What `list` tells of a program. */
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

/** What the server says about itself. A codex app-server says neither. */
export interface Info {
  serverInfo?: { name: string; version: string };
  limits?: { maxMessageBytes: number } & Record<string, unknown>;
}

/** The server has refused a request. */
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

/** A program could not be started; `code`, `errno`, `syscall` and `path` are as Node has them. */
export class SpawnError extends Error {
  readonly code: string;
  readonly errno: number;
  readonly syscall: string;
  readonly path: string;
  /** What failed: "cwd", "lookup", "exec", "pty", "pipe" or "thread". */
  readonly stage: string;

  constructor(message: string, data: { errno: number; code: string; stage: string; program: string }) {
    super(message);
    this.name = "SpawnError";
    this.code = data.code;
    this.errno = -data.errno;
    this.syscall = `spawn ${data.program}`;
    this.path = data.program;
    this.stage = data.stage;
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

interface Call {
  resolve: (result: unknown) => void;
  reject: (error: Error) => void;
}

/** A message of the server, as far as all of them are alike. */
interface Message {
  id?: number | null;
  result?: unknown;
  error?: { code: number; message: string; data?: unknown };
  method?: string;
  params?: Record<string, unknown>;
}

interface ExitedParams {
  exitCode: number;
  signal: string | null;
  coreDumped: boolean;
  timedOut: boolean;
  durationMs: number;
  usage: { userMs: number; systemMs: number; maxRssBytes: number };
  stdoutBytes: number;
  stderrBytes: number;
  outputDrainTimedOut: boolean;
}

/** For a codex app-server, which tells the code alone. */
const UNTOLD: Omit<ExitedParams, "exitCode"> = {
  signal: null,
  coreDumped: false,
  timedOut: false,
  durationMs: 0,
  usage: { userMs: 0, systemMs: 0, maxRssBytes: 0 },
  stdoutBytes: 0,
  stderrBytes: 0,
  outputDrainTimedOut: false,
};

/** A procwire server and the connection to it. */
export class Server {
  /** What the server says about itself, its limits for one. Rejects if it is no server. */
  readonly info: Promise<Info>;
  /** Becomes true when the server has ended, however it did. */
  readonly ended: Promise<true>;

  readonly #child: ChildProcess;
  readonly #input: Writable;
  readonly #output: Readable;
  readonly #calls = new Map<number, Call>();
  readonly #live = new Map<string, Process>();
  readonly #maxUnread: number;
  #lastId = 0;
  #maxMessage = 16 * 1024 * 1024;
  #partial: Buffer[] = [];
  #unread = 0;
  #gone: ServerGone | undefined;
  #closing = false;
  /** There is not much left to come, and the end is behind it. */
  #ending = false;

  /** Starts `command`, which speaks the protocol on its stdin and stdout: a shell's, or a program with its arguments. */
  constructor(command: string | readonly string[] = process.env["PROCWIRE"] || ["procwire"], options: ServerOptions = {}) {
    const [program = "", ...args] = typeof command === "string" ? ["/bin/sh", "-c", `exec ${command}`] : command;
    this.#maxUnread = options.maxUnread ?? UNREAD;
    const child = spawnChild(program, args, {
      cwd: options.cwd,
      env: options.env,
      stdio: ["pipe", "pipe", options.stderr ?? "inherit"],
    });
    this.#child = child;
    this.#input = child.stdin;
    this.#output = child.stdout;
    child.stdin.on("error", () => {}); // The end of its output says the same.
    child.stdout.on("data", (chunk: Buffer) => this.#read(chunk));
    // Usually both come together, and "close" at once. But something else may hold its output open, and
    // a server that lives on without one is of no use.
    let timer: NodeJS.Timeout | undefined;
    const end = (reason: string): void => {
      timer ??= setTimeout(() => {
        this.#break(reason);
        child.stdout.destroy();
      }, REST);
    };
    child.stdout.on("end", () => end("the server has closed its output"));
    child.on("exit", (code, signal) => {
      this.#ending = true;
      this.#flow();
      end(`the server has ended with ${signal ?? code}`);
    });
    this.ended = new Promise((resolve) => {
      child.on("error", (error) => {
        this.#end(error.message);
        resolve(true);
      });
      child.on("close", (code, signal) => {
        clearTimeout(timer);
        this.#end(`the server has ended with ${signal ?? code}`);
        resolve(true);
      });
    });
    this.info = this.#call("initialize", { clientInfo: { name: "procwire.ts", version: "1" } }) as Promise<Info>;
    this.info.then(
      (info) => {
        this.#maxMessage = info?.limits?.maxMessageBytes ?? this.#maxMessage;
      },
      () => {}, // Whoever uses the server gets to know.
    );
  }

  /** Of the server's process, or of what leads to it. */
  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** Starts a program. Returns at once; "spawn" or "error" follows, as with a child process. */
  spawn(command: string, args: readonly string[] = [], options: SpawnOptions = {}): Process {
    const tty = options.tty ?? false;
    const stdin = options.stdin ?? "pipe";
    const handle = String(++this.#lastId);
    const silent = options.stdout === "ignore" && (tty || options.stderr === "ignore");
    const params: Record<string, unknown> = {
      command: [command, ...args],
      processHandle: handle,
      streamStdin: stdin === "pipe",
      streamStdoutStderr: true,
      // Output of which nothing is wanted is not sent in the first place.
      outputBytesCap: silent ? 0 : (options.outputCap ?? null),
      timeoutMs: options.timeout ?? null,
    };
    if (options.cwd !== undefined) params["cwd"] = options.cwd;
    if (options.env !== undefined) {
      params["env"] = Object.fromEntries(Object.entries(options.env).map(([name, value]) => [name, value ?? null]));
    }
    if (tty) params["tty"] = true;
    if (options.size !== undefined) params["size"] = options.size;
    if (options.detached) params["detach"] = true;

    const wanted = { stdin: stdin === "pipe", stdout: options.stdout !== "ignore", stderr: !tty && options.stderr !== "ignore" };
    const connection: Connection = {
      // In base64, with some room for what is around it.
      chunk: () => Math.min(CHUNK, Math.floor(this.#maxMessage / 2)),
      call: (method, more) => this.#call(method, { processHandle: handle, ...more }),
      changeUnread: (bytes) => {
        this.#unread += bytes;
        this.#flow();
      },
    };
    const started = new Process(connection, [command, ...args], wanted);
    this.#live.set(handle, started);
    this.#request("process/spawn", params, {
      resolve: (result) => queueMicrotask(() => started._started((result as { pid?: number } | null)?.pid)),
      reject: (error) => {
        this.#live.delete(handle);
        queueMicrotask(() => started._failed(error));
      },
    });
    return started;
  }

  /** What is running, oldest first. */
  async list(): Promise<Listed[]> {
    return ((await this.#call("process/list", {})) as { processes: Listed[] }).processes;
  }

  /** Ends the connection: everything it has started is killed. Waits until the server has ended. */
  async close(): Promise<void> {
    this.#closing = this.#ending = true;
    this.#flow();
    this.#input.end();
    // The server needs three seconds at most.
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), 10_000);
    await this.ended;
    clearTimeout(timer);
  }

  #call(method: string, params: Record<string, unknown>): Promise<unknown> {
    return new Promise((resolve, reject) => this.#request(method, params, { resolve, reject }));
  }

  #request(method: string, params: Record<string, unknown>, call: Call): void {
    if (this.#gone !== undefined || this.#closing) {
      call.reject(this.#gone ?? new ServerGone("the connection is closed"));
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
  }

  /** Reads the connection, or does not. An answer that is waited for is read whatever lies unread. */
  #flow(): void {
    const stop = this.#unread > this.#maxUnread && this.#calls.size === 0 && !this.#ending;
    if (stop !== this.#output.isPaused()) {
      if (stop) this.#output.pause();
      else this.#output.resume();
    }
  }

  #read(chunk: Buffer): void {
    let start = 0;
    for (let end = chunk.indexOf(10); end >= 0 && this.#gone === undefined; end = chunk.indexOf(10, start)) {
      this.#partial.push(chunk.subarray(start, end));
      const line = this.#partial.length === 1 ? this.#partial[0]! : Buffer.concat(this.#partial);
      this.#partial = [];
      start = end + 1;
      this.#take(line.toString("utf8"));
    }
    if (start < chunk.length) this.#partial.push(chunk.subarray(start));
    this.#flow();
  }

  #take(line: string): void {
    let message: Message;
    try {
      message = JSON.parse(line) as Message;
      if (message === null || typeof message !== "object") throw new SyntaxError("not an object");
    } catch {
      this.#break(`it said what is no message of the protocol: ${JSON.stringify(line.slice(0, 200))}`);
      return;
    }
    if (message.method === undefined) {
      // It could not read a request, and whose that was nobody knows.
      if (message.error !== undefined && message.id === null) this.#break(`the server says: ${message.error.message}`);
      const call = this.#calls.get(message.id ?? 0);
      if (call === undefined) return;
      this.#calls.delete(message.id ?? 0);
      if (message.error === undefined) call.resolve(message.result);
      else call.reject(new RpcError(message.error.code, message.error.message, message.error.data));
      return;
    }
    const params = message.params ?? {};
    const handle = String(params["processHandle"]);
    const running = this.#live.get(handle);
    if (running === undefined) return;
    // A program is told everything in a microtask of its own: in the order of the messages, behind the
    // promises of the answers before it, and what a listener throws keeps nobody else from being told.
    if (message.method === "process/outputDelta") {
      const stream = params["stream"] === "stderr" ? "stderr" : "stdout";
      queueMicrotask(() => running._output(stream, String(params["deltaBase64"])));
    } else if (message.method === "process/exited") {
      this.#live.delete(handle);
      queueMicrotask(() => running._exited({ ...UNTOLD, ...(params as unknown as ExitedParams) }));
    }
  }

  #break(reason: string): void {
    this.#end(reason);
    this.#child.kill();
  }

  #end(reason: string): void {
    if (this.#gone !== undefined) return;
    const gone = new ServerGone(this.#closing ? "the connection is closed" : reason);
    this.#gone = gone;
    for (const call of this.#calls.values()) call.reject(gone);
    this.#calls.clear();
    for (const running of this.#live.values()) {
      // Whoever closes the connection need not be told.
      if (this.#closing) running.exited.catch(() => {});
      queueMicrotask(() => running._failed(gone));
    }
    this.#live.clear();
  }
}

/** What a program has of its server. */
interface Connection {
  /** How many bytes one write may carry. */
  chunk(): number;
  call(method: string, params: Record<string, unknown>): Promise<unknown>;
  changeUnread(bytes: number): void;
}

interface ProcessEvents {
  /** It runs, and `pid` is known. */
  spawn: [];
  /** It could not be started, or its server is gone. */
  error: [error: Error];
  /** It has ended; its streams may still hold output. */
  exit: [code: number | null, signal: string | null];
  /** It has ended, and its output has been read. Follows "error" too; `code` is its `errno` if it could not be started. */
  close: [code: number | null, signal: string | null];
}

/** A program that has been started; in use like a `ChildProcess`. */
export class Process extends EventEmitter {
  readonly spawnargs: readonly string[];
  /** Writes wait until the program has read enough. Ended from the start with `stdin: "ignore"`. */
  readonly stdin: Writable;
  /** At its end at once with `stdout: "ignore"`. */
  readonly stdout: Readable;
  /** At its end at once with `stderr: "ignore"`, and on a terminal. */
  readonly stderr: Readable;
  /** How it ended. Rejects if it could not be started, or its server is gone. */
  readonly exited: Promise<Exit>;
  pid: number | undefined;
  /** null while it runs, and if a signal has ended it; negative if it could not be started. */
  exitCode: number | null = null;
  signalCode: string | null = null;
  /** Whether a signal of ours has been sent. */
  killed = false;

  readonly #connection: Connection;
  readonly #outputs: { stdout: Output | undefined; stderr: Output | undefined };
  #over = false;
  #resolve!: (exit: Exit) => void;
  #reject!: (error: Error) => void;

  /** Use `Server.spawn`. */
  constructor(
    connection: Connection,
    spawnargs: readonly string[],
    wanted: { stdin: boolean; stdout: boolean; stderr: boolean },
  ) {
    super();
    this.#connection = connection;
    this.spawnargs = spawnargs;
    this.stdin = new Input(connection, () => this.#over);
    const output = (): Output => new Output((bytes) => this.#over || connection.changeUnread(bytes));
    this.#outputs = { stdout: wanted.stdout ? output() : undefined, stderr: wanted.stderr ? output() : undefined };
    this.stdout = this.#outputs.stdout ?? Readable.from([]);
    this.stderr = this.#outputs.stderr ?? Readable.from([]);
    if (!wanted.stdin) this.stdin.destroy();
    this.exited = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  /**
   * Sends a signal to its process group: a name or a number. Left out, it and everything it has
   * started is killed. With `graceMs` that follows if it is still there then. False if it has ended.
   */
  async kill(signal?: string | number, graceMs?: number): Promise<boolean> {
    if (this.#over) return false;
    try {
      await this.#connection.call("process/kill", { signal, graceMs });
    } catch (error) {
      if (isEnded(error)) return false;
      throw error;
    }
    this.killed = true;
    return true;
  }

  /** Resizes its terminal. */
  async resize(rows: number, cols: number): Promise<void> {
    await this.#connection.call("process/resizePty", { size: { rows, cols } });
  }

  /** @internal */
  _started(pid: number | undefined): void {
    this.pid = pid;
    this.emit("spawn");
  }

  /** @internal */
  _output(name: "stdout" | "stderr", base64: string): void {
    this.#outputs[name]?.feed(Buffer.from(base64, "base64"));
  }

  /** @internal */
  _exited(params: ExitedParams): void {
    const { signal, usage } = params;
    const code = signal === null ? params.exitCode : null;
    this.#finish();
    this.exitCode = code;
    this.signalCode = signal;
    for (const output of [this.#outputs.stdout, this.#outputs.stderr]) output?.finish();
    // A write that the program did not read has been refused, and its error ends the stream.
    if (this.stdin.writableLength === 0) this.stdin.destroy();
    this.#resolve({
      code,
      signal,
      coreDumped: params.coreDumped,
      timedOut: params.timedOut,
      durationMs: params.durationMs,
      userMs: usage.userMs,
      systemMs: usage.systemMs,
      maxRssBytes: usage.maxRssBytes,
      stdoutBytes: params.stdoutBytes,
      stderrBytes: params.stderrBytes,
      drainTimedOut: params.outputDrainTimedOut,
    });
    this.#closeWhenRead();
    this.emit("exit", code, signal);
  }

  /** @internal */
  _failed(error: Error): void {
    const failure = error instanceof RpcError && isSpawnFailure(error.data) ? new SpawnError(error.message, error.data) : error;
    this.#finish();
    // Whoever writes gets to know by "error" of the program: what is piped in listens, but does not handle.
    this.stdin.destroy();
    for (const stream of [this.stdout, this.stderr]) {
      // Whoever reads gets to know that this is no end of file; but a stream that nobody listens to is silent.
      stream.destroy(stream.listenerCount("error") > 0 ? failure : undefined);
    }
    if (failure instanceof SpawnError) this.exitCode = failure.errno;
    this.#closeWhenRead();
    this.#reject(failure);
    // As with a child process, what nobody handles is thrown; once is enough.
    if (this.listenerCount("error") > 0) {
      this.exited.catch(() => {});
      this.emit("error", failure);
    }
  }

  /** Comes before "exit" and "error" are told, of which a listener may throw. */
  #closeWhenRead(): void {
    const close = (): boolean => this.emit("close", this.exitCode, this.signalCode);
    const open = [this.#outputs.stdout, this.#outputs.stderr].filter((output) => output && !output.closed);
    let left = open.length;
    if (left === 0) process.nextTick(close);
    for (const output of open) output?.once("close", () => --left === 0 && close());
  }

  /** What is left to be read grows no more, so it does not count any more. */
  #finish(): void {
    const unread = (this.#outputs.stdout?.unread ?? 0) + (this.#outputs.stderr?.unread ?? 0);
    this.#connection.changeUnread(-unread);
    this.#over = true;
  }
}

export interface Process {
  on<K extends keyof ProcessEvents>(event: K, listener: (...args: ProcessEvents[K]) => void): this;
  once<K extends keyof ProcessEvents>(event: K, listener: (...args: ProcessEvents[K]) => void): this;
  off<K extends keyof ProcessEvents>(event: K, listener: (...args: ProcessEvents[K]) => void): this;
  emit<K extends keyof ProcessEvents>(event: K, ...args: ProcessEvents[K]): boolean;
}

/** A stream that a program writes. */
class Output extends Readable {
  /** What has come and was not read. */
  unread = 0;
  readonly #changeUnread: (bytes: number) => void;
  readonly #chunks: Buffer[] = [];
  #wanted = false;
  #finished = false;

  constructor(changeUnread: (bytes: number) => void) {
    super();
    this.#changeUnread = changeUnread;
  }

  feed(chunk: Buffer): void {
    if (this.destroyed || chunk.length === 0) return;
    this.#chunks.push(chunk);
    this.#count(chunk.length);
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
    callback(error);
  }

  #serve(): void {
    while (this.#wanted && this.#chunks.length > 0) {
      const chunk = this.#chunks.shift()!;
      this.#count(-chunk.length);
      this.#wanted = this.push(chunk);
    }
    if (this.#finished && this.#chunks.length === 0 && !this.readableEnded && !this.destroyed) {
      this.#wanted = false;
      this.push(null);
      // There is nothing to be read, so the end needs no reader.
      if (this.readableLength === 0) this.resume();
    }
  }

  #count(bytes: number): void {
    this.unread += bytes;
    this.#changeUnread(bytes);
  }
}

/** The stdin of a program. */
class Input extends Writable {
  readonly #connection: Connection;
  readonly #over: () => boolean;

  constructor(connection: Connection, over: () => boolean) {
    super({ highWaterMark: CHUNK, decodeStrings: true });
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
      () => callback(), // It is closed.
    );
  }

  async #send(bytes: Buffer): Promise<void> {
    for (let start = 0, end; start < bytes.length; start = end) {
      end = start + this.#connection.chunk();
      await this.#call({ deltaBase64: bytes.subarray(start, end).toString("base64") });
    }
  }

  async #call(params: Record<string, unknown>): Promise<void> {
    try {
      if (this.#over()) throw new RpcError(-32600, "the program has ended");
      await this.#connection.call("process/writeStdin", params);
    } catch (error) {
      if (!(error instanceof RpcError)) throw error;
      throw Object.assign(new Error(`write EPIPE: ${error.message}`), { code: "EPIPE", syscall: "write" });
    }
  }
}

function isEnded(error: unknown): boolean {
  return error instanceof RpcError && error.code === -32600 && error.message.startsWith("no active process");
}

function isSpawnFailure(data: unknown): data is { errno: number; code: string; stage: string; program: string } {
  return typeof data === "object" && data !== null && "errno" in data && "stage" in data;
}
