//! From a file of examples to tokens with weights: formats, report, split. Knows nothing of jobs or gradients.
