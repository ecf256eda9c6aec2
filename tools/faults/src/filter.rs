//! The seccomp filter that stops a program for its tracer at the calls of some kinds, and lets all others run as they are.

use nix::libc::{self, c_int, c_long, c_ulong, sock_filter, sock_fprog};

use crate::kinds::KINDS;

/// `AUDIT_ARCH_X86_64` (linux/audit.h).
const ARCHITECTURE: u32 = 0xC000_003E;
/// Where `struct seccomp_data` has the call's number and the architecture.
const NUMBER: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;

/// A program for the kernel.
pub(crate) struct Filter {
    steps: Vec<sock_filter>,
}

impl Filter {
    /// These kinds; the tracer is told the index of the kind.
    pub(crate) fn of(kinds: impl Fn(usize) -> bool) -> Self {
        let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
        let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        let answer = (libc::BPF_RET | libc::BPF_K) as u16;
        let step = |code, k, jt, jf| sock_filter { code, jt, jf, k };
        let mut steps = vec![
            step(load, ARCHITECTURE_AT, 0, 0),
            step(equal, ARCHITECTURE, 1, 0),
            step(answer, libc::SECCOMP_RET_ALLOW, 0, 0),
            step(load, NUMBER, 0, 0),
        ];
        for (index, kind) in KINDS.iter().enumerate().filter(|(index, _)| kinds(*index)) {
            steps.push(step(equal, kind.number as u32, 0, 1));
            steps.push(step(answer, libc::SECCOMP_RET_TRACE | index as u32, 0, 0));
        }
        steps.push(step(answer, libc::SECCOMP_RET_ALLOW, 0, 0));
        Self { steps }
    }

    /// For this process and all that it starts; needs root, so that no privilege has to be given up for it. Only
    /// system calls: it runs between a clone and an exec. 0, or −1 as the call.
    pub(crate) fn install(&self) -> c_long {
        let program = sock_fprog { len: self.steps.len() as u16, filter: self.steps.as_ptr().cast_mut() };
        let mode = c_ulong::from(libc::SECCOMP_SET_MODE_FILTER);
        // SAFETY: the kernel copies the program, which lives as long as the call.
        unsafe { libc::syscall(libc::SYS_seccomp, mode, 0 as c_int, &raw const program) }
    }
}
