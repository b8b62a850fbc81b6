// A shell on a server, in your own terminal: every key goes there, and a resized window is resized
// there. With a command that leads to another machine, it is a shell over there.
//   node docs/examples/shell.ts [ssh host procwire]
// with Node 22.18 or newer, which runs TypeScript as it is, or with `npx tsx` in its place.

import { Server, type Size } from "../clients/procwire.ts";

const command = process.argv.slice(2);
const server = command.length > 0 ? new Server(command) : new Server();
const screen = process.stdout;
const size = (): Size => ({ rows: screen.rows || 24, cols: screen.columns || 80 });

const env = { TERM: process.env["TERM"] ?? "dumb" }; // The rest is as it is over there
const shell = server.spawn("sh", ["-i"], { tty: true, size: size(), env, inheritEnv: true });
shell.on("error", (error) => console.error(error.message));
process.exitCode = 1; // Unless the shell says better
shell.on("exit", (code) => (process.exitCode = code ?? 1));

if (process.stdin.isTTY) process.stdin.setRawMode(true); // Ctrl-C is for the shell, too
process.stdin.pipe(shell.stdin);
shell.stdout.pipe(screen, { end: false });
screen.on("resize", () => shell.resize(screen.rows, screen.columns).catch(() => {})); // It may be over

shell.on("close", async () => {
  if (process.stdin.isTTY) process.stdin.setRawMode(false);
  process.stdin.destroy();
  await server.close();
});
