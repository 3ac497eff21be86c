//! Several threads that measure at the same time.

use std::sync::mpsc::channel;

use chimaera_thread::{scope, spawn_scoped};

use crate::error::Result;

/// Runs `measure` in `count` threads at the same time, and returns their results. Each thread first calls
/// `prepare` with its index, and passes the result to `measure` once all are prepared.
///
/// # Errors
/// A thread is refused or not prepared, and then none begins; or one fails, after the others have ended.
pub(crate) fn together<P, T: Send>(
    count: usize,
    prepare: impl Fn(usize) -> Result<P> + Sync,
    measure: impl Fn(P) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let (prepare, measure) = (&prepare, &measure);
    scope(|scope| {
        let (prepared, all_prepared) = channel();
        let (mut running, mut gates) = (Vec::new(), Vec::new());
        for index in 0..count {
            let (gate, begin) = channel::<()>();
            let prepared = prepared.clone();
            let one = move || -> Result<T> {
                let with = prepare(index)?;
                prepared.send(())?;
                drop(prepared);
                // A thread that is not prepared, or was not started, keeps the others from beginning.
                begin
                    .recv()
                    .map_err(|_| "another thread did not come to measure")?;
                measure(with)
            };
            running.push(spawn_scoped(scope, "chimaera-bench", one)?);
            gates.push(gate);
        }
        drop(prepared);
        if all_prepared.iter().take(count).count() < count {
            gates.clear();
        }
        for gate in &gates {
            gate.send(())?;
        }
        let results = running.into_iter().map(|thread| match thread.join() {
            Ok(result) => result,
            Err(_) => Err("a thread of the measurement panicked".into()),
        });
        results.collect()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn all_are_prepared_before_one_begins() {
        let prepared = AtomicUsize::new(0);
        let prepare = |index| {
            prepared.fetch_add(1, Ordering::SeqCst);
            Ok(index)
        };
        let seen = together(3, prepare, |index| {
            Ok((index, prepared.load(Ordering::SeqCst)))
        });
        assert_eq!(seen.expect("all"), [(0, 3), (1, 3), (2, 3)]);
    }

    #[test]
    fn none_begins_where_one_is_not_prepared() {
        let begun = AtomicUsize::new(0);
        let prepare = |index| match index {
            1 => Err("it has no place".into()),
            _ => Ok(()),
        };
        let result = together(3, prepare, |()| {
            begun.fetch_add(1, Ordering::SeqCst);
            Ok(())
        });
        result.expect_err("refused");
        assert_eq!(begun.load(Ordering::SeqCst), 0);
    }
}
