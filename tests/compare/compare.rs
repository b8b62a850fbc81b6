//! Plays the same client scripts against two servers and compares what they
//! say: the check that clients of the reference find nothing changed.
//!
//! ```text
//! cargo build --release
//! cargo run --release --example compare -- 'REFERENCE app-server' target/release/procwire
//! ```
//!
//! Each of the two commands is split into words as a shell does and run without
//! one, with this program's environment; each scenario gets servers of its own.
//! `--only TEXT` plays the scenarios whose names contain the text, `--list`
//! prints all of them and the rules, `--verbose` adds the transcripts, the
//! differences in error texts and the servers' stderr, `--deadline SECONDS`
//! says how long to wait for anything (10).
//!
//! Of two equal commands each may be the one that a rule calls the reference:
//! some of the reference's peculiarities come and go.
//!
//! The exit code is 0 if every difference is on purpose: an addition, or
//! described by a rule (`rules.rs`) that the scenario names. It is 1 if not, or
//! if a server left the client waiting, and 2 if nothing could be compared.

mod facts;
mod play;
mod rules;
mod script;

use facts::Facts;
use play::{Line, Played};
use rules::{Difference, RULES};
use script::Scenario;
use serde_json::Value;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, fs, process, thread};

/// What a transcript shows of a line, and how many lines, unless asked for all.
const WIDTH: usize = 200;
const LINES: usize = 60;

struct Options {
    commands: [Vec<String>; 2],
    only: String,
    list: bool,
    verbose: bool,
    deadline: Duration,
}

/// How a scenario went.
enum Verdict {
    Same,
    OnPurpose(Vec<&'static str>),
    Differs(Vec<Difference>),
}

fn main() -> ExitCode {
    let ready = options(env::args().skip(1)).and_then(|options| Ok((options, script::all()?)));
    let (options, mut scenarios) = match ready {
        Ok(ready) => ready,
        Err(why) => {
            eprintln!("{why}");
            eprintln!(
                "usage: compare [--only TEXT] [--verbose] [--deadline SECONDS] \
                 'REFERENCE' 'SERVER'\n       compare --list"
            );
            return ExitCode::from(2);
        }
    };
    for scenario in &scenarios {
        for name in &scenario.rules {
            if RULES.iter().all(|rule| rule.name != name) {
                eprintln!("{}: no rule {name}", scenario.name);
                return ExitCode::from(2);
            }
        }
    }
    if options.list {
        return list(&scenarios);
    }
    scenarios.retain(|scenario| scenario.name.contains(&options.only));
    match compare(&options, &scenarios) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::from(2)
        }
    }
}

fn options(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut commands = Vec::new();
    let mut options = Options {
        commands: [Vec::new(), Vec::new()],
        only: String::new(),
        list: false,
        verbose: false,
        deadline: Duration::from_secs(10),
    };
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--only" => options.only = value()?,
            "--list" => options.list = true,
            "--verbose" => options.verbose = true,
            "--deadline" => {
                let value = value()?;
                let seconds = value.parse().map_err(|_| format!("no number: {value}"))?;
                options.deadline = Duration::from_secs(seconds);
            }
            _ if arg.starts_with('-') => return Err(format!("no such option: {arg}")),
            _ => commands.push(words(&arg)?),
        }
    }
    match <[Vec<String>; 2]>::try_from(commands) {
        Ok(commands) => options.commands = commands,
        Err(_) if options.list => {}
        Err(_) => return Err("two commands are needed".to_owned()),
    }
    Ok(options)
}

/// Splits a command as a shell does: blanks, both kinds of quotes, backslashes.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match (quote, char) {
            (Some(open), _) if open == char => quote = None,
            // In double quotes a backslash is itself, except before these.
            (Some('"'), '\\') if !matches!(chars.peek(), Some('"' | '\\' | '$' | '`')) => {
                word.get_or_insert_default().push(char);
            }
            (Some('"') | None, '\\') => match chars.next() {
                Some(char) => word.get_or_insert_default().push(char),
                None => return Err(format!("a backslash at the end: {text}")),
            },
            (Some(_), _) => word.get_or_insert_default().push(char),
            (None, '"' | '\'') => {
                word.get_or_insert_default();
                quote = Some(char);
            }
            (None, char) if char.is_whitespace() => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(char),
        }
    }
    if quote.is_some() {
        return Err(format!("a quote without its end: {text}"));
    }
    words.extend(word);
    match words.is_empty() {
        true => Err("an empty command".to_owned()),
        false => Ok(words),
    }
}

