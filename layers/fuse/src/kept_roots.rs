//! A kept root: an overlay that its action has left as it found it. The next action over the same segments takes it and
//! finds every name known already; in a new overlay each would be looked up again. Nobody is inside a root while it is
//! kept.
//!
//! Unmounting one takes as long as there are names in it, so that is done when a client leaves, not while its action
//! runs.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard};

/// What two roots must have in common to stand for each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootKey {
    /// Name and state of each segment, first on top.
    pub segments: Vec<(String, u64)>,
    /// Everything else, in the client's words.
    pub client: String,
}

/// The root as its last user handed it over; the server does not look into it.
#[derive(Debug)]
pub struct KeptRoot {
    pub note: String,
    pub descriptors: Vec<OwnedFd>,
}

/// Those kept for longest go first.
#[derive(Debug)]
pub struct KeptRoots {
    most: usize,
    roots: Mutex<VecDeque<(RootKey, KeptRoot)>>,
    /// To be unmounted.
    gone: Mutex<Vec<KeptRoot>>,
}

impl KeptRoots {
    /// Keeps `most` roots.
    pub fn new(most: usize) -> KeptRoots {
        KeptRoots { most, roots: Mutex::default(), gone: Mutex::default() }
    }

    /// The one that was kept last: it is the warmest.
    pub fn take(&self, key: &RootKey) -> Option<KeptRoot> {
        let mut roots = self.lock();
        let position = roots.iter().rposition(|(kept, _)| kept == key)?;
        roots.remove(position).map(|(_, root)| root)
    }

    pub fn keep(&self, key: RootKey, root: KeptRoot) {
        let mut roots = self.lock();
        roots.push_back((key, root));
        let surplus = roots.len().saturating_sub(self.most);
        self.lock_gone().extend(roots.drain(..surplus).map(|(_, root)| root));
    }

    /// Nobody gets a root over this segment any more: it changes or goes.
    pub fn forget_segment(&self, name: &str) {
        let mut roots = self.lock();
        let on_it = |(key, _): &(RootKey, KeptRoot)| key.segments.iter().any(|(segment, _)| segment == name);
        let (gone, kept): (Vec<_>, _) = roots.drain(..).partition(on_it);
        *roots = kept.into();
        self.lock_gone().extend(gone.into_iter().map(|(_, root)| root));
    }

    /// Unmounts those that nobody gets any more.
    pub fn let_go(&self) {
        let gone = std::mem::take(&mut *self.lock_gone());
        drop(gone);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(RootKey, KeptRoot)>> {
        self.roots.lock().expect("the server aborts when a thread panics")
    }

    fn lock_gone(&self) -> MutexGuard<'_, Vec<KeptRoot>> {
        self.gone.lock().expect("the server aborts when a thread panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(segment: &str, state: u64) -> RootKey {
        RootKey { segments: vec![(segment.to_owned(), state)], client: "c".to_owned() }
    }

    fn root(note: &str) -> KeptRoot {
        KeptRoot { note: note.to_owned(), descriptors: Vec::new() }
    }

    fn noted(root: Option<KeptRoot>) -> Option<String> {
        root.map(|root| root.note)
    }

    #[test]
    fn a_root_is_given_once_and_only_for_its_key() {
        let roots = KeptRoots::new(4);
        roots.keep(key("s", 1), root("one"));
        assert_eq!(noted(roots.take(&key("s", 2))), None);
        assert_eq!(noted(roots.take(&RootKey { client: "d".to_owned(), ..key("s", 1) })), None);
        assert_eq!(noted(roots.take(&key("s", 1))).as_deref(), Some("one"));
        assert_eq!(noted(roots.take(&key("s", 1))), None);
    }

    #[test]
    fn the_oldest_goes_first_and_the_newest_is_taken() {
        let roots = KeptRoots::new(2);
        for note in ["one", "two", "three"] {
            roots.keep(key("s", 1), root(note));
        }
        assert_eq!(noted(roots.take(&key("s", 1))).as_deref(), Some("three"));
        assert_eq!(noted(roots.take(&key("s", 1))).as_deref(), Some("two"));
        assert_eq!(noted(roots.take(&key("s", 1))), None);
    }

    #[test]
    fn what_is_kept_no_more_is_open_until_it_is_let_go() {
        let roots = KeptRoots::new(1);
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        roots.keep(key("s", 1), KeptRoot { note: String::new(), descriptors: vec![writer] });
        roots.keep(key("s", 1), root("newer"));
        let is_open = || rustix::io::read(&reader, &mut [0u8; 1]) == Err(rustix::io::Errno::AGAIN);
        assert!(is_open());
        roots.let_go();
        assert!(!is_open());
    }

    #[test]
    fn a_root_goes_with_any_of_its_segments() {
        let roots = KeptRoots::new(4);
        let both =
            RootKey { segments: vec![("s".to_owned(), 1), ("t".to_owned(), 1)], client: "c".to_owned() };
        roots.keep(both.clone(), root("both"));
        roots.keep(key("s", 1), root("s"));
        roots.forget_segment("t");
        assert_eq!(noted(roots.take(&both)), None);
        assert_eq!(noted(roots.take(&key("s", 1))).as_deref(), Some("s"));
    }
}
