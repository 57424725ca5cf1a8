//! The program and the libraries that this process is made of, as they are mapped.

use std::ffi::c_int;

use libc::{c_void, dl_phdr_info, size_t};

use crate::memory;

/// Lets go of the pages that hold code and constants, and of free ones of the heap. What is used again
/// is mapped again from the file, which the system keeps in memory for everybody.
///
/// For a process that has done most of what it is there for and stays, so that it is not charged
/// with all that it has ever run.
pub fn let_go_of_pages() {
    memory::give_back();
    // SAFETY: the callback reads what it is given for the time of the call, and does not unwind.
    unsafe { libc::dl_iterate_phdr(Some(of_object), std::ptr::null_mut()) };
}

unsafe extern "C" fn of_object(
    info: *mut dl_phdr_info,
    _size: size_t,
    _data: *mut c_void,
) -> c_int {
    // SAFETY: dl_iterate_phdr(3) passes an object that stays as it is during the call, with as many
    // headers as it says.
    let (base, headers) = unsafe {
        let info = &*info;
        let count = usize::from(info.dlpi_phnum);
        (
            info.dlpi_addr,
            std::slice::from_raw_parts(info.dlpi_phdr, count),
        )
    };
    // SAFETY: sysconf(3) has no obligations.
    let Ok(page) = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) else {
        return 0;
    };
    for header in headers {
        let is_written = header.p_flags & libc::PF_W != 0;
        if header.p_type != libc::PT_LOAD || is_written {
            continue;
        }
        let begin = base + header.p_vaddr;
        let (first, last) = (
            begin.next_multiple_of(page),
            (begin + header.p_memsz) / page * page,
        );
        let length = usize::try_from(last.saturating_sub(first)).unwrap_or_default();
        let Ok(first) = usize::try_from(first) else {
            continue;
        };
        // SAFETY: the whole pages of a segment that is mapped from its file and that nobody may write,
        // so that they are read again as they were (relocations of constants are in segments that
        // are writable first). Where this fails, as for the kernel's own object, nothing is changed.
        unsafe { libc::madvise(first as *mut c_void, length, libc::MADV_DONTNEED) };
    }
    0
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Where this program's code is mapped, how long that is, and how much of it is in memory.
    fn code() -> (usize, usize, usize) {
        let program = fs::read_link("/proc/self/exe").unwrap();
        let maps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = maps.lines();
        let head =
            lines.find(|line| line.contains(" r-xp ") && line.ends_with(program.to_str().unwrap()));
        let (begin, rest) = head.unwrap().split_once('-').unwrap();
        let end = rest.split_once(' ').unwrap().0;
        let [begin, end] = [begin, end].map(|at| usize::from_str_radix(at, 16).unwrap());
        let resident = lines.find_map(|line| line.strip_prefix("Rss:"));
        let resident = resident.unwrap().trim().trim_end_matches(" kB");
        let resident: usize = resident.parse().unwrap();
        (begin, end - begin, resident * 1024)
    }

    #[test]
    fn code_is_let_go_of_and_comes_back() {
        let (begin, length, _) = code();
        for at in (begin..begin + length).step_by(4096) {
            // SAFETY: the byte is in a mapping of this process, of which bytes are read as they are.
            unsafe { (at as *const u8).read_volatile() };
        }
        assert_eq!(code().2, length);
        let_go_of_pages();
        let left = code().2;
        // What runs here is there again, with what stands beside it.
        assert!(left > 0 && left < length, "{left} of {length}");
    }
}
