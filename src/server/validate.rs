//! What can be said about a spawn or a wait without asking the machine.
//!
//! **Thread:** the dispatcher.
//! **Owns:** nothing.
//! **Never:** asks the system, which may take long.

use crate::wire::output::{MAX_CONDITIONS, MAX_PATTERN_BYTES};
use crate::wire::protocol::{
    Condition, Limit, OutputKeep, PtySize, RpcError, SpawnParams, WaitParams, shortened,
};
use crate::wire::{modes, start};

/// Refuses params that mean nothing, whatever the machine is like.
pub(super) fn spawn_params(params: &SpawnParams) -> Result<(), RpcError> {
    let SpawnParams {
        command,
        process_handle,
        cwd,
        env,
        tty,
        size,
        terminal_modes,
        output_bytes_cap,
        output_keep,
        ..
    } = params;
    if command.is_empty() {
        return Err(RpcError::invalid_request("command must not be empty"));
    }
    if command[0].is_empty() {
        return Err(RpcError::invalid_request(
            "command must not be empty: its first element is the program",
        ));
    }
    if process_handle.is_empty() {
        return Err(RpcError::invalid_request("processHandle must not be empty"));
    }
    let invalid = |what: String| Err(RpcError::invalid_params(format!("process/spawn: {what}")));
    if let Some(index) = command.iter().position(|argument| argument.contains('\0')) {
        return invalid(format!("command[{index}] contains a nul byte"));
    }
    if let Some(cwd) = cwd {
        if !cwd.starts_with('/') {
            return invalid(format!("cwd must be an absolute path, got {:?}", shortened(cwd)));
        }
        if cwd.contains('\0') {
            return invalid("cwd contains a nul byte".to_owned());
        }
    }
    for (name, value) in env.iter().flatten() {
        if name.is_empty() || name.contains('=') || name.contains('\0') {
            return invalid(format!(
                "env: a name must not be empty or contain '=' or a nul byte, got {:?}",
                shortened(name)
            ));
        }
        if value.as_ref().is_some_and(|value| value.contains('\0')) {
            let name = shortened(name);
            return invalid(format!("env: the value of {name:?} contains a nul byte"));
        }
    }
    if let Some(why) = start::refusal(params) {
        return invalid(why);
    }
    if let (Some(OutputKeep::HeadTail { .. }), Limit::Unlimited | Limit::Of(_)) =
        (output_keep, output_bytes_cap)
    {
        return invalid("outputBytesCap is the sum of head and tail of outputKeep: leave it out".to_owned());
    }
    if let Some(modes) = terminal_modes {
        if !tty {
            return invalid("terminalModes requires tty: true".to_owned());
        }
        if let Some(why) = modes::refusal(modes) {
            return invalid(format!("terminalModes: {why}"));
        }
    }
    match size {
        Some(_) if !tty => invalid("size requires tty: true".to_owned()),
        Some(size) => pty_size(*size),
        None => Ok(()),
    }
}

pub(super) fn wait_params(params: &WaitParams) -> Result<(), RpcError> {
    let invalid = |what: String| Err(RpcError::invalid_params(format!("process/wait: until: {what}")));
    let conditions = params.until.len();
    if conditions == 0 {
        return invalid("at least one condition is required".to_owned());
    }
    if conditions > MAX_CONDITIONS {
        return invalid(format!(
            "{conditions} conditions, and the limit is {MAX_CONDITIONS}"
        ));
    }
    let patterns = params.until.iter().filter_map(Condition::pattern);
    if patterns.clone().any(<[u8]>::is_empty) {
        return invalid("the text or bytes must not be empty".to_owned());
    }
    let bytes: usize = patterns.map(<[u8]>::len).sum();
    if bytes > MAX_PATTERN_BYTES {
        return invalid(format!(
            "{bytes} bytes of text and bytes, and the limit is {MAX_PATTERN_BYTES}"
        ));
    }
    Ok(())
}

pub(super) fn pty_size(size: PtySize) -> Result<(), RpcError> {
    if size.rows == 0 || size.cols == 0 {
        return Err(RpcError::invalid_params(
            "process size rows and cols must be greater than 0",
        ));
    }
    Ok(())
}
