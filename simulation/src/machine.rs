//! The machine that a simulated run believes in: its clocks stand on the runtime's simulated time, its randomness follows from the seed.
//! The C library's `clock_gettime` and `getrandom` are replaced for the whole program, so that production code needs no seam for them: hash
//! maps, identifiers and wall clocks are as reproducible as the rest. Outside of a run both ask the kernel.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};

/// A run is under way; there is one in a process, and it has one thread.
static RUNNING: AtomicBool = AtomicBool::new(false);
static RANDOM: AtomicU64 = AtomicU64::new(0);
/// Milliseconds by which wall clocks are off.
static SKEW: AtomicI64 = AtomicI64::new(0);

/// Where the clocks begin, seconds.
const MONOTONIC: u64 = 1_000_000;
const WALL: u64 = 1_800_000_000;

thread_local! {
    static BEGAN: Cell<Option<tokio::time::Instant>> = const { Cell::new(None) };
    static ASKING: Cell<bool> = const { Cell::new(false) };
}

/// Takes the machine over; before the runtime is built.
pub fn begin(seed: u64) {
    RANDOM.store(seed, Relaxed);
    RUNNING.store(true, Relaxed);
}

/// From here on the clocks go; within the runtime.
pub fn start_clocks() {
    BEGAN.set(Some(tokio::time::Instant::now()));
}

/// Gives the machine back.
pub fn end() {
    BEGAN.set(None);
    RUNNING.store(false, Relaxed);
}

/// Sets the wall clocks by so many milliseconds off.
pub fn skew(ms: i64) {
    SKEW.store(ms, Relaxed);
}

/// Simulated nanoseconds since the beginning.
pub fn elapsed() -> u64 {
    if ASKING.replace(true) {
        return 0;
    }
    let began = BEGAN.get().filter(|_| tokio::runtime::Handle::try_current().is_ok());
    let elapsed = began.map_or(0, |began| began.elapsed().as_nanos() as u64);
    ASKING.set(false);
    elapsed
}

/// The next of a seeded sequence (splitmix64).
pub fn mix(state: u64) -> (u64, u64) {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (state, z ^ (z >> 31))
}

/// Stands in for the C library's function.
///
/// # Safety
/// As that function: `buffer` has room for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(
    buffer: *mut libc::c_void,
    length: libc::size_t,
    flags: libc::c_uint,
) -> libc::ssize_t {
    if !RUNNING.load(Relaxed) {
        // SAFETY: the arguments are the caller's.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) } as libc::ssize_t;
    }
    // SAFETY: the caller gives a buffer of that length.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    for chunk in bytes.chunks_mut(8) {
        let (state, value) = mix(RANDOM.load(Relaxed));
        RANDOM.store(state, Relaxed);
        chunk.copy_from_slice(&value.to_le_bytes()[..chunk.len()]);
    }
    length as libc::ssize_t
}

/// Stands in for the C library's function.
///
/// # Safety
/// As that function: `time` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    if !RUNNING.load(Relaxed) {
        // SAFETY: the arguments are the caller's.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) } as libc::c_int;
    }
    let elapsed = elapsed();
    let nanos = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => {
            (WALL * 1_000_000_000 + elapsed).saturating_add_signed(SKEW.load(Relaxed) * 1_000_000)
        }
        _ => MONOTONIC * 1_000_000_000 + elapsed,
    };
    // SAFETY: the caller gives a place to write to.
    unsafe {
        (*time).tv_sec = (nanos / 1_000_000_000) as libc::time_t;
        (*time).tv_nsec = (nanos % 1_000_000_000) as libc::c_long;
    }
    0
}
