//! What a program starts with, as `process/spawn` says it: where its streams go, which variables it
//! inherits, and what it may use.
//!
//! **Thread:** none of its own; plain data.
//! **Owns:** the form of these members, and which combinations of them are refused.
//! **Never:** asks the machine.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::wire::protocol::{SpawnParams, shortened};

/// The range of `limits.nice`.
const NICE: std::ops::RangeInclusive<i32> = -20..=19;
/// The range of `limits.oomScoreAdj`.
const OOM_SCORE_ADJ: std::ops::RangeInclusive<i32> = -1_000..=1_000;

/// The words that each stream may have.
pub(crate) const STDIN_WORDS: [&str; 1] = ["null"];
pub(crate) const STDOUT_WORDS: [&str; 2] = ["pipe", "null"];
pub(crate) const STDERR_WORDS: [&str; 3] = ["pipe", "null", "stdout"];

/// Where a stream of a process comes from or goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Redirect {
    /// Output goes through a pipe to the client, as it does where the member is left out.
    Pipe,
    /// `/dev/null`.
    Null,
    /// Error output goes where standard output goes: one stream, in the order of the writes.
    Stdout,
    /// A file, which the server opens before the program starts.
    File(Box<StreamFile>),
}

/// A file in place of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StreamFile {
    /// Its absolute path.
    #[serde(rename = "file")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::wire::schema::AbsolutePath"))]
    pub path: String,
    /// Output goes after what is in the file, instead of replacing it; for stdin it has no meaning.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub append: bool,
}

impl Redirect {
    /// The file at this path, whose content output replaces.
    ///
    /// ```
    /// # use procwire::protocol::{Redirect, SpawnParams};
    /// let params = SpawnParams {
    ///     stdin: Some(Redirect::file("/etc/passwd")),
    ///     stdout: Some(Redirect::file("/tmp/log")),
    ///     stderr: Some(Redirect::Stdout),
    ///     ..SpawnParams::default()
    /// };
    /// ```
    pub fn file(path: impl Into<String>) -> Redirect {
        let append = false;
        let path = path.into();
        Redirect::File(Box::new(StreamFile { path, append }))
    }

    /// The file at this path, to which output is appended.
    ///
    /// ```
    /// # use procwire::protocol::{Redirect, SpawnParams};
    /// let params = SpawnParams {
    ///     stdout: Some(Redirect::append("/tmp/log")),
    ///     ..SpawnParams::default()
    /// };
    /// ```
    pub fn append(path: impl Into<String>) -> Redirect {
        let append = true;
        let path = path.into();
        Redirect::File(Box::new(StreamFile { path, append }))
    }

    /// The word for it on the wire; a file has none.
    fn word(&self) -> &'static str {
        match self {
            Redirect::Pipe => "pipe",
            Redirect::Null => "null",
            Redirect::Stdout => "stdout",
            Redirect::File(_) => "",
        }
    }

    /// How many bytes it holds besides itself.
    pub(crate) fn len(&self) -> usize {
        match self {
            Redirect::File(file) => size_of::<StreamFile>() + file.path.len(),
            Redirect::Pipe | Redirect::Null | Redirect::Stdout => 0,
        }
    }
}

impl Serialize for Redirect {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Redirect::File(file) => file.serialize(serializer),
            Redirect::Pipe | Redirect::Null | Redirect::Stdout => serializer.serialize_str(self.word()),
        }
    }
}

impl<'de> Deserialize<'de> for Redirect {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RedirectVisitor;
        impl<'de> Visitor<'de> for RedirectVisitor {
            type Value = Redirect;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"pipe\", \"null\", \"stdout\" or an object with a file")
            }
            fn visit_str<E: de::Error>(self, word: &str) -> Result<Redirect, E> {
                match word {
                    "pipe" => Ok(Redirect::Pipe),
                    "null" => Ok(Redirect::Null),
                    "stdout" => Ok(Redirect::Stdout),
                    _ => Err(E::invalid_value(de::Unexpected::Str(word), &self)),
                }
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Redirect, A::Error> {
                let file = StreamFile::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Redirect::File(Box::new(file)))
            }
        }
        deserializer.deserialize_any(RedirectVisitor)
    }
}

