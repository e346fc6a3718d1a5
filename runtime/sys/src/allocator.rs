//! The allocator of this process.

/// From so many bytes on a piece of memory is one that goes back to the system when it is freed. As glibc begins.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 128 * 1024;

/// Large pieces always go back to the system when they are freed. Otherwise glibc keeps more of them the larger those before
/// were: a table that has grown leaves each of its former sizes behind. Does nothing with other C libraries.
pub fn give_back_large_pieces() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes numbers alone and sets a number of the allocator, under its lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}
