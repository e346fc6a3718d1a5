//! An allocator for programs that are done soon: what they allocate first lies side by side in one piece of memory, of which
//! nothing is given back but the block at its end. What does not fit there is the system's.
//!
//! A container is made with a few thousand small allocations; the system's allocator took two fifths of the instructions for them.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

/// In bytes. Pages that nothing was put in take no memory.
const SIZE: usize = 384 << 10;
/// What is larger is the system's, which gives it back.
const LARGEST: usize = 64 << 10;
const PAGE: usize = 4096;

#[repr(align(4096))]
struct Room(UnsafeCell<[u8; SIZE]>);

/// The whole program's, as `#[global_allocator]`.
pub struct Arena {
    room: Room,
    /// How much of it is taken.
    taken: AtomicUsize,
}

// SAFETY: each block of the room is handed out to one owner at a time; `taken` says which are.
unsafe impl Sync for Arena {}

impl Arena {
    pub const fn new() -> Arena {
        Arena { room: Room(UnsafeCell::new([0; SIZE])), taken: AtomicUsize::new(0) }
    }

    fn start(&self) -> *mut u8 {
        self.room.0.get().cast()
    }

    /// Where in the room a block begins; `None` if it is the system's.
    fn offset(&self, block: *mut u8) -> Option<usize> {
        let offset = block.addr().wrapping_sub(self.start().addr());
        (offset < SIZE).then_some(offset)
    }

    /// `None` if there is no room for it.
    fn take(&self, layout: Layout) -> Option<*mut u8> {
        if layout.size() > LARGEST || layout.align() > PAGE {
            return None;
        }
        let mut taken = self.taken.load(Relaxed);
        loop {
            let offset = taken.next_multiple_of(layout.align());
            let end = offset + layout.size();
            if end > SIZE {
                return None;
            }
            match self.taken.compare_exchange_weak(taken, end, Acquire, Relaxed) {
                // SAFETY: the block lies in the room, as just seen.
                Ok(_) => return Some(unsafe { self.start().add(offset) }),
                Err(now) => taken = now,
            }
        }
    }

    /// Moves the end of the last block, if it is this one.
    fn resize_last(&self, offset: usize, old: usize, new: usize) -> bool {
        let end = offset + new;
        new <= LARGEST
            && end <= SIZE
            && self.taken.compare_exchange(offset + old, end, AcqRel, Relaxed).is_ok()
    }
}

impl Default for Arena {
    fn default() -> Arena {
        Arena::new()
    }
}

