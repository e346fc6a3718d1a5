//! The action's seccomp filter, compiled when the program was built: compiling it anew would be a good part of what a
//! small action costs.

use vfsrun_seccomp::{Filter, SockFilter};

/// Instructions as the build script wrote them: code, jt, jf and k, eight bytes each.
static ACTION: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/action.bpf"));

/// `None` for an architecture that no filter can be compiled for.
pub fn action() -> Option<Filter> {
    let instruction = |bytes: &[u8]| SockFilter {
        code: u16::from_le_bytes([bytes[0], bytes[1]]),
        jt: bytes[2],
        jf: bytes[3],
        k: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
    };
    let program: Vec<_> = ACTION.chunks_exact(8).map(instruction).collect();
    (!program.is_empty()).then_some(Filter { program, flags: 0, needs_listener: false })
}

#[cfg(test)]
mod tests {
    use vfsrun_seccomp::Arch;

    #[test]
    fn the_built_in_filter_is_the_action_profiles() {
        let native = Arch::native().expect("tests run where filters can be compiled");
        let compiled = vfsrun_seccomp::compile(&vfsrun_seccomp::action::action_profile(), native).unwrap();
        assert_eq!(super::action().unwrap(), compiled);
    }
}
