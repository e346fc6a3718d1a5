//! Images of the spec: what the store lacks of their layers is imported before a run.

use std::path::{Path, PathBuf};

use vfsrun_layers::{Image, ImageError, LayerStore};
use vfsrun_plan::paths;
use vfsrun_spec::Spec;
use vfsrun_spec::vfs::{self, BranchSource};

use crate::progress::Progress;

/// Errors: the field of the spec, and what is wrong with its image.
pub fn bring_in(spec: &Spec, directory: &Path, store: &LayerStore) -> Result<(), (String, ImageError)> {
    let Some((vfs, at)) = spec.composed() else { return Ok(()) };
    for (index, branch) in vfs.branches.iter().enumerate() {
        if let BranchSource::Image(name) = &branch.source {
            import(name, directory, store)
                .map_err(|error| (format!("{at}.branches[{index}].image"), error))?;
        }
    }
    Ok(())
}

/// What an image is on this host.
pub enum Found {
    Layout(Image),
    /// For the kernel.
    File(PathBuf),
}

/// `directory` is the spec's.
pub fn find(name: &str, directory: &Path) -> Result<Found, ImageError> {
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let absolute = |path: &Path| paths::absolute(path, directory, home.as_deref());
    let file = absolute(Path::new(name));
    if file.is_file() {
        return Ok(Found::File(file));
    }
    let (path, tag) = vfs::image_parts(name);
    Image::open(&absolute(path), tag).map(Found::Layout)
}

fn import(name: &str, directory: &Path, store: &LayerStore) -> Result<(), ImageError> {
    let Found::Layout(image) = find(name, directory)? else { return Ok(()) };
    if image.layers(store).is_ok() {
        return Ok(());
    }
    let progress = Progress::of_bytes(&format!("importing {name}"));
    let imported = without_threads_left(|| image.import_missing(store, |file| progress.reader(file)));
    progress.end();
    imported
}

/// The process must have one thread when it makes namespaces, and rayon's stay.
fn without_threads_left<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let on_its_own = || {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build();
        let pool = pool.expect("rayon: a new thread belongs to no pool, and one thread needs no other");
        pool.install(work)
    };
    let done = std::thread::scope(|scope| scope.spawn(on_its_own).join());
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
