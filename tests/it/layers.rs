//! The folders of `src` are layers: each may use those below it, and no other. What differs between
//! systems is in the lowest.

use crate::harness::{apply, test};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
/// From the top down.
const LAYERS: [&str; 7] = ["cli", "client", "server", "process", "outbox", "wire", "sys"];

#[apply(test)]
fn no_import_runs_upward() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let folders = std::fs::read_dir(&src).expect("the sources").flatten();
    let folders: Vec<String> = folders
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().expect("ASCII"))
        .collect();
    for folder in &folders {
        assert!(LAYERS.contains(&folder.as_str()), "src/{folder} is not a layer");
    }
    assert_eq!(folders.len(), LAYERS.len(), "{folders:?}");
    let mut upward = Vec::new();
    let mut arrows = HashSet::new();
    for (rank, folder) in LAYERS.iter().enumerate() {
        for file in files(&src.join(folder)) {
            let text = std::fs::read_to_string(&file).expect("a source file");
            for (number, line) in text.lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                for used in code.split("crate::").skip(1) {
                    let name = used.split(|c: char| !c.is_alphanumeric() && c != '_').next();
                    let Some(other) = LAYERS.iter().position(|layer| Some(*layer) == name) else {
                        continue;
                    };
                    arrows.insert((rank, other));
                    if other < rank {
                        upward.push(format!("{}:{}: {}", file.display(), number + 1, line.trim()));
                    }
                }
            }
        }
    }
    assert!(upward.is_empty(), "these run upward:\n{}", upward.join("\n"));
    // Otherwise nothing was looked at.
    for (rank, layer) in LAYERS.iter().enumerate().take(LAYERS.len() - 1) {
        let down = arrows.iter().any(|&(from, to)| from == rank && to > rank);
        assert!(down, "{layer} uses nothing below it");
    }
}

/// What a system lacks or does in another way is for `src/sys` to say. Signals are numbered by each system,
/// and `src/lib.rs` refuses those that there is no code for.
#[apply(test)]
fn systems_differ_only_in_sys() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let spared = [src.join("sys"), src.join("wire/signal.rs"), src.join("lib.rs")];
    let (inside, outside): (Vec<_>, Vec<_>) = lines_with(&src, &["target_os", "cfg(unix)", "target_env"])
        .into_iter()
        .partition(|(file, _)| spared.iter().any(|spared| file.starts_with(spared)));
    assert!(outside.is_empty(), "{outside:#?}");
    assert!(!inside.is_empty(), "nothing was looked at");
}

#[apply(test)]
fn only_the_harness_names_the_binary() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let mut named = lines_with(&tests, &[concat!("CARGO_BIN", "_EXE_procwire")]);
    named.retain(|(file, _)| !file.ends_with("harness.rs"));
    assert!(named.is_empty(), "use harness::PROCWIRE: {named:#?}");
}

/// Lines that a file may have besides its unit tests: beyond that it does two jobs.
const MAX_LINES: usize = 600;

#[apply(test)]
fn no_file_of_the_sources_is_long() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = files(&src);
    files.retain(|file| !file.ends_with("tests.rs"));
    let sizes = files.into_iter().map(|file| {
        let text = std::fs::read_to_string(&file).expect("a source file");
        (lines_without_tests(&text), file)
    });
    let sizes: Vec<(usize, PathBuf)> = sizes.collect();
    assert!(sizes.iter().any(|(lines, _)| *lines > MAX_LINES / 2), "{sizes:?}");
    let long: Vec<_> = sizes.iter().filter(|(lines, _)| *lines > MAX_LINES).collect();
    assert!(long.is_empty(), "split these by job: {long:#?}");
}

/// Each file that has unsafe code is in the table of the architecture, with the reason and how often.
#[apply(test)]
fn unsafe_code_is_accounted_for() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = std::fs::read_to_string(root.join("docs/architecture.md")).expect("the document");
    let (_, section) = document.split_once("## Unsafe code").expect("the section");
    let row = |line: &str| {
        let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        let (count, why) = rest.split_once(" | ")?;
        assert!(why.len() > 5, "{name} has no reason");
        Some((name.to_owned(), count.parse::<usize>().ok()?))
    };
    let written: BTreeMap<String, usize> = section.lines().filter_map(row).collect();
    let src = root.join("src");
    let counted = files(&src).into_iter().filter_map(|file| {
        let text = std::fs::read_to_string(&file).expect("a source file");
        let code = text.lines().filter_map(|line| line.split("//").next());
        let words = code.flat_map(|code| code.split(|c: char| !c.is_alphanumeric() && c != '_'));
        let count = words.filter(|word| *word == "unsafe").count();
        let name = file.strip_prefix(&src).ok()?.to_str()?.to_owned();
        (count > 0).then_some((name, count))
    });
    let counted: BTreeMap<String, usize> = counted.collect();
    assert_eq!(written, counted, "left what is written, right what is there");
}

/// The lines that are not in a module with the attribute of tests.
fn lines_without_tests(text: &str) -> usize {
    let mut count = 0;
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let module = |next: &&str| next.starts_with("mod ") && next.ends_with('{');
        match line == "#[cfg(test)]" && lines.peek().is_some_and(module) {
            true => drop(lines.by_ref().find(|line| *line == "}")),
            false => count += 1,
        }
    }
    count
}

/// The lines below `folder` that contain one of `words`.
fn lines_with(folder: &Path, words: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for file in files(folder) {
        let text = std::fs::read_to_string(&file).expect("a source file");
        let lines = text
            .lines()
            .filter(|line| words.iter().any(|word| line.contains(word)));
        found.extend(lines.map(|line| (file.clone(), line.trim().to_owned())));
    }
    found
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}
