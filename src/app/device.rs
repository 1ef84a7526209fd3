//! Where the base computes: what was configured, or the best that opens.

use crate::config::Device;
use crate::model::ops::candle::CandleOps;
use crate::model::{ModelConfig, native};

/// The device for a base of this shape. `auto` is the first CUDA device where this build has CUDA and the device opens, else the
/// CPU; the choice is logged.
pub(super) fn choose(device: Device, model: &ModelConfig) -> native::Device {
    choose_by(device, || {
        let open = || CandleOps::cuda(model, 0).map(drop).map_err(|error| error.to_string());
        cfg!(feature = "cuda").then(open)
    })
}

/// `first_cuda` opens the first CUDA device; `None` where this build has none.
fn choose_by(device: Device, first_cuda: impl FnOnce() -> Option<Result<(), String>>) -> native::Device {
    match device {
        Device::Cpu => native::Device::Cpu,
        Device::Cuda(index) => native::Device::Cuda(index),
        Device::Auto => match first_cuda() {
            Some(Ok(())) => {
                tracing::info!(device = "cuda:0", "device chosen: the first CUDA device opens");
                native::Device::Cuda(0)
            }
            Some(Err(error)) => {
                tracing::warn!(device = "cpu", %error, "device chosen: no CUDA device opens");
                native::Device::Cpu
            }
            None => {
                tracing::info!(device = "cpu", "device chosen: this build has no CUDA");
                native::Device::Cpu
            }
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn auto_takes_the_first_cuda_device_that_opens_and_else_the_cpu() {
        let auto =
            |found: Option<Result<(), &str>>| choose_by(Device::Auto, || found.map(|opened| opened.map_err(str::to_owned)));
        assert_eq!(auto(Some(Ok(()))), native::Device::Cuda(0));
        assert_eq!(auto(Some(Err("no driver"))), native::Device::Cpu);
        assert_eq!(auto(None), native::Device::Cpu);
        let named = |device| choose_by(device, || panic!("a named device is not looked for"));
        assert_eq!(named(Device::Cpu), native::Device::Cpu);
        assert_eq!(named(Device::Cuda(3)), native::Device::Cuda(3));
    }
}
