//! What others read as this process's command line.

use std::fs::{File, OpenOptions, read_to_string};
use std::io;
use std::os::unix::fs::FileExt;

/// Writes over the command line as it stands in memory (`arg_start` and `arg_end` of proc(5)):
/// nobody inside a container needs to read the host's paths. What does not fit is cut.
pub(super) fn set(words: &[&str]) -> io::Result<()> {
    let stat = read_to_string("/proc/self/stat")?;
    let (start, end) = range(&stat).ok_or(io::ErrorKind::InvalidData)?;
    let mut title = words.join("\0").into_bytes();
    // The last byte stays zero: the kernel reads on into the environment otherwise.
    let length = usize::try_from(end.saturating_sub(start)).unwrap_or(0);
    title.resize(length.saturating_sub(1), 0);
    title.push(0);
    let memory: File = OpenOptions::new().write(true).open("/proc/self/mem")?;
    memory.write_all_at(&title, start)
}

/// Fields 48 and 49 of `/proc/PID/stat`; the command's name before field 3 may hold blanks.
fn range(stat: &str) -> Option<(u64, u64)> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(48 - 3);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_where_the_kernel_says() {
        let (start, end) = range(&read_to_string("/proc/self/stat").unwrap()).unwrap();
        let mut text = vec![0; usize::try_from(end - start).unwrap()];
        File::open("/proc/self/mem")
            .unwrap()
            .read_exact_at(&mut text, start)
            .unwrap();
        assert_eq!(text, std::fs::read("/proc/self/cmdline").unwrap());
    }
}
