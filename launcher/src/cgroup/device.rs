//! The device policy of a container on cgroup v2: a program made of its rules. Version 1 has files
//! for the same, which the runtime writes.
//!
//! [`program`] is pure. It reads `struct bpf_cgroup_dev_ctx` (`include/uapi/linux/bpf.h`), whose
//! first word has the kind of device in the lower half and the kinds of access in the upper, followed
//! by the device's numbers, and answers 1 for what a rule allows and 0 for the rest.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use sys::bpf::device::attach;
use sys::bpf::program::{Instruction, instruction};

use super::Group;
use crate::container::DeviceRule;

/// What every container may do, as with other OCI runtimes: make any node, and use the harmless
/// devices and its terminals.
const ALWAYS: [&str; 11] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

// Registers: the kind, the access, the major and the minor number; and one to work in.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

// Codes of `include/uapi/linux/bpf_common.h` and `bpf.h`.
const LOAD_WORD: u8 = 0x61;
const MOVE_IMMEDIATE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const AND_IMMEDIATE_32: u8 = 0x54;
const SHIFT_RIGHT_32: u8 = 0x74;
const JUMP_EQUAL: u8 = 0x15;
const JUMP_UNEQUAL: u8 = 0x55;
const JUMP_UNEQUAL_REGISTER: u8 = 0x5d;
const EXIT: u8 = 0x95;

/// Lets the processes of a container use what its rules and every container's allow, and nothing
/// else.
///
/// # Errors
/// The group is gone, or the kernel takes no such program.
pub fn restrict(group: &Group, rules: &[DeviceRule]) -> io::Result<()> {
    let rules: Vec<_> = rules
        .iter()
        .map(|rule| (Answer::Allow, rule.clone()))
        .collect();
    decide(group, &rules)
}

/// The same by rules of which the last that fits decides, as bundles list them.
///
/// # Errors
/// As [`restrict`].
pub fn decide(group: &Group, rules: &[(Answer, DeviceRule)]) -> io::Result<()> {
    let directory = File::open(group.dir("devices"))?;
    attach(directory.as_fd(), &program(rules))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Allow,
    /// To whoever asks for any of the kinds of access, though for others too.
    Deny,
}

