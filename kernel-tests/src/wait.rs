//! Waiting for something to become true, with a deadline.

use std::env;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const STEP: Duration = Duration::from_millis(20);
/// Set on hosts that take ten times as long for everything, as guests do.
const SLOW_ENV: &str = "HAWSER_SLOW_HOST";

/// How many of `count` a host does in the time that others take for all of them.
pub fn in_time(count: usize) -> usize {
    match env::var_os(SLOW_ENV) {
        Some(_) => count / 10,
        None => count,
    }
}

/// Polls `probe` until it yields a value.
///
/// # Errors
/// When `limit` has passed; the error names `what`.
pub fn until<T>(limit: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe() {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("not within {} s: {what}", limit.as_secs());
        }
        std::thread::sleep(STEP);
    }
}
