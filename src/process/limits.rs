//! From the limits of a spawn to what its child sets for itself.
//!
//! **Thread:** the process thread.
//! **Owns:** the order in which they are set.
//! **Never:** sets one: the child does.

use crate::sys::{ChildLimit, Resource, Setting};
use crate::wire::protocol::{LimitName, ResourceLimits};

/// What the child sets, in this order. The file of the score is opened before descriptors are limited.
pub(crate) fn settings(limits: &ResourceLimits) -> Vec<ChildLimit> {
    let score = limits.oom_score_adj;
    let score = score.map(|score| (LimitName::OomScoreAdj, Setting::OomScoreAdj(score.to_string())));
    let nice = limits.nice.map(|nice| (LimitName::Nice, Setting::Nice(nice)));
    let resources = [
        (LimitName::CpuSeconds, Resource::Cpu, limits.cpu_seconds),
        (LimitName::FileBytes, Resource::FileSize, limits.file_bytes),
        (LimitName::DataBytes, Resource::Data, limits.data_bytes),
        (LimitName::CoreBytes, Resource::Core, limits.core_bytes),
        (LimitName::OpenFiles, Resource::OpenFiles, limits.open_files),
        (LimitName::Processes, Resource::Processes, limits.processes),
        (LimitName::StackBytes, Resource::Stack, limits.stack_bytes),
    ];
    let resources = resources
        .into_iter()
        .filter_map(|(name, resource, value)| Some((name, Setting::Resource(resource, value?))));
    let all = score.into_iter().chain(nice).chain(resources);
    all.map(|(name, setting)| ChildLimit {
        name: name.name(),
        setting,
    })
    .collect()
}

/// The limit of that name.
pub(crate) fn by_name(name: &str) -> Option<LimitName> {
    LimitName::ALL.into_iter().find(|limit| limit.name() == name)
}
