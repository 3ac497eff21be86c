//! Pools that are being made or ended: how far each has come, for whoever waits for it.

use chimaera_proto::admin::{
    ChangingPool, MAX_CHANGING_NAME_BYTES, MAX_CHANGING_POOLS, PoolKey, PoolStep,
};

use super::{PoolEntry, PoolPhase, PoolRegistry, PoolRegistryState};
use crate::ending::UnendedPool;

impl PoolRegistry {
    /// Notes how far the ending of a pool has come.
    pub(crate) fn enter(&self, key: PoolKey, step: PoolStep) {
        if let Some(PoolEntry {
            phase: PoolPhase::Ending(now),
            ..
        }) = self.state.lock().by_key.get_mut(&key)
        {
            *now = step;
        }
    }

    /// How many pools are being made or ended, and the first of them in order of id.
    pub(crate) fn changing(&self) -> (usize, Vec<ChangingPool>) {
        let state = self.state.lock();
        let steps = || {
            state.by_key.values().filter_map(|entry| match entry.phase {
                PoolPhase::Creating => Some((entry, PoolStep::Making)),
                PoolPhase::Ending(step) => Some((entry, step)),
                PoolPhase::Ready(_) => None,
            })
        };
        let first =
            steps()
                .take(MAX_CHANGING_POOLS)
                .map(|(PoolEntry { name, module, .. }, step)| {
                    let end = name.floor_char_boundary(MAX_CHANGING_NAME_BYTES);
                    ChangingPool {
                        name: name[..end].to_owned(),
                        module: module.clone(),
                        step,
                    }
                });
        (steps().count(), first.collect())
    }
}

impl PoolRegistryState {
    /// The pools that are being made and ended.
    pub(super) fn unended(&self) -> Vec<UnendedPool> {
        let unended = self.by_key.iter().map(|(&key, entry)| UnendedPool {
            key,
            name: entry.name.clone(),
            module: entry.module.clone(),
            step: match entry.phase {
                PoolPhase::Creating => PoolStep::Making,
                PoolPhase::Ending(step) => step,
                PoolPhase::Ready(_) => PoolStep::Draining,
            },
        });
        unended.collect()
    }

    /// Names the pools that are being made and ended, with their modules: for people, so only the first of them.
    pub(super) fn describe(&self) -> String {
        const NAMED: usize = 8;
        let describe = |kind: &str, is_of_kind: fn(&PoolPhase) -> bool| {
            let of_kind = || {
                self.by_key
                    .values()
                    .filter(|entry| is_of_kind(&entry.phase))
            };
            let named = of_kind().take(NAMED);
            let mut named: Vec<_> = named
                .map(|entry| format!("{} (module {})", entry.name, entry.module))
                .collect();
            let more = of_kind().count() - named.len();
            if more != 0 {
                named.push(format!("{more} more"));
            }
            (!named.is_empty()).then(|| format!("{kind}: {}", named.join(", ")))
        };
        let made = describe("being made", |phase| matches!(phase, PoolPhase::Creating));
        let ended = describe("being ended", |phase| matches!(phase, PoolPhase::Ending(_)));
        let all: Vec<_> = made.into_iter().chain(ended).collect();
        all.join("; ")
    }
}
