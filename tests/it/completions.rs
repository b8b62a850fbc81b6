//! Completion, in the real shells: what bash, zsh and fish offer for a command line that is typed.
//!
//! bash and zsh run at a terminal, where keys are typed; fish completes a line by itself. Where a
//! shell is missing its tests are ignored, unless `PROCWIRE_REQUIRE_SHELLS` says that all must be there.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::harness::{Client, Mode, Scratch, apply, binary, test};

const REQUIRE_SHELLS: &str = "PROCWIRE_REQUIRE_SHELLS";
/// As the distributions install it.
const BASH_COMPLETION: &str = "/usr/share/bash-completion/bash_completion";

/// What a test of this file would need and has not; `None` for all other tests.
pub fn missing(test: &str) -> Option<&'static str> {
    let (needed, what) = match test.strip_prefix("completions::")? {
        "bash_completes" => (Path::new(BASH_COMPLETION).exists(), "needs bash-completion"),
        "zsh_completes" => (is_installed("zsh"), "needs zsh"),
        "fish_completes" => (is_installed("fish"), "needs fish"),
        _ => (true, ""),
    };
    (!needed && std::env::var_os(REQUIRE_SHELLS).is_none()).then_some(what)
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).exists())
}

/// What a shell offers: the words, each with what it says about it if it says anything.
type Candidates = Vec<(String, String)>;

/// A line to be completed, all words that are offered, and whether others may be offered, too.
struct Case {
    line: &'static str,
    offered: &'static [&'static str],
    others: bool,
}

