//! What the answer to each method looks like.
//!
//! **Thread:** the one that sent the request decodes its answer.
//! **Owns:** nothing.
//! **Never:** guesses: which method an answer is for follows from its id.

use std::sync::Arc;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::value::RawValue;

use crate::wire::protocol::{Guarantees, Inspection, Limits, ProcessInfo, Reply};

/// The result of an answer, not looked into yet.
pub(super) enum Raw {
    /// From a connection in memory.
    Typed(Reply),
    /// From any other.
    Json(Box<RawValue>),
}

/// What a method is answered with. Members that the reference does not send may be missing.
pub(super) trait Answer: DeserializeOwned {
    /// `None` if it is the reply to another method.
    fn from_reply(reply: Reply) -> Option<Self>;

    /// Fails with what is wrong with it.
    fn from_raw(raw: Raw) -> Result<Self, String> {
        match raw {
            Raw::Typed(reply) => Self::from_reply(reply).ok_or_else(|| "it is for another method".to_owned()),
            Raw::Json(json) => serde_json::from_str(json.get()).map_err(|e| e.to_string()),
        }
    }
}

/// To `initialize`.
#[derive(Default, Deserialize)]
pub(super) struct Initialized {
    #[serde(default)]
    limits: Option<KnownLimits>,
    #[serde(default)]
    guarantees: Option<Guarantees>,
}

/// The limits that a client heeds.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KnownLimits {
    #[serde(default)]
    max_message_bytes: Option<u64>,
}

impl Initialized {
    /// The longest line the server takes, if it tells.
    pub(super) fn max_message_bytes(&self) -> Option<usize> {
        let bytes = self.limits.as_ref()?.max_message_bytes?;
        Some(usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    /// What the server enforces, if it tells.
    pub(super) fn guarantees(&self) -> Option<Guarantees> {
        self.guarantees
    }

    /// Whether a spawn may leave out the directory. The reference, which tells no limits, wants it.
    pub(super) fn has_default_directory(&self) -> bool {
        self.limits.is_some()
    }
}

impl Answer for Initialized {
    fn from_reply(reply: Reply) -> Option<Self> {
        match reply {
            Reply::Initialize(reply) => {
                let Limits {
                    max_message_bytes, ..
                } = reply.limits;
                Some(Initialized {
                    limits: Some(KnownLimits {
                        max_message_bytes: Some(max_message_bytes),
                    }),
                    guarantees: Some(reply.guarantees),
                })
            }
            _ => None,
        }
    }
}

/// To `process/spawn`: the program runs.
#[derive(Deserialize)]
pub(super) struct Spawned {
    #[serde(default)]
    pub(super) pid: Option<u32>,
}

impl Answer for Spawned {
    fn from_reply(reply: Reply) -> Option<Self> {
        match reply {
            Reply::Spawn { pid } => Some(Spawned { pid: Some(pid) }),
            _ => None,
        }
    }
}

/// To `process/writeStdin`, `process/resizePty` and `process/kill`.
pub(super) struct Done;

impl<'de> Deserialize<'de> for Done {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Done)
    }
}

impl Answer for Done {
    fn from_reply(reply: Reply) -> Option<Self> {
        matches!(reply, Reply::Done).then_some(Done)
    }
}

/// To `process/list`.
#[derive(Deserialize)]
pub(super) struct Listed {
    pub(super) processes: Vec<ProcessInfo>,
}

impl Answer for Listed {
    fn from_reply(reply: Reply) -> Option<Self> {
        match reply {
            Reply::List(processes) => Some(Listed { processes }),
            _ => None,
        }
    }
}

impl Answer for Inspection {
    fn from_reply(reply: Reply) -> Option<Self> {
        match reply {
            Reply::Inspect(inspection) => Some(Arc::unwrap_or_clone(inspection)),
            _ => None,
        }
    }
}
