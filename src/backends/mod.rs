//! What generates: the seam between the gateway and the engine. There is one backend, the native engine; a trait comes with
//! the second. Knows neither prompts as text nor adapters' names.

pub use crate::engine::request::{Event, Finish, Request, Sampling, TokenLogprob};
pub use crate::engine::{EngineHandle, Generation, Health, Places, Stats, SubmitError};
pub use crate::model::lora::PreparedAdapter;