const fn exactly(line: &'static str, offered: &'static [&'static str]) -> Case {
    Case {
        line,
        offered,
        others: false,
    }
}

const fn among(line: &'static str, offered: &'static [&'static str]) -> Case {
    Case {
        line,
        offered,
        others: true,
    }
}

const COMMANDS: &[&str] = &[
    "check",
    "completions",
    "help",
    "man",
    "mcp",
    "run",
    "schema",
    "serve",
];

/// What holds in every shell. `frob-procwire` is a program with a completion of its own, which offers
/// `alpha`, `beta` and `--gamma`; the working directory has a directory `inner` and a file `file`.
const CASES: &[Case] = &[
    exactly("procwire ", COMMANDS),
    exactly("procwire ru", &["run"]),
    exactly("procwire --dr", &["--drain"]),
    among("procwire --drain --", &["--max-message-bytes", "--version"]),
    exactly("procwire serve --default-t", &["--default-timeout-ms"]),
    exactly("procwire serve --default-output-cap n", &["none"]),
    exactly("procwire help ", COMMANDS),
    exactly("procwire completions ", &["bash", "fish", "zsh"]),
    exactly("procwire schema --o", &["--openrpc"]),
    among(
        "procwire run --",
        &["--cwd", "--env", "--json", "--timeout", "--tty", "--unset"],
    ),
    exactly("procwire run --js", &["--json"]),
    exactly("procwire run --timeout ", &[]),
    exactly("procwire run -C inn", &["inner"]),
    exactly("procwire run --cwd fi", &[]),
    exactly("procwire run --unset FROB_", &["FROB_NICATION"]),
    exactly("procwire run -e FROB_", &["FROB_NICATION"]),
    exactly("procwire run -s frob-", &["frob-procwire"]),
    exactly("procwire man ", COMMANDS),
    exactly("procwire man --dir inn", &["inner"]),
    exactly("procwire check fi", &["file"]),
    exactly("procwire check --junit fi", &["file"]),
    among("procwire check file --", &["--junit", "--server"]),
    // After 'run': the program, ...
    exactly("procwire run frob-", &["frob-procwire"]),
    exactly("procwire run -- frob-", &["frob-procwire"]),
    exactly("procwire run --tty -C / -e A=b frob-", &["frob-procwire"]),
    exactly("procwire run --cwd=/ -- frob-", &["frob-procwire"]),
    // ... and what that completes, and no flag of ours.
    exactly("procwire run frob-procwire ", &["alpha", "beta"]),
    exactly("procwire run frob-procwire a", &["alpha"]),
    exactly("procwire run -- frob-procwire a", &["alpha"]),
    exactly(
        "procwire run --tty -C / -e A=b -s 'ssh x' frob-procwire b",
        &["beta"],
    ),
    exactly("procwire run frob-procwire alpha --", &["--gamma"]),
    exactly("procwire run frob-procwire --js", &[]),
    exactly("procwire run -- frob-procwire --js", &[]),
    exactly("procwire run -- --js", &[]),
    exactly("procwire run unknown-program fi", &["file"]),
];

/// The directory the shells work in, with a program and files.
fn scratch() -> Scratch {
    let scratch = Scratch::new();
    scratch.directory("inner");
    scratch.file("file", 0o644, "");
    scratch.directory("bin");
    scratch.file("bin/frob-procwire", 0o755, "#!/bin/sh\n");
    for shell in ["bash", "zsh", "fish"] {
        let script = binary().args(["completions", shell]).output();
        let script = script.expect("the binary starts").stdout;
        assert!(!script.is_empty());
        scratch.file(&format!("procwire.{shell}"), 0o644, script);
    }
    scratch
}

#[track_caller]
fn assert_offered(case: &Case, candidates: &Candidates) {
    // What follows a word depends on the shell.
    let words = candidates
        .iter()
        .map(|(word, _)| word.trim_end_matches(['=', '/']));
    let mut words: Vec<&str> = words.collect();
    words.sort_unstable();
    words.dedup();
    match case.others {
        false => assert_eq!(words, case.offered, "{:?}", case.line),
        true => {
            let missing: Vec<&&str> = case.offered.iter().filter(|o| !words.contains(o)).collect();
            assert!(missing.is_empty(), "{:?}: no {missing:?} in {words:?}", case.line);
        }
    }
}

/// What is said of a word, whole, with the characters that have a meaning in some shell.
#[track_caller]
fn assert_described(candidates: &Candidates, word: &str, text: &str) {
    let found = candidates.iter().find(|(candidate, _)| candidate == word);
    assert_eq!(found.map(|(_, said)| said.as_str()), Some(text), "{word}");
}

const OUTPUT_CAP: &str = "bytes of output kept for a spawn that does not set a cap: a number, 64K, 16M, 1G, \
                          or 'none' for all of it [default: 1M]";

const PROMPT: &str = "ready> ";

/// A shell at a terminal, which has read `setup`.
struct Shell {
    client: Client,
    scratch: Scratch,
}

impl Shell {
    fn start(command: &[&str], scratch: Scratch, setup: &str) -> Shell {
        let mut client = Client::in_process();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut params = Mode::Tty.params("shell", command);
        params["cwd"] = json!(scratch.path(""));
        params["size"] = json!({"rows": 50, "cols": 300});
        params["env"] = json!({
            "PATH": format!("{}:{path}", scratch.path("bin")),
            "HOME": scratch.path(""),
            "TERM": "dumb",
            "FROB_NICATION": "1",
            "HISTFILE": null,
        });
        client.spawn(params);
        let setup = scratch.file("setup", 0o644, setup);
        let mut shell = Shell { client, scratch };
        shell.type_line(&format!(". {setup}"));
        shell
    }

    /// Types a command and waits for its end and the next prompt: before that the terminal takes keys
    /// such as C-u for itself. Returns what the terminal showed meanwhile.
    fn type_line(&mut self, command: &str) -> String {
        // Its output is not as it is typed.
        self.client
            .write("shell", format!("{command}\recho do''ne=$?=\r").as_bytes());
        let mut seen = Vec::new();
        loop {
            seen.extend(self.client.delta("shell").0);
            let text = String::from_utf8_lossy(&seen);
            let rest = text.split_once("done=");
            if rest.is_some_and(|(_, rest)| rest.contains(PROMPT)) {
                return text.into_owned();
            }
        }
    }

    fn end(mut self) {
        self.client.write("shell", b"\x15exit\r");
        self.client.exited("shell");
        self.client.finish();
    }
}

fn bash(setup: &str) -> Shell {
    let setup = format!(
        "PS1='{PROMPT}'; bind 'set bell-style none'; bind 'set completion-query-items 0'
         bind 'set page-completions off'; bind 'set completion-display-width 0'
         bind 'set enable-bracketed-paste off'; bind '\"\\C-t\": possible-completions'
         {setup}
         . ./procwire.bash
         complete -W 'alpha beta' frob-procwire; set -u\n"
    );
    // Another completion is offered only where a flag begins, as good ones do.
    let setup = setup.replace(
        "complete -W 'alpha beta' frob-procwire",
        "_frob() { COMPREPLY=($(compgen -W \"$([[ $2 == -* ]] && echo --gamma || echo alpha beta)\" -- \"$2\")); }
         complete -F _frob frob-procwire",
    );
    Shell::start(&["bash", "--norc", "--noprofile", "-i"], scratch(), &setup)
}

fn offered_by_bash(shell: &mut Shell, line: &str) -> Candidates {
    // Where the last attempt found nothing, readline inserts a single candidate instead of listing it.
    shell.type_line("procwire ru\x14\x15");
    // C-t lists, one on a line, and C-u takes the line away again.
    shell.client.write("shell", line.as_bytes());
    let shown = shell.type_line("\x14\x15");
    let (_, shown) = shown.split_once(line).expect("the line is echoed");
    let listed = shown.lines().skip(1).take_while(|l| !l.starts_with(PROMPT));
    listed
        .map(|word| (word.trim_end().to_owned(), String::new()))
        .collect()
}

#[apply(test)]
fn bash_completes() {
    let mut shell = bash(&format!("set +u; . {BASH_COMPLETION}"));
    for case in CASES {
        let candidates = offered_by_bash(&mut shell, case.line);
        assert_offered(case, &candidates);
    }
    for case in [
        exactly("procwire run --cwd=inn", &["inner"]),
        exactly("procwire serve --default-output-cap=n", &["none"]),
        exactly("procwire run -e A= frob-procwire a", &["alpha"]),
        exactly("procwire run -e A=b:c frob-procwire a", &["alpha"]),
    ] {
        let candidates = offered_by_bash(&mut shell, case.line);
        assert_offered(&case, &candidates);
    }
    shell.end();
}

/// The program, but not what it completes; its files instead.
#[apply(test)]
fn bash_completes_without_its_library() {
    let mut shell = bash("");
    for case in [
        exactly("procwire ru", &["run"]),
        exactly("procwire run --js", &["--json"]),
        exactly("procwire run -t frob-", &["frob-procwire"]),
        exactly("procwire run frob-procwire fi", &["file"]),
        exactly("procwire run frob-procwire --js", &[]),
    ] {
        let candidates = offered_by_bash(&mut shell, case.line);
        assert_offered(&case, &candidates);
    }
    shell.end();
}

/// Writes every candidate to a file as it is passed to the line editor.
const ZSH_SETUP: &str = r#"
PS1='ready> '; LISTMAX=100000; unsetopt beep list_beep
autoload -Uz compinit; compinit -u -D
fpath=(./functions $fpath)
autoload -Uz _procwire; compdef _procwire procwire
_frob() { _arguments '--gamma' '*:greek letter:(alpha beta)' }
compdef _frob frob-procwire
compadd() {
    if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then
        builtin compadd "$@"
        return
    fi
    local -a hits texts
    local at=${@[(i)-d]} i
    if ((at < $#)); then
        texts=${@[at+1]}
        if [[ $texts == \(* ]]; then eval "texts=$texts"; else texts=("${(@P)texts}"); fi
    fi
    builtin compadd -A hits -D texts "$@"
    for ((i = 1; i <= $#hits; i++)); do
        print -r -- "$hits[i]"$'\t'"$texts[i]" >> offered
    done
    builtin compadd "$@"
}
offer() { : > offered; zle list-choices; BUFFER= }
zle -N offer; bindkey '^X' offer
"#;

#[apply(test)]
fn zsh_completes() {
    let scratch = scratch();
    scratch.directory("functions");
    std::fs::copy(scratch.path("procwire.zsh"), scratch.path("functions/_procwire")).expect("a copy");
    let mut shell = Shell::start(&["zsh", "-f", "-i"], scratch, ZSH_SETUP);
    let mut offered = |line: &str| -> Candidates {
        shell.client.write("shell", line.as_bytes());
        shell.type_line("\x18");
        let offered = std::fs::read_to_string(shell.scratch.path("offered")).expect("it is written");
        let entries = offered
            .lines()
            .map(|line| line.split_once('\t').unwrap_or((line, "")));
        entries
            // As `_arguments` pads it: "--json  -- text".
            .map(|(word, text)| {
                let text = text.split_once("-- ").filter(|(head, _)| head.trim() == word);
                (
                    word.to_owned(),
                    text.map_or("", |(_, text)| text).trim_end().to_owned(),
                )
            })
            .collect()
    };
    for case in CASES {
        let candidates = offered(case.line);
        assert_offered(case, &candidates);
    }
    assert_described(
        &offered("procwire --default-o"),
        "--default-output-cap",
        OUTPUT_CAP,
    );
    assert_described(
        &offered("procwire ru"),
        "run",
        "run one program on a server, as if typed here",
    );
    let joined = exactly("procwire run --cwd=inn", &["inner"]);
    assert_offered(&joined, &offered(joined.line));
    shell.end();
}

#[apply(test)]
fn fish_completes() {
    let scratch = scratch();
    let path = std::env::var("PATH").unwrap_or_default();
    let offered = |line: &str| -> Candidates {
        let script = "source procwire.fish
            complete -c frob-procwire -f -a 'alpha beta'
            complete -c frob-procwire -l gamma
            complete -C $argv[1]";
        let output = Command::new("fish")
            .args(["--no-config", "-c", script, line])
            .current_dir(scratch.path(""))
            .env("PATH", format!("{}:{path}", scratch.path("bin")))
            .env("HOME", scratch.path(""))
            .env("FROB_NICATION", "1")
            .output()
            .expect("fish starts");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{line:?}");
        let offered = String::from_utf8(output.stdout).expect("UTF-8");
        let entries = offered
            .lines()
            .map(|line| line.split_once('\t').unwrap_or((line, "")));
        entries
            .map(|(word, text)| (word.to_owned(), text.to_owned()))
            .collect()
    };
    for case in CASES {
        assert_offered(case, &offered(case.line));
    }
    assert_described(
        &offered("procwire --default-o"),
        "--default-output-cap",
        OUTPUT_CAP,
    );
    assert_described(
        &offered("procwire ru"),
        "run",
        "run one program on a server, as if typed here",
    );
    let programs = offered("procwire run ");
    assert!(
        programs.iter().any(|(word, _)| word == "frob-procwire"),
        "{programs:?}"
    );
    let joined = exactly("procwire run --cwd=inn", &["--cwd=inner"]);
    assert_offered(&joined, &offered(joined.line));
    let all = offered("procwire run --cwd=");
    assert!(
        all.iter().any(|(word, _)| word.starts_with("--cwd=inner")),
        "{all:?}"
    );
}
