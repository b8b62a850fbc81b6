// The TypeScript SDK of the Model Context Protocol, as it is, against `procwire mcp`; the variable PROCWIRE
// names the command. The SDK checks each result against the tool's output schema.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync, readdirSync } from "node:fs";
import { createServer } from "node:net";
import { once } from "node:events";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";

const PATIENCE_MS = 30_000;

/** The command is one for a shell, so that its path may have anything in it. */
const COMMAND = { command: "sh", args: ["-c", `exec ${process.env.PROCWIRE} mcp`] };

async function connected() {
  const client = new Client({ name: "test", version: "1" });
  const transport = new StdioClientTransport({ ...COMMAND, env: { ...process.env }, stderr: "inherit" });
  await client.connect(transport);
  return { client, transport };
}

async function withAgent(body) {
  const { client } = await connected();
  const call = async (name, args, options) => {
    // Listed first, so that the SDK knows the output schemas.
    const result = await client.callTool({ name, arguments: args }, undefined, options);
    assert.equal(result.isError, false, JSON.stringify(result));
    assert.ok(result.content[0].text.length > 0);
    return result.structuredContent;
  };
  try {
    const { tools } = await client.listTools();
    await body({ client, tools, call });
  } finally {
    await client.close();
  }
}

/** The processes that have this among their arguments. */
function marked(marker) {
  return readdirSync("/proc").filter((pid) => {
    try {
      return /^\d+$/.test(pid) && Number(pid) !== process.pid && readFileSync(`/proc/${pid}/cmdline`).includes(marker);
    } catch {
      return false;
    }
  });
}

async function until(what, condition) {
  const deadline = Date.now() + PATIENCE_MS;
  while (!(await condition())) {
    assert.ok(Date.now() < deadline, `waited in vain until ${what}`);
    await sleep(10);
  }
}

/** A port that is free now. */
async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

const options = { timeout: 2 * PATIENCE_MS };

test("tools are listed", options, () =>
  withAgent(async ({ client, tools }) => {
    assert.equal(client.getServerVersion().name, "procwire");
    assert.match(client.getInstructions(), /untilText/);
    for (const name of ["run", "start", "write", "read", "kill", "resize", "inspect", "list"]) {
      const tool = tools.find((tool) => tool.name === name);
      assert.equal(tool.inputSchema.type, "object");
      assert.equal(typeof tool.annotations.destructiveHint, "boolean");
    }
    await client.ping();
  }),
);

test("programs run", options, () =>
  withAgent(async ({ client, call }) => {
    const ended = await call("run", { command: "echo out; echo err >&2; exit 3" });
    assert.deepEqual([ended.exitCode, ended.stdout, ended.stderr], [3, "out\n", "err\n"]);
    const long = await call("run", { argv: ["seq", "100000"] });
    assert.equal(long.stdoutBytes, 588_895);
    assert.ok(long.stdoutTail.endsWith("\n100000\n"));
    const wrong = await client.callTool({ name: "run", arguments: { argv: ["no-such-program"] } });
    assert.ok(wrong.isError && wrong.content[0].text.includes("no-such-program"));
    await assert.rejects(client.callTool({ name: "frob", arguments: {} }), { code: -32602 });
  }),
);

test("a server is started and waited for", options, () =>
  withAgent(async ({ call }) => {
    const port = await freePort();
    const script = `require("http").createServer((q, r) => { console.error("asked for " + q.url); r.end("hi"); })
      .listen(${port}, "127.0.0.1", () => console.log("listening"))`;
    const started = await call("start", { argv: [process.execPath, "-e", script], handle: "web", untilText: "listening\n" });
    assert.equal(started.reason, "text");
    const answer = await fetch(`http://127.0.0.1:${port}/page`);
    assert.equal(await answer.text(), "hi");
    const read = await call("read", { handle: "web", untilText: "asked for /page" });
    assert.equal(read.stderr, "asked for /page\n");
    assert.equal((await call("kill", { handle: "web" })).signal, "SIGKILL");
  }),
);

test("a REPL is driven", options, () =>
  withAgent(async ({ call }) => {
    const env = { NODE_NO_READLINE: "1", NODE_DISABLE_COLORS: "1", NODE_REPL_HISTORY: "" };
    await call("start", { argv: [process.execPath, "-i"], tty: true, env, handle: "node", untilText: "> " });
    const shown = await call("write", { handle: "node", text: "6 * 7\n", untilText: "42\n> " });
    assert.equal(shown.reason, "text");
    const ended = await call("write", { handle: "node", text: "process.exit(5)\n", untilExit: true });
    assert.equal(ended.exitCode, 5);
  }),
);

test("calls are served at the same time", options, () =>
  withAgent(async ({ call }) => {
    await call("start", { argv: ["cat"], handle: "cat" });
    const reading = call("read", { handle: "cat", untilText: "now" });
    assert.equal((await call("run", { argv: ["echo", "hi"] })).stdout, "hi\n");
    await call("write", { handle: "cat", text: "now\n" });
    assert.equal((await reading).reason, "text");
  }),
);

test("a cancelled call ends what it has started", options, () =>
  withAgent(async ({ call }) => {
    const marker = `31415.${process.pid}.3`;
    const abort = new AbortController();
    const command = `setsid sh -c 'sleep 1000; : ${marker}' & wait; : ${marker}`;
    const run = call("run", { command }, { signal: abort.signal });
    await until("it runs", () => marked(marker).length > 0);
    abort.abort();
    await assert.rejects(run);
    await until("it is gone", () => marked(marker).length === 0);
    await until("it is forgotten", async () => (await call("list", {})).processes.length === 0);
  }),
);

test("the end of the client is the end of its programs", options, async () => {
  const marker = `31415.${process.pid}.4`;
  await withAgent(async ({ call }) => {
    await call("start", { command: `setsid sh -c 'sleep 1000; : ${marker}' & wait` });
    await until("it runs", () => marked(marker).length > 0);
  });
  await until("it is gone", () => marked(marker).length === 0);
});

test("a killed client leaves nothing", options, async () => {
  const marker = `31415.${process.pid}.5`;
  const script = `
    import { Client } from "@modelcontextprotocol/sdk/client/index.js";
    import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
    const client = new Client({ name: "test", version: "1" });
    await client.connect(new StdioClientTransport(${JSON.stringify({ ...COMMAND, stderr: "inherit" })}));
    const command = "setsid sh -c 'sleep 1000; : ${marker}' & wait";
    await client.callTool({ name: "start", arguments: { command } });
    process.stdout.write("started\\n");
  `;
  // It lives as long as its server.
  const child = spawn(process.execPath, ["--input-type=module", "--eval", script], {
    cwd: new URL(".", import.meta.url),
    env: { ...process.env, NODE_TEST_CONTEXT: "" },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const [line] = await once(child.stdout, "data");
  assert.equal(String(line), "started\n");
  await until("it runs", () => marked(marker).length > 1);
  child.kill("SIGKILL");
  await until("it is gone", () => marked(marker).length === 0);
});
