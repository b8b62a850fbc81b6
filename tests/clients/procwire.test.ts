// The TypeScript client against the real server, which the variable PROCWIRE names.
// `run` compiles both with the strictest types, side by side.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { test as nodeTest } from "node:test";
import { PassThrough, Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";

import { type Exit, type Process, RpcError, Server, ServerGone, type ServerOptions, SpawnError } from "./procwire.ts";

const PATIENCE = 30_000;
const NEVER: [string, string[]] = ["sleep", ["1000"]];

function test(name: string, body: (server: Server) => Promise<void>, options: ServerOptions = {}): void {
  nodeTest(name, { timeout: 2 * PATIENCE }, async () => {
    const server = new Server(undefined, options);
    try {
      await body(server);
    } finally {
      await server.close();
    }
  });
}

async function bytes(stream: Readable): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

async function text(stream: Readable): Promise<string> {
  return (await bytes(stream)).toString();
}

async function line(stream: Readable): Promise<string> {
  let seen = "";
  for (;;) {
    const chunk = stream.read(1) as Buffer | null;
    if (chunk === null) await once(stream, "readable");
    else if ((seen += chunk.toString("latin1")).endsWith("\n")) return seen;
  }
}

async function until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  for (const end = Date.now() + PATIENCE; !(await condition()); await sleep(2)) {
    assert.ok(Date.now() < end, `waited in vain until ${what}`);
  }
}

function isAlive(pid: number | undefined): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return !/\) [ZX] /.test(stat);
  } catch {
    return false;
  }
}

