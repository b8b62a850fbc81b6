//! The table of sandboxes and older kernels: what comes out differently under each.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use crate::session::{
    self,
    profile::{self, GLIBC, Profile},
};

/// Prints it; whether all was as it should be.
pub fn print(server: &Path, only: Option<&str>, jobs: usize) -> ExitCode {
    let mut all_well = true;
    let mut text = String::from(
        "| profile | what is refused | backend | not guaranteed | first example | session | ends | scripts of \
         the reference |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for profile in profile::ALL {
        if only.is_some_and(|only| only != profile.name) {
            continue;
        }
        let under = Under::new(profile, server);
        let guaranteed = match profile.not_guaranteed {
            [] => "–".to_owned(),
            members => format!("`{}`", members.join("`, `")),
        };
        let cells = [
            under.first_example(),
            under.session(),
            under.ends(jobs),
            under.scripts(),
        ];
        let Profile {
            name, about, backend, ..
        } = profile;
        let _ = write!(text, "| `{name}` | {about} | {backend} | {guaranteed} |");
        for cell in cells {
            all_well &= cell.is_well;
            let _ = write!(text, " {} |", cell.text);
        }
        text.push('\n');
        eprintln!("{text}");
    }
    print!("{text}");
    ExitCode::from(u8::from(!all_well))
}

struct Cell {
    text: String,
    is_well: bool,
}

/// A server under a profile.
struct Under<'a> {
    profile: &'a Profile,
    server: &'a Path,
    for_glibc: bool,
}

impl<'a> Under<'a> {
    fn new(profile: &'a Profile, server: &'a Path) -> Under<'a> {
        // This program and the server may be of different C libraries; what runs the ends is of this one's.
        let for_glibc = profile.refuses_threads_of_glibc() && cfg!(target_env = "gnu");
        Under {
            profile,
            server,
            for_glibc,
        }
    }

    fn command(&self, program: &Path) -> Command {
        self.profile.command(program, self.for_glibc)
    }

    fn first_example(&self) -> Cell {
        let mut expected = session::played(Command::new(self.server));
        for member in self.profile.not_guaranteed {
            expected["guarantees"][member] = false.into();
        }
        let played = session::played(self.command(self.server));
        same(played == expected)
    }

    fn session(&self) -> Cell {
        let outcome = session::run_command(self.command(self.server), self.server);
        let works = outcome.works && outcome.status == Some(0) && outcome.survivors.is_empty();
        if !works {
            eprintln!("{}: {outcome:?}", self.profile.name);
        }
        match works {
            true => same(true),
            false => Cell {
                text: format!("**{}**", outcome.in_words()),
                is_well: false,
            },
        }
    }

    /// The whole table of ends, all of it under the profile, compared with `docs/ends.md`. What differs is
    /// tried once more, alone: the times of an end are for a machine that has nothing else to do.
    fn ends(&self, jobs: usize) -> Cell {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/ends.md");
        let page = std::fs::read_to_string(page).expect("the page is there");
        let expected = cells(page.split("\n## codex").next().unwrap_or_default());
        let found = self.table_of_ends(&["--jobs", &jobs.to_string()]);
        let mut others = found.clone();
        others.retain(|cell| !expected.contains(cell));
        let as_expected = !self.profile.not_guaranteed.is_empty();
        others.retain(|(row, end, _)| {
            if as_expected {
                return true;
            }
            let again = self.table_of_ends(&["--jobs", "1", "--only", &format!("{row} / {end}")]);
            let again = again.into_iter().find(|cell| (&cell.0, &cell.1) == (row, end));
            again.is_none_or(|cell| !expected.contains(&cell))
        });
        for (row, end, cell) in &others {
            eprintln!("{}: {row} / {end}: {cell}", self.profile.name);
        }
        let count = found.len();
        if count == 0 {
            return Cell {
                text: "**no table**".to_owned(),
                is_well: false,
            };
        }
        let mut text = format!("{} of {count} the same", count - others.len());
        let mut ends: Vec<&str> = others.iter().map(|(_, end, _)| end.as_str()).collect();
        ends.dedup();
        ends.sort_unstable();
        ends.dedup();
        if !ends.is_empty() {
            let _ = write!(text, "; others at {}", ends.join(", "));
        }
        Cell {
            text,
            is_well: others.is_empty() || !self.profile.not_guaranteed.is_empty(),
        }
    }

    fn table_of_ends(&self, arguments: &[&str]) -> Vec<(String, String, String)> {
        let file = std::env::temp_dir().join(format!("procwire-ends-{}.md", std::process::id()));
        let mut command = self.command(&sibling("ends"));
        command.arg("--server").arg(self.server).args(arguments);
        command.arg("--markdown").arg(&file).stdout(Stdio::null());
        // What it says of its cells is read from its table.
        let _ = command.status();
        let table = std::fs::read_to_string(&file).unwrap_or_default();
        let _ = std::fs::remove_file(&file);
        cells(&table)
    }

    /// Each script against the same server without the profile.
    fn scripts(&self) -> Cell {
        let own = std::env::current_exe().expect("a running program has a file");
        let server = self.server.display();
        let name = self.profile.name;
        let glibc = if self.for_glibc { GLIBC } else { "" };
        let mut command = Command::new(sibling("compare"));
        command
            .arg(format!("{server}"))
            .arg(format!("{} --profile {name}{glibc} {server}", own.display()));
        let output = command.output().expect("the example compare is built");
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            eprintln!("{text}{}", String::from_utf8_lossy(&output.stderr));
        }
        let last = text.lines().last().unwrap_or_default().to_owned();
        Cell {
            text: last,
            is_well: output.status.success(),
        }
    }
}

fn same(is_same: bool) -> Cell {
    Cell {
        text: if is_same { "the same" } else { "**differs**" }.to_owned(),
        is_well: is_same,
    }
}

/// An example of the same build.
fn sibling(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a running program has a file");
    own.with_file_name(name)
}

/// The cells of a table of ends: row, end and what is there.
fn cells(page: &str) -> Vec<(String, String, String)> {
    let rows: Vec<Vec<&str>> = page
        .lines()
        // The page has a sum before its grid.
        .skip_while(|line| !line.starts_with("| what the program does"))
        .filter(|line| line.starts_with("| "))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let Some((head, rows)) = rows.split_first() else {
        return Vec::new();
    };
    let mut cells = Vec::new();
    for row in rows.iter().filter(|row| row.first() != Some(&"---")) {
        let name = row.iter().take(2).copied().collect::<Vec<_>>().join(" / ");
        for (end, cell) in head.iter().zip(row).skip(2) {
            cells.push((name.clone(), (*end).to_owned(), (*cell).to_owned()));
        }
    }
    cells
}
