//! The life of a training job: queue, states, events. Knows nothing of gradients.