// SAFETY: blocks of the room do not overlap, are aligned as asked and stay where they are; all others are the system's.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.take(layout) {
            Some(block) => block,
            // SAFETY: as the caller promised.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match self.take(layout) {
            Some(block) => {
                // SAFETY: the block is ours, of this size. Another one may have lain there.
                unsafe { ptr::write_bytes(block, 0, layout.size()) };
                block
            }
            // SAFETY: as the caller promised.
            None => unsafe { System.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match self.offset(block) {
            Some(offset) => {
                let _ = self.taken.compare_exchange(offset + layout.size(), offset, Release, Relaxed);
            }
            // SAFETY: as the caller promised; what is not in the room came from the system.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Some(offset) = self.offset(block) else {
            // SAFETY: as the caller promised; what is not in the room came from the system.
            return unsafe { System.realloc(block, layout, size) };
        };
        if self.resize_last(offset, layout.size(), size) {
            return block;
        }
        // SAFETY: as the caller promised: `size` rounded up to the alignment is no more than isize::MAX.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: no layout of size zero comes here.
        let new = unsafe { self.alloc(wanted) };
        if !new.is_null() {
            // SAFETY: both are as long, and two blocks.
            unsafe { ptr::copy_nonoverlapping(block, new, layout.size().min(size)) };
            // SAFETY: the block is the caller's, who has given it up.
            unsafe { self.dealloc(block, layout) };
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    /// Of arena blocks, what was allocated: start, layout and the byte it is full of.
    type Block = (*mut u8, Layout, u8);

    fn fill(arena: &Arena, layout: Layout, byte: u8) -> Block {
        // SAFETY: the layout has a size.
        let block = unsafe { arena.alloc(layout) };
        assert!(!block.is_null() && block.addr() % layout.align() == 0);
        // SAFETY: the block is new and this long.
        unsafe { ptr::write_bytes(block, byte, layout.size()) };
        (block, layout, byte)
    }

    fn is_whole((block, layout, byte): &Block) -> bool {
        // SAFETY: the block is allocated and was filled.
        unsafe { std::slice::from_raw_parts(*block, layout.size()) }.iter().all(|found| found == byte)
    }

    /// More than there is room for, of all kinds, some of them freed and resized on the way.
    #[test]
    fn blocks_never_overlap() {
        let arena = Box::new(Arena::new());
        let mut blocks: Vec<Block> = Vec::new();
        let mut random = 12345_u64;
        let mut below = |limit: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % limit
        };
        for round in 0..3000 {
            match below(4) {
                0 if !blocks.is_empty() => {
                    let index = below(blocks.len() as u64) as usize;
                    let (block, layout, _) = blocks.swap_remove(index);
                    // SAFETY: it is allocated, and forgotten here.
                    unsafe { arena.dealloc(block, layout) };
                }
                1 if !blocks.is_empty() => {
                    let index = below(blocks.len() as u64) as usize;
                    let (block, old, byte) = blocks[index];
                    let size = 1 + below(3000) as usize;
                    // SAFETY: it is allocated with this layout.
                    let new = unsafe { arena.realloc(block, old, size) };
                    let kept = (new, layout(size.min(old.size()), old.align()), byte);
                    assert!(is_whole(&kept), "round {round}");
                    // SAFETY: the block is this long now.
                    unsafe { ptr::write_bytes(new, byte, size) };
                    blocks[index] = (new, layout(size, old.align()), byte);
                }
                2 if below(200) == 0 => {
                    let size = LARGEST + below(100_000) as usize;
                    blocks.push(fill(&arena, layout(size, 8), round as u8));
                }
                _ => {
                    let (size, align) = (1 + below(700) as usize, 1 << below(8));
                    blocks.push(fill(&arena, layout(size, align), round as u8));
                }
            }
            assert!(blocks.iter().all(is_whole) || round % 300 != 0, "round {round}");
        }
        assert!(blocks.iter().all(is_whole));
        let is_inside = |(block, ..): &&Block| arena.offset(*block).is_some();
        let inside = blocks.iter().filter(is_inside).count();
        assert!(inside > 0 && inside < blocks.len(), "{inside} of {}", blocks.len());
        for (block, layout, _) in blocks {
            // SAFETY: it is allocated with this layout.
            unsafe { arena.dealloc(block, layout) };
        }
    }

    #[test]
    fn last_block_is_given_back_and_grows_where_it_is() {
        let arena = Box::new(Arena::new());
        let (first, second) = (fill(&arena, layout(100, 8), 1), fill(&arena, layout(100, 8), 2));
        // SAFETY: they are allocated with these layouts, in this order.
        unsafe {
            assert_eq!(arena.realloc(second.0, second.1, 5000), second.0);
            arena.dealloc(second.0, layout(5000, 8));
            let zeroed = arena.alloc_zeroed(layout(5000, 8));
            assert_eq!(zeroed, second.0);
            assert!(is_whole(&(zeroed, layout(5000, 8), 0)) && is_whole(&first));
        }
    }

    #[test]
    fn threads_have_blocks_of_their_own() {
        static ARENA: Arena = Arena::new();
        let work = |byte: u8| {
            let mut blocks = Vec::new();
            for round in 0..500 {
                let block = fill(&ARENA, layout(1 + round % 90, 8), byte);
                if round % 3 == 0 {
                    assert!(is_whole(&block));
                    // SAFETY: it is allocated with this layout.
                    unsafe { ARENA.dealloc(block.0, block.1) };
                } else {
                    blocks.push(block);
                }
                assert!(round % 50 != 0 || blocks.iter().all(is_whole));
            }
            assert!(blocks.iter().all(is_whole));
        };
        std::thread::scope(|scope| (1..=4).for_each(|byte| drop(scope.spawn(move || work(byte)))));
    }
}