function firstChild(pid: number | undefined): number {
  return Number(readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ")[0]);
}

/** The process below the guard. */
function pidOfServer(server: Server): number {
  return firstChild(server.pid);
}

/** What waits for some requests, and then says all its messages in one piece. */
function fake(requests: number, messages: object[]): string[] {
  const script = `for i in $(seq ${requests}); do read line; done; printf '%s\\n' "$@"; read end`;
  return ["sh", "-c", script, "sh", ...messages.map((message) => JSON.stringify(message))];
}

nodeTest("the example runs as it is", { timeout: PATIENCE }, async () => {
  const source = readFileSync(new URL("../src/procwire.ts", import.meta.url), "utf8");
  const example = source.match(/(?:^ \* {5}.*\n)+/m)?.[0].replaceAll(/^ \* {5}/gm, "") ?? "";
  assert.equal(example.trimEnd().split("\n").length, 6);
  const file = new URL("./example.mjs", import.meta.url);
  writeFileSync(file, example.replace("procwire.ts", "procwire.js"));
  const { stdout, stderr } = await promisify(execFile)(process.execPath, [file.pathname]);
  assert.deepEqual([stdout, stderr], ["hello\n", ""]);
});

test("output and exit code of a program", async (server) => {
  const child = server.spawn("sh", ["-c", "echo out; echo err >&2; exit 3"]);
  const events: unknown[] = [];
  child.on("spawn", () => events.push(["spawn", typeof child.pid]));
  child.on("exit", (...args) => events.push(["exit", ...args]));
  child.on("close", (...args) => events.push(["close", ...args]));
  const closed = once(child, "close");
  assert.deepEqual([await text(child.stdout), await text(child.stderr)], ["out\n", "err\n"]);
  const exit: Exit = await child.exited;
  assert.equal(exit.code, 3);
  assert.deepEqual([exit.signal, exit.timedOut, exit.stdoutBytes, exit.stderrBytes], [null, false, 4, 4]);
  assert.ok(exit.maxRssBytes > 0);
  await closed;
  assert.deepEqual(events, [["spawn", "number"], ["exit", 3, null], ["close", 3, null]]);
  assert.deepEqual([child.exitCode, child.signalCode, child.killed], [3, null, false]);
  assert.deepEqual(child.spawnargs, ["sh", "-c", "echo out; echo err >&2; exit 3"]);
});

test("lines come as they are written", async (server) => {
  const child = server.spawn("sh", ["-c", "while read x; do echo got $x; done"], { stdin: "pipe" });
  for (const word of ["eins", "zwei", "drei"]) {
    child.stdin.write(`${word}\n`);
    assert.equal(await line(child.stdout), `got ${word}\n`);
  }
  child.stdin.end();
  assert.equal((await child.exited).code, 0);
});

test("directory and environment", async (server) => {
  const script = 'pwd; echo "$A-${HOME-unset}"';
  const child = server.spawn("sh", ["-c", script], { cwd: "/usr", env: { A: "b c", HOME: null } });
  assert.equal(await text(child.stdout), "/usr\nb c-unset\n");
  const other = server.spawn("sh", ["-c", script], { env: { HOME: undefined } });
  assert.match(await text(other.stdout), /\n-unset\n$/);
});

test("output can be dropped", async (server) => {
  const child = server.spawn("sh", ["-c", "echo out; echo err >&2"], { stdout: "ignore", stderr: "ignore" });
  assert.deepEqual([await text(child.stdout), await text(child.stderr)], ["", ""]);
  assert.equal((await child.exited).stdoutBytes, 4);
  const half = server.spawn("sh", ["-c", "echo out; echo err >&2"], { stdout: "ignore" });
  assert.equal(await text(half.stderr), "err\n");
  const capped = server.spawn("head", ["-c", "100000", "/dev/zero"], { outputCap: 1000 });
  assert.equal((await bytes(capped.stdout)).length, 1000);
  assert.equal((await capped.exited).stdoutBytes, 100_000);
});

test("what runs can be listed", async (server) => {
  const child = server.spawn(...NEVER);
  await once(child, "spawn");
  const [listed] = await server.list();
  assert.equal(listed?.pid, child.pid);
  assert.deepEqual(listed?.command, ["sleep", "1000"]);
  assert.equal((await server.info).serverInfo?.name, "procwire");
});

test("events come in the order of child_process", async (server) => {
  const child = server.spawn("sh", ["-c", "echo out; exit 3"]);
  const events: unknown[] = [];
  child.on("spawn", () => events.push(`spawn ${typeof child.pid}`));
  child.stdout.on("data", (chunk: Buffer) => events.push(`data ${chunk}`));
  child.stdout.on("end", () => events.push("end"));
  child.on("exit", (code) => events.push(`exit ${code}`));
  child.on("close", (code) => events.push(`close ${code}`));
  await once(child, "close");
  assert.deepEqual(events, ["spawn number", "data out\n", "exit 3", "end", "close 3"]);
});

nodeTest("what a listener throws is thrown, and stops nothing else", { timeout: PATIENCE }, async () => {
  const delta = (processHandle: string) => ({ method: "process/outputDelta", params: { processHandle, deltaBase64: "eA==" } });
  const exited = (processHandle: string) => ({
    method: "process/exited",
    params: { processHandle, exitCode: 0, signal: null, usage: {} },
  });
  const command = fake(3, [
    { id: 1, result: { limits: { maxMessageBytes: 1 << 20 } } },
    { id: 3, result: { pid: 7 } },
    { id: 5, result: { pid: 8 } },
    delta("2"),
    delta("4"),
    exited("2"),
    exited("4"),
  ]);
  const script = `import { Server } from ${JSON.stringify(new URL("./procwire.js", import.meta.url).href)};
    process.on("uncaughtException", (error) => console.log(error.message));
    const server = new Server(${JSON.stringify(command)});
    let open = 2;
    for (const name of ["a", "b"]) {
      const fail = (event) => () => { throw new Error(event + " " + name); };
      const child = server.spawn("x");
      child.stdout.on("data", fail("data"));
      for (const event of ["spawn", "exit"]) child.on(event, fail(event));
      child.on("close", () => --open || server.close());
    }`;
  const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "-e", script], {
    timeout: PATIENCE / 2,
  });
  assert.equal(stdout, "spawn a\nspawn b\ndata a\ndata b\nexit a\nexit b\n");
});

test("every byte comes back", async (server) => {
  const data = Buffer.from(Array.from({ length: 256 * 17 }, (_, index) => index % 256));
  const child = server.spawn("cat");
  child.stdin.end(data);
  assert.ok((await bytes(child.stdout)).equals(data));
});

