//! The host's memory while it is computed with: work that would not fit ends with an error, not with
//! the process.
//!
//! Rust's collections end the process when an allocation fails, and a control group's limit kills it
//! without any failure at all. So the allocator counts what is in use. While a [`Watch`] lives, an
//! allocation beyond its headroom is still served but noted, and so is one that the system refuses: a
//! reserve that was kept for this moment is given up for it. Every operation asks [`check`] before it
//! begins, and returns [`OutOfMemory`] once something was noted: the work unwinds as with any other
//! error, and what it held is free again.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::Relaxed};

/// Smaller allocations are not counted: they are many, and together little beside the numbers.
const COUNTED: usize = 4096;
/// Alignment of the reserve.
const PAGE: usize = 4096;

/// Bytes of counted allocations in use.
static LIVE: AtomicUsize = AtomicUsize::new(0);
/// What `LIVE` may reach while work is watched.
static CEILING: AtomicUsize = AtomicUsize::new(usize::MAX);
/// Bytes of the first allocation of the watched work that did not fit; 0: all did.
static NOTED: AtomicUsize = AtomicUsize::new(0);
/// Given up when the system refuses an allocation.
static RESERVE: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
static RESERVE_BYTES: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static HEAP: Heap = Heap;

/// The system's allocator, counted.
struct Heap;

// SAFETY: memory comes from and goes to `System`, with the layouts it was asked for; no method
// unwinds, and none allocates on its own.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is System's.
        counted(layout.size(), || unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        counted(layout.size(), || unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        uncount(layout.size());
        // SAFETY: as above; every block came from System.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        let grown = counted(size, || unsafe { System.realloc(memory, layout, size) });
        if !grown.is_null() {
            uncount(layout.size());
        }
        grown
    }
}

/// Counts an allocation and makes it; once more without the reserve where it is refused.
fn counted(bytes: usize, allocate: impl Fn() -> *mut u8) -> *mut u8 {
    if bytes >= COUNTED {
        let live = LIVE.fetch_add(bytes, Relaxed).saturating_add(bytes);
        if live > CEILING.load(Relaxed) {
            note(bytes);
        }
    }
    let mut memory = allocate();
    if memory.is_null() {
        note(bytes);
        if give_up_reserve() {
            memory = allocate();
        }
        if memory.is_null() {
            uncount(bytes);
        }
    }
    memory
}

fn uncount(bytes: usize) {
    if bytes >= COUNTED {
        LIVE.fetch_sub(bytes, Relaxed);
    }
}

fn note(bytes: usize) {
    // Only the first is told of.
    let _ = NOTED.compare_exchange(0, bytes.max(1), Relaxed, Relaxed);
}

fn reserve_layout(bytes: usize) -> Option<Layout> {
    Layout::from_size_align(bytes, PAGE).ok()
}

/// Frees the reserve; false when there is none.
fn give_up_reserve() -> bool {
    let Some(reserve) = NonNull::new(RESERVE.swap(ptr::null_mut(), Relaxed)) else {
        return false;
    };
    if let Some(layout) = reserve_layout(RESERVE_BYTES.load(Relaxed)) {
        // SAFETY: it was allocated with this layout by the only watch there is, and whoever swapped
        // it out is the only one to free it.
        unsafe { System.dealloc(reserve.as_ptr(), layout) };
    }
    true
}

/// Bytes in use, in allocations of at least a page.
pub fn live_bytes() -> usize {
    LIVE.load(Relaxed)
}

/// Returns to the system (and to a GPU's driver) what the allocator keeps of freed memory, so that the system's counts show
/// it. glibc keeps it otherwise; other C libraries return large blocks by themselves.
pub fn give_back() {
    super::cuda::trim_memory();
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> i32;
        }
        // SAFETY: glibc's own function, thread-safe, with the signature of malloc.h.
        unsafe { malloc_trim(0) };
    }
}

/// While it lives, [`check`] fails once the work has asked for more memory than there is. One at a
/// time: there is one trainer in a process.
pub struct Watch(());

impl Watch {
    /// The work may use `headroom` bytes more than are in use now. `reserve` bytes of address space
    /// are kept for the moment when the system refuses an allocation: what one operation may still
    /// ask for before the next [`check`]. They are not touched, so they take no memory.
    pub fn new(headroom: usize, reserve: usize) -> Watch {
        give_up_reserve();
        NOTED.store(0, Relaxed);
        CEILING.store(live_bytes().saturating_add(headroom), Relaxed);
        if let Some(layout) = reserve_layout(reserve.max(PAGE)) {
            // SAFETY: the layout's size is not 0.
            let memory = unsafe { System.alloc(layout) };
            if memory.is_null() {
                note(reserve);
            } else {
                RESERVE_BYTES.store(layout.size(), Relaxed);
                RESERVE.store(memory, Relaxed);
            }
        }
        Watch(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        CEILING.store(usize::MAX, Relaxed);
        NOTED.store(0, Relaxed);
        give_up_reserve();
    }
}

/// The watched work has asked for more memory than there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// Bytes of the allocation that did not fit.
    pub bytes: usize,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kibibytes = self.bytes.div_ceil(1024);
        match kibibytes < 1024 {
            true => write!(f, "{MARK} for {kibibytes} KiB more"),
            false => write!(f, "{MARK} for {:.1} MiB more", kibibytes as f64 / 1024.0),
        }
    }
}

impl std::error::Error for OutOfMemory {}

/// What the sentence of an [`OutOfMemory`] begins with: candle hands errors on as text.
const MARK: &str = "not enough memory";

/// What the CUDA driver and its libraries call it.
const ON_A_GPU: [&str; 3] = [
    "CUDA_ERROR_OUT_OF_MEMORY",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "ALLOCATION_FAILED",
];

/// Whether an error, written with its causes, says that memory ran out, on the host or on a GPU.
pub fn says_out_of_memory(error: &str) -> bool {
    error.contains(MARK) || ON_A_GPU.iter().any(|name| error.contains(name))
}

/// # Errors
/// The watched work has asked for more memory than there is.
pub fn check() -> Result<(), OutOfMemory> {
    match NOTED.load(Relaxed) {
        0 => Ok(()),
        bytes => Err(OutOfMemory { bytes }),
    }
}

// The watch itself is tested in `tests/memory.rs`: it is the whole process's.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drivers_words_for_it_are_known() {
        for text in [
            r#"forward: DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")"#,
            "CublasError(CUBLAS_STATUS_ALLOC_FAILED)",
        ] {
            assert!(says_out_of_memory(text));
        }
        assert!(!says_out_of_memory("No space left on device (os error 28)"));
    }
}
