//! What everything costs that bounds memory, and how much of it there may be. Each name ends in its unit.
//!
//! **Thread:** any; there is no state here.
//! **Owns:** every weight and every limit of a queue of the server. What the params of a request hold, its
//! own file says: [`Params::cost`](crate::wire::methods::Params::cost).
//! **Never:** counts anything; that is done where it is held, by what is given back when it is dropped.

use crate::wire::protocol::{Collected, Exited, ProcessInfo, Reply, RequestId, RpcError, cost_of_strings};

// ---- requests and their answers ----

/// What a request counts at least, from being taken until its answer is: more than what is kept of a small
/// one, or its answer, takes. A process that lives counts as much.
pub(crate) const REQUEST_COST_BYTES: usize = 512;
/// Small requests that may be under way.
pub(crate) const MAX_IN_FLIGHT: usize = 65_536;
/// What all requests may count before no further one is taken.
pub(crate) const MAX_REQUEST_BYTES: usize = MAX_IN_FLIGHT * REQUEST_COST_BYTES;
/// What lists that the client has not read may count before no further one is made: each is as long as all
/// processes are many.
pub(crate) const MAX_LIST_BYTES: usize = 32 * 1024 * 1024;
/// What exits that the client has not read may count before no process is started. What runs already is
/// still killed when a client asks for it without reading.
pub(crate) const MAX_EXIT_BYTES: usize = 32 * 1024 * 1024;
/// What a request that waits for a process to be started costs beside its id and its params.
const WAITING_COST_BYTES: usize = 256;
/// What an answer costs beside its id and its contents.
const ANSWER_COST_BYTES: usize = 64;
/// What one process of a list costs beside its strings.
const LISTED_COST_BYTES: usize = 256;
/// What an exit costs beside its handle and its output.
const EXIT_COST_BYTES: usize = 512;

/// How long a message may be where the embedder does not say.
pub(crate) const DEFAULT_MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// Messages that may wait for the dispatcher.
pub(crate) const INBOX_MESSAGES: usize = 64;
/// How many times the longest message these may have in bytes.
pub(crate) const INBOX_LONGEST_MESSAGES: usize = 2;

/// A request that waits, by its id and what its params cost.
pub(crate) fn waiting_cost(id: Option<&RequestId>, params: usize) -> usize {
    WAITING_COST_BYTES + id.map_or(0, RequestId::len) + params
}

/// An answer, but for the processes of a list.
pub(crate) fn answer_cost(id: Option<&RequestId>, outcome: &Result<Reply, RpcError>) -> usize {
    let contents = match outcome {
        Ok(Reply::Inspect(inspection)) => inspection.weight(),
        Ok(_) => 0,
        Err(error) => error.message.len() + error.data.as_ref().map_or(0, |data| data.program.len()),
    };
    ANSWER_COST_BYTES + id.map_or(0, RequestId::len) + contents
}

/// The processes of an answer that is a list.
pub(crate) fn list_cost(outcome: &Result<Reply, RpcError>) -> usize {
    let listed = |process: &ProcessInfo| {
        LISTED_COST_BYTES
            + process.process_handle.len()
            + cost_of_strings(&process.command)
            + process.cwd.as_ref().map_or(0, String::len)
    };
    match outcome {
        Ok(Reply::List(list)) => list.processes.iter().map(listed).sum(),
        _ => 0,
    }
}

pub(crate) fn exit_cost(exited: &Exited) -> usize {
    let kept = |collected: &Collected| {
        let tail = collected.tail.as_ref().map_or(0, |tail| tail.bytes.len());
        collected.bytes.len() + tail
    };
    // The handle is there twice: the dispatcher remembers it until the exit has been sent.
    EXIT_COST_BYTES + 2 * exited.process_handle.len() + kept(&exited.stdout) + kept(&exited.stderr)
}

/// What the encode buffer holds before it is written out, unless there is nothing to add to it.
pub(crate) const BATCH_BYTES: usize = 64 * 1024;
/// How many processes the answer to an inspection may have.
pub(crate) const MAX_INSPECTED: usize = 1_000;
/// How much of the command of each is shown.
pub(crate) const MAX_COMMAND_BYTES: u64 = 1_024;

// ---- output ----

/// The most bytes of output in one message.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;
/// Output of one process that may be on its way to the client.
pub(crate) const PROCESS_CREDIT_BYTES: usize = 128 * 1024;
/// Output of all processes that may be on its way, but for one small chunk each.
pub(crate) const POOL_CREDIT_BYTES: usize = 8 * 1024 * 1024;
/// What a process may send when the pool is used up.
pub(crate) const SMALL_CHUNK_BYTES: usize = 4 * 1024;
/// What a delta costs beside its bytes, so that many tiny ones are bounded too.
pub(crate) const DELTA_COST_BYTES: usize = 256;
/// What is kept of a stream where neither the spawn nor the embedder says.
pub(crate) const DEFAULT_OUTPUT_CAP_BYTES: u64 = 1024 * 1024;
/// Read buffers of [`CHUNK_BYTES`] that are kept for reuse.
pub(crate) const KEPT_BUFFERS: usize = 16;
/// What the pipe of a busy stream is asked to hold. More gains nothing: it no longer fits the cache.
pub(crate) const BUSY_PIPE_BYTES: usize = 256 * 1024;
/// What the pipe of an input, of a program or of the server, has carried by when it is busy.
pub(crate) const BUSY_AFTER_BYTES: u64 = 1024 * 1024;
/// How many output streams of a server may have a larger pipe: together they take a quarter of what an
/// unprivileged user may have in pipes, past which every new pipe is tiny.
pub(crate) const MAX_BUSY_PIPES: usize = 64;

// ---- stdin ----

/// Up to this many pending bytes a write is answered at once.
pub(crate) const FREE_STDIN_BYTES: usize = 1024 * 1024;
/// How many bytes may be pending for one process where the embedder does not say.
pub(crate) const DEFAULT_MAX_STDIN_BYTES: u64 = 8 * 1024 * 1024;
/// What a write counts at least while it is not answered, which is more than most ids are long.
pub(crate) const UNANSWERED_COST_BYTES: usize = 64;
/// Writes to one process that may wait for their answers, by what they count. Twice what can be in
/// flight, so that it takes a process that does not read, and a client that does not await, to meet it.
pub(crate) const MAX_UNANSWERED_BYTES: usize = 2 * MAX_IN_FLIGHT * UNANSWERED_COST_BYTES;

/// What a write counts while it is not answered: by its id, which is all that is kept of one without bytes.
pub(crate) fn unanswered_cost(id: Option<&RequestId>) -> usize {
    id.map_or(0, RequestId::len).max(UNANSWERED_COST_BYTES)
}

// ---- waits ----

/// Waits of one process that may be unanswered.
pub(crate) const MAX_WAITS: usize = 64;
/// Bytes of all waits of a connection, by what they cost.
pub(crate) const MAX_WAITS_BYTES: usize = 64 * 1024 * 1024;
/// What a wait costs beside its conditions and its id.
pub(crate) const WAIT_COST_BYTES: usize = 256;

// ---- handles ----

/// Handles of ended processes that are remembered, in bytes, before the first are forgotten.
pub(crate) const FORGOTTEN_AT_BYTES: usize = 4 * 1024;