test("megabytes go both ways", async (server) => {
  const block = randomBytes(1 << 20);
  const child = server.spawn("cat", [], { stdin: "pipe" });
  const sent = createHash("sha256");
  const fed = pipeline(
    Readable.from(
      (function* () {
        for (let count = 0; count < 48; count += 1) {
          sent.update(block);
          yield block;
        }
      })(),
    ),
    child.stdin,
  );
  const got = createHash("sha256");
  let length = 0;
  for await (const chunk of child.stdout as AsyncIterable<Buffer>) {
    got.update(chunk);
    length += chunk.length;
  }
  await fed;
  assert.equal(length, 48 << 20);
  assert.equal(got.digest("hex"), sent.digest("hex"));
  assert.equal((await child.exited).code, 0);
});

test("a program that does not read slows its writer alone", async (server) => {
  const child = server.spawn("sh", ["-c", "echo ready; sleep 1000"], { stdin: "pipe" });
  assert.equal(await line(child.stdout), "ready\n");
  const failure = once(child.stdin, "error");
  let written = 0;
  while (written < 64 << 20 && child.stdin.write(Buffer.alloc(1 << 18))) written += 1 << 18;
  assert.ok(written < 2 << 20, "write says when it is enough");
  for (let more = 0; more < 64; more += 1) child.stdin.write(Buffer.alloc(1 << 18));
  await until("stdin is full", async () => ((await server.list())[0]?.stdinPendingBytes ?? 0) > 1 << 20);
  for (let count = 0; count < 20; count += 1) {
    assert.equal(await text(server.spawn("echo", ["x"]).stdout), "x\n");
  }
  assert.ok(((await server.list())[0]?.stdinPendingBytes ?? 0) < 2 << 20);
  assert.ok(child.stdin.writableNeedDrain);
  assert.equal(await child.killTree(), true);
  const [error] = (await failure) as [NodeJS.ErrnoException];
  assert.equal(error.code, "EPIPE");
  assert.equal((await child.exited).signal, "SIGKILL");
});

test(
  "output that nobody reads slows its program",
  async (server) => {
    const child = server.spawn("head", ["-c", "100000000", "/dev/zero"]);
    await once(child, "spawn");
    // `list` would be an answer to wait for; the kernel knows what the program does as well.
    let before = -1;
    await until("the program waits", async () => {
      const now = Number(/wchar: (\d+)/.exec(readFileSync(`/proc/${child.pid}/io`, "utf8"))?.[1]);
      await sleep(300);
      const waits = now === before;
      before = now;
      return waits;
    });
    assert.ok(before < 20_000_000, `it has written ${before} bytes`);
    assert.equal(child.exitCode, null);
    // A request that waits for its answer is not held up by it.
    assert.equal((await server.list()).length, 1);
    let length = 0;
    for await (const chunk of child.stdout as AsyncIterable<Buffer>) length += chunk.length;
    assert.equal(length, 100_000_000);
    assert.equal((await child.exited).code, 0);
  },
  { maxUnread: 1 << 20 },
);

test("an exit needs no reader", async (server) => {
  const child = server.spawn("head", ["-c", "3000000", "/dev/zero"]);
  assert.equal((await child.exited).code, 0);
  assert.equal((await bytes(child.stdout)).length, 3_000_000);
});

test("output of a destroyed stream is dropped", async (server) => {
  const child = server.spawn("sh", ["-c", "echo out; read line; echo err >&2"]);
  await line(child.stdout);
  child.stdout.destroy();
  child.stdin.end("\n");
  assert.equal(await text(child.stderr), "err\n");
  assert.equal((await child.exited).code, 0, "there was nothing to be written to it any more");
});

