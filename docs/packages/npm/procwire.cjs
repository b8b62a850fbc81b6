#!/usr/bin/env node
"use strict";
// The command `procwire`: becomes the binary of this machine's platform package, or runs it as a child
// where node cannot replace itself.

const { spawn } = require("node:child_process");
const { constants } = require("node:os");
const path = require("./binary.cjs")();

if (path === undefined) {
  process.stderr.write(`procwire: there is no binary for ${process.platform}-${process.arch} in this package\n`);
  process.exit(1);
}
if (typeof process.execve === "function") {
  process.execve(path, ["procwire", ...process.argv.slice(2)], process.env);
}
const child = spawn(path, process.argv.slice(2), { argv0: "procwire", stdio: "inherit" });
for (const signal of ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGCONT"]) {
  process.on(signal, () => child.kill(signal));
}
child.on("error", (error) => {
  process.stderr.write(`procwire: ${error.message}\n`);
  process.exit(1);
});
child.on("exit", (code, signal) => {
  if (signal === null) process.exit(code);
  // Ends as the binary did, so that a shell sees the signal.
  process.removeAllListeners(signal);
  process.kill(process.pid, signal);
  setTimeout(() => process.exit(128 + constants.signals[signal]), 100);
});
