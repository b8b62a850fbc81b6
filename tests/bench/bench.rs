//! Measures a server of `process/*` methods against another one and against the machine itself.
//!
//! Every row is measured several times, each time with a server started for it alone:
//! the first server, the second one, then the same work with no server in between.
//! Ratios are taken between neighbours in time, which a noisy machine disturbs alike,
//! and told as the median and the lowest and highest of all pairs.
//! `--help` lists the options.

mod cli;
mod client;
mod draw;
mod floor;
mod growth;
mod machine;
#[path = "../it/proc.rs"]
mod proc;
mod results;
mod rows;
mod scan;
mod stats;
mod tree;

use cli::Options;
use client::Start;
use growth::Growth;
use results::{Figure, Results, digits};
use rows::{ROWS, Row, Settings};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::from(2)
        }
    }
}

/// Does what the command line says; false if a row of the first server failed.
fn run() -> Result<bool, String> {
    let options = cli::parse()?;
    if options.help {
        print!("{}", cli::HELP);
        return Ok(true);
    }
    if options.list {
        for row in ROWS {
            println!("{:<12} {}", row.name, row.title);
        }
        return Ok(true);
    }
    // Cargo builds and runs benchmarks for `cargo test --all-targets` as well.
    if options.empty && !options.bench && std::env::var_os("CARGO").is_some() {
        println!("nothing to do here; `cargo bench` measures");
        return Ok(true);
    }
    let (results, passed) = match &options.from {
        Some(path) => (read(path)?, true),
        None => measure(&options)?,
    };
    print!("{}", results.markdown());
    if let Some(path) = &options.json {
        let text = format!("{:#}\n", results.to_json());
        std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    if let Some(path) = &options.svg {
        draw::table(&results, path)?;
    }
    if let Some(path) = &options.growth_svg {
        draw::growth(&results, path)?;
    }
    Ok(passed)
}

fn read(path: &Path) -> Result<Results, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let value = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Results::from_json(&value))
}

fn measure(options: &Options) -> Result<(Results, bool), String> {
    let rows = selected(options)?;
    machine::raise_file_limit();
    tree::adopt_orphans();
    let settings = if options.quick {
        Settings {
            seconds: 0.25,
            echoes: 500,
            live: options.live,
            starts: 3,
        }
    } else {
        Settings {
            seconds: 1.0,
            echoes: 5000,
            live: options.live,
            starts: 10,
        }
    };
    let pairs = options.pairs.unwrap_or(if options.quick { 1 } else { 5 });
    let start = |words: Vec<String>| Start {
        words,
        limit: options.limit,
        stderr: options.stderr,
    };
    let server = start(options.server.clone().unwrap_or_else(default_server));
    let reference = options.reference.clone().map(start);
    let name = options.name.clone().unwrap_or_else(|| program(&server));
    let reference_name = reference.as_ref().map(|reference| {
        let other = options.reference_name.clone();
        other.unwrap_or_else(|| program(reference))
    });

    let mut results = Results {
        machine: machine::describe(),
        server: name.clone(),
        reference: reference_name.clone(),
        notes: Vec::new(),
        figures: Vec::new(),
        growth: Vec::new(),
    };
    let mut passed = true;
    for (name, start) in [
        (Some(&name), Some(&server)),
        (reference_name.as_ref(), reference.as_ref()),
    ] {
        if let (Some(name), Some(start)) = (name, start) {
            match processes(start) {
                Ok(names) => results
                    .notes
                    .push(format!("The processes that count as {name}: {names}.")),
                Err(error) => {
                    results.notes.push(format!("{name} does not start: {error}."));
                    passed &= !std::ptr::eq(start, &raw const server);
                }
            }
        }
    }
    results
        .notes
        .push(format!("Measurements of each row, in turn: {pairs}."));
    for row in rows {
        let mut sides = [
            Side::new(&name, Some(&server)),
            Side::new(reference_name.as_deref().unwrap_or_default(), reference.as_ref()),
        ];
        let mut floor = Side::new("floor", None);
        for pair in 0..pairs {
            eprintln!("{} {}/{pairs}", row.name, pair + 1);
            for side in &mut sides {
                side.measure(row, &settings, pair == 0);
            }
            floor.measure_floor(row, &settings);
        }
        passed &= sides[0].fault.is_none();
        for side in sides.iter().chain([&floor]) {
            if let Some(fault) = &side.fault {
                results
                    .notes
                    .push(format!("{}: {} is n/a: {fault}.", row.name, side.name));
            }
        }
        let [server, reference] = &sides;
        for (index, metric) in row.metrics.iter().enumerate() {
            results.figures.push(Figure {
                row: row.name.to_owned(),
                title: numbered(row.title, &settings),
                metric: numbered(metric.name, &settings),
                unit: metric.unit.to_owned(),
                more_is_better: metric.more_is_better,
                drawn: metric.drawn,
                server: server.column(index),
                reference: reference.column(index),
                floor: floor.column(index),
            });
        }
    }
    if options.growth {
        results.growth.push(Growth::of_floor(&settings));
        results
            .growth
            .push(Growth::of_server(&name, &server, &settings, &options.sizes));
        if let (Some(name), Some(reference)) = (&reference_name, &reference) {
            results
                .growth
                .push(Growth::of_server(name, reference, &settings, &options.sizes));
        }
    }
    Ok((results, passed))
}

