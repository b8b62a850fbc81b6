// Runs node's own tests of child_process against the TypeScript client. Each runs in its own process, where
// `require("child_process")` is the client; functions that the client does not have stay node's.
//
// The tests belong to node and are not in this repository: the variable NODE_TESTS names node's folder
// `test`, CLIENT_MODULE the compiled client, PROCWIRE the server. Prints one line per test. A test that
// fails must be listed below with a reason, and a listed one must fail. Arguments select tests by name.

import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire, Module } from "node:module";
import os from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { fileURLToPath, pathToFileURL } from "node:url";

const TEST_TIMEOUT_MS = 60_000;
const PRELOAD = "?preload";

const IPC = "a channel for messages needs a descriptor shared with the child";
const SYNC = "a server cannot be waited for synchronously";
const INTERNALS = "it reaches into node's own ChildProcess";
const PID = "pid is undefined until 'spawn', because the server has to be asked";

/** Tests that are not run, by their name after `test-child-process-`, and why. */
const NOT_CLAIMED = [
  [/^fork(?!-and-spawn$)/, IPC],
  [/^(advanced-serialization|send-|recv-handle)/, IPC],
  [/^(disconnect|http-socket-leak|internal|ipc|ipc-next-tick|server-close|stdin-ipc|stdout-ipc)$/, IPC],
  [/^spawnsync|^exec(file)?sync|^spawn-argv0$/, SYNC],
  [/^(bad-stdio|exec-kill-throws|windows-hide)$/, INTERNALS],
  [/^(constructor|pipe-dataflow|validate-stdio)$/, INTERNALS],
  [/^uid-gid$/, "programs run as the server's user"],
  [/windows/, "servers run on Linux"],
];

/** Tests that fail because the client differs from node on purpose, and why. */
const ARGUED = {
  cwd: PID,
  env: "null removes a variable, where node sets it to the word null",
  "exec-error": PID,
};

/** Runs in the process of a test, before it. */
async function preload() {
  const require = createRequire(import.meta.url);
  const own = require("node:child_process");
  const { Process, Server } = await import(pathToFileURL(process.env.CLIENT_MODULE));
  let started;
  // Started at the first use, with the environment that the test has set by then.
  const server = () => {
    if (started === undefined) writeFileSync(process.env.CLIENT_USED, "");
    return (started ??= new Server());
  };
  const onServer =
    (name) =>
    (...args) =>
      server()[name](...args);
  const withPromise = (name) =>
    Object.defineProperty(onServer(name), promisify.custom, {
      value: (...args) => server()[name][promisify.custom](...args),
    });
  const mapped = {
    ...own,
    ChildProcess: Process,
    spawn: onServer("spawn"),
    exec: withPromise("exec"),
    execFile: withPromise("execFile"),
  };
  const load = Module._load;
  Module._load = function (request, ...rest) {
    if (request === "child_process" || request === "node:child_process") return mapped;
    return load.call(this, request, ...rest);
  };
  // For the tests that import it.
  const names = Object.keys(mapped).join(", ");
  const source = `import Module from "node:module";
    const mapped = Module._load("child_process");
    export default mapped;
    export const { ${names} } = mapped;`;
  const hooks = `export const resolve = (specifier, context, next) =>
      /^(node:)?child_process$/.test(specifier) && /\\/test-child-process-/.test(context.parentURL)
        ? { url: ${JSON.stringify(`data:text/javascript,${encodeURIComponent(source)}`)}, shortCircuit: true }
        : next(specifier, context);`;
  Module.register?.(`data:text/javascript,${encodeURIComponent(hooks)}`);
}

