//! Compiles filters for the target: the action's, and those of the profiles that engines write.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use vfsrun_seccomp::{Arch, Key, NewerCalls, action::action_profile, compile, engines, stored};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    tell_commit();
    begin_before_libc();
    let target = std::env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets it");
    let arch = match target.as_str() {
        "x86_64" => Some(Arch::X86_64),
        "aarch64" => Some(Arch::Aarch64),
        "riscv64" => Some(Arch::Riscv64),
        _ => None,
    };
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    order_functions(&out);
    let write = |name: &str, bytes: &[u8]| std::fs::write(out.join(name), bytes).expect("write to OUT_DIR");

    let action = arch.map(|arch| compile(&action_profile(), arch).expect("the action profile compiles"));
    write("action.bpf", &action.map(|filter| stored::to_bytes(&filter.program)).unwrap_or_default());

    // `Ready` and its fields are declared where this is included.
    let mut ready = String::from("&[\n");
    let profiles =
        arch.into_iter().flat_map(|arch| engines::profiles(arch).into_iter().map(move |p| (arch, p)));
    for (index, (arch, profile)) in profiles.enumerate() {
        let filter = compile(&profile, arch).expect("an engine's profile compiles");
        let (key, flags) = (Key::new(&profile, arch, NewerCalls::Enosys), filter.flags);
        let file = format!("ready-{index}.bpf");
        write(&file, &stored::to_bytes(&filter.program));
        let program = format!(r#"include_bytes!(concat!(env!("OUT_DIR"), "/{file}"))"#);
        writeln!(ready, "Ready {{ key: {:?}, flags: {flags}, program: {program} }},", key.as_bytes())
            .expect("a string takes what is written");
    }
    ready.push(']');
    write("ready.rs", ready.as_bytes());
}

/// What `--version` says of the source: whoever packages the program knows it.
fn tell_commit() {
    println!("cargo::rerun-if-env-changed=VFSRUN_COMMIT");
    let commit = std::env::var("VFSRUN_COMMIT").unwrap_or_else(|_| "unknown".to_owned());
    println!("cargo::rustc-env=VFSRUN_COMMIT={commit}");
}

/// The program begins at a function of vfsrun-sys, which goes on to the C library's.
fn begin_before_libc() {
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|is| is == value);
    let has = |name: &str, word: &str| std::env::var(name).is_ok_and(|said| said.contains(word));
    // A static program that relocates itself does that in `_start`: before, no pointer in its data is right.
    let relocates_itself = has("CARGO_CFG_TARGET_FEATURE", "crt-static")
        && !has("CARGO_ENCODED_RUSTFLAGS", "relocation-model=static");
    if is("CARGO_CFG_TARGET_ARCH", "x86_64") && is("CARGO_CFG_TARGET_OS", "linux") && !relocates_itself {
        println!("cargo::rustc-link-arg-bins=-Wl,-e,vfsrun_entry");
    }
}

/// Puts the functions that a container takes next to each other, so that fewer pages of the program are brought in: of those
/// alone is most of its memory. `tests/bench/order` makes the list. Names that the program does not have, because the compiler or
/// a library is another one, are passed over.
fn order_functions(out: &Path) {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("link-order");
    println!("cargo::rerun-if-changed={}", list.display());
    // The compiler's driver takes a comma for the end of an argument of the linker's.
    let is_sayable = !out.display().to_string().contains(',');
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    if is_sayable && is_release && links_with_lld() {
        let names = std::fs::read_to_string(&list).expect("the list is a file of this package");
        let (rust, c): (Vec<_>, Vec<_>) = names.lines().partition(|name| name.starts_with("_R"));
        let (symbols, script) = (out.join("symbol-order"), out.join("sections.ld"));
        std::fs::write(&symbols, c.join("\n")).expect("write to OUT_DIR");
        std::fs::write(&script, sections(&rust)).expect("write to OUT_DIR");
        println!("cargo::rustc-link-arg-bins=-Wl,--symbol-ordering-file={}", symbols.display());
        println!("cargo::rustc-link-arg-bins=-Wl,--no-warn-symbol-ordering");
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{}", script.display());
    }
}

/// A linker script that puts functions of Rust before all others, with what the compiler may add to their names: a number that
/// is another one after each change of the program.
fn sections(names: &[&str]) -> String {
    let mut script = String::from("SECTIONS {\n  .text.ordered : {\n");
    for name in names {
        writeln!(
            script,
            "    *(.text.{name} .text.{name}.llvm.* .text.unlikely.{name} .text.unlikely.{name}.llvm.*)"
        )
        .expect("a string takes what is written");
    }
    script.push_str("  }\n}\nINSERT BEFORE .text;\n");
    script
}

/// Other linkers have other ways. The compiler brings one along for this target, and takes it if nobody says otherwise.
fn links_with_lld() -> bool {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let flags = std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let is_said = std::env::var_os("RUSTC_LINKER").is_some() || flags.contains("link");
    let rustc = std::env::var_os("RUSTC").expect("cargo sets it");
    let sysroot = Command::new(rustc).args(["--print", "sysroot"]).output();
    let sysroot = sysroot.ok().and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    let lld = Path::new(sysroot.trim()).join(format!("lib/rustlib/{TARGET}/bin/gcc-ld/ld.lld"));
    !is_said && std::env::var("TARGET").is_ok_and(|target| target == TARGET) && lld.exists()
}