/// Which of the server's variables a process inherits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum InheritEnv {
    /// All of them.
    #[default]
    All,
    /// None of them.
    Nothing,
    /// Those with one of these names. A name that ends in `*` stands for all that begin so.
    Only(Vec<String>),
}

impl InheritEnv {
    /// Whether the variable of this name is inherited.
    pub(crate) fn includes(&self, name: &[u8]) -> bool {
        match self {
            InheritEnv::All => true,
            InheritEnv::Nothing => false,
            InheritEnv::Only(names) => names.iter().any(|wanted| match wanted.strip_suffix('*') {
                Some(beginning) => name.starts_with(beginning.as_bytes()),
                None => name == wanted.as_bytes(),
            }),
        }
    }

    /// The names it holds.
    pub(crate) fn names(&self) -> &[String] {
        match self {
            InheritEnv::Only(names) => names,
            InheritEnv::All | InheritEnv::Nothing => &[],
        }
    }

    pub(crate) fn is_default(&self) -> bool {
        *self == InheritEnv::All
    }
}

impl Serialize for InheritEnv {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            InheritEnv::All => serializer.serialize_bool(true),
            InheritEnv::Nothing => serializer.serialize_bool(false),
            InheritEnv::Only(names) => names.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for InheritEnv {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InheritVisitor;
        impl<'de> Visitor<'de> for InheritVisitor {
            type Value = InheritEnv;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or a list of names")
            }
            fn visit_bool<E: de::Error>(self, all: bool) -> Result<InheritEnv, E> {
                Ok(if all { InheritEnv::All } else { InheritEnv::Nothing })
            }
            fn visit_unit<E: de::Error>(self) -> Result<InheritEnv, E> {
                Ok(InheritEnv::All)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<InheritEnv, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = list.next_element()? {
                    names.push(name);
                }
                Ok(InheritEnv::Only(names))
            }
        }
        deserializer.deserialize_any(InheritVisitor)
    }
}

/// What a process may use, with all it starts: the limits of setrlimit(2), soft and hard alike, and its
/// place among the others. What is left out is as the server has it; the largest number is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ResourceLimits {
    /// Seconds of processor time of each process, after which SIGKILL kills it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<u64>,
    /// The size of a file that is written, at which SIGXFSZ kills the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_bytes: Option<u64>,
    /// Private memory that is writable: heap, data and anonymous mappings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_bytes: Option<u64>,
    /// The size of a core dump; 0 is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core_bytes: Option<u64>,
    /// The number of open descriptors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u64>,
    /// How many processes and threads its user may have in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<u64>,
    /// The main thread's stack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack_bytes: Option<u64>,
    /// The nice value itself, not an increment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = -20, max = 19)))]
    pub nice: Option<i32>,
    /// How readily the kernel kills it when memory runs out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = -1000, max = 1000)))]
    pub oom_score_adj: Option<i32>,
}

/// A member of [`ResourceLimits`]: `data.limit` of error -32603 names the one that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub enum LimitName {
    /// `cpuSeconds`.
    CpuSeconds,
    /// `fileBytes`.
    FileBytes,
    /// `dataBytes`.
    DataBytes,
    /// `coreBytes`.
    CoreBytes,
    /// `openFiles`.
    OpenFiles,
    /// `processes`.
    Processes,
    /// `stackBytes`.
    StackBytes,
    /// `nice`.
    Nice,
    /// `oomScoreAdj`.
    OomScoreAdj,
}

impl LimitName {
    /// All of them.
    pub(crate) const ALL: [LimitName; 9] = [
        LimitName::CpuSeconds,
        LimitName::FileBytes,
        LimitName::DataBytes,
        LimitName::CoreBytes,
        LimitName::OpenFiles,
        LimitName::Processes,
        LimitName::StackBytes,
        LimitName::Nice,
        LimitName::OomScoreAdj,
    ];

