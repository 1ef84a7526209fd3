//! How much memory this machine can spare, and how many KV blocks that makes.

use crate::config::KvMemory;
use crate::model::native::Device;
use crate::model::{BLOCK_TOKENS, ModelConfig};

/// Keys and values on a CUDA device when nobody says, bytes. A fixed amount that small devices have, as how much of the device is
/// free is not asked; the host's memory says nothing about it.
const CUDA_AUTO: u64 = 2 << 30;
/// Share of the free memory that keys and values take when nobody says: a quarter, as weights that are mapped and adapters that
/// are loaded later need theirs.
const AUTO_SHARE: u64 = 4;
/// Fewest blocks worth starting with: 1024 tokens.
const MIN_BLOCKS: usize = 64;

/// How many bytes keys and values may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KvBytes {
    /// Exactly so many: an error where they hold no block.
    Given(u64),
    /// So many, but at least [`MIN_BLOCKS`].
    Decided(u64),
}

/// The memory for keys and values on a device.
pub(super) fn kv_bytes(memory: KvMemory, device: Device) -> KvBytes {
    match (memory, device) {
        (KvMemory::Bytes(bytes), _) => KvBytes::Given(bytes),
        (KvMemory::Auto, Device::Cuda(_)) => KvBytes::Decided(CUDA_AUTO),
        (KvMemory::Auto, Device::Cpu | Device::Reference) => KvBytes::Decided(available_bytes().unwrap_or(0) / AUTO_SHARE),
    }
}

/// Number of KV blocks. Never more than all sequences could fill.
pub(super) fn kv_blocks(memory: KvBytes, model: &ModelConfig, block_bytes: usize, max_sequences: usize) -> Result<usize, String> {
    let block_bytes = block_bytes.max(1) as u64;
    let most = model.context_length.div_ceil(BLOCK_TOKENS).saturating_mul(max_sequences);
    let fitting = |bytes: u64| usize::try_from(bytes / block_bytes).unwrap_or(usize::MAX);
    match memory {
        KvBytes::Decided(bytes) => Ok(fitting(bytes).max(MIN_BLOCKS).min(most)),
        KvBytes::Given(bytes) => match fitting(bytes).min(most) {
            0 => Err(format!(
                "kv_memory of {bytes} bytes holds no block: {BLOCK_TOKENS} tokens of this base take {block_bytes} bytes"
            )),
            blocks => Ok(blocks),
        },
    }
}

/// Bytes that the process may still use: the system's figure, or the control group's limit where that is less.
pub(crate) fn available_bytes() -> Option<u64> {
    let system = meminfo_available(&std::fs::read_to_string("/proc/meminfo").ok()?)?;
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let group = number("/sys/fs/cgroup/memory.max")
        .zip(number("/sys/fs/cgroup/memory.current"))
        .map(|(limit, used)| limit.saturating_sub(used));
    Some(group.map_or(system, |group| group.min(system)))
}

fn meminfo_available(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Bytes of this process in memory now; `None` where the system does not tell.
pub(super) fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// `512.0 MiB`, for people.
pub(crate) fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "bytes";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "bytes" { format!("{bytes} bytes") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;
    use crate::model::config::{Architecture, RopeScaling};

    fn model(context_length: usize) -> ModelConfig {
        ModelConfig {
            architecture: Architecture::Llama,
            vocab_size: 32,
            hidden_size: 8,
            intermediate_size: 12,
            layers: 1,
            heads: 2,
            kv_heads: 1,
            head_dim: 4,
            rms_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::None,
            context_length,
            sliding_window: None,
            tied_embeddings: false,
            details: crate::model::config::Details::default(),
        }
    }

    #[test]
    fn blocks_follow_the_memory_and_stop_at_what_can_be_used() {
        let blocks = |memory, context| kv_blocks(kv_bytes(memory, Device::Cpu), &model(context), 1000, 4);
        assert_eq!(blocks(KvMemory::Bytes(10_500), 1024), Ok(10));
        assert_eq!(blocks(KvMemory::Bytes(1 << 40), 1024), Ok(4 * 1024 / BLOCK_TOKENS));
        assert!(blocks(KvMemory::Bytes(999), 1024).unwrap_err().contains("1000 bytes"));
        let auto = blocks(KvMemory::Auto, 1 << 30).unwrap();
        assert!(auto >= MIN_BLOCKS, "{auto}");
        assert_eq!(blocks(KvMemory::Auto, 32), Ok(8));
    }

    #[test]
    fn a_cuda_device_gets_a_fixed_share_whatever_the_host_has() {
        assert_eq!(kv_bytes(KvMemory::Auto, Device::Cuda(1)), KvBytes::Decided(2 << 30));
        assert_eq!(kv_bytes(KvMemory::Bytes(7), Device::Cuda(0)), KvBytes::Given(7));
        assert_eq!(kv_blocks(KvBytes::Decided(2 << 30), &model(1 << 30), 1 << 20, 4), Ok(2048));
    }

    #[test]
    fn figures_are_read_and_written_for_people() {
        assert_eq!(meminfo_available("MemTotal: 9 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
        assert_eq!(meminfo_available("MemTotal: 9 kB\n"), None);
        assert_eq!(human(999), "999 bytes");
        assert_eq!(human(3 << 29), "1.5 GiB");
    }
}
