//! What an adapter is worth on rows that it has not seen. Knows nothing of jobs or gradients.
