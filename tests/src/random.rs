//! Random numbers out of a seed, the same on all machines.

/// Marsaglia's xorshift64*: small, and the same on all machines.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Numbers that follow from `seed`. Seeds that lie beside each other give numbers that have nothing in common.
    pub fn new(seed: u64) -> Random {
        // A state of zero would stay zero. The first steps mix.
        let mut random = Random(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        for _ in 0..4 {
            random.draw();
        }
        random
    }

    /// Begins with this state, which is not zero.
    pub(crate) fn of_state(state: u64) -> Random {
        Random(state)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// At least 0 and below `end`, which is positive.
    pub fn below(&mut self, end: u64) -> u64 {
        (self.draw() >> 1) % end.max(1)
    }

    /// One of them; there must be one.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}
