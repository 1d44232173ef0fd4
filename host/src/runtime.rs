//! The tokio runtime of a process.

use std::{io, num::NonZero, thread};

use tokio::runtime::{Builder, Runtime};

/// Sockets looked after in one go. With all that are ready (tokio takes up to 1024) a burst of calls goes from process to
/// process as one lump, and while one works on it the others wait: a quarter of two processors was idle at 64 callers.
/// Small groups overlap. Measured on two processors: 8 to 16 give a fifth more calls than 1024, at the same CPU per call.
const EVENTS_AT_ONCE: usize = 8;

/// Worker threads where the config names none: 1 on machines of up to two processors, one for each processor above.
///
/// With one worker every wake-up stays on the thread that has the data in its cache, which on two processors was
/// measured to beat two workers (the other processor has the kernel's network work to do).
pub fn default_workers() -> usize {
    workers_for(thread::available_parallelism().map_or(1, NonZero::get))
}

const fn workers_for(processors: usize) -> usize {
    if processors <= 2 { 1 } else { processors }
}

/// Builds a runtime: on the calling thread alone for one worker, with `workers` threads of their own for more.
///
/// # Errors
/// The operating system refused a thread or a selector.
pub fn build(workers: usize) -> io::Result<Runtime> {
    let mut builder = if workers <= 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    if workers > 1 {
        builder.worker_threads(workers);
    }
    builder.thread_name("edgeway").max_io_events_per_tick(EVENTS_AT_ONCE).enable_all().build()
}

#[cfg(test)]
mod tests {
    use tokio::runtime::RuntimeFlavor;

    use super::*;

    #[test]
    fn one_worker_is_the_calling_thread() {
        let runtime = build(1).expect("a runtime");
        assert_eq!(runtime.handle().runtime_flavor(), RuntimeFlavor::CurrentThread);
        let runtime = build(3).expect("a runtime");
        assert_eq!(runtime.handle().runtime_flavor(), RuntimeFlavor::MultiThread);
        assert_eq!(runtime.metrics().num_workers(), 3);
    }

    #[test]
    fn small_machines_have_one_worker() {
        assert_eq!([1, 2, 3, 16].map(workers_for), [1, 1, 3, 16]);
    }
}
