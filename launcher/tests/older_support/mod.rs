//! As under a kernel before Linux 5.12.

#![expect(
    clippy::unwrap_used,
    reason = "a fixture that cannot be made fails its test"
)]

/// Set by whoever runs all stories of a test program so.
const ASKED: &str = "HAWSER_TEST_OLDER_KERNEL";

/// From now on this thread, and what it starts, has no `mount_setattr(2)`.
pub(crate) fn pretend() {
    const MOUNT_SETATTR: u32 = 442;
    const ENOSYS: u32 = 38;
    // Of linux/filter.h and linux/seccomp.h.
    const LOAD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO: u32 = 0x0005_0000;
    let instructions: [(u16, u8, u8, u32); 4] = [
        (LOAD, 0, 0, 0),
        (JUMP_IF_EQUAL, 0, 1, MOUNT_SETATTR),
        (RETURN, 0, 0, ERRNO | ENOSYS),
        (RETURN, 0, 0, ALLOW),
    ];
    let mut program = Vec::new();
    for (code, yes, no, operand) in instructions {
        program.extend(code.to_ne_bytes());
        program.extend([yes, no]);
        program.extend(operand.to_ne_bytes());
    }
    sys::seccomp::load(&program, 0).unwrap();
    assert!(!sys::owner::sets_attributes());
}

/// Does so if all stories are to be told so.
pub(crate) fn pretend_if_asked() {
    if std::env::var_os(ASKED).is_some() {
        pretend();
    }
}