test("who writes to a stream that was destroyed gets SIGPIPE", async (server) => {
  for (const [command, tty, signal] of [
    ["exec yes", false, "SIGPIPE"],
    ["while :; do echo y; sleep 0.1; done", false, "SIGPIPE"],
    ["while :; do echo y; sleep 0.1; done", true, "SIGHUP"],
    // As Python, Node, Go and Rust do by themselves.
    ["trap '' PIPE; exec yes", false, "SIGKILL"],
    ["trap '' PIPE; setsid sleep 1000 & while :; do echo y; sleep 0.1; done", false, "SIGKILL"],
  ] as const) {
    const child = server.spawn("sh", ["-c", command], { tty });
    for await (const _ of child.stdout) break; // Destroys it
    assert.deepEqual([(await child.exited).signal, command], [signal, command]);
  }
  const child = server.spawn("sh", ["-c", "while :; do echo y >&2; sleep 0.1; done"], { stdout: "ignore" });
  await line(child.stderr);
  child.stderr.destroy();
  assert.equal((await child.exited).signal, "SIGPIPE");
  // What was on its way when the stream was destroyed was written while it could be.
  const early = server.spawn("sh", ["-c", "head -c 500000 /dev/zero; echo 'written' >&2; read line; exit 3"]);
  assert.equal(await line(early.stderr), "written\n");
  early.stdout.destroy();
  await server.list();
  early.stdin.end("\n");
  assert.equal((await early.exited).code, 3);
});

test("ending stdin is the end of file", async (server) => {
  const child = server.spawn("sh", ["-c", "cat; echo end"], { stdin: "pipe" });
  child.stdin.end("some ");
  assert.equal(await text(child.stdout), "some end\n");
});

test("without a pipe stdin is empty", async (server) => {
  assert.equal((await text(server.spawn("wc", ["-c"], { stdin: "ignore" }).stdout)).trim(), "0");
});

test("writing to a program that has ended is a broken pipe", async (server) => {
  const child = server.spawn("sh", ["-c", "exec <&-; echo closed; sleep 1000"], { stdin: "pipe" });
  assert.equal(await line(child.stdout), "closed\n");
  const failure = once(child.stdin, "error");
  for (let count = 0; count < 100 && !child.stdin.destroyed; count += 1) {
    child.stdin.write("x");
    await sleep(5);
  }
  const [error] = (await failure) as [NodeJS.ErrnoException];
  assert.equal(error.code, "EPIPE");
});