/// One server's part in a row, or the floor's.
struct Side<'a> {
    name: &'a str,
    start: Option<&'a Start>,
    /// A measurement for each pair.
    values: Vec<Vec<f64>>,
    /// The first failure, after which nothing more is tried.
    fault: Option<String>,
}

impl<'a> Side<'a> {
    fn new(name: &'a str, start: Option<&'a Start>) -> Self {
        Self {
            name,
            start,
            values: Vec::new(),
            fault: None,
        }
    }

    fn measure(&mut self, row: &Row, settings: &Settings, first: bool) {
        let Some(start) = self.start else { return };
        if self.fault.is_some() {
            return;
        }
        let checked = match row.check {
            Some(check) if first => check(start).map_err(|error| format!("the check of every byte: {error}")),
            _ => Ok(()),
        };
        match checked.and_then(|()| (row.server)(start, settings)) {
            Ok(values) => self.values.push(values),
            Err(fault) => {
                eprintln!("  {}: {fault}", self.name);
                self.fault = Some(fault);
            }
        }
    }

    fn measure_floor(&mut self, row: &Row, settings: &Settings) {
        let Some(floor) = row.floor else { return };
        if self.fault.is_some() {
            return;
        }
        match floor(settings) {
            Ok(values) => self.values.push(values),
            Err(fault) => {
                eprintln!("  {}: {fault}", self.name);
                self.fault = Some(fault.to_string());
                tree::sweep();
            }
        }
    }

    /// One figure over all pairs; a row that failed has none, however far it came.
    fn column(&self, index: usize) -> Vec<f64> {
        if self.fault.is_some() {
            return Vec::new();
        }
        let column = self.values.iter().map(|values| values.get(index));
        column.map(|value| value.copied().unwrap_or(f64::NAN)).collect()
    }
}

fn selected(options: &Options) -> Result<Vec<&'static Row>, String> {
    let Some(names) = &options.rows else {
        return Ok(ROWS.iter().collect());
    };
    let mut rows = Vec::new();
    for name in names.iter().filter(|name| *name != "none") {
        rows.push(
            ROWS.iter()
                .find(|row| row.name == name)
                .ok_or_else(|| format!("no row is called {name}; --list names them"))?,
        );
    }
    Ok(rows)
}

/// Starts a server once, to see that it does and what it consists of.
fn processes(start: &Start) -> Result<String, String> {
    let _client = start.client()?;
    rows::settle();
    Ok(tree::Server::idle().map_or_else(|error| error, |server| server.names()))
}

/// Puts the number of live processes where a name says N.
fn numbered(name: &str, settings: &Settings) -> String {
    name.replace(" N ", &format!(" {} ", digits(settings.live as f64)))
}

fn default_server() -> Vec<String> {
    let built = option_env!("CARGO_BIN_EXE_procwire").map(str::to_owned);
    vec![built.unwrap_or_else(|| {
        let directory = option_env!("CARGO_MANIFEST_DIR").unwrap_or(".");
        format!("{directory}/target/release/procwire")
    })]
}

/// The name of a server's program.
fn program(start: &Start) -> String {
    let path = Path::new(&start.words[0]);
    path.file_name().map_or_else(
        || start.words[0].clone(),
        |name| name.to_string_lossy().into_owned(),
    )
}
