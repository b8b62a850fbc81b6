//! The handshake: who serves, every default and limit in force, and what is guaranteed.
//!
//! **Thread:** the dispatcher.
//! **Owns:** what the answer to `initialize` says.
//! **Never:** is needed: a client may leave it out.

use super::Dispatcher;
use crate::outbox::costs::{CHUNK_BYTES, FREE_STDIN_BYTES, MAX_IN_FLIGHT};
use crate::process::DRAIN_WAIT;
use crate::sys;
use crate::wire::protocol::{
    Guarantees, InitializeParams, InitializeReply, Limits, MAX_HANDLE_BYTES, PtySize, Reply, RpcError,
    ServerInfo,
};

impl Dispatcher {
    pub(super) fn initialize(&mut self, params: &InitializeParams) -> Result<Reply, RpcError> {
        if self.initialized {
            return Err(RpcError::invalid_request("already initialized"));
        }
        self.initialized = true;
        if let Some(capabilities) = &params.capabilities {
            self.outbox.opt_out(capabilities);
        }
        let version = env!("CARGO_PKG_VERSION");
        let os = std::env::consts::OS;
        Ok(Reply::Initialize(Box::new(InitializeReply {
            user_agent: format!(
                "procwire/{version} ({os}; {}) {}",
                std::env::consts::ARCH,
                params.client_info.name
            ),
            codex_home: self.context.environment.codex_home(),
            platform_family: std::env::consts::FAMILY.to_owned(),
            platform_os: os.to_owned(),
            server_info: ServerInfo {
                name: "procwire".to_owned(),
                version: version.to_owned(),
            },
            limits: Limits {
                max_message_bytes: self.config.max_message_bytes as u64,
                max_process_handle_bytes: MAX_HANDLE_BYTES as u64,
                default_timeout_ms: self.config.default_timeout_ms(),
                default_output_bytes_cap: self.config.default_output_cap,
                free_pending_stdin_bytes: FREE_STDIN_BYTES as u64,
                max_pending_stdin_bytes: self.config.max_pending_stdin_bytes,
                output_drain_ms: u64::try_from(DRAIN_WAIT.as_millis()).unwrap_or(u64::MAX),
                max_delta_bytes: CHUNK_BYTES as u64,
                max_in_flight: MAX_IN_FLIGHT as u64,
                default_pty_size: PtySize::default(),
            },
            guarantees: self.guarantees(),
        })))
    }

    fn guarantees(&self) -> Guarantees {
        let sees_all = sys::blindness().is_none();
        Guarantees {
            kills_tree: sees_all,
            kills_daemons_at_end: self.config.host.kills_daemons_at_end,
            survives_server_kill: self.config.host.survives_server_kill,
            inspect: sees_all && sys::inspect::waits_are_shown(),
            limits: sys::inspect::limits_are_kept(),
        }
    }
}
