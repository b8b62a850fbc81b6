//! The texts of the help and their layout: 80 columns, whatever the terminal.
//!
//! **Thread:** main.
//! **Owns:** the texts.
//! **Never:** knows a flag: all of them come from the table in `args.rs`.

use super::{COMMANDS, Subcommand, Takes};

pub(super) const SERVE: &str = "\
procwire: run programs over stdio, controlled by JSON-RPC.

Reads one JSON-RPC request per line from stdin and writes answers and
notifications to stdout, one per line. If the input begins with a Content-Length
header, as editors send it, all messages have headers instead. Logs go to stderr
as RUST_LOG says; RUST_LOG=debug shows everything.

Try it:
  procwire run -- echo hi
  printf '%s' '{\"id\":1,\"method\":\"process/spawn\",\"params\":' \\
    '{\"command\":[\"echo\",\"hi\"],\"processHandle\":\"a\"}}' | procwire --drain

Methods:
  process/spawn        start a program: command, processHandle, cwd, env,
                       inheritEnv, tty, size, terminalModes, streamStdin,
                       streamStdoutStderr, stdin, stdout, stderr,
                       outputBytesCap, outputKeep, timeoutMs, timeoutGraceMs,
                       limits, detach
  process/writeStdin   write to its stdin, and close it: processHandle,
                       deltaBase64, closeStdin
  process/resizePty    resize its terminal: processHandle, size
  process/wait         wait for text, silence, its exit or until it waits for
                       input: processHandle, until, stream, timeoutMs
  process/closeOutput  stop reading its output: processHandle, stream
  process/kill         signal it, or kill it with everything it started:
                       processHandle, signal, graceMs
  process/list         list the running processes
  process/inspect      show what it does and what it waits for: processHandle
  initialize           optional handshake; its answer lists every limit

When stdin ends, when stdout is closed, or at SIGTERM, SIGINT or SIGHUP, the
server kills every process and everything those have started. A SIGINT or SIGHUP
that was ignored at the start stays so.

Exit code: 0 after the end of input, 128 + n after signal n, 2 for a wrong
command line.
";

pub(super) const RUN: &str = "\
Runs one program on a server, as if it had been typed here. Its output comes
live and on the right stream, and stdin goes to it. Signals sent to this process
are passed on (INT, TERM, HUP, QUIT, USR1, USR2; TSTP and CONT stop and continue
both); a second TERM or HUP ends this process at once. However this process
dies, even by SIGKILL, the program and everything it started die with it. There
is no timeout and no limit on output unless a flag sets one; on the wire,
process/spawn has defaults for both.

Typed at a terminal, the program gets a new terminal with the size, keys and
modes of this one. It differs from a program that was typed directly:
  - Ctrl-Z stops the program and this process only if the server is on this
    machine. With --server the key goes to the program, which cannot stop by
    itself; 'kill -TSTP' of this process stops both.
  - Its stdout and stderr are one stream. --tty=never keeps them apart.
  - It does not share job control, and $PPID is the server.
In the background the terminal is neither read nor changed.

stdin is read ahead of the program, so in 'while read' loops add -n. A stdin
that is closed or /dev/null is /dev/null for the program; any other is a pipe.

Try it:
  procwire run -- sh -c 'echo out; echo err >&2; exit 3'
  procwire run -- vi notes.txt
  procwire run --server 'ssh build.example procwire' --timeout 10m -- make -j8
  procwire run --json -- uname -r | jq .usage
  procwire run --record demo.cast -- sh -c 'ls; sleep 1; date'

Exit code: the program's. If a signal killed the program, this process says so
and dies of the same signal, which a shell shows as 128 + n. 124 if the program
timed out; 127 if it was not found, 126 if it cannot be executed; 125 if the
server failed or refused, stdin could not be read or a recording not written; 2
for a wrong command line.
";

