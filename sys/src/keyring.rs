//! Keys that the kernel keeps for this user, in memory that is never written to a disk, until it is
//! told to forget them or the host goes down (`Documentation/security/keys/core.rst`).

use std::ffi::{CStr, CString};
use std::io;

const THREAD: libc::c_long = -1;
const USER: libc::c_long = -4;
const SET_PERMISSIONS: libc::c_long = 5;
const LINK: libc::c_long = 8;
const UNLINK: libc::c_long = 9;
const SEARCH: libc::c_long = 10;
const READ: libc::c_long = 11;
/// Everything, for who has it in a keyring and for the user it belongs to (`linux/key.h`).
const OURS: libc::c_long = 0x3f3f_0000;
const KIND: &CStr = c"user";
/// No key of this program is longer.
const MOST: usize = 4096;

/// Keeps a key under a name; one of that name is replaced.
///
/// # Errors
/// The kernel's: `EDQUOT` when there are too many.
pub fn put(name: &str, key: &[u8]) -> io::Result<()> {
    let name = CString::new(name)?;
    // SAFETY: the kernel reads two strings that end in zero, and as many bytes of the key as it has.
    let serial = checked(unsafe {
        libc::syscall(
            libc::SYS_add_key,
            KIND.as_ptr(),
            name.as_ptr(),
            key.as_ptr(),
            key.len(),
            THREAD,
        )
    })?;
    // The one who makes a key may change what others may do with it only while it is in a keyring of
    // its own, and the user's is none.
    let kept = control(SET_PERMISSIONS, serial, OURS).and_then(|_| control(LINK, serial, USER));
    control(UNLINK, serial, THREAD)?;
    kept.map(drop)
}

/// A key that was kept.
///
/// # Errors
/// The kernel's, but for there being none.
pub fn get(name: &str) -> io::Result<Option<Vec<u8>>> {
    let Some(serial) = find(name)? else {
        return Ok(None);
    };
    let mut key = vec![0; MOST];
    // SAFETY: the kernel writes at most `MOST` bytes, which are there.
    let length =
        checked(unsafe { libc::syscall(libc::SYS_keyctl, READ, serial, key.as_mut_ptr(), MOST) })?;
    key.truncate(usize::try_from(length).map_err(io::Error::other)?);
    Ok(Some(key))
}

/// Forgets a key, if it is kept.
///
/// # Errors
/// The kernel's.
pub fn forget(name: &str) -> io::Result<()> {
    match find(name)? {
        Some(serial) => control(UNLINK, serial, USER).map(drop),
        None => Ok(()),
    }
}

fn find(name: &str) -> io::Result<Option<libc::c_long>> {
    let name = CString::new(name)?;
    // SAFETY: the kernel reads two strings that end in zero.
    let found = checked(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            SEARCH,
            USER,
            KIND.as_ptr(),
            name.as_ptr(),
            0,
        )
    });
    match found {
        Ok(serial) => Ok(Some(serial)),
        Err(error) if error.raw_os_error() == Some(libc::ENOKEY) => Ok(None),
        Err(error) => Err(error),
    }
}

fn control(
    command: libc::c_long,
    serial: libc::c_long,
    argument: libc::c_long,
) -> io::Result<libc::c_long> {
    // SAFETY: none of the commands takes an address.
    checked(unsafe { libc::syscall(libc::SYS_keyctl, command, serial, argument) })
}

fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_kept_for_other_processes_until_it_is_forgotten() {
        let name = format!("hawser-test:{}", std::process::id());
        assert_eq!(get(&name).unwrap(), None);
        put(&name, b"\0one").unwrap();
        put(&name, b"two").unwrap();
        let read = || get(&name).unwrap();
        assert_eq!(read().unwrap(), b"two");
        assert_eq!(
            std::thread::scope(|scope| scope.spawn(read).join().unwrap()).unwrap(),
            b"two"
        );
        forget(&name).unwrap();
        forget(&name).unwrap();
        assert_eq!(read(), None);
    }
}