    /// The name on the wire.
    ///
    /// ```
    /// # use procwire::protocol::LimitName;
    /// assert_eq!(LimitName::OpenFiles.name(), "openFiles");
    /// ```
    pub fn name(self) -> &'static str {
        match self {
            LimitName::CpuSeconds => "cpuSeconds",
            LimitName::FileBytes => "fileBytes",
            LimitName::DataBytes => "dataBytes",
            LimitName::CoreBytes => "coreBytes",
            LimitName::OpenFiles => "openFiles",
            LimitName::Processes => "processes",
            LimitName::StackBytes => "stackBytes",
            LimitName::Nice => "nice",
            LimitName::OomScoreAdj => "oomScoreAdj",
        }
    }
}

/// What is wrong with these members, in words that begin with the name of one.
pub(crate) fn refusal(params: &SpawnParams) -> Option<String> {
    let streams = [
        ("stdin", &params.stdin, &STDIN_WORDS[..]),
        ("stdout", &params.stdout, &STDOUT_WORDS),
        ("stderr", &params.stderr, &STDERR_WORDS),
    ];
    for (name, redirect, words) in streams {
        let Some(redirect) = redirect else { continue };
        if params.tty {
            return Some(format!("{name} must be left out with tty: true"));
        }
        match redirect {
            Redirect::File(file) if !file.path.starts_with('/') => {
                let path = shortened(&file.path);
                return Some(format!("{name}.file must be an absolute path, got {path:?}"));
            }
            Redirect::File(file) if file.path.contains('\0') => {
                return Some(format!("{name}.file contains a nul byte"));
            }
            Redirect::File(_) => {}
            Redirect::Pipe | Redirect::Null | Redirect::Stdout => {
                let word = redirect.word();
                if !words.contains(&word) {
                    let words = words.join("\", \"");
                    return Some(format!("{name} must be \"{words}\" or a file, got {word:?}"));
                }
            }
        }
    }
    if params.stdin.is_some() && params.stream_stdin {
        return Some("stdin must be left out with streamStdin: true".to_owned());
    }
    for name in params.inherit_env.names() {
        let before_star = name.strip_suffix('*').unwrap_or(name);
        if name.is_empty() || before_star.contains(['*', '=', '\0']) {
            return Some(format!(
                "inheritEnv: a name must not be empty or contain '=', a nul byte or a '*' before its end, \
                 got {:?}",
                shortened(name)
            ));
        }
    }
    let limits = params.limits.as_deref()?;
    let ranged = [
        ("nice", limits.nice, NICE),
        ("oomScoreAdj", limits.oom_score_adj, OOM_SCORE_ADJ),
    ];
    ranged.into_iter().find_map(|(name, value, range)| {
        let value = value.filter(|value| !range.contains(value))?;
        let (least, most) = range.into_inner();
        Some(format!(
            "limits.{name} must be from {least} to {most}, got {value}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_inherited_whole_or_by_their_beginning() {
        let list = |names: &[&str]| InheritEnv::Only(names.iter().map(|n| (*n).to_owned()).collect());
        let some = list(&["PATH", "LC_*"]);
        for name in ["PATH", "LC_ALL", "LC_"] {
            assert!(some.includes(name.as_bytes()), "{name}");
        }
        for name in ["PATH2", "PAT", "LC", "path", "XLC_ALL", ""] {
            assert!(!some.includes(name.as_bytes()), "{name}");
        }
        assert!(list(&["*"]).includes(b"\xff"));
        assert!(!list(&[]).includes(b"A"));
    }

    #[test]
    fn every_limit_is_called_the_same_in_a_request_and_in_an_error() {
        let limits = ResourceLimits {
            cpu_seconds: Some(1),
            file_bytes: Some(1),
            data_bytes: Some(1),
            core_bytes: Some(1),
            open_files: Some(1),
            processes: Some(1),
            stack_bytes: Some(1),
            nice: Some(1),
            oom_score_adj: Some(1),
        };
        let members = serde_json::to_value(limits).unwrap();
        let members = members.as_object().unwrap();
        assert_eq!(members.len(), LimitName::ALL.len());
        for limit in LimitName::ALL {
            assert_eq!(serde_json::to_value(limit).unwrap(), limit.name());
            assert!(members.contains_key(limit.name()), "{limit:?}");
        }
    }
}