pub(super) const CHECK: &str = "\
Replays recorded sessions, each against a fresh server, and reports every
difference. In a session '-->' marks a line that is sent and '<--' a message
that is expected. '#' begins a remark; the first one at the top is the title:

  # nothing runs at the beginning
  --> {\"id\":1,\"method\":\"process/list\"}
  <-- {\"id\":1,\"result\":{\"processes\":[]}}

\"{...}\" stands for any value, [..] for any text inside a string. Answers are
found by id, notifications by method, handle and stream; output is joined or cut
to the expected length. '<~' waits until a process has printed a text; its other
output may be left out:

  <~ listening on port

In Markdown files (.md), every fenced block in the language 'session' is
replayed; its title may also be the heading above. The file '-' is stdin.

With --record, a session needs only the lines to send. What the server sends is
written below them: pids, times and memory as \"{...}\"; wildcards and messages
that still fit stay as they are. On stdin, a line of plain JSON is one to send.

Try it:
  procwire check docs/*.md --junit report.xml
  procwire check --server 'my-server --stdio' conversation.txt
  procwire check --record - < docs/examples/hello.jsonl > hello.txt

Exit code: 0 if nothing differs (with --record: if everything is recorded), 1 if
something does, 2 if something could not be checked: a server that does not
start or never answers, a file that cannot be read, is malformed or is empty. A
Markdown file without a session is only reported, unless no file has one.
";

pub(super) const MCP: &str = "\
Serves an AI agent that speaks the Model Context Protocol: it can run programs,
start servers and REPLs, write to them, wait for what they print, and kill them.
The client starts this command. Add it to the client's configuration:

  {\"mcpServers\": {\"procwire\": {\"command\": \"procwire\", \"args\": [\"mcp\"]}}}

  claude mcp add procwire -- procwire mcp
  codex mcp add procwire -- procwire mcp
  code --add-mcp '{\"name\":\"procwire\",\"command\":\"procwire\",\"args\":[\"mcp\"]}'

Tools:
  run      run a program to its end, or answer that it is still running
  start    start a server or a REPL, and wait until it is ready
  write    write to its stdin, and wait for the reaction
  read     show what is new, or wait for text, a prompt, quiet or its end
  kill     kill it with all it has started, or signal it
  resize   change the size of its terminal
  inspect  show what it does now, and whether it waits for input
  list     list the processes that run, and those that can still be read

Programs have the privileges of this process: let the client ask before it calls
a tool. When stdin ends, when stdout is closed, at SIGTERM, SIGINT or SIGHUP,
and also if this process or the client is killed, everything that was started is
killed. Cancelling a call kills what the call has started.

Try it:
  printf '%s\\n' '{\"id\":1,\"method\":\"tools/list\"}' | procwire mcp | jq .result

Exit code: 0 after the end of input, 128 + n after signal n, 2 for a wrong
command line.
";

pub(super) const SCHEMA: &str = "\
Prints the protocol for programs: by default one JSON Schema document, draft
2020-12, with 'ClientMessage' for every line a client sends and 'ServerMessage'
for every line it receives. Use it to generate types for other languages, and
validators for tests.

Try it:
  procwire schema | jq '.\"$defs\".SpawnParams.properties'
  procwire schema --openrpc | jq -r '.methods[] | .name + \": \" + .summary'
";

pub(super) const COMPLETIONS: &str = "\
Prints a shell completion script. After 'procwire run', the shell completes
programs, and after a program its arguments, as if procwire were not there.

  bash:  procwire completions bash \\
           > ~/.local/share/bash-completion/completions/procwire
  zsh:   procwire completions zsh > \"${fpath[1]}/_procwire\"
  fish:  procwire completions fish > ~/.config/fish/completions/procwire.fish
";

pub(super) const MAN: &str = "\
Prints the manual page of a command, or of the whole program, for man(1). With
--dir, writes one file for each page.

Try it:
  procwire man run | man -l -
  procwire man --dir ~/.local/share/man/man1
";

/// The narrowest terminal that the help fits.
pub(super) const WIDTH: usize = 80;
/// Where the help of a flag begins.
const COLUMN: usize = 29;

/// The help of a command; that of `serve` is the program's and lists the others.
pub(super) fn help(subcommand: &Subcommand) -> String {
    let mut text = String::new();
    let program = subcommand.name == "serve";
    if program {
        let (first, rest) = subcommand.teaches.split_once("\n\n").unwrap_or_default();
        text.push_str(&format!(
            "{first}\n\nUsage: procwire [serve] [OPTIONS]\n       procwire COMMAND --help\n\nCommands:\n"
        ));
        for other in COMMANDS {
            text.push_str(&format!("  {:<13}{}\n", other.name, other.about));
        }
        text.push_str(&format!("\n{rest}"));
    } else {
        text.push_str(&format!("{}\n\n{}", usage(subcommand), subcommand.teaches));
    }
    text.push_str("\nOptions:\n");
    for flag in subcommand.flags {
        let short = flag
            .short
            .map_or("    ".to_owned(), |short| format!("-{short}, "));
        let value = match flag.takes {
            Takes::Nothing => String::new(),
            Takes::Value(name, _) => format!(" {name}"),
            Takes::Optional(name, _) => format!("[={name}]"),
        };
        let head = format!("  {short}--{}{value}", flag.long);
        let mut lines = wrapped(flag.help, WIDTH - COLUMN).into_iter();
        match head.len() < COLUMN - 1 {
            true => text.push_str(&format!("{head:<COLUMN$}{}\n", lines.next().unwrap_or_default())),
            false => text.push_str(&format!("{head}\n")),
        }
        for line in lines {
            text.push_str(&format!("{:COLUMN$}{line}\n", ""));
        }
    }
    text
}

fn usage(subcommand: &Subcommand) -> String {
    format!("Usage: procwire {} {}", subcommand.name, subcommand.arguments)
}

/// `text` in lines of at most `width` characters.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
