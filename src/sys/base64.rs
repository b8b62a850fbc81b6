//! Base64 to bytes, for the one place where most bytes of a client come through: a write of much input.
//!
//! **Thread:** `rpc-read`.
//! **Owns:** nothing.
//! **Never:** takes anything that base64-simd refuses, or refuses what that takes; a test compares them.
//!
//! With AVX2 a block of 32 characters takes 22 instructions here and 38 there, because what is wrong is
//! looked at once, after the last block. The end of the text, every other processor and every text that is
//! short is left to base64-simd.

/// The bytes of a text in the standard alphabet with padding; `None` if it is not that.
pub(crate) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    #[cfg(target_arch = "x86_64")]
    if text.len() > 2 * avx2::BLOCK && std::is_x86_feature_detected!("avx2") {
        return avx2::decode(text);
    }
    base64_simd::STANDARD.decode_to_vec(text).ok()
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256i, _mm_loadu_si128, _mm256_add_epi8, _mm256_and_si256, _mm256_broadcastsi128_si256,
        _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_or_si256,
        _mm256_permutevar8x32_epi32, _mm256_set1_epi8, _mm256_set1_epi32, _mm256_setr_epi32,
        _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_srli_epi32, _mm256_storeu_si256,
        _mm256_testz_si256,
    };
    use std::mem::MaybeUninit;

    /// Characters that are decoded at a time.
    pub(super) const BLOCK: usize = 32;
    /// Bytes that they stand for.
    const BYTES: usize = 24;

    /// Decodes a text of more than one block. The processor must have AVX2.
    pub(super) fn decode(text: &[u8]) -> Option<Vec<u8>> {
        // The last block may have padding.
        let (blocks, end) = text.split_at((text.len() - 1) / BLOCK * BLOCK);
        let length = blocks.len() / BLOCK * BYTES;
        // Each block writes as many bytes as it has characters. The end needs no more than that.
        let mut bytes = Vec::with_capacity(length + BLOCK);
        // SAFETY: the caller has found AVX2.
        if !unsafe { decode_blocks(blocks, bytes.spare_capacity_mut()) } {
            return None;
        }
        // SAFETY: so many bytes have just been written.
        unsafe { bytes.set_len(length) };
        base64_simd::STANDARD.decode_append(end, &mut bytes).ok()?;
        Some(bytes)
    }

    /// Decodes whole blocks without padding; false if a character was not of the alphabet. `bytes` has room
    /// for them and 8 bytes more.
    ///
    /// The method is Wojciech Muła's: the high and the low half of a character each choose a set of bits,
    /// which have one in common only where the character is wrong; the high half chooses what is added to a
    /// character to make it six bits; two multiplications bring four times six bits together.
    #[target_feature(enable = "avx2")]
    fn decode_blocks(text: &[u8], bytes: &mut [MaybeUninit<u8>]) -> bool {
        let wrong_by_low = twice([
            0x15, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x13, 0x1a, 0x1b, 0x1b, 0x1b, 0x1a,
        ]);
        let wrong_by_high = twice([
            0x10, 0x10, 0x01, 0x02, 0x04, 0x08, 0x04, 0x08, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10,
        ]);
        let added = twice([0, 16, 19, 4, -65, -65, -71, -71, 0, 0, 0, 0, 0, 0, 0, 0]);
        let order = twice([2, 1, 0, 6, 5, 4, 10, 9, 8, 14, 13, 12, -1, -1, -1, -1]);
        let together = _mm256_setr_epi32(0, 1, 2, 4, 5, 6, 7, 7);
        // Also the mask of a half: a shuffle looks at its lowest four bits, and at the highest.
        let slash = _mm256_set1_epi8(0x2f);
        let mut wrong = _mm256_setzero_si256();
        assert!(bytes.len() >= text.len() / BLOCK * BYTES + (BLOCK - BYTES));
        let mut place = bytes.as_mut_ptr();
        for block in text.chunks_exact(BLOCK) {
            // SAFETY: the block is as long as what is loaded.
            let characters = unsafe { _mm256_loadu_si256(block.as_ptr().cast()) };
            let high = _mm256_and_si256(_mm256_srli_epi32(characters, 4), slash);
            let low = _mm256_and_si256(characters, slash);
            let both = _mm256_and_si256(
                _mm256_shuffle_epi8(wrong_by_low, low),
                _mm256_shuffle_epi8(wrong_by_high, high),
            );
            wrong = _mm256_or_si256(wrong, both);
            // The slash shares its high half with the plus, and takes the place in front.
            let choice = _mm256_add_epi8(_mm256_cmpeq_epi8(characters, slash), high);
            let sixes = _mm256_add_epi8(characters, _mm256_shuffle_epi8(added, choice));
            let twelves = _mm256_maddubs_epi16(sixes, _mm256_set1_epi32(0x0140_0140));
            let whole = _mm256_madd_epi16(twelves, _mm256_set1_epi32(0x0001_1000));
            let decoded = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(whole, order), together);
            // SAFETY: `bytes` has room for what this block and all before it stand for, and 8 bytes more.
            unsafe {
                _mm256_storeu_si256(place.cast(), decoded);
                place = place.add(BYTES);
            }
        }
        _mm256_testz_si256(wrong, wrong) == 1
    }

    /// A table for both halves of a vector.
    #[target_feature(enable = "avx2")]
    fn twice(table: [i8; 16]) -> __m256i {
        // SAFETY: the table is as long as what is loaded.
        _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(table.as_ptr().cast()) })
    }
}

#[cfg(test)]
mod tests {
    use super::decode;

    fn check(text: &[u8]) {
        let expected = base64_simd::STANDARD.decode_to_vec(text).ok();
        assert!(decode(text) == expected, "{}", String::from_utf8_lossy(text));
    }

    #[test]
    fn agrees_with_base64_simd_on_every_length_and_every_byte() {
        let bytes: Vec<u8> = (0..=u8::MAX)
            .flat_map(|n| [n, n.wrapping_mul(7), 255 - n])
            .collect();
        for length in 0..=300 {
            let text = base64_simd::STANDARD.encode_to_string(&bytes[..length]);
            assert_eq!(decode(text.as_bytes()).as_deref(), Some(&bytes[..length]));
            for cut in 0..text.len().min(5) {
                check(&text.as_bytes()[..text.len() - cut]);
            }
        }
        // All that a block may hold, and all that may be wrong with it, at every place of two blocks and
        // of the end after them.
        let text = base64_simd::STANDARD.encode_to_string(&bytes[..70]);
        for at in 0..text.len() {
            for byte in 0..=u8::MAX {
                let mut changed = text.clone().into_bytes();
                changed[at] = byte;
                check(&changed);
            }
        }
    }

    #[test]
    fn agrees_with_base64_simd_on_all_pairs_of_characters() {
        for first in 0..=u8::MAX {
            for second in 0..=u8::MAX {
                check(&[first, second].repeat(40));
            }
        }
    }
}