fn list(scenarios: &[Scenario]) -> ExitCode {
    for scenario in scenarios {
        println!("{:<28} {}", scenario.name, scenario.about);
    }
    println!("{} scenarios\n", scenarios.len());
    for rule in &RULES {
        println!("{:<16} {}", rule.name, rule.says);
    }
    ExitCode::SUCCESS
}

/// Plays and compares everything; true if no difference is unexplained.
fn compare(options: &Options, scenarios: &[Scenario]) -> Result<bool, String> {
    let mut counts = [0, 0, 0];
    for (number, scenario) in scenarios.iter().enumerate() {
        let [a, b] = play_both(options, number, scenario)?;
        let (facts_a, facts_b) = (facts::of(&a), facts::of(&b));
        let equal = options.commands[0] == options.commands[1];
        let verdict = judge(scenario, &facts_a, &facts_b, equal);
        let name = &scenario.name;
        match &verdict {
            Verdict::Same => {
                counts[0] += 1;
                println!("{name:<28} same");
            }
            Verdict::OnPurpose(rules) => {
                counts[1] += 1;
                println!("{name:<28} differs on purpose ({})", rules.join(", "));
            }
            Verdict::Differs(differences) => {
                counts[2] += 1;
                println!("{name:<28} DIFFERS: {}", scenario.about);
                print!("{}", table(differences));
            }
        }
        if options.verbose {
            for diff in rules::between(&facts_a.texts, &facts_b.texts) {
                print!("  text: {}", table(&[diff]).trim_start());
            }
        }
        if options.verbose || matches!(verdict, Verdict::Differs(_)) {
            println!("  --- the reference");
            print!("{}", transcript(&a, options.verbose));
            println!("  --- the server");
            print!("{}", transcript(&b, options.verbose));
        }
    }
    let [same, on_purpose, differ] = counts;
    println!(
        "\n{} scenarios: {same} same, {on_purpose} differ on purpose, {differ} DIFFER",
        scenarios.len()
    );
    Ok(differ == 0)
}

