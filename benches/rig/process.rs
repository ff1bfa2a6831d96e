//! What the operating system says of this process and of others. Linux; elsewhere the figures are 0.

use std::time::Duration;

/// User and system time of this process so far.
#[cfg(unix)]
pub(crate) fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(not(unix))]
pub(crate) fn cpu() -> Duration {
    Duration::ZERO
}

/// A number of `/proc/ID/status`: `VmHWM` is the peak of the resident memory in KiB, `VmRSS` what it is now.
pub(crate) fn status(id: &str, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .and_then(|value| value.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// The most memory that this process has had resident, in KiB.
pub(crate) fn peak_memory() -> u64 {
    status("self", "VmHWM")
}

/// User and system time of another process so far, in steps of 10 ms.
pub(crate) fn cpu_of(id: &str) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // The second field is a name in parentheses, which may hold spaces; utime and stime are the 14th and the 15th.
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().unwrap_or(0))
        .sum();
    Duration::from_millis(ticks * 10)
}
