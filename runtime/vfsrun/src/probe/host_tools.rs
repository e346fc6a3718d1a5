//! Host tools: where this host keeps its compiler and libraries.

use std::path::{Path, PathBuf};

use vfsrun_plan::facts::{HostBranch, HostTools};

/// What the linker and `cc` need of /etc.
const ETC: [&str; 5] =
    ["/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/ssl/certs"];

const TOP: [&str; 6] = ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// A NixOS host has its programs in one profile; other hosts in /usr. Empty where neither is so.
pub fn find() -> HostTools {
    let profile = Path::new("/run/current-system/sw");
    if profile.exists() && Path::new("/nix/store").is_dir() { nixos(profile) } else { usr() }
}

fn nixos(profile: &Path) -> HostTools {
    let store = Path::new("/nix/store");
    let profile = HostBranch { path: profile.into(), at: "/usr".into(), frozen: false, follow: true };
    let store = HostBranch { path: store.into(), at: store.into(), frozen: true, follow: false };
    let links =
        ["bin", "lib", "sbin"].map(|name| (PathBuf::from("/").join(name), Path::new("usr").join(name)));
    HostTools { branches: vec![profile, store], links: links.to_vec() }
}

fn usr() -> HostTools {
    let mut tools = HostTools::default();
    if !Path::new("/usr/bin").is_dir() {
        return tools;
    }
    let live = |path: &str| HostBranch { path: path.into(), at: path.into(), frozen: false, follow: false };
    tools.branches.push(live("/usr"));
    for path in TOP {
        match std::fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_symlink() => {
                if let Ok(target) = std::fs::read_link(path) {
                    tools.links.push((path.into(), target));
                }
            }
            Ok(metadata) if metadata.is_dir() => tools.branches.push(live(path)),
            _ => {}
        }
    }
    tools.branches.extend(ETC.iter().filter(|path| Path::new(path).exists()).map(|path| live(path)));
    tools
}
