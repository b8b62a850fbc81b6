// vscode-jsonrpc, as it is, against the real server, which the variable PROCWIRE names.
// It sends `Content-Length` headers and `"jsonrpc":"2.0"`, as every language client of VS Code does.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createRequire } from "node:module";
import { test } from "node:test";

// Both the version of today and the one that most extensions have.
const rpc = createRequire(import.meta.url)(`${process.env.VSCODE_JSONRPC ?? "vscode-jsonrpc"}/node`);

/** What a language client does with its server, no more. */
async function withServer(body) {
  const server = spawn(process.env.PROCWIRE, { shell: true, stdio: ["pipe", "pipe", "inherit"] });
  const ended = once(server, "exit");
  const connection = rpc.createMessageConnection(
    new rpc.StreamMessageReader(server.stdout),
    new rpc.StreamMessageWriter(server.stdin),
  );
  const errors = [];
  connection.onError((error) => errors.push(error));
  connection.onUnhandledNotification((message) => errors.push(message));
  const output = [];
  connection.onNotification("process/outputDelta", (delta) => {
    output.push(Buffer.from(delta.deltaBase64, "base64"));
  });
  const exits = new Map();
  const exited = (handle) => new Promise((resolve) => exits.set(handle, resolve));
  connection.onNotification("process/exited", (exit) => exits.get(exit.processHandle)?.(exit));
  connection.listen();
  try {
    await body({ connection, output, exited, request: connection.sendRequest.bind(connection) });
  } finally {
    connection.end();
    server.stdin.end();
  }
  assert.deepEqual(await ended, [0, null]);
  assert.deepEqual(errors, []);
}

test("programs are spawned, fed, streamed and ended", { timeout: 30_000 }, () =>
  withServer(async ({ request, output, exited }) => {
    const exit = exited("grüße");
    const { pid } = await request("process/spawn", {
      command: ["tr", "a-z", "A-Z"],
      processHandle: "grüße",
      streamStdin: true,
      streamStdoutStderr: true,
      timeoutMs: null,
    });
    assert.ok(pid > 0);
    const deltaBase64 = Buffer.from("hello ü\n").toString("base64");
    assert.deepEqual(await request("process/writeStdin", { processHandle: "grüße", deltaBase64 }), {});
    assert.deepEqual(await request("process/writeStdin", { processHandle: "grüße", closeStdin: true }), {});
    assert.equal((await exit).exitCode, 0);
    assert.equal(Buffer.concat(output).toString(), "HELLO ü\n");
  }),
);

test("programs are killed", { timeout: 30_000 }, () =>
  withServer(async ({ request, exited }) => {
    const exit = exited("s");
    await request("process/spawn", { command: ["sleep", "1000"], processHandle: "s", timeoutMs: null });
    await request("process/kill", { processHandle: "s" });
    assert.equal((await exit).signal, "SIGKILL");
  }),
);

test("megabytes come whole", { timeout: 30_000 }, () =>
  withServer(async ({ request, output, exited }) => {
    const exit = exited("z");
    await request("process/spawn", {
      command: ["head", "-c", "5000000", "/dev/zero"],
      processHandle: "z",
      streamStdoutStderr: true,
      outputBytesCap: null,
    });
    assert.equal((await exit).stdoutBytes, 5_000_000);
    assert.ok(Buffer.concat(output).equals(Buffer.alloc(5_000_000)));
  }),
);

test("programs are waited for, inspected, and left without a reader", { timeout: 30_000 }, () =>
  withServer(async ({ request, exited }) => {
    const processHandle = "y";
    const exit = exited(processHandle);
    const [{ pid }, waited] = await Promise.all([
      request("process/spawn", {
        command: ["sh", "-c", "echo ready; read x; exec yes"],
        processHandle,
        streamStdin: true,
        streamStdoutStderr: true,
        timeoutMs: null,
      }),
      request("process/wait", { processHandle, until: [{ exit: true }, { text: "ready\n" }] }),
    ]);
    assert.deepEqual(waited, { index: 1, stream: "stdout", offset: 6 });
    assert.equal((await request("process/inspect", { processHandle })).processes[0].pid, pid);
    assert.deepEqual(await request("process/closeOutput", { processHandle, stream: "stdout" }), {});
    assert.deepEqual(await request("process/writeStdin", { processHandle, deltaBase64: "Cg==" }), {});
    assert.equal((await exit).signal, "SIGPIPE");
  }),
);

test("errors are told", { timeout: 30_000 }, () =>
  withServer(async ({ request }) => {
    const missing = { command: ["no-such-program"], processHandle: "n" };
    await assert.rejects(request("process/spawn", missing), (error) => {
      assert.ok(error instanceof rpc.ResponseError);
      assert.equal(error.code, -32603);
      assert.equal(error.data.code, "ENOENT");
      return true;
    });
    await assert.rejects(request("process/fly", {}), { code: rpc.ErrorCodes.MethodNotFound });
    await assert.rejects(request("process/spawn", { command: 3 }), { code: rpc.ErrorCodes.InvalidParams });
  }),
);

test("many requests at once are all answered", { timeout: 30_000 }, () =>
  withServer(async ({ request }) => {
    const answers = await Promise.all(Array.from({ length: 1000 }, () => request("process/list", {})));
    assert.ok(answers.every((answer) => answer.processes.length === 0));
  }),
);

test("a request that is cancelled is answered all the same", { timeout: 30_000 }, () =>
  withServer(async ({ request }) => {
    const source = new rpc.CancellationTokenSource();
    const answer = request("process/list", {}, source.token);
    source.cancel();
    assert.deepEqual(await answer, { processes: [] });
  }),
);
