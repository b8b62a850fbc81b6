//! The command line.

use lexopt::Arg::{Long, Short, Value};
use lexopt::{Parser, ValueExt};
use std::path::PathBuf;
use std::time::Duration;

pub const HELP: &str = "\
Measures a server of process/* methods, and what the machine does without one.

  --server CMD        the server (default: the release build of procwire)
  --vs CMD            a second server, measured in turn with the first
  --name NAME         what to call the server (default: its program's name)
  --vs-name NAME      what to call the second server
  --rows NAME,NAME    only these rows; --list names them
  --pairs N           how often each row is measured (default: 5)
  --quick             short rows, one pair unless --pairs says more
  --live N            how many live processes in the rows about many (default: 1000)
  --limit SECONDS     the longest one measurement of a row may take (default: 120)
  --growth            also measure against the number of live idle processes
  --sizes N,N         those numbers (default: 1,10,100,1000,5000)
  --json FILE         write the raw results
  --from FILE         measure nothing and take the results from such a file
  --svg FILE          draw the table
  --growth-svg FILE   draw the growth; implies --growth
  --stderr            show what the servers write to stderr
  --list              name the rows
  --help              this text

--rows none leaves the table out, for --growth alone.
A command is split at spaces; quotes keep a word together.
The exit status is 1 if a row of the first server failed.
";

/// What was asked for.
pub struct Options {
    pub server: Option<Vec<String>>,
    pub reference: Option<Vec<String>>,
    pub name: Option<String>,
    pub reference_name: Option<String>,
    pub rows: Option<Vec<String>>,
    pub pairs: Option<usize>,
    pub quick: bool,
    pub live: u64,
    pub limit: Duration,
    pub growth: bool,
    pub sizes: Vec<u64>,
    pub json: Option<PathBuf>,
    pub from: Option<PathBuf>,
    pub svg: Option<PathBuf>,
    pub growth_svg: Option<PathBuf>,
    pub stderr: bool,
    pub list: bool,
    pub help: bool,
    /// `cargo bench` says so; `cargo test --benches` does not.
    pub bench: bool,
    /// Whether nothing was asked for.
    pub empty: bool,
}

pub fn parse() -> Result<Options, String> {
    read(&mut Parser::from_env()).map_err(|error| error.to_string())
}

fn read(parser: &mut Parser) -> Result<Options, lexopt::Error> {
    let mut options = Options {
        server: None,
        reference: None,
        name: None,
        reference_name: None,
        rows: None,
        pairs: None,
        quick: false,
        live: 1000,
        limit: Duration::from_secs(120),
        growth: false,
        sizes: vec![1, 10, 100, 1000, 5000],
        json: None,
        from: None,
        svg: None,
        growth_svg: None,
        stderr: false,
        list: false,
        help: false,
        bench: false,
        empty: true,
    };
    while let Some(argument) = parser.next()? {
        options.empty = false;
        match argument {
            Long("server") => options.server = Some(parser.value()?.parse_with(words)?),
            Long("vs") => options.reference = Some(parser.value()?.parse_with(words)?),
            Long("name") => options.name = Some(parser.value()?.string()?),
            Long("vs-name") => options.reference_name = Some(parser.value()?.string()?),
            Long("rows") => options.rows = Some(parser.value()?.parse_with(names)?),
            Long("pairs") => options.pairs = Some(parser.value()?.parse_with(at_least_one)?),
            Long("quick") => options.quick = true,
            Long("live") => options.live = parser.value()?.parse_with(at_least_one)? as u64,
            Long("limit") => options.limit = Duration::from_secs(parser.value()?.parse()?),
            Long("growth") => options.growth = true,
            Long("sizes") => options.sizes = parser.value()?.parse_with(sizes)?,
            Long("json") => options.json = Some(parser.value()?.into()),
            Long("from") => options.from = Some(parser.value()?.into()),
            Long("svg") => options.svg = Some(parser.value()?.into()),
            Long("growth-svg") => {
                options.growth_svg = Some(parser.value()?.into());
                options.growth = true;
            }
            Long("stderr") => options.stderr = true,
            Long("list") => options.list = true,
            Long("help") | Short('h') => options.help = true,
            Long("bench") => options.bench = true,
            // `cargo bench NAME` hands the name on.
            Value(name) => options.rows.get_or_insert_default().push(name.string()?),
            other => return Err(other.unexpected()),
        }
    }
    Ok(options)
}

/// Splits a command at spaces that are not inside quotes.
fn words(command: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for character in command.chars() {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(character),
            (None, '"' | '\'') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(character),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    words.extend(word);
    if words.is_empty() {
        return Err("an empty command".to_owned());
    }
    Ok(words)
}

#[allow(clippy::unnecessary_wraps)]
fn names(list: &str) -> Result<Vec<String>, String> {
    Ok(list.split(',').map(|name| name.trim().to_owned()).collect())
}

fn sizes(list: &str) -> Result<Vec<u64>, String> {
    let mut sizes = list
        .split(',')
        .map(|size| at_least_one(size.trim()).map(|size| size as u64))
        .collect::<Result<Vec<u64>, String>>()?;
    // Processes are added to those that live already.
    sizes.sort_unstable();
    Ok(sizes)
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(error.to_string()),
    }
}
