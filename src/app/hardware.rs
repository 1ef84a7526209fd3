//! What this process runs on, as people call it.

use super::device;
use crate::config::Config;
use crate::model::ModelConfig;
use crate::model::native::Device;
use crate::training::card::Hardware;

/// The machine, for the cards of versions.
pub(super) fn of(config: &Config, model: &ModelConfig) -> Hardware {
    let device = match device::choose(config.device, model) {
        Device::Cpu | Device::Reference => "cpu".to_owned(),
        Device::Cuda(index) => format!("cuda:{index}"),
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if config.threads == 0 { cores } else { config.threads };
    Hardware { processor: processor(), threads: threads as u64, device }
}

/// The processor's name, where the system tells.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}
