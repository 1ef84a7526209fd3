//! Element types of what is stored in floats: KV blocks and adapter weights.

use half::f16;

/// A stored float, computed with as f32.
pub trait Element: Copy + Send + Sync + Default + 'static {
    /// The type's name, for messages.
    const NAME: &str;
    /// From f32, rounded to nearest; infinite where the value is too large.
    fn store(value: f32) -> Self;
    /// To f32.
    fn load(self) -> f32;
    /// Sixteen elements as f32.
    ///
    /// # Safety
    /// `p` covers sixteen elements; the processor has AVX-512F.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load16(p: *const Self) -> std::arch::x86_64::__m512;
    /// The first elements whose bits are set in `mask`, the rest zero; nothing else is read.
    ///
    /// # Safety
    /// `p` covers the masked elements; the processor has AVX-512BW and VL.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load_masked(p: *const Self, mask: u16) -> std::arch::x86_64::__m512;
}

impl Element for f32 {
    const NAME: &str = "f32";
    #[inline(always)]
    fn store(value: f32) -> Self {
        value
    }
    #[inline(always)]
    fn load(self) -> f32 {
        self
    }
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load16(p: *const Self) -> std::arch::x86_64::__m512 {
        // SAFETY: the caller's contract.
        unsafe { std::arch::x86_64::_mm512_loadu_ps(p) }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_masked(p: *const Self, mask: u16) -> std::arch::x86_64::__m512 {
        // SAFETY: the caller's contract.
        unsafe { std::arch::x86_64::_mm512_maskz_loadu_ps(mask, p) }
    }
}

impl Element for f16 {
    const NAME: &str = "f16 (at most 65504)";
    #[inline(always)]
    fn store(value: f32) -> Self {
        f16::from_f32(value)
    }
    #[inline(always)]
    fn load(self) -> f32 {
        self.to_f32()
    }
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load16(p: *const Self) -> std::arch::x86_64::__m512 {
        use std::arch::x86_64::{_mm256_loadu_si256, _mm512_cvtph_ps};
        // SAFETY: the caller's contract.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_masked(p: *const Self, mask: u16) -> std::arch::x86_64::__m512 {
        use std::arch::x86_64::{_mm256_maskz_loadu_epi16, _mm512_cvtph_ps};
        // SAFETY: the caller's contract.
        unsafe { _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p.cast())) }
    }
}