/// Plays a scenario against both servers at the same time.
fn play_both(options: &Options, number: usize, scenario: &Scenario) -> Result<[Played; 2], String> {
    // Equally long names: a directory's name counts in a capped output.
    let dirs: [PathBuf; 2] =
        ["a", "b"].map(|side| env::temp_dir().join(format!("compare-{}-{side}-{number}", process::id())));
    let mut played = Vec::new();
    let prepared = dirs.iter().try_for_each(|dir| play::prepare(scenario, dir));
    if prepared.is_ok() {
        played = thread::scope(|scope| {
            let threads: Vec<_> = dirs
                .iter()
                .zip(&options.commands)
                .map(|(dir, argv)| {
                    scope.spawn(|| play::play(argv, scenario, dir, options.deadline, options.verbose))
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or(Err("a player panicked".to_owned())))
                .collect()
        });
    }
    for dir in &dirs {
        // A directory that stays behind is a nuisance and no more.
        let _ = fs::remove_dir_all(dir);
    }
    prepared.map_err(|error| format!("{}: {error}", scenario.name))?;
    let played: Vec<Played> = played.into_iter().collect::<Result<_, _>>()?;
    <[Played; 2]>::try_from(played).map_err(|_| "not two players".to_owned())
}

fn judge(scenario: &Scenario, a: &Facts, b: &Facts, equal: bool) -> Verdict {
    let mut used = Vec::new();
    let mut unexplained = Vec::new();
    for diff in rules::differences(a, b) {
        let rule = RULES
            .iter()
            .filter(|rule| scenario.rules.iter().any(|name| name == rule.name))
            .find(|rule| (rule.explains)(&diff, a, b) || equal && (rule.explains)(&diff.swapped(), b, a));
        match rule {
            Some(rule) if !used.contains(&rule.name) => used.push(rule.name),
            Some(_) => {}
            None => unexplained.push(diff),
        }
    }
    // Two servers that hang alike have agreed on nothing, unless it is the
    // reference on both sides where it is known to hang.
    let known = ["stdin-blocked", "burst"];
    let known = equal && scenario.rules.iter().any(|rule| known.contains(&rule.as_str()));
    if let (Some(a), Some(b)) = (a.get("gave up"), b.get("gave up"))
        && a == b
        && !known
    {
        unexplained.push(Difference {
            name: "gave up (both)".to_owned(),
            a: Some(a.clone()),
            b: Some(b.clone()),
        });
    }
    match (unexplained.is_empty(), used.is_empty()) {
        (false, _) => Verdict::Differs(unexplained),
        (true, false) => Verdict::OnPurpose(used),
        (true, true) => Verdict::Same,
    }
}

/// Differences, one fact a line; a process that one side has alone is one line.
fn table(differences: &[Difference]) -> String {
    let mut text = String::new();
    let mut alone = String::new();
    let show = |value: &Option<Value>| match value {
        Some(value) => value.to_string(),
        None => "-".to_owned(),
    };
    for diff in differences {
        let (mut a, mut b) = (show(&diff.a), show(&diff.b));
        let mut name = diff.name.as_str();
        let process = &name[..name.find(") ").map_or(0, |end| end + 1)];
        let first = format!("{process} stdout");
        if differences
            .iter()
            .any(|diff| diff.name == first && (diff.a.is_none() || diff.b.is_none()))
        {
            name = process;
            if alone == name {
                continue;
            }
            alone = name.to_owned();
            for side in [&mut a, &mut b] {
                if side != "-" {
                    *side = "there".to_owned();
                }
            }
        }
        let _ = writeln!(text, "  {name}: {a} => {b}");
    }
    text
}

/// A conversation for people: deltas decoded, long lines and the middle of long
/// conversations left out.
fn transcript(played: &Played, whole: bool) -> String {
    let mut shown = Vec::new();
    for (at, line) in &played.lines {
        let text = match line {
            Line::Sent(line) => format!("> {}", readable(line)),
            Line::Got(line) => format!("< {}", readable(line)),
            Line::Closed => "> (end of stdin)".to_owned(),
        };
        let mut text = text.replace(&*played.dir.to_string_lossy(), "%DIR%");
        if let (false, Some((cut, _))) = (whole, text.char_indices().nth(WIDTH)) {
            text.truncate(cut);
            text.push('…');
        }
        shown.push(format!("  {:>8.3} {text}\n", at.as_secs_f64()));
    }
    if !whole && shown.len() > LINES {
        let left_out = shown.len() - LINES;
        let note = format!("           … {left_out} lines …\n");
        shown.splice(LINES / 2..LINES / 2 + left_out, [note]);
    }
    if let Some(step) = &played.gave_up {
        shown.push(format!("           gave up: {step}\n"));
    }
    shown.push(format!("           server's end: {}\n", played.end));
    shown.concat()
}

/// A line with its base64 decoded.
fn readable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line).trim_end().to_owned();
    let Ok(mut message) = serde_json::from_str::<Value>(&text) else {
        return text;
    };
    let Some(delta) = message
        .get_mut("params")
        .and_then(|params| params.get_mut("deltaBase64"))
    else {
        return text;
    };
    if let Ok(bytes) = base64_simd::STANDARD.decode_to_vec(delta.as_str().unwrap_or("")) {
        let more = if bytes.len() > WIDTH { "…" } else { "" };
        let start = bytes[..bytes.len().min(WIDTH)].escape_ascii();
        *delta = format!("({} bytes) {start}{more}", bytes.len()).into();
    }
    message.to_string()
}
