//! Memory that steps read as long streams, in large pages: they spare most of the address translation. A mapping of its own for each
//! matrix begins and ends somewhere inside a large page, and half of the weights stay in small ones.

use std::sync::Arc;

use memmap2::MmapMut;

/// Bytes of a large page where a normal one has 4 KiB; elsewhere a boundary like any other.
const LARGE: usize = 2 << 20;
/// Bytes that an arena takes from the system at once. They become resident as they are written.
const SLAB: usize = 256 << 20;

/// One mapping, from a large page's boundary on.
struct Slab {
    /// Where pieces begin.
    start: *mut u8,
    /// Keeps the memory.
    _map: MmapMut,
}

// SAFETY: its memory is only reached through pieces, which share no byte.
unsafe impl Send for Slab {}
// SAFETY: the same.
unsafe impl Sync for Slab {}

impl Slab {
    /// `len` zero bytes, of which the first `large` should lie in large pages.
    fn new(len: usize, large: usize) -> std::io::Result<Self> {
        let mut map = MmapMut::map_anon(len + LARGE)?;
        let offset = map.as_ptr().align_offset(LARGE);
        // A kernel without large pages says no.
        #[cfg(target_os = "linux")]
        drop(map.advise_range(memmap2::Advice::HugePage, offset, large));
        // SAFETY: less than a large page, by which the mapping is longer than its pieces.
        let start = unsafe { map.as_mut_ptr().add(offset) };
        Ok(Self { start, _map: map })
    }
}

/// Zero bytes for one owner.
pub struct Piece {
    slab: Arc<Slab>,
    start: usize,
    len: usize,
}

impl Piece {
    /// Memory of its own, which is given back with it; a large page that it would not fill is left to small ones.
    ///
    /// # Errors
    /// The system has none.
    pub fn alone(len: usize) -> std::io::Result<Self> {
        Ok(Self { slab: Arc::new(Slab::new(len, len / LARGE * LARGE)?), start: 0, len })
    }
}

impl std::ops::Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the range lies in the slab, and is this piece's alone.
        unsafe { std::slice::from_raw_parts(self.slab.start.add(self.start), self.len) }
    }
}

impl std::ops::DerefMut for Piece {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the range lies in the slab, and is this piece's alone.
        unsafe { std::slice::from_raw_parts_mut(self.slab.start.add(self.start), self.len) }
    }
}

/// Gives out pieces that lie one after the other; each slab is given back with the last of its own.
#[derive(Default)]
pub struct Arena {
    slab: Option<Arc<Slab>>,
    /// Bytes of the slab that are left.
    left: usize,
    /// Where they begin.
    next: usize,
}

impl Arena {
    /// A piece, from a line of memory's boundary on.
    ///
    /// # Errors
    /// The system has none.
    pub fn take(&mut self, len: usize) -> std::io::Result<Piece> {
        let bytes = len.next_multiple_of(64);
        let slab = match &self.slab {
            Some(slab) if bytes <= self.left => Arc::clone(slab),
            _ => {
                let size = bytes.max(SLAB).next_multiple_of(LARGE);
                let slab = Arc::new(Slab::new(size, size)?);
                (self.slab, self.left, self.next) = (Some(Arc::clone(&slab)), size, 0);
                slab
            }
        };
        let piece = Piece { slab, start: self.next, len };
        (self.left, self.next) = (self.left - bytes, self.next + bytes);
        Ok(piece)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn pieces_begin_with_lines_and_share_no_byte() {
        let mut arena = Arena::default();
        let sizes = [1usize, 64, 100, SLAB - 300, 4096, SLAB + 1, 7, 0];
        let mut pieces: Vec<Piece> = sizes.iter().map(|len| arena.take(*len).unwrap()).collect();
        pieces.push(Piece::alone(3 * LARGE + 5).unwrap());
        pieces.push(Piece::alone(0).unwrap());
        let mut ranges: Vec<_> = pieces.iter().map(|piece| piece.as_ptr_range()).filter(|range| !range.is_empty()).collect();
        ranges.sort_by_key(|range| range.start);
        assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start));
        for (i, piece) in pieces.iter_mut().enumerate() {
            assert!(piece.as_ptr().addr().is_multiple_of(64));
            if let [first, .., last] = &mut **piece {
                assert_eq!((*first, *last), (0, 0));
                (*first, *last) = (i as u8, i as u8);
            }
        }
        drop(arena);
        for (i, piece) in pieces.iter().enumerate() {
            assert!(piece.len() < 2 || (piece[0], piece[piece.len() - 1]) == (i as u8, i as u8));
        }
    }
}
