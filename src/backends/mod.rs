//! What generates: the seam between the gateway and the engine.
