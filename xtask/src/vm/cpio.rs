//! Archives that the kernel unpacks as its first root file system: cpio in the form `newc`
//! (Documentation/driver-api/early-userspace/buffer-format.rst), files and directories only.

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_755;

#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    pub(super) fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY, &[]);
    }

    /// An executable file.
    pub(super) fn file(&mut self, path: &str, content: &[u8]) {
        self.entry(path, FILE, content);
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        // The name ends with a zero byte.
        let (size, name_size) = (content.len(), path.len() + 1);
        // inode, mode, user, group, links, time, size, two devices, name, checksum.
        self.bytes.extend(b"070701");
        let numbers = format!(
            "{:08x}{mode:08x}{:032x}{size:08x}{:032x}{name_size:08x}{:08x}",
            self.entries,
            1_u64 << 32,
            0,
            0
        );
        self.bytes.extend(numbers.as_bytes());
        self.bytes.extend(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
    }

    /// Headers and contents begin at multiples of four.
    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_end_with_a_trailer() {
        let mut archive = Archive::default();
        archive.directory("bin");
        archive.file("bin/a", b"hello");
        let bytes = archive.finish();
        let text = String::from_utf8(bytes).unwrap();
        // Headers are 110 bytes.
        let header = "070701\
            00000002000081ed00000000000000000000000100000000\
            0000000500000000000000000000000000000000\
            0000000600000000";
        assert_eq!(header.len(), 110);
        let at = text.find(header).unwrap();
        assert_eq!(at % 4, 0);
        assert_eq!(&text[at + 110..at + 124], "bin/a\0hello\0\0\0");
        assert!(text.contains("TRAILER!!!\0"));
    }
}
