//! Work that several threads do: the kernel verifies programs of one process side by side.

use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// The most threads. Each takes some megabytes while it works.
const MAX_THREADS: usize = 4;

/// Does `work` on each of `items`, and returns the results in their order.
///
/// # Errors
/// The first error, in the order of the items.
pub(super) fn map<I: Sync, T: Send, E: Send>(
    items: &[I],
    work: impl Fn(&I) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS).min(items.len());
    let next = AtomicUsize::new(0);
    let take = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return done };
            done.push((at, work(item)));
        }
    };
    let mut done = thread::scope(|scope| {
        let spawn = |_| thread::Builder::new().name("sls-load".to_owned()).spawn_scoped(scope, take);
        // Where no other thread can be had, this one does it all.
        let others: Vec<_> = (1..threads).map_while(|number| spawn(number).ok()).collect();
        let mut done = take();
        for other in others {
            done.extend(other.join().unwrap_or_else(|payload| panic::resume_unwind(payload)));
        }
        done
    });
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_order() {
        let items: Vec<usize> = (0..100).collect();
        let doubled = map(&items, |item| Ok::<_, ()>(2 * item)).unwrap();
        assert_eq!(doubled, items.iter().map(|item| 2 * item).collect::<Vec<_>>());
        let seventh = map(&items, |item| if item % 10 == 7 { Err(*item) } else { Ok(()) });
        assert_eq!(seventh, Err(7));
        assert_eq!(map(&[], |(): &()| Ok::<_, ()>(())), Ok(vec![]));
    }
}
