//! Compiles the action's seccomp filter for the target.

use std::path::PathBuf;

use vfsrun_seccomp::{Arch, action::action_profile, compile};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = std::env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets it");
    let arch = match target.as_str() {
        "x86_64" => Some(Arch::X86_64),
        "aarch64" => Some(Arch::Aarch64),
        "riscv64" => Some(Arch::Riscv64),
        _ => None,
    };
    let mut bytes = Vec::new();
    if let Some(arch) = arch {
        let filter = compile(&action_profile(), arch).expect("the action profile compiles");
        for instruction in filter.program {
            bytes.extend(instruction.code.to_le_bytes());
            bytes.extend([instruction.jt, instruction.jf]);
            bytes.extend(instruction.k.to_le_bytes());
        }
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it")).join("action.bpf");
    std::fs::write(out, bytes).expect("write to OUT_DIR");
}