test("a terminal of its own", async (server) => {
  const script = "stty size; tty; read x; stty size";
  const child = server.spawn("sh", ["-c", script], { tty: true, size: { rows: 30, cols: 100 } });
  assert.equal(await line(child.stdout), "30 100\r\n");
  assert.match(await line(child.stdout), /^\/dev\/pts\//);
  await child.resize(50, 132);
  child.stdin.write("go\n");
  assert.equal(await text(child.stdout), "go\r\n50 132\r\n");
  assert.equal(await text(child.stderr), "");
});

test("ending the stdin of a terminal types end-of-file", async (server) => {
  const child = server.spawn("sh", ["-c", "stty -echo; echo ready; cat; echo end"], { tty: true });
  assert.equal(await line(child.stdout), "ready\r\n");
  child.stdin.end("abc\n");
  assert.equal(await text(child.stdout), "abc\r\nend\r\n");
});

test("only a terminal can be resized", async (server) => {
  const child = server.spawn(...NEVER);
  await assert.rejects(child.resize(3, 4), (error) => error instanceof RpcError && error.code === -32600);
  await assert.rejects(server.spawn("true", [], { size: { rows: 3, cols: 4 } }).exited, RpcError);
});

test("signals", async (server) => {
  const sends: [(child: Process) => boolean | Promise<boolean>, string][] = [
    [(child) => child.kill(), "SIGTERM"],
    [(child) => child.kill("SIGKILL"), "SIGKILL"],
    [(child) => child.kill("sigint"), "SIGINT"],
    [(child) => child.kill("HUP"), "SIGHUP"],
    [(child) => child.kill(10), "SIGUSR1"],
    [(child) => child.killTree(), "SIGKILL"],
    [(child) => child.killTree(PATIENCE), "SIGTERM"],
    [(child) => child.killTree(PATIENCE, "SIGQUIT"), "SIGQUIT"],
  ];
  for (const tty of [false, true]) {
    for (const [send, expected] of sends) {
      const child = server.spawn(...NEVER, { tty });
      const exit = once(child, "exit");
      assert.equal(await send(child), true);
      assert.equal(child.killed, true);
      assert.deepEqual(await exit, [null, expected]);
      assert.deepEqual([child.exitCode, child.signalCode], [null, expected]);
      assert.equal(await send(child), false, "nothing is left to be signalled, and that is no error");
    }
  }
});

test("a signal with grace", async (server) => {
  const child = server.spawn("sh", ["-c", "trap '' TERM; echo ready; while :; do sleep 1000; done"]);
  await line(child.stdout);
  assert.equal(await child.killTree(100), true);
  assert.equal((await child.exited).signal, "SIGKILL");
});

test("a timeout of the server", async (server) => {
  assert.equal((await server.spawn(...NEVER, { timeout: 50 }).exited).timedOut, true);
});

test("a program that is not there", async (server) => {
  const child = server.spawn("no-such-program");
  const [error] = (await once(child, "error", {})) as [SpawnError];
  assert.ok(error instanceof SpawnError);
  assert.deepEqual(
    [error.code, error.errno, error.syscall, error.path, error.stage],
    ["ENOENT", -2, "spawn no-such-program", "no-such-program", "lookup"],
  );
  await assert.rejects(child.exited, error);
  assert.equal(await text(child.stdout).catch(() => "destroyed"), "destroyed");
});

test("'close' follows an error", async (server) => {
  const told = async (child: Process): Promise<unknown[]> => {
    const events: unknown[] = [];
    child.on("error", (error) => events.push(error.name));
    child.on("exit", () => events.push("exit"));
    await new Promise<void>((resolve) => child.on("close", (...args) => resolve(void events.push(...args))));
    return [...events, child.exitCode];
  };
  assert.deepEqual(await told(server.spawn("no-such-program", [], { stdin: "pipe" })), ["SpawnError", -2, null, -2]);
  const running = server.spawn(...NEVER);
  await once(running, "spawn");
  process.kill(pidOfServer(server), "SIGKILL");
  assert.deepEqual(await told(running), ["ServerGone", null, null, null]);
  assert.deepEqual(await told(server.spawn("true", [], { stdout: "ignore" })), ["ServerGone", null, null, null]);
});

test("what is piped into a program that fails is no second error", async (server) => {
  const fails = async (child: Process): Promise<string> => {
    // Written in part, and never ended.
    const source = new PassThrough();
    source.write(Buffer.alloc(1 << 20));
    source.pipe(child.stdin);
    const [error] = await new Promise<[Error]>((resolve) => child.on("error", (...args) => resolve(args)));
    if (!child.stdin.closed) await once(child.stdin, "close");
    assert.equal(child.stdin.errored, null);
    return error.name;
  };
  assert.equal(await fails(server.spawn("no-such-program", [], { stdin: "pipe" })), "SpawnError");
  const failure = fails(server.spawn(...NEVER, { stdin: "pipe" }));
  assert.equal((await server.list()).length, 1);
  process.kill(pidOfServer(server), "SIGKILL");
  assert.equal(await failure, "ServerGone");
});

test("a program that cannot be run, and a directory that is not there", async (server) => {
  for (const tty of [false, true]) {
    await assert.rejects(server.spawn("/etc/passwd", [], { tty }).exited, { code: "EACCES", stage: "exec" });
  }
  await assert.rejects(server.spawn("true", [], { cwd: "/no/such" }).exited, { code: "ENOENT", stage: "cwd" });
});

test("arguments that do not fit", async (server) => {
  await server.info;
  await assert.rejects(server.spawn("true", [], { cwd: "relative" }).exited, { name: "RpcError", code: -32602 });
  await assert.rejects(server.spawn("true", ["x".repeat(17 << 20)]).exited, RangeError);
  assert.equal(await text(server.spawn("echo", ["x"]).stdout), "x\n");
});

test("many programs at once", async (server) => {
  const work = async (number: number): Promise<void> => {
    const data = `${number} `.repeat(5000);
    const child = server.spawn("sh", ["-c", `cat; exit ${number}`], { stdin: "pipe" });
    child.stdin.end(data);
    assert.equal(await text(child.stdout), data);
    assert.equal((await child.exited).code, number);
  };
  await Promise.all(Array.from({ length: 100 }, (_, number) => work(number)));
});

test("closing kills what runs", async (server) => {
  const child = server.spawn("sh", ["-c", "setsid sleep 1000 & echo $!; wait"]);
  const other = Number(await line(child.stdout));
  await server.close();
  assert.equal(isAlive(child.pid), false);
  assert.equal(isAlive(other), false);
  assert.equal((await child.exited).signal, "SIGKILL", "the server has told how it ended");
  await assert.rejects(server.list(), ServerGone);
  await assert.rejects(server.spawn("true").exited, ServerGone);
});

test("the death of the server is noticed by all", async (server) => {
  const child = server.spawn("sh", ["-c", "echo ready; sleep 1000"], { stdin: "pipe" });
  assert.equal(await line(child.stdout), "ready\n");
  const reading = assert.rejects(text(child.stdout), ServerGone);
  const failure = once(child, "error") as Promise<[Error]>;
  for (let count = 0; count < 32; count += 1) child.stdin.write(Buffer.alloc(1 << 18));
  await until("stdin is full", async () => ((await server.list())[0]?.stdinPendingBytes ?? 0) > 1 << 20);
  process.kill(pidOfServer(server), "SIGKILL");
  const [error] = await failure;
  assert.ok(error instanceof ServerGone);
  await reading;
  await assert.rejects(child.exited, error);
  await assert.rejects(server.list(), ServerGone);
  assert.equal(await server.ended, true);
  await until("the program is gone as well", () => !isAlive(child.pid));
});

nodeTest("what is no server is noticed", { timeout: PATIENCE }, async () => {
  for (const [command, said] of [
    ["echo hello", /^the server "echo hello" sent a line that is not a JSON-RPC message: "hello"$/],
    ["false", /^the server "false" exited with status 1$/],
    [["sh", "-c", "kill -9 $$"], /^the server "sh -c kill -9 \$\$" was killed by SIGKILL$/],
    [["/no/such/server", "-x"], /^the server "\/no\/such\/server -x" did not start: spawn \/no\/such\/server ENOENT$/],
  ] as const) {
    const server = new Server(command);
    await assert.rejects(server.info, (error) => error instanceof ServerGone && said.test(error.message));
    await assert.rejects(server.spawn("true").exited, ServerGone);
    await server.close();
  }
});

const STRICT = `${process.env["PROCWIRE"]} --max-message-bytes 10000`;

nodeTest("a server that takes short messages only", { timeout: PATIENCE }, async () => {
  const server = new Server(STRICT);
  assert.equal((await server.info).limits?.maxMessageBytes, 10_000);
  const child = server.spawn("wc", ["-c"], { stdin: "pipe" });
  child.stdin.end(Buffer.alloc(300_000));
  assert.equal(Number(await text(child.stdout)), 300_000);
  await assert.rejects(server.spawn("echo", ["x".repeat(10_000)]).exited, /limit of 10000 bytes/);
  assert.equal(await text(server.spawn("echo", ["x"]).stdout), "x\n");
  await server.close();
});

nodeTest("a server that takes messages of gigabytes", { timeout: PATIENCE }, async () => {
  const server = new Server(`${process.env["PROCWIRE"]} --max-message-bytes ${2 ** 32}`);
  await server.info;
  const child = server.spawn("wc", ["-c"]);
  child.stdin.end(Buffer.alloc(300_000));
  assert.equal(Number(await text(child.stdout)), 300_000);
  await server.close();
});

nodeTest("an answer without an id ends the connection", { timeout: PATIENCE }, async () => {
  // Sent before the limit is known.
  const server = new Server(STRICT);
  const refused = server.spawn("echo", ["x".repeat(10_000)]);
  const said = (error: unknown): boolean => error instanceof ServerGone && /limit of 10000 bytes/.test(error.message);
  await assert.rejects(refused.exited, said);
  await assert.rejects(server.list(), said);
  assert.equal(await server.ended, true);
  await server.close();
});

nodeTest("a server that says less than procwire does", { timeout: PATIENCE }, async () => {
  const server = new Server(
    fake(2, [
      { id: 1, result: { userAgent: "codex" } },
      { id: 3, result: {} },
      { method: "process/outputDelta", params: { processHandle: "2", stream: "stdout", deltaBase64: "eA==", capReached: false } },
      { method: "process/exited", params: { processHandle: "2", exitCode: 3, stdout: "", stderr: "" } },
    ]),
  );
  const child = server.spawn("x");
  assert.equal(await text(child.stdout), "x");
  const { code, signal, userMs } = await child.exited;
  assert.deepEqual([child.pid, code, signal, userMs], [undefined, 3, null, 0]);
  assert.equal((await server.info).limits, undefined);
  await server.close();
});

nodeTest("a server without an output is gone, though it lives", { timeout: PATIENCE }, async () => {
  const server = new Server(["sh", "-c", "exec >&-; exec sleep 1000"]);
  const child = server.spawn("true");
  await assert.rejects(server.list(), { name: "ServerGone", message: 'the server "sh -c exec >&-; exec sleep 1000" closed its output' });
  await assert.rejects(child.exited, ServerGone);
  await server.close();
  assert.equal(isAlive(server.pid), false);
});

nodeTest("a server that has ended is gone, though something holds its output", { timeout: PATIENCE }, async () => {
  const command = ["sh", "-c", `tail --pid=${process.pid} -f /dev/null & read line; read line; exit 3`];
  const server = new Server(command, { stderr: "ignore" });
  await assert.rejects(server.list(), { name: "ServerGone", message: /" exited with status 3$/ });
  await server.close();
  const closed = new Server(command, { stderr: "ignore" });
  await closed.close();
  await assert.rejects(closed.info, { message: "the connection is closed" });
});

nodeTest("any command may lead to the server", { timeout: PATIENCE }, async () => {
  const server = new Server(["sh", "-c", `exec ${process.env["PROCWIRE"]}`]);
  assert.equal(await text(server.spawn("echo", ["x"]).stdout), "x\n");
  await server.close();
});

nodeTest("the end of the client ends everything", { timeout: PATIENCE }, async () => {
  const client = JSON.stringify(new URL("./procwire.js", import.meta.url).href);
  const script = `import { Server } from ${client};
    const child = new Server().spawn("sleep", ["1000"]);
    child.on("spawn", () => { console.log(child.pid); process.exit(); });`;
  const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "-e", script]);
  const pid = Number(stdout);
  assert.ok(pid > 0, stdout);
  await until("the program is gone", () => !isAlive(pid));
});

test("detached programs outlive the connection", async (server) => {
  const child = server.spawn(...NEVER, { detached: true, stdout: "ignore", stderr: "ignore" });
  await once(child, "spawn");
  await server.close();
  assert.ok(isAlive(child.pid) && existsSync(`/proc/${child.pid}`));
  process.kill(child.pid ?? 0, "SIGKILL");
});

test("the shell of the examples says why it ends, and leaves the terminal as it was", async (server) => {
  const example = new URL("./examples/shell.js", import.meta.url).pathname;
  const shell = (...command: string[]): Process =>
    server.spawn("sh", ["-c", 'stty -g; "$@"; echo "code $?"; stty -g', "sh", process.execPath, example, ...command], {
      tty: true,
      env: { PS1: "%" },
    });
  const missing = await text(shell("/no/such/server").stdout);
  assert.match(missing, /^(\S+)\r\nthe server "\/no\/such\/server" did not start: spawn \/no\/such\/server ENOENT\r\ncode 1\r\n\1\r\n$/);

  const running = shell();
  let seen = "";
  running.stdout.setEncoding("latin1").on("data", (chunk: string) => (seen += chunk));
  await until("the shell is there", () => seen.endsWith("%"));
  const guard = firstChild(firstChild(running.pid));
  process.kill(firstChild(guard), "SIGKILL");
  await running.exited;
  assert.match(seen, /^(\S+)\r\n%the server ".*" exited with status 137\r\ncode 1\r\n\1\r\n$/);
});