fn program(rules: &[(Answer, DeviceRule)]) -> Vec<Instruction> {
    let mut program = vec![
        instruction(LOAD_WORD, KIND, CONTEXT, 0, 0),
        instruction(AND_IMMEDIATE_32, KIND, 0, 0, 0xffff),
        instruction(LOAD_WORD, ACCESS, CONTEXT, 0, 0),
        instruction(SHIFT_RIGHT_32, ACCESS, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    let always = ALWAYS.iter().filter_map(|text| DeviceRule::parse(text));
    for rule in always {
        program.extend(block(Answer::Allow, &rule));
    }
    for (answer, rule) in rules.iter().rev() {
        program.extend(block(*answer, rule));
        if rule.is_everything() {
            // The kernel takes no instructions that nothing leads to.
            return program;
        }
    }
    program.extend(result(Answer::Deny));
    program
}

fn result(answer: Answer) -> [Instruction; 2] {
    let value = i32::from(answer == Answer::Allow);
    [
        instruction(MOVE_IMMEDIATE, RESULT, 0, 0, value),
        instruction(EXIT, 0, 0, 0, 0),
    ]
}

/// Answers what fits the rule, and else goes on behind it.
fn block(answer: Answer, rule: &DeviceRule) -> Vec<Instruction> {
    // `BPF_DEVCG_DEV_*` and `BPF_DEVCG_ACC_*`.
    let kind = match rule.kind {
        'b' => Some(1),
        'c' => Some(2),
        _ => None,
    };
    let bits = [('m', 1), ('r', 2), ('w', 4)];
    let named: i32 = bits
        .iter()
        .filter(|(letter, _)| rule.access.contains(*letter))
        .map(|(_, bit)| bit)
        .sum();
    let mut tests = Vec::new();
    if let Some(kind) = kind {
        tests.push(instruction(JUMP_UNEQUAL, KIND, 0, 0, kind));
    }
    if named != 7 {
        tests.push(instruction(MOVE_REGISTER, CONTEXT, ACCESS, 0, 0));
        tests.push(instruction(AND_IMMEDIATE_32, CONTEXT, 0, 0, named));
        tests.push(match answer {
            // Nothing may be asked for that is not allowed.
            Answer::Allow => instruction(JUMP_UNEQUAL_REGISTER, CONTEXT, ACCESS, 0, 0),
            Answer::Deny => instruction(JUMP_EQUAL, CONTEXT, 0, 0, 0),
        });
    }
    for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        if let Some(number) = number {
            // Device numbers have 12 and 20 bits.
            let number = i32::try_from(number).unwrap_or(i32::MAX);
            tests.push(instruction(JUMP_UNEQUAL, register, 0, 0, number));
        }
    }
    let result = result(answer);
    let length = tests.len() + result.len();
    for (at, test) in tests.iter_mut().enumerate() {
        if matches!(test.code, JUMP_EQUAL | JUMP_UNEQUAL | JUMP_UNEQUAL_REGISTER) {
            // A rule has at most six tests.
            test.offset = i16::try_from(length - at - 1).unwrap_or(i16::MAX);
        }
    }
    tests.extend(result);
    tests
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output};

    use super::*;

    /// What the program answers: the instructions that [`program`] uses, as the kernel runs them.
    fn decides(program: &[Instruction], kind: u64, access: u64, device: (u64, u64)) -> bool {
        let context = [access << 16 | kind, device.0, device.1];
        let (mut registers, mut at) = ([0_u64; 6], 0_usize);
        loop {
            let one = program[at];
            let (to, from) = (
                usize::from(one.registers & 15),
                usize::from(one.registers >> 4),
            );
            let immediate = u64::from(u32::try_from(one.immediate).unwrap());
            at += 1;
            let jumps = match one.code {
                LOAD_WORD => {
                    registers[to] = context[usize::try_from(one.offset / 4).unwrap()];
                    false
                }
                MOVE_IMMEDIATE => {
                    registers[to] = immediate;
                    false
                }
                MOVE_REGISTER => {
                    registers[to] = registers[from];
                    false
                }
                AND_IMMEDIATE_32 => {
                    registers[to] &= immediate;
                    false
                }
                SHIFT_RIGHT_32 => {
                    registers[to] >>= immediate;
                    false
                }
                JUMP_EQUAL => registers[to] == immediate,
                JUMP_UNEQUAL => registers[to] != immediate,
                JUMP_UNEQUAL_REGISTER => registers[to] != registers[from],
                EXIT => return registers[0] == 1,
                code => panic!("{code:#x}"),
            };
            if jumps {
                at += usize::try_from(one.offset).unwrap();
            }
        }
    }

    const BLOCK: u64 = 1;
    const CHARACTER: u64 = 2;
    const MAKE: u64 = 1;
    const READ: u64 = 2;
    const WRITE: u64 = 4;

    fn rules(texts: &[&str]) -> Vec<(Answer, DeviceRule)> {
        let rule = |text: &&str| match text.strip_prefix('!') {
            Some(text) => (Answer::Deny, DeviceRule::parse(text).unwrap()),
            None => (Answer::Allow, DeviceRule::parse(text).unwrap()),
        };
        texts.iter().map(rule).collect()
    }

    #[test]
    fn the_last_rule_that_fits_decides() {
        let usual = program(&rules(&["!a *:* rwm", "b 8:* rw"]));
        assert!(decides(&usual, BLOCK, READ | WRITE, (8, 0)));
        assert!(!decides(&usual, BLOCK, READ, (9, 0)));
        assert!(decides(&usual, CHARACTER, READ, (1, 3)), "/dev/null anyway");
        let all_but = program(&rules(&["a *:* rwm", "!b 8:* w", "b 8:1 rw"]));
        assert!(decides(&all_but, BLOCK, READ | WRITE, (9, 0)));
        assert!(decides(&all_but, BLOCK, READ, (8, 0)));
        assert!(!decides(&all_but, BLOCK, READ | WRITE, (8, 0)));
        assert!(decides(&all_but, BLOCK, READ | WRITE, (8, 1)));
    }

    #[test]
    fn only_what_a_rule_allows_is_allowed() {
        let bare = program(&[]);
        assert!(decides(&bare, CHARACTER, READ | WRITE, (1, 3)), "/dev/null");
        assert!(decides(&bare, CHARACTER, READ, (136, 7)), "a terminal");
        assert!(decides(&bare, BLOCK, MAKE, (8, 0)), "making any node");
        assert!(!decides(&bare, BLOCK, READ, (8, 0)));
        assert!(
            !decides(&bare, BLOCK, READ | WRITE, (1, 3)),
            "of the other kind"
        );

        let more = program(&rules(&["b 8:* r", "c 10:229 rwm"]));
        assert!(decides(&more, BLOCK, READ, (8, 16)));
        assert!(!decides(&more, BLOCK, READ | WRITE, (8, 16)));
        assert!(!decides(&more, BLOCK, WRITE, (8, 16)));
        assert!(decides(&more, CHARACTER, READ | WRITE, (10, 229)));
        assert!(!decides(&more, CHARACTER, READ, (10, 228)));
        assert!(decides(
            &program(&rules(&["a *:* rwm"])),
            BLOCK,
            WRITE,
            (8, 0)
        ));
    }

    /// A cgroup of version 2, wherever that is mounted.
    struct Cgroup(PathBuf);

    impl Cgroup {
        fn new() -> Self {
            let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
            let mount = mounts
                .iter()
                .find(|mount| Path::new(mount).join("cgroup.controllers").exists());
            let name = format!("hawser-test-devices-{}", std::process::id());
            let path = Path::new(mount.unwrap()).join(name);
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn run(&self, line: &str) -> Output {
            let line = format!("echo $$ > {}/cgroup.procs; {line}", self.0.display());
            Command::new("sh").args(["-c", &line]).output().unwrap()
        }
    }

    impl Drop for Cgroup {
        fn drop(&mut self) {
            fs::remove_dir(&self.0).unwrap();
        }
    }

    #[test]
    fn the_kernel_takes_rules_of_everything() {
        let cgroup = Cgroup::new();
        let directory = File::open(&cgroup.0).unwrap();
        for rule in ["a *:* rwm", "!a *:* rwm"] {
            let program = program(&rules(&["c 1:11 w", rule, "!b 8:* w"]));
            attach(directory.as_fd(), &program).unwrap();
        }
    }

    #[test]
    fn the_kernel_holds_a_cgroup_to_its_rules() {
        let cgroup = Cgroup::new();
        let read = |device: &str| cgroup.run(&format!(": < {device}"));
        assert!(
            read("/dev/kmsg").status.success(),
            "{:?}",
            read("/dev/kmsg")
        );
        let directory = File::open(&cgroup.0).unwrap();
        attach(directory.as_fd(), &program(&rules(&["c 1:11 w"]))).unwrap();
        let refused = read("/dev/kmsg");
        let words = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(words.contains("Operation not permitted"), "{words}");
        assert!(read("/dev/zero").status.success());
        assert!(
            cgroup.run(": > /dev/kmsg").status.success(),
            "writing is allowed"
        );
    }
}
