// The TypeScript client against the real server, which the variable PROCWIRE names.
// `run` compiles both with the strictest types, side by side.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { getEventListeners, once } from "node:events";
import fs, {
  closeSync,
  createWriteStream,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test as nodeTest } from "node:test";
import { PassThrough, Readable, Writable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { inspect, promisify } from "node:util";

import {
  type Exit,
  Process,
  RpcError,
  Server,
  ServerGone,
  type ServerOptions,
  SpawnError,
  type SpawnOptions,
  WaitError,
} from "./procwire.ts";

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

/** Runs a module that imports the client in a node of its own, and returns its output. Fails if that does. */
async function script(body: string, options: { env?: NodeJS.ProcessEnv; input?: string } = {}): Promise<string> {
  const client = JSON.stringify(new URL("./procwire.js", import.meta.url).href);
  const source = `import { Server } from ${client};\n${body}`;
  const running = promisify(execFile)(process.execPath, ["--input-type=module", "-e", source], {
    env: { ...process.env, ...options.env },
    timeout: PATIENCE / 2,
  });
  running.child.stdin?.end(options.input ?? "");
  const { stdout, stderr } = await running;
  assert.equal(stderr, "");
  return stdout;
}

nodeTest("the examples run as they are written", { timeout: PATIENCE }, async () => {
  const node = process.env["TYPE_STRIPPING_NODE"];
  assert.ok(node !== undefined, "TYPE_STRIPPING_NODE has to name a node that runs TypeScript");
  const source = readFileSync(new URL("../src/procwire.ts", import.meta.url), "utf8");
  const inSource = source.match(/(?:^ \* {5}.*\n)+/m)?.[0].replaceAll(/^ \* {5}/gm, "") ?? "";
  const inPage = /```ts\n(.*?)```/s.exec(readFileSync(new URL("../src/typescript.md", import.meta.url), "utf8"))?.[1] ?? "";
  for (const example of [inSource, inPage]) {
    assert.match(example, /^\/\/ .*PROCWIRE/, "it says where the binary comes from");
    assert.equal(example.trimEnd().split("\n").length, 6);
    const file: string = new URL("../src/example.ts", import.meta.url).pathname;
    writeFileSync(file, example);
    const { stdout, stderr }: { stdout: string; stderr: string } = await promisify(execFile)(node, [file]);
    assert.deepEqual([stdout, stderr], ["hello\n", ""]);
  }
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

nodeTest("an environment is node's, unless it is laid over what is inherited", { timeout: PATIENCE }, async () => {
  const server = new Server(`env -i A=1 AB=2 C=3 PWD=/ LINES=7 ${process.env["PROCWIRE"]}`);
  const told = async (options: SpawnOptions & { stdio?: undefined }): Promise<string> =>
    (await text(server.spawn("env", options).stdout)).split("\n").sort().join(" ").trim();
  assert.equal(await told({}), "A=1 AB=2 C=3 LINES=7 PWD=/");
  assert.equal(await told({ env: { D: "4", E: null, F: undefined } }), "D=4");
  assert.equal(await told({ env: {}, cwd: "/usr" }), "");
  assert.equal(await told({ inheritEnv: false }), "");
  assert.equal(await told({ env: { A: "0", C: null, D: "4" }, inheritEnv: true }), "A=0 AB=2 D=4 LINES=7 PWD=/");
  assert.equal(await told({ env: { D: "4", AB: undefined }, inheritEnv: ["A*", "X"], cwd: "/usr" }), "A=1 D=4");
  assert.equal(await told({ inheritEnv: ["P*", "A"], cwd: "/usr" }), "A=1 PWD=/usr");
  assert.equal(await told({ inheritEnv: [] }), "");
  assert.throws(() => server.spawn("true", { inheritEnv: "A" as never }), { code: "ERR_INVALID_ARG_TYPE" });
  await assert.rejects(server.spawn("true", { inheritEnv: ["A=1"] }).exited, { name: "RpcError", code: -32602 });
  await server.close();
});

test("output can be dropped", async (server) => {
  const child = server.spawn("sh", ["-c", "echo out; echo err >&2"], { stdout: "ignore", stderr: "ignore" });
  assert.deepEqual([await text(child.stdout), await text(child.stderr)], ["", ""]);
  assert.equal((await child.exited).stdoutBytes, 0);
  const device = server.spawn("readlink", ["/proc/self/fd/1", "/proc/self/fd/2"], { stderr: "ignore" });
  assert.match(await text(device.stdout), /^pipe:.*\n\/dev\/null\n$/, "it is the device, and not a pipe");
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
  "output that is not read slows its program",
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

test("'close' comes though output lies unread", async (server) => {
  type Listen = (child: Process) => void;
  const listeners: Record<string, Listen> = {
    nothing: () => {},
    "one read": (child) => void child.stdout.read(),
    paused: (child) => void child.stdout.pause(),
    "a listener that is paused": (child) => {
      let seen = 0;
      child.stdout.on("data", (chunk: Buffer) => {
        seen += chunk.length;
        child.stdout.pause();
        setTimeout(() => child.stdout.resume(), 1);
      });
      child.stdout.on("end", () => assert.equal(seen, 300_000, "that is still read to its end"));
    },
  };
  for (const [name, listen] of Object.entries(listeners)) {
    const child = server.spawn("sh", ["-c", "head -c 300000 /dev/zero; exit 3"]);
    listen(child);
    const [code] = await Promise.race([once(child, "close"), sleep(PATIENCE / 2, [`${name}: no 'close'`], { ref: false })]);
    assert.equal(code, 3, name);
  }
  // Who comes when it is over.
  const late = server.spawn("head", ["-c", "300000", "/dev/zero"]);
  await late.exited;
  await server.list();
  await once(late, "close");
  // The same for who waits for the end of a stream.
  const ended = server.spawn("head", ["-c", "300000", "/dev/zero"]);
  await once(ended.stdout, "end");
});

test("unread output is kept for a late reader if nothing waits for its end", async (server) => {
  const children = Array.from({ length: 3 }, () => server.spawn("head", ["-c", "300000", "/dev/zero"]));
  await Promise.all(children.map((child) => child.exited));
  for (const child of children) {
    await server.list();
    assert.equal((await bytes(child.stdout)).length, 300_000);
  }
});

test("slow iterators and pipes get all output, also with a listener for 'close'", async (server) => {
  for (const read of [
    async (stream: Readable) => {
      let length = 0;
      for await (const chunk of stream as AsyncIterable<Buffer>) {
        length += chunk.length;
        await sleep(1);
      }
      return length;
    },
    async (stream: Readable) => {
      let length = 0;
      const slow = new Writable({
        highWaterMark: 1,
        write: (chunk: Buffer, _encoding, callback) => {
          length += chunk.length;
          setTimeout(callback, 1);
        },
      });
      await pipeline(stream, slow);
      return length;
    },
  ]) {
    const child = server.spawn("head", ["-c", "2000000", "/dev/zero"]);
    child.on("close", () => {});
    assert.equal(await read(child.stdout), 2_000_000);
  }
});

test("output of a destroyed stream is dropped", async (server) => {
  const child = server.spawn("sh", ["-c", "echo out; read line; echo err >&2"]);
  await line(child.stdout);
  child.stdout.destroy();
  child.stdin.end("\n");
  assert.equal(await text(child.stderr), "err\n");
  assert.equal((await child.exited).code, 0, "there was nothing to be written to it any more");
});

test("a stream that is destroyed has no reader", async (server) => {
  for (const [command, tty, code, signal] of [
    ["exec yes", false, null, "SIGPIPE"],
    ["while :; do echo y; sleep 0.1; done", false, null, "SIGPIPE"],
    // As Python, Node, Go and Rust do by themselves.
    ["trap '' PIPE; exec yes", false, 1, null],
    // A terminal has one device for both ways.
    ["while :; do echo y; sleep 0.1; done", true, null, "SIGHUP"],
    ["trap '' HUP; while :; do echo y; sleep 0.1; done", true, null, "SIGKILL"],
  ] as const) {
    const child = server.spawn("sh", ["-c", command], { tty });
    for await (const _ of child.stdout) break; // Destroys it
    const exit = await child.exited;
    assert.deepEqual([exit.code, exit.signal, command], [code, signal, command]);
  }
  const lines = server.spawn("sh", ["-c", "while :; do echo y >&2; sleep 0.1; done"], { stdout: "ignore" });
  await line(lines.stderr);
  lines.stderr.destroy();
  assert.equal((await lines.exited).signal, "SIGPIPE");
  // A program that does not write to it goes on, and the other stream with it.
  const other = server.spawn("sh", ["-c", "head -c 500000 /dev/zero; echo written >&2; read line; echo end >&2; exit 3"]);
  assert.equal(await line(other.stderr), "written\n");
  other.stdout.destroy();
  other.stdin.end("\n");
  assert.equal(await text(other.stderr), "end\n");
  assert.equal((await other.exited).code, 3);
  // At once, and before the server has even answered the handshake.
  const early = server.spawn("yes");
  early.stdout.destroy();
  assert.equal((await early.exited).signal, "SIGPIPE");
});

test("a program that ignores SIGPIPE sees that nothing reads it", async (server) => {
  const child = server.spawn("sh", ["-c", "trap '' PIPE; echo y; read x; echo y || echo failed >&2"]);
  assert.equal(await line(child.stdout), "y\n");
  child.stdout.destroy();
  child.stdin.end("\n");
  assert.match(await text(child.stderr), /failed\n$/);
});

test("a stream ends when the program has closed it", async (server) => {
  const child = server.spawn("sh", ["-c", "echo out; exec >&-; read line; echo err >&2"]);
  assert.equal(await text(child.stdout), "out\n");
  assert.equal(child.exitCode, null);
  child.stdin.end("\n");
  assert.equal(await text(child.stderr), "err\n");
  assert.equal((await child.exited).code, 0);
  // Though output of it was capped, and though it is piped.
  const capped = server.spawn("sh", ["-c", "seq 100000; exec >&-; exec sleep 1000"], { outputCap: 5 });
  assert.equal(await text(capped.stdout), "1\n2\n3");
  const sink = new PassThrough();
  capped.stderr.pipe(sink);
  capped.kill();
  assert.equal(await text(sink), "");
});

test("the two outputs as one", async (server) => {
  const script = "for i in 1 2 3; do echo out $i; echo err $i >&2; done";
  const seen = "out 1\nerr 1\nout 2\nerr 2\nout 3\nerr 3\n";
  const named = server.spawn("sh", ["-c", script], { mergeStderr: true });
  assert.deepEqual([await text(named.stdout), await text(named.stderr)], [seen, ""]);
  assert.equal((await named.exited).stderrBytes, 0);
  assert.equal(await text(server.spawn("sh", ["-c", script], { stderr: "stdout" }).stdout), seen);
  const third = server.spawn("sh", ["-c", script], { stdio: ["ignore", "pipe", "stdout"] });
  const closed = once(third, "close");
  assert.deepEqual([await text(third.stdout as Readable), third.stderr], [seen, null]);
  await closed;
  assert.deepEqual(await promisify(server.exec)(script, { mergeStderr: true }), { stdout: seen, stderr: "" });
  const none = server.spawn("readlink", ["/proc/self/fd/1"], { stdout: "ignore", mergeStderr: true });
  assert.equal((await none.exited).code, 0);
  const terminal = server.spawn("sh", ["-c", "echo err >&2"], { tty: true, mergeStderr: true });
  assert.equal(await text(terminal.stdout), "err\r\n");
  assert.throws(() => server.spawn("true", { mergeStderr: true, stderr: "ignore" }), { code: "ERR_INVALID_ARG_VALUE" });
  assert.throws(() => server.spawn("true", { mergeStderr: 3 as never }), { code: "ERR_INVALID_ARG_TYPE" });
});

test("files of the server's machine", async (server) => {
  const folder = mkdtempSync(join(tmpdir(), "procwire-"));
  try {
    const [input, output] = [join(folder, "in"), join(folder, "out ü")];
    writeFileSync(input, "b\na\n");
    const sorted = server.spawn("sort", { stdin: { file: input }, stdout: { file: output } });
    assert.deepEqual([sorted.stdin.writable, await text(sorted.stdout)], [false, ""]);
    assert.deepEqual([(await sorted.exited).stdoutBytes, readFileSync(output, "utf8")], [0, "a\nb\n"]);
    const more = { file: pathToFileURL(output), append: true };
    const appended = server.spawn("sh", ["-c", "echo c; echo d >&2"], { stdio: ["ignore", more, more] });
    assert.deepEqual(appended.stdio, [null, null, null]);
    await once(appended, "close");
    assert.equal(readFileSync(output, "utf8"), "a\nb\nc\nd\n");
    // The same file twice is one.
    await server.spawn("sh", ["-c", "echo out; echo err >&2"], { stdout: { file: output }, stderr: { file: output } }).exited;
    assert.equal(readFileSync(output, "utf8"), "out\nerr\n");
    const apart = server.spawn("sh", ["-c", "echo out; echo err >&2"], { stderr: { file: output } });
    assert.deepEqual([await text(apart.stdout), await text(apart.stderr)], ["out\n", ""]);
    await apart.exited;
    assert.equal(readFileSync(output, "utf8"), "err\n");

    const missing = join(folder, "no", "such");
    for (const [stage, options] of [
      ["stdin", { stdin: { file: missing } }],
      ["stdout", { stdout: { file: missing } }],
      ["stderr", { stderr: { file: missing } }],
    ] as const) {
      const message = `spawn true ENOENT (${stage} ${missing})`;
      await assert.rejects(server.spawn("true", options).exited, { name: "SpawnError", code: "ENOENT", stage, message });
    }
    for (const [options, code] of [
      [{ stdout: { file: "relative" } }, "ERR_INVALID_ARG_VALUE"],
      [{ stdout: { file: 3 } }, "ERR_INVALID_ARG_TYPE"],
      [{ stdout: { file: "a\0b" } }, "ERR_INVALID_ARG_VALUE"],
      [{ stdout: { file: output, append: 1 } }, "ERR_INVALID_ARG_TYPE"],
      [{ stdout: { file: output, mode: 0o600 } }, "ERR_INVALID_ARG_VALUE"],
      [{ stdio: ["stdout"] }, "ERR_INVALID_ARG_VALUE"],
      [{ stdin: "stdout" }, "ERR_INVALID_ARG_VALUE"],
      [{ stdout: { file: output }, tty: true }, "ERR_INVALID_ARG_VALUE"],
    ] as const) {
      assert.throws(() => server.spawn("true", options as object), { code }, inspect(options));
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("limits", async (server) => {
  const child = server.spawn("sh", ["-c", "ulimit -n; ulimit -c; nice"], { limits: { openFiles: 50, coreBytes: 0, nice: 19, processes: undefined } });
  assert.equal(await text(child.stdout), "50\n0\n19\n");
  const busy = server.spawn("sh", ["-c", "while :; do :; done"], { limits: { cpuSeconds: 1 } });
  assert.equal((await busy.exited).signal, "SIGKILL");
  await assert.rejects(server.spawn("true", { limits: { openFiles: Number.MAX_SAFE_INTEGER } }).exited, {
    name: "SpawnError",
    code: "EPERM",
    stage: "limits",
    limit: "openFiles",
    message: "spawn true EPERM (limits openFiles)",
  });
  assert.throws(() => server.spawn("true", { limits: { openFile: 3 } as object }), /'options.limits.openFile' is not known/);
  assert.throws(() => server.spawn("true", { limits: { openFiles: 1.5 } }), { code: "ERR_OUT_OF_RANGE" });
  assert.throws(() => server.spawn("true", { limits: 3 as never }), { code: "ERR_INVALID_ARG_TYPE" });
});

test("what is kept of long output", async (server) => {
  const seq = (options: SpawnOptions & { stdio?: undefined }): Process => server.spawn("seq", ["1000"], options);
  for (const [options, seen] of [
    [{ keep: { head: 4, tail: 9 } }, "1\n2\n999\n1000\n"],
    [{ keep: "tail", outputCap: 5 }, "1000\n"],
    [{ keep: "head", outputCap: 4 }, "1\n2\n"],
  ] as const) {
    const child = seq(options);
    assert.equal(await text(child.stdout), seen);
    const { stdoutBytes, stdoutOmittedBytes, stderrOmittedBytes } = await child.exited;
    assert.deepEqual([stdoutBytes, stdoutOmittedBytes, stderrOmittedBytes], [3893, 3893 - seen.length, 0]);
  }
  assert.equal((await seq({}).exited).stdoutOmittedBytes, 0);
  const { stdout } = await promisify(server.execFile)("seq", ["1000000"], { keep: { head: 2, tail: 8 } });
  assert.equal(stdout, "1\n1000000\n");
  assert.throws(() => seq({ keep: { head: 1, tail: 1 }, outputCap: 3 }), { code: "ERR_INVALID_ARG_VALUE" });
  assert.throws(() => seq({ keep: { head: -1, tail: 1 } }), { code: "ERR_OUT_OF_RANGE" });
  assert.throws(() => seq({ keep: "middle" as never }), { code: "ERR_INVALID_ARG_VALUE" });
});

test("a timeout with a grace", async (server) => {
  const shrugs = "trap '' TERM INT; echo ready; while :; do sleep 1000; done";
  for (const killSignal of ["SIGTERM", "SIGINT"]) {
    const child = server.spawn("sh", ["-c", shrugs], { timeout: 300, timeoutGraceMs: 50, killSignal });
    const { signal, timedOut } = await child.exited;
    assert.deepEqual([signal, timedOut, child.killed], ["SIGKILL", true, true]);
    const obedient = server.spawn(...NEVER, { timeout: 50, timeoutGraceMs: PATIENCE, killSignal });
    assert.deepEqual([(await obedient.exited).signal, obedient.killed], [killSignal, true]);
  }
  assert.throws(() => server.spawn("true", { timeoutGraceMs: -1 }), { code: "ERR_OUT_OF_RANGE" });
});

test("expect finds what a program writes", async (server) => {
  const child = server.spawn("sh", ["-c", "echo starting; echo ready on 8080; echo more; read x; echo got $x; exec cat"]);
  const ready = await child.expect(/ready on (\d+)/g);
  assert.deepEqual([ready.index, ready.match[0], ready.match[1], ready.before], [0, "ready on 8080", "8080", "starting\n"]);
  child.stdin.write("it\n");
  const got = await child.expect(["nothing", /got (?<what>.*)\n/]);
  assert.deepEqual([got.index, got.match.groups?.["what"], got.before], [1, "it", "\nmore\n"]);
  // The pattern that matches first, whatever their order; several that wait, one behind the other.
  child.stdin.write("one two three");
  const [first, second] = await Promise.all([child.expect(["two", "one"]), child.expect("three")]);
  assert.deepEqual([first.index, first.match[0], second.before], [1, "one", " two "]);
  // What was not matched is left, after a timeout, too.
  child.stdin.write("left ü");
  await assert.rejects(child.expect("right", { timeout: 100 }), (error) => {
    assert.ok(error instanceof WaitError && error.code === "ETIMEDOUT" && "left ü".startsWith(error.before));
    return true;
  });
  assert.equal((await child.expect(/ü/)).before, "left ");
  child.stdin.end("the rest");
  await assert.rejects(child.expect(/never/), { name: "WaitError", code: "EOF", before: "the rest" });
  await assert.rejects(child.expect("again"), { code: "EOF", before: "" });
  assert.equal((await child.exited).code, 0);
});

test("expect leaves what follows to the next reader, byte by byte", async (server) => {
  const parts = ["x\\303\\244ready\\342\\202", "\\254\\377tail"];
  const child = server.spawn("sh", ["-c", `printf '${parts[0]}'; read x; printf '${parts[1]}'`]);
  assert.equal((await child.expect("ready")).before, "xä");
  child.stdin.end("\n");
  assert.deepEqual(await bytes(child.stdout), Buffer.from("\xe2\x82\xac\xfftail", "latin1"));
  const listened = server.spawn("sh", ["-c", "echo ready; echo rest"]);
  await listened.expect("ready\n");
  let rest = "";
  listened.stdout.on("data", (chunk: Buffer) => (rest += chunk));
  await once(listened, "close");
  assert.equal(rest, "rest\n");
  const latin = server.spawn("printf", ["\\374ready\\374"], { encoding: "latin1" });
  assert.equal((await latin.expect("ready")).before, "ü");
  assert.deepEqual(await once(latin.stdout, "data"), ["ü"]);
});

test("expect looks at what another reader takes", async (server) => {
  const child = server.spawn("sh", ["-c", "echo one; echo two; read x; echo three; read x; echo four; exec cat"]);
  let seen = "";
  child.stdout.on("data", (chunk: Buffer) => (seen += chunk));
  assert.equal((await child.expect("one\n")).before, "");
  assert.equal((await child.expect("two\n")).before, "");
  child.stdin.write("\n");
  await until("it has come", () => seen.endsWith("three\n"));
  assert.equal((await child.expect(/e+\n/)).before, "thr", "what came between two of them is searched");
  child.stdin.end("\n");
  await assert.rejects(child.expect("five"), { code: "EOF", before: "four\n" });
  assert.equal(seen, "one\ntwo\nthree\nfour\n", "and nothing is taken away");
  // Of stderr, and of a stream that is piped.
  const sink = new PassThrough();
  const piped = server.spawn("sh", ["-c", "echo out; echo err >&2; exec cat"], { stdio: ["pipe", sink, "pipe"] });
  await piped.expect("out");
  await piped.expect("err", { stream: "stderr" });
  piped.stdin?.end();
  const silent = server.spawn("true", { stdout: "ignore" });
  await assert.rejects(silent.expect("x"), { code: "ERR_INVALID_ARG_VALUE" });
  await assert.rejects(silent.expect(3 as never), { code: "ERR_INVALID_ARG_TYPE" });
  await assert.rejects(silent.expect("x", { stream: "stdin" as never }), { code: "ERR_INVALID_ARG_VALUE" });
});

test("expect keeps no more of a flood than it searches", async (server) => {
  const child = server.spawn("sh", ["-c", "head -c 20000000 /dev/zero | tr '\\0' x; echo end; exec cat"]);
  const { before } = await child.expect("end");
  assert.ok(before.length <= 1 << 20 && before.length > 100_000, `${before.length}`);
  child.stdin.end();
  await child.exited;
});

test("waitFor waits for what the server sees", async (server) => {
  // Right after the spawn it sees all.
  const child = server.spawn("sh", ["-c", "echo almost; echo ready; read x; echo ü; read x; exec >&- 2>&-; read x"]);
  assert.deepEqual(await child.waitFor(["error", { text: "ready" }, { exit: true }]), { index: 1, stream: "stdout", offset: 12 });
  const coming = child.waitFor({ bytes: Buffer.from("ü") }, { stream: "stdout" });
  child.stdin.write("\n");
  assert.deepEqual(await coming, { index: 0, stream: "stdout", offset: 15 });
  assert.deepEqual(await child.waitFor({ quiet: 20 }), { index: 0 });
  assert.deepEqual(await child.waitFor({ input: true }), { index: 0 });
  await assert.rejects(child.waitFor("never", { timeout: 20 }), { name: "WaitError", code: "ETIMEDOUT" });
  const closed = child.waitFor({ eof: true });
  child.stdin.write("\n");
  assert.deepEqual(await closed, { index: 0 });
  const [exit, never] = [child.waitFor({ exit: true }), child.waitFor("never")];
  child.stdin.write("\n");
  assert.deepEqual(await exit, { index: 0 });
  await assert.rejects(never, { name: "WaitError", code: "EOF" });
  await child.exited;
  assert.deepEqual(await child.waitFor(["never", { exit: true }]), { index: 1 });
  await assert.rejects(child.waitFor("never"), { code: "EOF" });
  await assert.rejects(server.spawn("true").waitFor([]), { name: "RpcError", code: -32602 });
  await assert.rejects(child.waitFor({ exits: true } as never), /'condition.exits' is not known/);
  await assert.rejects(child.waitFor({ bytes: 3 } as never), { code: "ERR_INVALID_ARG_TYPE" });
  await assert.rejects(child.waitFor({ quiet: -3 }), { code: "ERR_OUT_OF_RANGE" });
  assert.equal(await text(child.stdout), "almost\nready\nü\n", "it takes nothing");
});

test("inspect shows what a program is doing", async (server) => {
  const child = server.spawn("sh", ["-c", "stty -echo; read x"], { tty: true, size: { rows: 30, cols: 100 } });
  await child.waitFor({ input: true });
  const { pid, terminal, waitsForInput, processes } = await child.inspect();
  assert.deepEqual([pid, waitsForInput, processes[0]?.pid], [child.pid, true, child.pid]);
  assert.deepEqual(terminal, { canonical: true, echo: false, rows: 30, cols: 100 });
  child.kill("SIGKILL");
  await child.exited;
  await assert.rejects(child.inspect(), { name: "RpcError", code: -32600 });
});

nodeTest("a server that knows less is not asked for more", { timeout: PATIENCE }, async () => {
  const older = { userAgent: "codex/0 (x)" };
  // It counts the requests: the handshake, a spawn, and what is asked for last.
  const server = new Server(
    fake(2, [
      { id: 1, result: older },
      { id: 3, result: {} },
      { method: "process/exited", params: { processHandle: "2", exitCode: 0 } },
    ]),
  );
  const plain = server.spawn("x", { stderr: "ignore", cwd: "/" });
  const asked: SpawnOptions[] = [
    { env: { A: "b" } },
    { inheritEnv: ["A"] },
    { stdin: { file: "/x" } },
    { stdio: ["pipe", { file: "/x" }, "pipe"] },
    { mergeStderr: true },
    { limits: { nice: 3 } },
    { keep: "tail" },
    { keep: { head: 1, tail: 1 } },
    { timeout: 1000, timeoutGraceMs: 1 },
    { timeout: 1000, timeoutGraceMs: 1, killSignal: "SIGINT" },
  ];
  for (const options of asked) {
    const refused = server.spawn("x", options);
    await assert.rejects(refused.exited, { name: "NotSupported", code: "ENOTSUP", message: /^the server ".*" cannot / }, inspect(options));
  }
  assert.equal((await plain.exited).code, 0);
  assert.deepEqual(await server.info, older);
  await server.close();
  // Methods that it does not know, asked for before and after the handshake.
  const other = new Server(
    fake(3, [
      { id: 1, result: older },
      { id: 3, result: {} },
      { id: 4, error: { code: -32600, message: "Invalid request: unknown variant" } },
    ]),
  );
  const running = other.spawn("x", { cwd: "/" });
  await assert.rejects(running.waitFor({ exit: true }), { name: "NotSupported", message: /cannot wait for a condition$/ });
  await assert.rejects(running.inspect(), { code: "ENOTSUP", message: /cannot inspect a program$/ });
  await other.close();
});

nodeTest("what waits for the handshake is sent in its order, and told once if there is none", { timeout: PATIENCE }, async () => {
  const server = new Server();
  const child = server.spawn(...NEVER, { inheritEnv: ["PATH"] });
  child.stdin.end("x");
  assert.equal(child.kill("SIGINT"), true);
  const other = server.spawn(...NEVER);
  assert.equal((await server.list()).at(-1)?.command[0], "sleep");
  assert.deepEqual([(await child.exited).signal, other.exitCode], ["SIGINT", null]);
  await server.close();

  for (const close of [true, false]) {
    const none = close ? new Server() : new Server("false");
    const waiting = none.spawn(...NEVER, { inheritEnv: false });
    const events: string[] = [];
    waiting.on("error", ({ name }) => events.push(name));
    const closed = new Promise<void>((resolve) => waiting.on("close", () => resolve(void events.push("close"))));
    const expecting = assert.rejects(waiting.expect("x"), ServerGone);
    if (close) await none.close();
    await closed;
    await expecting;
    await none.close();
    assert.deepEqual(events, ["ServerGone", "close"]);
  }
});

nodeTest("a server that has to be told a directory is told this program's", { timeout: PATIENCE }, async () => {
  const script = `read a; read b
    echo '{"id":1,"result":{"userAgent":"codex/0"}}'
    echo '{"id":3,"error":{"code":-32600,"message":"Invalid request: missing field \`cwd\`"}}'
    read c; case $c in *'"cwd":"'*) echo '{"id":4,"error":{"code":-32603,"message":"no: No such file or directory (os error 2)"}}';; esac
    read end`;
  const server = new Server(["sh", "-c", script]);
  await assert.rejects(server.spawn("x").exited, { name: "SpawnError", code: "ENOENT", errno: -2 });
  await server.close();
});

nodeTest("output from before a stream was destroyed is not a reason for SIGPIPE", { timeout: PATIENCE }, async () => {
  const processHandle = "2";
  const exited = (signal: string | null) => ({ method: "process/exited", params: { processHandle, exitCode: 0, signal } });
  const messages = [
    { id: 1, result: {} },
    { id: 3, result: { pid: 7 } },
    { method: "process/outputDelta", params: { processHandle, stream: "stdout", deltaBase64: "eA==", offset: 0 } },
    // It does not know how to close an output.
    { id: 4, error: { code: -32601, message: "unknown method" } },
  ];
  const listed = { id: 5, result: { processes: [{ processHandle, stdoutBytes: 1 }] } };
  for (const late of [false, true]) {
    // With the last delta it has written more by then.
    const more = { method: "process/outputDelta", params: { processHandle, stream: "stdout", deltaBase64: "eA==", offset: 1 } };
    const last = { method: "process/outputDelta", params: { processHandle, stream: "stderr", deltaBase64: "eA==", offset: 0 } };
    const said = [messages, [listed, ...(late ? [more] : []), last]].map((part) => part.map((message) => JSON.stringify(message)).join("\n"));
    const script = `read a; read b; read c; echo "$1"; read d; echo "$2"; read x
      case $x in *SIGPIPE*) echo "$3";; *) echo "$4";; esac; read end`;
    const server = new Server(["sh", "-c", script, "sh", ...said, JSON.stringify(exited("SIGPIPE")), JSON.stringify(exited(null))]);
    const child = server.spawn("x");
    child.stdout.destroy();
    await once(child.stderr, "data");
    await new Promise(setImmediate); // The server sent all of it in one piece.
    const asked = server.list().catch(() => {});
    assert.equal((await child.exited).signal, late ? "SIGPIPE" : null);
    await server.close();
    await asked;
  }
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
      assert.equal(await send(child), false, "nothing is left to be signalled, and that is not an error");
    }
  }
});

test("kill has the shape of node's", async (server) => {
  const child = server.spawn(...NEVER);
  assert.deepEqual([child.killed, child.kill(0), child.killed], [false, true, false]);
  for (const signal of ["SIGNOTHING", "", 65, -1, 1.5]) {
    assert.throws(() => child.kill(signal), { code: "ERR_UNKNOWN_SIGNAL", name: "TypeError" });
  }
  const exit = once(child, "exit");
  assert.deepEqual([child.kill(), child.killed, child.kill("SIGTERM")], [true, true, true]);
  assert.deepEqual(await exit, [null, "SIGTERM"]);
  assert.deepEqual([child.kill(), child.kill(0), await child.killTree()], [false, false, false]);
  const missing = server.spawn("no-such-program");
  await assert.rejects(missing.exited);
  assert.deepEqual([missing.kill(), missing.killed], [false, false]);
});

nodeTest("a signal that cannot be sent is an 'error' event", { timeout: PATIENCE }, async () => {
  const refusal = { code: -32603, message: "no", data: { errno: 1, code: "EPERM" } };
  const server = new Server(fake(4, [{ id: 1, result: {} }, { id: 3, result: {} }, { id: 4, error: refusal }, { id: 5, error: refusal }]));
  const child = server.spawn("x");
  const failure = once(child, "error", {}) as Promise<[Error]>;
  assert.equal(child.kill(), true);
  await assert.rejects(child.killTree(), { name: "RpcError", message: "no" });
  const [error] = await failure;
  const { message, code, errno, syscall } = error as NodeJS.ErrnoException;
  assert.deepEqual([message, code, errno, syscall], ["kill EPERM", "EPERM", -1, "kill"]);
  await server.close();
});

nodeTest("a request that is not awaited never ends this program", { timeout: PATIENCE }, async () => {
  // It ends at the first request after the spawn.
  const command = fake(2, [
    { id: 1, result: {} },
    { id: 3, result: { pid: 7 } },
  ]);
  const printed = await script(`
    const child = new Server(${JSON.stringify(command)}).spawn("x");
    child.on("error", (error) => console.log(error.name));
    const ask = () => {
      child.kill();
      child.killTree();
      child.killTree(1000);
      child.resize(3, 4);
      child.stdin.end();
      child.stdout.destroy();
    };
    child.on("spawn", ask);
    child.on("close", ask);`);
  assert.equal(printed, "ServerGone\n");
  // And neither does a resize of what has no terminal, or has ended.
  assert.equal(await script(`new Server().spawn("cat").on("spawn", function () { this.resize(3, 4); this.stdin.end(); });`), "");
});

test("an AbortSignal", async (server) => {
  const reason = new Error("enough");
  const controller = new AbortController();
  const child = server.spawn(...NEVER, { signal: controller.signal });
  assert.equal(getEventListeners(controller.signal, "abort").length, 1);
  const exit = new Promise((resolve) => child.on("close", resolve));
  const failure = once(child, "error", {}) as Promise<[Error]>;
  controller.abort(reason);
  assert.equal(child.killed, true);
  const [error] = await failure;
  assert.deepEqual([error.name, (error as NodeJS.ErrnoException).code, error.cause], ["AbortError", "ABORT_ERR", reason]);
  await assert.rejects(child.exited, error);
  await exit;
  assert.deepEqual([child.exitCode, child.signalCode], [null, "SIGTERM"]);

  const already = server.spawn(...NEVER, { signal: AbortSignal.abort(), killSignal: "SIGKILL" });
  await assert.rejects(already.exited, { name: "AbortError" });
  await until("it has ended", () => already.signalCode !== null);
  assert.equal(already.signalCode, "SIGKILL");

  const later = new AbortController();
  await server.spawn("true", { signal: later.signal }).exited;
  assert.equal(getEventListeners(later.signal, "abort").length, 0, "what has ended is not watched");
  later.abort();
  assert.throws(() => server.spawn("true", { signal: {} as AbortSignal }), { code: "ERR_INVALID_ARG_TYPE" });
});

test("a program can be disposed of", async (server) => {
  const child = server.spawn(...NEVER);
  child[Symbol.dispose]();
  assert.equal(child.killed, true);
  assert.equal((await child.exited).signal, "SIGTERM");
  const other = server.spawn("sh", ["-c", "trap '' TERM; echo ready; while :; do sleep 1000; done"]);
  await line(other.stdout);
  await other[Symbol.asyncDispose]();
  assert.equal(other.signalCode, "SIGKILL");
  await server[Symbol.asyncDispose]();
  await assert.rejects(server.list(), ServerGone);
});

nodeTest("a server keeps its program running only while it works", { timeout: PATIENCE }, async () => {
  // Without a `close`.
  assert.equal(await script(`new Server().spawn("echo", ["x"]).stdout.pipe(process.stdout);`), "x\n");
  assert.equal(await script(`console.log((await new Server().list()).length);`), "0\n");
  const unref = `const child = new Server().spawn("sleep", ["1000"]);
    child.on("spawn", () => { console.log(child.pid); child.unref(); });`;
  const pid = Number(await script(unref));
  await until("the program is gone, which nothing kept", () => !isAlive(pid));
  const ref = `const child = new Server().spawn("sh", ["-c", "read line; echo end"]);
    child.unref();
    child.ref();
    child.stdout.pipe(process.stdout);
    child.stdin.end();`;
  assert.equal(await script(ref), "end\n");
  // One that ends by itself, with nothing asked of it.
  const command = ["sh", "-c", `read line; echo '{"id":1,"result":{}}'; exec sleep 0.3`];
  const ended = `const server = new Server(${JSON.stringify(command)}); await server.info; console.log(await server.ended);`;
  assert.equal(await script(ended), "true\n");
});

test("a signal with grace", async (server) => {
  const child = server.spawn("sh", ["-c", "trap '' TERM; echo ready; while :; do sleep 1000; done"]);
  await line(child.stdout);
  assert.equal(await child.killTree(100), true);
  assert.equal((await child.exited).signal, "SIGKILL");
});

test("a timeout sends SIGTERM, or what killSignal says", async (server) => {
  const told = async (options: SpawnOptions & { stdio?: undefined }, command = "exec sleep 1000"): Promise<unknown[]> => {
    const child = server.spawn("sh", ["-c", command], options);
    const { code, signal, timedOut } = await child.exited;
    return [code, signal, timedOut, child.killed];
  };
  assert.deepEqual(await told({ timeout: 50 }), [null, "SIGTERM", true, true]);
  assert.deepEqual(await told({ timeout: 50, killSignal: "SIGINT" }), [null, "SIGINT", true, true]);
  assert.deepEqual(await told({ timeout: 50, killSignal: 9 }), [null, "SIGKILL", true, true]);
  const trap = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.1; done";
  assert.deepEqual(await told({ timeout: 500 }, trap), [3, null, true, true]);
  assert.deepEqual(await told({ timeout: 0 }, "exit 4"), [4, null, false, false]);
  for (const timeout of [-1, 1.5, NaN, "soon"]) {
    assert.throws(() => server.spawn("true", { timeout: timeout as number }), { code: "ERR_OUT_OF_RANGE", name: "RangeError" });
  }
});

test("a program that is not there", async (server) => {
  const child = server.spawn("no-such-program", ["-x", 3]);
  const [error] = (await once(child, "error", {})) as [SpawnError];
  assert.ok(error instanceof SpawnError);
  assert.deepEqual(
    [error.message, error.code, error.errno, error.syscall, error.path, error.stage],
    ["spawn no-such-program ENOENT", "ENOENT", -2, "spawn no-such-program", "no-such-program", "lookup"],
  );
  assert.deepEqual(error.spawnargs, ["-x", "3"]);
  assert.deepEqual([child.spawnfile, child.spawnargs], ["no-such-program", ["no-such-program", "-x", "3"]]);
  assert.match(String((error.cause as Error).message), /on the child's PATH/, "and what the server said");
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

test("what is piped into a program that fails is not a second error", async (server) => {
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
  await assert.rejects(server.spawn("true", [], { cwd: "/no/such" }).exited, {
    code: "ENOENT",
    stage: "cwd",
    message: "spawn true ENOENT (directory /no/such)",
  });
});

test("arguments that do not fit", async (server) => {
  await server.info;
  await assert.rejects(server.spawn("true", [], { cwd: "relative" }).exited, { name: "RpcError", code: -32602 });
  await assert.rejects(server.spawn("true", ["x".repeat(17 << 20)]).exited, RangeError);
  assert.equal(await text(server.spawn("echo", ["x"]).stdout), "x\n");
});

test("arguments are read as node reads them", async (server) => {
  const output = (child: Process): Promise<string> => text(child.stdout);
  assert.equal(await output(server.spawn("pwd", { cwd: "/usr" })), "/usr\n");
  assert.equal(await output(server.spawn("pwd", undefined, { cwd: new URL("file:///usr") })), "/usr\n");
  assert.equal(await output(server.spawn("echo", [1, true])), "1 true\n");
  assert.equal(await output(server.spawn("pwd", null, { cwd: null })), `${process.cwd()}\n`);
  const shell = server.spawn("echo $0", ["&& echo", "two"], { shell: true });
  assert.deepEqual([shell.spawnfile, shell.spawnargs], ["/bin/sh", ["/bin/sh", "-c", "echo $0 && echo two"]]);
  assert.equal(await output(shell), "/bin/sh\ntwo\n");
  assert.equal(await output(server.spawn("echo $0", { shell: "/bin/bash" })), "/bin/bash\n");
  const told = server.spawn("echo", ["ü"], { encoding: "latin1" });
  assert.deepEqual(await once(told.stdout, "data"), ["\u00c3\u00bc\n"]);
  await told.exited;

  const type = { code: "ERR_INVALID_ARG_TYPE", name: "TypeError" };
  const value = { code: "ERR_INVALID_ARG_VALUE", name: "TypeError" };
  const spawn = server.spawn.bind(server) as (...args: unknown[]) => Process;
  for (const [args, error] of [
    [[], type],
    [[3], type],
    [[""], value],
    [["true", "args"], type],
    [["true", [], null], type],
    [["true", [], []], type],
    [["a\0b"], value],
    [["true", ["a\0b"]], value],
    [["true", { cwd: "a\0b" }], value],
    [["true", { cwd: 3 }], type],
    [["true", { env: { A: "a\0b" } }], value],
    [["true", { env: { "a\0b": "A" } }], value],
    [["true", { env: "A=b" }], type],
    [["true", { shell: 3 }], type],
    [["true", { killSignal: {} }], type],
    [["true", { killSignal: "SIGNOTHING" }], { code: "ERR_UNKNOWN_SIGNAL" }],
  ] as [unknown[], object][]) {
    assert.throws(() => spawn(...args), error, inspect(args));
  }
  // Text of the error as node's is, with its code.
  assert.throws(() => spawn(""), /^TypeError \[ERR_INVALID_ARG_VALUE\]: The argument 'file' cannot be empty/);
});

test("options that are not known are refused, and not ignored", async (server) => {
  const value = { code: "ERR_INVALID_ARG_VALUE", name: "TypeError" };
  const spawn = server.spawn.bind(server) as (...args: unknown[]) => Process;
  for (const [options, said] of [
    [{ uid: 0 }, /'options.uid' is not supported: programs run as the server's user. Received 0/],
    [{ gid: 0 }, /'options.gid' is not supported/],
    [{ argv0: "x" }, /'options.argv0' is not supported/],
    [{ tmeout: 3 }, /'options.tmeout' is not known. Received 3/],
    [{ stdio: "ipc" }, /'options.stdio' is invalid/],
    [{ stdio: [3] }, /'options.stdio\[0\]' is not supported/],
    [{ stdio: ["pipe", "pipe", "pipe", "pipe"] }, /three entries/],
    [{ stdio: ["pipe", "pipe", "pipe", "ignore", 1] }, /three entries/],
    [{ stdio: ["pipe", "ipc"] }, /'options.stdio\[1\]' is not supported/],
    [{ stdio: [process.stdout.constructor] }, /'options.stdio\[0\]' is not supported/],
    [{ stdio: "pipe", stdout: "pipe" }, /excludes/],
    [{ stdout: "inherit" }, /'options.stdout' must be "pipe" or "ignore"/],
  ] as [object, RegExp][]) {
    assert.throws(() => spawn("true", options), { ...value, message: said });
    assert.throws(() => spawn("true", [], options), value);
  }
  assert.throws(() => server.exec("true", { stdio: "ignore" } as object), value);
  assert.throws(() => new Server(undefined, { timeout: 3 } as object), { ...value, message: /'options.timeout' is not known/ });
  // What has no meaning on Linux, or no value, is taken.
  await spawn("true", { windowsHide: true, windowsVerbatimArguments: false, serialization: "json", uid: undefined, gid: null }).exited;
  // Options are an object's own.
  Object.defineProperty(Object.prototype, "cwd", { value: "/usr", configurable: true, enumerable: true });
  try {
    assert.equal(await text(server.spawn("pwd").stdout), `${process.cwd()}\n`);
  } finally {
    delete (Object.prototype as { cwd?: string }).cwd;
  }
});

test("stdio is node's", async (server) => {
  const ignored = server.spawn("sh", ["-c", "wc -c; echo err >&2"], { stdio: "ignore" });
  assert.deepEqual([ignored.stdin, ignored.stdout, ignored.stderr, ignored.stdio], [null, null, null, [null, null, null]]);
  const closed = once(ignored, "close");
  assert.equal((await ignored.exited).code, 0);
  await closed;
  const some = server.spawn("cat", { stdio: ["pipe", "overlapped", "ignore"] });
  assert.deepEqual([some.stdio, some.stderr], [[some.stdin, some.stdout, null], null]);
  some.stdin?.end("x");
  assert.equal(await text(some.stdout as Readable), "x");
  const long = server.spawn("echo", ["x"], { stdio: ["ignore", "pipe", "ignore", "ignore", null, undefined] });
  assert.equal(await text(long.stdout as Readable), "x\n");
  const short = server.spawn("sh", ["-c", "echo err >&2"], { stdio: ["ignore"] });
  assert.equal(await text(short.stderr as Readable), "err\n");

  // Streams are piped from and to.
  const source = new PassThrough();
  const sink = new PassThrough();
  const piped = server.spawn("sh", ["-c", "head -n 1; echo err >&2"], { stdio: [source, sink, sink] });
  source.write("one\n");
  assert.deepEqual([piped.stdin, piped.stdout, piped.stderr], [null, null, null]);
  await once(piped, "close");
  assert.equal(String(sink.read()), "one\nerr\n");
  source.end("two\n");
  assert.equal(await text(source), "two\n", "what comes later is not for the program");
  const chain = server.spawn("cat", { stdio: [server.spawn("echo", ["x"]).stdout, "pipe", "inherit"] });
  assert.equal(await text(chain.stdout as Readable), "x\n");
});

test("a descriptor of a regular file is written to and read from where it is", async (server) => {
  const folder = mkdtempSync(join(tmpdir(), "procwire-"));
  await server.info;
  const open = readdirSync("/proc/self/fd").length;
  try {
    const name = join(folder, "log");
    const script = "cat; echo out; echo err >&2";
    for (const [flags, skip, seen] of [
      ["a", 0, "0123456789out\nerr\n"],
      ["r+", 4, "0123out\nerr\n"],
      ["w", 0, "out\nerr\n"],
    ] as const) {
      writeFileSync(name, "0123456789");
      const output = openSync(name, flags);
      if (skip > 0) writeSync(output, "0123");
      const stdio = ["ignore", output, output] as const;
      const child = server.spawn("sh", ["-c", "echo out; sleep 0.1; echo err >&2"], { stdio });
      // As with node, it is the program's by now.
      closeSync(output);
      assert.deepEqual(child.stdio, [null, null, null]);
      await once(child, "close");
      assert.equal(readFileSync(name, "utf8"), seen);
    }
    const [input, other] = [openSync(name, "r"), openSync(join(folder, "other"), "w")];
    readSync(input, Buffer.alloc(4));
    const copied = server.spawn("sh", ["-c", script], { stdio: [input, other, "pipe"] });
    const closed = once(copied, "close");
    closeSync(input);
    closeSync(other);
    assert.equal(await text(copied.stderr as Readable), "err\n");
    await closed;
    assert.equal(readFileSync(join(folder, "other"), "utf8"), "err\nout\n");
    // One that takes nothing of it ends all the same, and nothing is left open.
    const large = join(folder, "large");
    writeFileSync(large, Buffer.alloc(3_000_000));
    const unread = openSync(large, "r");
    await once(server.spawn("true", { stdio: [unread, "ignore", "ignore"] }), "close");
    closeSync(unread);
    await until("it is closed", () => readdirSync("/proc/self/fd").length <= open);
    const full = openSync(name, "a");
    const failed = server.spawn("no-such-program", { stdio: ["ignore", full, full] });
    const [, code] = await Promise.all([once(failed, "error", {}), new Promise((resolve) => failed.on("close", resolve))]);
    assert.equal(code, -2);
    const value = { code: "ERR_INVALID_ARG_VALUE" };
    assert.throws(() => server.spawn("true", { stdio: ["ignore", full, full], detached: true }), { ...value, message: /excludes descriptors/ });
    closeSync(full);
    assert.throws(() => server.spawn("true", { stdio: [full] }), value, "it is closed");
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("what is piped into a file is there when the program is closed", async (server) => {
  const folder = mkdtempSync(join(tmpdir(), "procwire-"));
  // A slow disk.
  const slow = (...args: Parameters<typeof fs.write>): unknown => setTimeout(() => fs.write(...args), 300);
  try {
    for (const ended of [false, true]) {
      const file = createWriteStream(join(folder, `${ended}`), { fs: { open: fs.open, close: fs.close, write: slow } } as object);
      const child = server.spawn("echo", ["x"], { stdio: ["ignore", file, "ignore"] });
      if (ended) file.once("unpipe", () => file.end());
      await once(child, "close");
      assert.equal(readFileSync(join(folder, `${ended}`), "utf8"), "x\n");
      file.end();
    }
    const gone = createWriteStream(join(folder, "gone"));
    const closed = once(server.spawn("true", { stdio: ["ignore", gone, "ignore"] }), "close");
    gone.destroy();
    await closed;
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("lines", async (server) => {
  const read = async (child: Process<null> | Process): Promise<string[]> => {
    const lines: string[] = [];
    for await (const one of child) lines.push(one);
    return lines;
  };
  assert.deepEqual(await read(server.spawn("printf", ["a\\r\\n\\nü\\nend"])), ["a", "", "ü", "end"]);
  assert.deepEqual(await read(server.spawn("printf", ["\\374\\n"], { encoding: "latin1" })), ["ü"]);
  assert.deepEqual(await read(server.spawn("true")), []);
  assert.equal((await read(server.spawn("seq", ["100000"]))).length, 100_000);
  const yes = server.spawn("yes");
  for await (const one of yes) {
    assert.equal(one, "y");
    break;
  }
  assert.equal((await yes.exited).signal, "SIGPIPE");
  await assert.rejects(read(server.spawn("true", { stdio: "ignore" })), { code: "ERR_INVALID_ARG_VALUE" });
});

test("what waits for something of a program is told that it failed", async (server) => {
  const told = { name: "SpawnError", code: "ENOENT" };
  await assert.rejects(server.spawn("no-such-program").expect("x"), told);
  await assert.rejects(server.spawn("no-such-program").waitFor("x"), told);
  await assert.rejects(server.spawn(...NEVER, { signal: AbortSignal.timeout(50) }).expect("x"), { name: "AbortError" });
  const [expecting, waiting] = [server.spawn(...NEVER), server.spawn(...NEVER)];
  const gone = [assert.rejects(expecting.expect("x"), ServerGone), assert.rejects(waiting.waitFor("x"), ServerGone)];
  await server.list();
  process.kill(pidOfServer(server), "SIGKILL");
  await Promise.all(gone);
  await assert.rejects(server.spawn("true").expect("x"), ServerGone);
});

nodeTest("stdio is inherited", { timeout: PATIENCE }, async () => {
  const body = `new Server().spawn("sh", ["-c", "cat; exit 3"], { stdio: "inherit" }).on("close", (code) => console.log(code));`;
  assert.equal(await script(body, { input: "some input" }), "some input3\n");
});

test("stdin that is destroyed is at its end", async (server) => {
  const child = server.spawn("sh", ["-c", "cat; echo end"]);
  child.stdin.write("some ");
  await until("that has come", () => child.stdin.writableLength === 0);
  child.stdin.destroy();
  assert.equal(await text(child.stdout), "some end\n");
});

nodeTest("the size and the directory of this program are not the program's", { timeout: PATIENCE }, async () => {
  const env = { COLUMNS: "7", LINES: "8" };
  const printed = await script(
    `const server = new Server();
    const show = async (options) => {
      const child = server.spawn("/usr/bin/env", options);
      let seen = "";
      for await (const chunk of child.stdout) seen += chunk;
      console.log(seen.split(/\\r?\\n/).filter((line) => /^(COLUMNS|LINES|PWD)=/.test(line)).sort().join());
    };
    await show({ cwd: "/usr" });
    await show({ cwd: new URL("file:///usr"), tty: true });
    await show({ cwd: "/usr", tty: true, env: { COLUMNS: "9", PWD: "/bin/../usr" } });`,
    { env },
  );
  const expected = ["COLUMNS=7,LINES=8,PWD=/usr", "PWD=/usr", "COLUMNS=9,PWD=/bin/../usr"];
  assert.deepEqual(printed.trimEnd().split("\n"), expected);
});

test("exec and execFile collect", async (server) => {
  const [error, stdout, stderr] = await new Promise<unknown[]>((resolve) => {
    const child = server.exec("echo out; echo err >&2; exit 3", (...result) => resolve(result));
    assert.ok(child instanceof Process);
  });
  assert.deepEqual([stdout, stderr], ["out\n", "err\n"]);
  const { message, code, killed, signal, cmd } = error as Error & Record<string, unknown>;
  assert.equal(message, "Command failed: echo out; echo err >&2; exit 3\nerr\n");
  assert.deepEqual([code, killed, signal, cmd], [3, false, null, "echo out; echo err >&2; exit 3"]);

  const [exec, execFile] = [promisify(server.exec), promisify(server.execFile)];
  assert.deepEqual(await exec("echo $A", { env: { A: "b" } }), { stdout: "b\n", stderr: "" });
  assert.deepEqual(await execFile("echo", ["$A"]), { stdout: "$A\n", stderr: "" });
  assert.deepEqual(await execFile("pwd", { cwd: "/usr" }), { stdout: "/usr\n", stderr: "" });
  assert.deepEqual(await exec("echo x", { encoding: "buffer" }), { stdout: Buffer.from("x\n"), stderr: Buffer.alloc(0) });
  await assert.rejects(execFile("no-such-program", ["x"]), {
    message: "spawn no-such-program ENOENT",
    code: "ENOENT",
    cmd: "no-such-program x",
    stdout: "",
  });
  await assert.rejects(exec("echo out; exec sleep 1000", { timeout: 200 }), {
    killed: true,
    signal: "SIGTERM",
    code: null,
    stdout: "out\n",
  });
  await assert.rejects(exec("yes", { maxBuffer: 5 }), {
    name: "RangeError",
    code: "ERR_CHILD_PROCESS_STDIO_MAXBUFFER",
    message: "stdout maxBuffer length exceeded",
    stdout: "y\ny\ny",
  });
  // A program that shrugs off what it gets is killed all the same.
  await assert.rejects(exec("trap '' TERM PIPE; while :; do echo x; done", { maxBuffer: 5 }), /maxBuffer/);
  const running = exec("exec sleep 1000", { signal: AbortSignal.timeout(50) });
  await assert.rejects(running, { name: "AbortError", code: "ABORT_ERR" });
  assert.throws(() => execFile("a\0b"), { code: "ERR_INVALID_ARG_VALUE" });
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

nodeTest("a command that is not a server is an error", { timeout: PATIENCE }, async () => {
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

nodeTest("a server has to answer the handshake in time", { timeout: PATIENCE }, async () => {
  for (const command of ["cat", "sleep 1000", ["sh", "-c", "trap '' TERM; exec sleep 1000"]]) {
    const server = new Server(command, { handshakeTimeout: 300 });
    const child = server.spawn("true");
    const name = typeof command === "string" ? command : command.join(" ");
    const message = `the server "${name}" did not answer the handshake within 0.3 s`;
    await assert.rejects(server.info, { name: "ServerGone", message });
    await assert.rejects(child.exited, { message });
    await server.close();
    assert.equal(isAlive(server.pid), false);
  }
  const patient = new Server(fake(1, [{ id: 1, result: {} }]), { handshakeTimeout: 0 });
  await patient.info;
  await patient.close();
  // What is left out is ten seconds.
  const timers: number[] = [];
  const original = globalThis.setTimeout;
  globalThis.setTimeout = ((...args: Parameters<typeof original>) => {
    timers.push(Number(args[1]));
    return original(...args);
  }) as typeof original;
  const usual = new Server("sleep 1000");
  globalThis.setTimeout = original;
  assert.deepEqual(timers, [10_000]);
  process.kill(usual.pid ?? 0);
  await usual.close();
});

nodeTest("the memory for what a server sends is bounded", { timeout: 2 * PATIENCE }, async () => {
  const endless = new Server("cat /dev/zero");
  await assert.rejects(endless.info, /sent a message of more than 67108864 bytes$/);
  await endless.close();
  // Output that is not read, in large pieces and in small ones, while an answer never comes.
  for (const [deltaBase64, least, most] of [
    ["A".repeat(80_000), 60e6, 200e6],
    ["eA==", 10e6, 60e6],
  ] as const) {
    const delta = { method: "process/outputDelta", params: { processHandle: "2", deltaBase64, offset: 0 } };
    const script = `read a; read b; printf '%s\\n' "$1" "$2"; exec yes "$3"`;
    const said = [{ id: 1, result: {} }, { id: 3, result: { pid: 7 } }, delta].map((message) => JSON.stringify(message));
    const flood = new Server(["sh", "-c", script, "sh", ...said], { maxUnread: 1 << 20 });
    const child = flood.spawn("x");
    await once(child, "spawn");
    const listed = assert.rejects(flood.list(), ServerGone);
    let before = -1;
    await until("it is read no further", async () => {
      const now = Number(/wchar: (\d+)/.exec(readFileSync(`/proc/${flood.pid}/io`, "utf8"))?.[1]);
      await sleep(300);
      const waits = now === before;
      before = now;
      return waits;
    });
    assert.ok(before > least && before < most, `it has written ${before} bytes`);
    await flood.close();
    await listed;
  }
});

nodeTest("the messages of a server are checked", { timeout: PATIENCE }, async () => {
  const esc = "\u001b]0;pwned\u0007\u009b31m\u202e\u007f\r\n";
  const shown = "\\u{1b}]0;pwned\\u{7}\\u{9b}31m\\u{202e}\\u{7f}\\u{d}\\u{a}";
  const refusing = new Server(
    fake(3, [
      { id: 1, result: { limits: { maxMessageBytes: 0 } } },
      { id: 3, error: { code: "x", message: `${esc}${"y".repeat(100_000)}` } },
      { id: 4, error: { code: -32603, message: esc, data: { errno: 2, code: esc, stage: esc } } },
    ]),
  );
  const child = refusing.spawn("x");
  const listed = refusing.list();
  await assert.rejects(child.exited, (error) => {
    assert.ok(error instanceof RpcError && error.code === 0 && error.message.startsWith(`${shown}yyy`), String(error));
    assert.ok(error.message.length <= 201 && error.message.endsWith("…"));
    return true;
  });
  await assert.rejects(listed, { message: shown });
  await refusing.close();

  const failing = new Server(
    fake(2, [
      { id: 1, result: null },
      { id: 3, error: { code: -32603, message: esc, data: { errno: 2, code: esc, stage: esc } } },
    ]),
  );
  await assert.rejects(failing.spawn("x").exited, { message: "spawn x UNKNOWN", code: "UNKNOWN", stage: shown });
  await failing.close();

  // A line that is not a message, and an error without an id, which end the connection.
  for (const said of [`${esc.replace("\n", "")}`, JSON.stringify({ id: null, error: { code: 1, message: esc } })]) {
    const server = new Server(["sh", "-c", 'printf "%s\\n" "$1"; read end', "sh", said]);
    await assert.rejects(server.info, (error) => error instanceof ServerGone && !/[\p{C}]/u.test(error.message));
    await server.close();
  }

  // Members that are missing, or of another type.
  const odd = new Server(
    fake(2, [
      { id: 1, error: null, result: [3] },
      { id: {}, result: 3 },
      { id: 3, result: { pid: "seven" } },
      { method: "process/outputDelta", params: null },
      { method: "process/outputDelta", params: { processHandle: "2" } },
      { method: "process/outputDelta", params: { processHandle: "2", stream: 3, deltaBase64: { length: 1e9 } } },
      { method: "process/outputDelta", params: { processHandle: "2", deltaBase64: "eA==", offset: "x" } },
      { method: 7 },
      { method: "process/exited", params: { processHandle: "2", exitCode: null, signal: 9, usage: null, durationMs: {} } },
    ]),
  );
  const started = odd.spawn("x");
  assert.equal(await text(started.stdout), "x");
  const { code, signal, durationMs, maxRssBytes } = await started.exited;
  assert.deepEqual([started.pid, code, signal, durationMs, maxRssBytes], [undefined, 0, null, 0, 0]);
  await odd.close();

  const listing = new Server(fake(2, [{ id: 1, result: {} }, { id: 2, result: { processes: 3 } }]));
  await assert.rejects(listing.list(), /sent no list of processes/);
  await listing.close();
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
      inheritEnv: true,
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
