//! The documents are executed: every session they show is replayed, and what they name exists.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use procwire::cli::transcript;
use serde_json::Value;

use crate::harness::{Client, PATIENCE, Test, apply, binary, decoded, test, wait};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Plays each session of the README and the protocol's page.
#[apply(test)]
fn sessions_are_true() {
    let mut played = 0;
    for document in ["README.md", "docs/protocol.md"] {
        let sessions = transcript::parse(document, &read(document)).expect("its sessions are well-formed");
        for session in sessions {
            if let Err(difference) = session.play(&mut binary(), PATIENCE) {
                panic!("{}: {difference}", session.place);
            }
            played += 1;
        }
    }
    assert!(played >= 10, "only {played} sessions were found");
}

/// Plays the session of the page for agents, in the dialect of that page.
#[apply(test)]
fn the_session_for_agents_is_true() {
    let page = read("docs/mcp.md").replace("```mcp-session", "```session");
    let sessions = transcript::parse("docs/mcp.md", &page).expect("its sessions are well-formed");
    assert_eq!(sessions.len(), 1);
    for session in sessions {
        if let Err(difference) = session.play(binary().arg("mcp"), PATIENCE) {
            panic!("{}: {difference}", session.place);
        }
    }
}

/// Every tool is on that page, and none that there is not.
#[apply(test)]
fn the_page_for_agents_names_the_tools() {
    let page = read("docs/mcp.md");
    let table = page
        .split("## Tools")
        .nth(1)
        .and_then(|tools| tools.split("\n\n").nth(1));
    let rows = table.expect("a table of tools").lines().skip(2);
    let named: Vec<&str> = rows.filter_map(|row| row.split('`').nth(1)).collect();
    let mut client = Client::binary(&["mcp"]);
    let listed = client.call("tools/list", serde_json::json!({}));
    let tools = listed["tools"].as_array().expect("a list");
    let names: Vec<&str> = tools.iter().filter_map(|tool| tool["name"].as_str()).collect();
    assert_eq!(named, names);
    client.finish();
}

/// Runs the binary over `input` and gives the lines it printed; it must exit with 0.
fn drained(input: &[u8]) -> Vec<Value> {
    use std::io::{Read, Write};
    let mut child = binary()
        .arg("--drain")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    child
        .stdin
        .take()
        .expect("stdin was piped")
        .write_all(input)
        .expect("the binary reads");
    let mut printed = String::new();
    let mut stdout = child.stdout.take().expect("stdout was piped");
    stdout
        .read_to_string(&mut printed)
        .expect("the binary prints UTF-8");
    let status = wait(&mut child);
    assert_eq!(status.code(), Some(0), "{printed}");
    printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("no JSON: {e}: {line}")))
        .collect()
}

#[apply(test)]
fn the_hello_example_does_what_the_readme_says() {
    let lines = drained(read("docs/examples/hello.jsonl").as_bytes());
    let exit = |handle: &str| {
        let of_handle =
            |l: &&Value| l["method"] == "process/exited" && l["params"]["processHandle"] == handle;
        let mut exits = lines.iter().filter(of_handle);
        let exit = exits.next().unwrap_or_else(|| panic!("no exit of {handle}"));
        assert!(exits.next().is_none(), "two exits of {handle}");
        &exit["params"]
    };
    assert_eq!(exit("pipe")["stdout"], "hello from a pipe\n");
    assert_eq!(exit("shout")["stdout"], "HELLO\n");
    assert_eq!(exit("sleeper")["signal"], "SIGKILL");
    assert_eq!(exit("terminal")["exitCode"], 0);
    let mut screen = Vec::new();
    for line in lines.iter().filter(|l| l["method"] == "process/outputDelta") {
        screen.extend(decoded(&line["params"]));
    }
    let screen = String::from_utf8_lossy(&screen).into_owned();
    assert!(
        screen.contains("30 100\r\n") && screen.ends_with("hello, world\r\n"),
        "{screen:?}"
    );
    let answered = lines.iter().filter(|l| l.get("result").is_some()).count();
    assert_eq!(answered, 8, "every request of the file is answered");
}

#[apply(test)]
fn the_printf_of_the_readme_prints_two_lines() {
    let readme = read("README.md");
    let line = readme
        .lines()
        .find_map(|l| {
            l.strip_prefix("printf '")?
                .strip_suffix("\\n' | procwire --drain")
        })
        .expect("the README shows a printf");
    let lines = drained(format!("{line}\n").as_bytes());
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0]["result"]["pid"].is_u64(), "{lines:?}");
    assert_eq!(lines[1]["params"]["stdout"], "hi\n");
}

/// A gotcha that names no test, or one that is gone, is a promise without a proof.
#[apply(test)]
fn gotchas_name_tests_that_exist() {
    let known: HashSet<&str> = inventory::iter::<Test>.into_iter().map(Test::name).collect();
    let mut named = 0;
    let gotchas = read("docs/gotchas.md");
    for line in gotchas.lines().filter(|l| l.starts_with("Pinned by ")) {
        for name in line.split('`').skip(1).step_by(2) {
            named += 1;
            let unit_test = name.starts_with("src/");
            assert!(
                unit_test || known.contains(name),
                "docs/gotchas.md names {name:?}"
            );
        }
    }
    assert!(named >= 20, "only {named} tests are named");
}

#[apply(test)]
fn links_lead_somewhere() {
    for document in markdown_files() {
        let directory = document.parent().expect("a file is in a directory");
        let text = read(&document);
        for link in text.split("](").skip(1) {
            let target = link.split(')').next().unwrap_or_default();
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            if target.contains("://") {
                continue;
            }
            let file = match file.is_empty() {
                true => document.clone(),
                false => directory.join(file),
            };
            assert!(root().join(&file).exists(), "{}: {target}", document.display());
            if !heading.is_empty() {
                let found = headings(&read(&file)).any(|known| known == heading);
                assert!(found, "{}: no heading {target}", document.display());
            }
        }
    }
}

/// The headings of a page as links name them.
fn headings(page: &str) -> impl Iterator<Item = String> {
    let titles = page.lines().filter(|line| line.starts_with('#'));
    titles.map(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title
            .chars()
            .filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
        kept.collect::<String>().replace(' ', "-")
    })
}

fn markdown_files() -> Vec<PathBuf> {
    let mut files = vec![root().join("README.md")];
    files.extend(files_below(&root().join("docs"), "md"));
    files
}

fn files_below(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)
        .expect("the directory is there")
        .flatten()
    {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            files.extend(files_below(&path, extension));
        } else if path.extension().is_some_and(|e| e == extension) {
            files.push(path);
        }
    }
    files
}

#[apply(test)]
fn every_file_opens_with_what_it_is() {
    for file in ["src", "tests"]
        .iter()
        .flat_map(|d| files_below(&root().join(d), "rs"))
    {
        let text = read(&file);
        assert!(
            text.starts_with("//!"),
            "{} does not say what it is",
            file.display()
        );
        for thread in ["**Thread:**", "**Owns:**", "**Never:**"] {
            let needed = file.starts_with(root().join("src"))
                && !file.ends_with("lib.rs")
                && !file.ends_with("error.rs")
                && !file.ends_with("fuzzing.rs")
                && !file.ends_with("tests.rs");
            assert!(
                !needed || text.contains(thread),
                "{} has no {thread}",
                file.display()
            );
        }
    }
}
