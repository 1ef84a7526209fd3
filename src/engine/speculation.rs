//! Guesses of how an answer goes on: what followed the last time its latest tokens stood somewhere in prompt or answer ("prompt lookup",
//! Saxena 2023; verified in one step as in Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding").
//!
//! A guess costs a row of a step. It is taken only where the sampler, asked row after row as ever, chooses the same token: an answer is
//! the same, token for token, with guesses and without. How many are made follows how many were right.

/// Tokens that have to stand alike before a guess is made.
const LEAST_ALIKE: usize = 2;
/// More than these need not stand alike.
const MOST_ALIKE: usize = 6;
/// How far back is looked, tokens.
const WINDOW: usize = 8192;
/// Guesses of the first attempt.
const FIRST_WIDTH: usize = 4;
/// Tokens without a guess after one that was wrong; twice as many each time.
const FIRST_PAUSE: u32 = 2;
/// At most.
const LONGEST_PAUSE: u32 = 64;

/// One answer's guesses.
#[derive(Debug)]
pub struct Guesser {
    /// Guesses of the next attempt.
    width: usize,
    /// Tokens to go without a guess.
    pause: u32,
    /// Length of the next pause.
    next_pause: u32,
}

impl Default for Guesser {
    fn default() -> Self {
        Self { width: FIRST_WIDTH, pause: 0, next_pause: FIRST_PAUSE }
    }
}

impl Guesser {
    /// Appends at most `most` guesses to `tokens`; says how many. Asked before each step that computes one token of the answer.
    pub fn guess(&mut self, tokens: &mut Vec<u32>, most: usize) -> usize {
        if self.pause > 0 {
            self.pause -= 1;
            return 0;
        }
        let most = most.min(self.width);
        let Some(from) = (most > 0).then(|| alike(tokens)).flatten() else { return 0 };
        // Where what followed is shorter than that, it repeats.
        for next in from..from + most {
            tokens.push(tokens[next]);
        }
        most
    }

    /// Takes to heart how many guesses of a step were right; at least one was made.
    pub fn learn(&mut self, guessed: usize, right: usize) {
        if right == guessed {
            (self.width, self.next_pause) = (2 * self.width, FIRST_PAUSE);
        } else {
            self.width = right + 1;
        }
        if right == 0 {
            self.pause = self.next_pause;
            self.next_pause = (2 * self.next_pause).min(LONGEST_PAUSE);
        }
    }
}

/// Where that goes on which stood before as the end of `tokens` stands now: the latest place of those that have most in common.
fn alike(tokens: &[u32]) -> Option<usize> {
    let mut best = (LEAST_ALIKE - 1, None);
    let first = tokens.len().saturating_sub(WINDOW);
    for end in (first + 1..tokens.len()).rev() {
        let pairs = tokens[first..end].iter().rev().zip(tokens.iter().rev());
        let common = pairs.take(MOST_ALIKE).take_while(|(then, now)| then == now).count();
        if common > best.0 {
            best = (common, Some(end));
        }
        if common == MOST_ALIKE {
            break;
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guesses(tokens: &[u32], most: usize) -> Vec<u32> {
        let mut all = tokens.to_vec();
        let count = Guesser { width: 100, ..Guesser::default() }.guess(&mut all, most);
        assert_eq!(count, all.len() - tokens.len());
        all.split_off(tokens.len())
    }

    #[test]
    fn what_followed_before_is_guessed() {
        assert_eq!(guesses(&[1, 2, 3, 4, 5, 9, 1, 2], 3), [3, 4, 5]);
        assert_eq!(guesses(&[1, 2, 3, 9, 1, 2], 9), [3, 9, 1, 2, 3, 9, 1, 2, 3], "a loop goes on");
        assert_eq!(guesses(&[7, 1, 2, 3, 8, 1, 2, 4, 9, 7, 1, 2], 1), [3], "three alike say more than two that came later");
        assert_eq!(guesses(&[1, 2, 3, 8, 1, 2, 4, 9, 1, 2], 1), [4], "of two places the later one");
        assert_eq!(guesses(&[5, 5, 5], 2), [5, 5]);
        for nothing in [&[][..], &[1], &[1, 1], &[1, 2, 3, 2], &[1, 2, 3, 4]] {
            assert_eq!(guesses(nothing, 4), [0u32; 0], "{nothing:?}");
        }
        assert_eq!(guesses(&[1, 2, 3, 1, 2], 0), [0u32; 0]);
    }

    #[test]
    fn width_and_pauses_follow_what_was_right() {
        let mut guesser = Guesser::default();
        let ask = |guesser: &mut Guesser| guesser.guess(&mut vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 1, 2], 100);
        assert_eq!(ask(&mut guesser), 4);
        guesser.learn(4, 4);
        assert_eq!(ask(&mut guesser), 8);
        guesser.learn(8, 2);
        assert_eq!(ask(&mut guesser), 3);
        for pause in [2, 4, 8] {
            guesser.learn(3, 0);
            assert!((0..pause).all(|_| ask(&mut guesser) == 0));
            assert_eq!(ask(&mut guesser), 1);
        }
        guesser.learn(1, 1);
        assert_eq!(ask(&mut guesser), 2);
    }
}
