//! official_client
