//! The variables that a program inherits.
//!
//! **Thread:** made by the dispatcher; read by every process thread.
//! **Owns:** the server's environment as it was when the connection began.
//! **Never:** reads the environment of this program again, which an embedder may change.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStrExt;

/// Variables that name descriptors of the server, or mean that it has such a one. No program has those
/// descriptors, and some end at once where they are told of them: node, for example.
pub(crate) const DESCRIPTOR_VARIABLES: [&str; 10] = [
    // node: the channel of child_process.fork, and a worker of its cluster, which has one.
    "NODE_CHANNEL_FD",
    "NODE_CHANNEL_SERIALIZATION_MODE",
    "NODE_UNIQUE_ID",
    // systemd, and upstart: sockets of the service.
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "UPSTART_FDS",
    // The connection to a Wayland compositor.
    "WAYLAND_SOCKET",
    // bash: where it writes its trace.
    "BASH_XTRACEFD",
];

/// The server's environment as it was when the connection began.
pub(crate) struct Environment(pub(super) Vec<Variable>);

pub(super) struct Variable {
    pub(super) name: OsString,
    /// `NAME=value`.
    pub(super) definition: CString,
}

impl Environment {
    /// Takes every variable that programs inherit byte for byte, UTF-8 or not.
    pub(crate) fn snapshot() -> Self {
        let inherited = |name: &OsString| DESCRIPTOR_VARIABLES.iter().all(|known| name != known);
        let variables = std::env::vars_os().filter(|(name, _)| inherited(name));
        let variables = variables.filter_map(|(name, value)| {
            let definition = definition(name.as_bytes(), value.as_bytes()).ok()?;
            Some(Variable { name, definition })
        });
        Environment(variables.collect())
    }

    /// What `initialize` tells to clients of `codex app-server`, as that would.
    pub(crate) fn codex_home(&self) -> String {
        let absolute = |name| {
            let value = str::from_utf8(self.value(name)?).ok()?;
            value.starts_with('/').then_some(value)
        };
        match (absolute("CODEX_HOME"), absolute("HOME")) {
            (Some(home), _) => home.to_owned(),
            (None, Some(home)) => format!("{}/.codex", home.trim_end_matches('/')),
            (None, None) => "/".to_owned(),
        }
    }

    pub(super) fn value(&self, name: &str) -> Option<&[u8]> {
        let variable = self.0.iter().find(|v| v.name == name)?;
        variable.definition.as_bytes().get(name.len() + 1..)
    }
}

pub(super) fn definition(name: &[u8], value: &[u8]) -> Result<CString, std::ffi::NulError> {
    let mut bytes = Vec::with_capacity(name.len() + value.len() + 2);
    bytes.extend_from_slice(name);
    bytes.push(b'=');
    bytes.extend_from_slice(value);
    CString::new(bytes)
}
