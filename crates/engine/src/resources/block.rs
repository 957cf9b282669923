//! Weights and throttles of block devices.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use runtime::oci;
use types::container::{HostConfig, ThrottleDevice};

use crate::Error;
use crate::sandbox::bad;

const WEIGHTS: std::ops::RangeInclusive<u16> = 10..=1000;

/// Refuses weights that no kernel takes, and devices that are none.
pub(super) fn validate(host: &HostConfig) -> Result<(), Error> {
    if host.blkio_weight != 0 && !WEIGHTS.contains(&host.blkio_weight) {
        return Err(bad("BlkioWeight", &host.blkio_weight.to_string(), "10 to 1000 are possible"));
    }
    if let Some(device) = host.blkio_weight_device.iter().find(|device| !WEIGHTS.contains(&device.weight)) {
        return Err(bad("BlkioWeightDevice", &format!("{}:{}", device.path, device.weight), "10 to 1000 are possible"));
    }
    limits(host).map(drop)
}

/// What the runtime is told; nothing where nothing is asked for.
pub(super) fn limits(host: &HostConfig) -> Result<Option<oci::BlockIo>, Error> {
    let weight = |device: &types::container::WeightDevice| {
        let (major, minor) = numbers("BlkioWeightDevice", &device.path)?;
        Ok(oci::WeightDevice { major, minor, weight: Some(device.weight), leaf_weight: None })
    };
    let limits = oci::BlockIo {
        weight: Some(host.blkio_weight).filter(|weight| *weight != 0),
        leaf_weight: None,
        weight_device: host.blkio_weight_device.iter().map(weight).collect::<Result<_, Error>>()?,
        throttle_read_bps_device: rates("BlkioDeviceReadBps", &host.blkio_device_read_bps)?,
        throttle_write_bps_device: rates("BlkioDeviceWriteBps", &host.blkio_device_write_bps)?,
        throttle_read_iops_device: rates("BlkioDeviceReadIOps", &host.blkio_device_read_iops)?,
        throttle_write_iops_device: rates("BlkioDeviceWriteIOps", &host.blkio_device_write_iops)?,
    };
    Ok(Some(limits).filter(|limits| *limits != oci::BlockIo::default()))
}

fn rates(field: &'static str, devices: &[ThrottleDevice]) -> Result<Vec<oci::ThrottleDevice>, Error> {
    let rate = |device: &ThrottleDevice| {
        let (major, minor) = numbers(field, &device.path)?;
        Ok(oci::ThrottleDevice { major, minor, rate: device.rate })
    };
    devices.iter().map(rate).collect()
}

/// Major and minor number of a block device of the host.
fn numbers(field: &'static str, path: &str) -> Result<(i64, i64), Error> {
    match std::fs::metadata(path) {
        Ok(found) if found.file_type().is_block_device() => {
            Ok((rustix::fs::major(found.rdev()).into(), rustix::fs::minor(found.rdev()).into()))
        }
        Ok(_) => Err(bad(field, path, "it is not a block device")),
        Err(error) => Err(bad(field, path, &error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use types::container::WeightDevice;

    use super::*;

    #[test]
    fn only_block_devices_have_rates() {
        let throttle = |path: &str| HostConfig {
            blkio_device_read_bps: vec![ThrottleDevice { path: path.to_owned(), rate: 1 << 20 }].into(),
            ..HostConfig::default()
        };
        for path in ["/dev/null", "/dev/no-such-device", "/etc"] {
            let error = validate(&throttle(path)).expect_err(path).to_string();
            assert!(error.contains("BlkioDeviceReadBps") && error.contains(path), "{error}");
        }
        assert_eq!(limits(&HostConfig::default()).expect("nothing"), None);
    }

    #[test]
    fn weights_have_bounds() {
        let weighed = |weight| HostConfig { blkio_weight: weight, ..HostConfig::default() };
        assert!(validate(&weighed(5)).is_err() && validate(&weighed(500)).is_ok());
        let device = WeightDevice { path: "/dev/null".to_owned(), weight: 5 };
        let device = HostConfig { blkio_weight_device: vec![device].into(), ..HostConfig::default() };
        assert!(validate(&device).expect_err("too light").to_string().contains("10 to 1000"));
    }
}
