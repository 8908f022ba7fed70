//! Work on many things, by all processors.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// More threads than this would only wait for the disk.
const MOST: usize = 8;

/// Has all processors work on the things with the numbers below `count`, begun in this order, until
/// `each` says `false` of one: gives how many were begun, and all those are ended by then. Each thread
/// has a state of its own, which `start` makes. This thread is one of them: it does the work also where
/// the machine has no other one left.
pub(crate) fn work_on<S>(
    count: usize,
    start: impl Fn() -> S + Sync,
    each: impl Fn(&mut S, usize) -> bool + Sync,
) -> usize {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || {
        let mut state = start();
        while !stop.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                break;
            }
            if !each(&mut state, number) {
                stop.store(true, Ordering::Relaxed);
            }
        }
    };
    let processors = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 1..processors.min(MOST).min(count) {
            if thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    next.into_inner().min(count)
}

/// Does two things at once; one after the other where no thread can be started.
pub(crate) fn both<A: Send, B>(one: impl Fn() -> A + Sync, other: impl FnOnce() -> B) -> (A, B) {
    thread::scope(|scope| {
        let started = thread::Builder::new().spawn_scoped(scope, &one);
        let other = other();
        let one = match started {
            Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Err(_) => one(),
        };
        (one, other)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_done_once_and_nothing_after_the_end() {
        let done: Vec<AtomicUsize> = (0..500).map(|_| AtomicUsize::new(0)).collect();
        let count = |done: &[AtomicUsize]| -> Vec<usize> {
            done.iter().map(|it| it.load(Ordering::Relaxed)).collect()
        };
        let all = work_on(
            done.len(),
            || (),
            |(), number| {
                done[number].fetch_add(1, Ordering::Relaxed);
                true
            },
        );
        assert_eq!((all, count(&done)), (500, vec![1; 500]));
        let begun = work_on(
            done.len(),
            || (),
            |(), number| {
                done[number].fetch_add(1, Ordering::Relaxed);
                number < 100
            },
        );
        let done = count(&done);
        assert!((101..=500).contains(&begun), "{begun}");
        assert!(done[..begun].iter().all(|&times| times == 2), "{done:?}");
        assert!(done[begun..].iter().all(|&times| times == 1), "{done:?}");
        assert_eq!(work_on(0, || (), |(), _| true), 0);
    }

    #[test]
    fn two_things_are_done_at_once() {
        let meet = std::sync::Barrier::new(2);
        let each = |number| {
            meet.wait();
            number
        };
        assert_eq!(both(|| each(1), || each(2)), (1, 2));
    }
}
