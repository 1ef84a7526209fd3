//! What to train with, how long it takes and what it needs, with the reason for each. Pure: the speed of this machine is measured
//! by the caller and handed in. Knows nothing of jobs.

mod auto;

pub use auto::{Chosen, Hyperparameters, auto};