/** Runs one file, with the client or with node's own child_process. */
async function run(file, serial, temporary, withClient) {
  const flags = /^\/\/ Flags: (.*)$/m.exec(readFileSync(file, "utf8"))?.[1].trim().split(/\s+/) ?? [];
  const client = withClient ? ["--import", `${import.meta.url}${PRELOAD}`] : [];
  const used = path.join(temporary, `used-${serial}`);
  // The globals that the tests know are those of one version of node.
  const ids = { TEST_SERIAL_ID: String(serial), TEST_THREAD_ID: String(serial), NODE_TEST_KNOWN_GLOBALS: "0" };
  const child = spawn(process.execPath, [...flags, ...client, file], {
    cwd: process.env.NODE_TESTS,
    detached: true, // A group of its own, which can be killed
    env: { ...process.env, ...ids, NODE_TEST_DIR: temporary, CLIENT_USED: used },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (text) => (output += text));
  const timer = setTimeout(() => process.kill(-child.pid, "SIGKILL"), TEST_TIMEOUT_MS);
  const [code, signal] = await new Promise((resolve) => child.on("exit", (...how) => resolve(how)));
  clearTimeout(timer);
  try {
    process.kill(-child.pid, "SIGKILL"); // Processes it left behind may hold the output
  } catch {
    // There are none.
  }
  const skipped = /^1\.\.0 # Skipped: (.*)/m.exec(output)?.[1];
  return { passed: code === 0, skipped, used: existsSync(used), output: `${output}ended with ${signal ?? code}` };
}

/** Returns what a test counts as, and its line for `run`. */
async function judge(name, file, serial, temporary) {
  const reason = NOT_CLAIMED.find(([pattern]) => pattern.test(name))?.[1];
  if (reason !== undefined) return ["not claimed", `        ${name} is not claimed: ${reason}`];
  const { passed, skipped, used, output } = await run(file, serial, temporary, true);
  const detail = `    ${output.trimEnd().replaceAll("\n", "\n    ")}`;
  if (passed && skipped !== undefined) return ["not claimed", `        ${name} skips itself: ${skipped}`];
  const argued = Object.hasOwn(ARGUED, name);
  if (passed && argued) return ["failed", `FAILED  node's ${name} passes, though it is argued why it cannot`];
  if (passed && !used) return ["failed", `FAILED  node's ${name} passes without the client, and says nothing about it`];
  if (passed) return ["passed", `ok      node's ${name}`];
  if (argued) return ["argued", `        ${name} differs: ${ARGUED[name]}`];
  if (!(await run(file, serial, temporary, false)).passed) {
    return ["unfit", `        ${name} fails with node ${process.version}'s own child_process, too`];
  }
  return ["failed", `FAILED  node's ${name}\n${detail}`];
}

async function main() {
  const folder = path.join(process.env.NODE_TESTS, "parallel");
  const tests = readdirSync(folder)
    .map((file) => [/^test-child-process-(.*)\.m?js$/.exec(file)?.[1], path.join(folder, file)])
    .filter(([name]) => name !== undefined && (process.argv.length < 3 || process.argv.includes(name)));
  if (tests.length === 0) throw new Error(`there are no tests of child_process in ${folder}`);
  const temporary = mkdtempSync(path.join(os.tmpdir(), "node-tests-"));
  const counts = { passed: 0, failed: 0, argued: 0, "not claimed": 0, unfit: 0 };
  try {
    const left = tests.entries();
    const worker = async () => {
      for (const [serial, [name, file]] of left) {
        const [outcome, line] = await judge(name, file, serial, temporary);
        counts[outcome] += 1;
        console.log(line);
      }
    };
    await Promise.all(Array.from({ length: os.availableParallelism?.() ?? os.cpus().length }, worker));
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
  const { passed, failed, argued, unfit } = counts;
  console.log(
    `        of node's ${tests.length} tests of child_process: ${passed} passed, ${failed} failed, ` +
      `${argued} differ as argued, ${counts["not claimed"]} not claimed, ${unfit} not for this node`,
  );
  // Tests of a version that is far from this one say nothing.
  process.exitCode = failed === 0 && passed > unfit ? 0 : 1;
}

if (new URL(import.meta.url).search === PRELOAD) await preload();
else if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
